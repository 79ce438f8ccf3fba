package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

const (
	worldMemory = 1 << 30 // the root's limit: the hogs can't take more, whatever goes wrong
	worldPids   = 600
	hogBytes    = 900 << 20
	bombTasks   = 500
	// sceneDeadline ends everything of a scene that hangs.
	sceneDeadline = 30 * time.Second
)

// bystanders hold more than nothing and do nothing: the one that started first and holds
// most looks worse than a hog that is a second old.
var bystanders = map[string]int64{"bystander-1": 48 << 20, "bystander-2": 96 << 20, "bystander-3": 64 << 20}

// scene is one eviction.
type scene struct {
	name, title string
	kind        load.Kind
	// threshold is the evictionHard entry, from what is available now.
	threshold func(now signal.Observation) (sig signal.Signal, value int64)
	// node is the observation that the threshold depends on; nil for the root's own.
	node func() (signal.Observation, error)
	// quarter is a fourth of the wire's distance: a node that moved by more on its own
	// disturbed the scene.
	quarter int64
}

const (
	memoryDistance = 400 << 20
	pidsDistance   = 250
)

var scenes = []scene{
	{
		name: "allocatable", kind: load.Hog,
		title: "a memory hog against the root's own limit (allocatableMemory.available)",
		threshold: func(signal.Observation) (signal.Signal, int64) {
			return signal.AllocatableMemoryAvailable, 300 << 20
		},
	},
	{
		name: "node", kind: load.Hog,
		title: "a memory hog against the node (memory.available, the wire set 400 MiB below what is there now)",
		node:  nodeMemory, quarter: memoryDistance / 4,
		threshold: func(o signal.Observation) (signal.Signal, int64) {
			return signal.MemoryAvailable, o.Available - memoryDistance
		},
	},
	{
		name: "forkbomb", kind: load.Bomb,
		title: "a fork bomb against the node (pid.available, the wire set 250 tasks below what is there now)",
		node:  nodePIDs, quarter: pidsDistance / 4,
		threshold: func(o signal.Observation) (signal.Signal, int64) {
			return signal.PIDAvailable, o.Available - pidsDistance
		},
	},
}

func nodeMemory() (signal.Observation, error) {
	n, err := signal.NewProc("/proc").Node()
	if err != nil {
		return signal.Observation{}, err
	}
	return signal.MemoryAvailableOf(n)
}

func nodePIDs() (signal.Observation, error) {
	n, err := signal.NewProc("/proc").Node()
	if err != nil {
		return signal.Observation{}, err
	}
	return signal.PIDAvailableOf(n)
}

// errDisturbed means that the rest of the machine moved the signal, so that the round
// shows nothing.
var errDisturbed = errors.New("the rest of the machine moved the signal")

// world is the demo's own cgroup root with its bystanders.
type world struct {
	*bench.Bed
	idle   map[string]*load.Load
	rounds int
}

func newWorld() (*world, error) {
	bed, err := bench.NewBed("demo", worldMemory, worldPids)
	w := &world{Bed: bed, idle: map[string]*load.Load{}}
	if err != nil {
		return w, err
	}
	for name, hold := range bystanders {
		if w.idle[name], err = w.Start(name, load.Spec{Kind: load.Sleeper, Hold: hold, Deadline: 10 * time.Minute}); err != nil {
			return w, fmt.Errorf("start %s: %w", name, err)
		}
	}
	return w, nil
}

func (w *world) bystandersAlive() bool {
	for _, l := range w.idle {
		if !l.Alive() {
			return false
		}
	}
	return true
}

// destroy ends every process and removes every cgroup of the demo.
func (w *world) destroy() error {
	var errs []error
	for _, l := range w.idle {
		if l != nil {
			errs = append(errs, l.Stop())
		}
	}
	return errors.Join(append(errs, w.Destroy())...)
}

// round plays a scene once: a fresh agent, a fresh load, one closed eviction.
func (w *world) round(ctx context.Context, s scene) (line *record.Line, err error) {
	ctx, cancel := context.WithTimeout(ctx, sceneDeadline)
	defer cancel()
	w.rounds++
	unit := fmt.Sprintf("%s-%d", s.kind, w.rounds)
	l, err := w.Start(unit, load.Spec{Kind: s.kind, Bytes: hogBytes, Tasks: bombTasks, Held: true, Deadline: sceneDeadline})
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", s.kind, err)
	}
	defer func() {
		err = errors.Join(err, l.Stop(), w.Remove(unit))
	}()
	before, err := observe(s.node)
	if err != nil {
		return nil, err
	}
	sig, value := s.threshold(before)
	a, err := w.StartAgent(ctx, map[signal.Signal]string{sig: resource.NewQuantity(value, resource.BinarySI).String()})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.Stop()) }()
	if err := undisturbed(s, before); err != nil {
		return nil, err
	}
	if err := l.Go(); err != nil {
		return nil, err
	}
	return eviction(ctx, a, w.Unit(unit))
}

func observe(read func() (signal.Observation, error)) (signal.Observation, error) {
	if read == nil {
		return signal.Observation{}, nil
	}
	return read()
}

// undisturbed holds the node against the figure that the wire was set from.
func undisturbed(s scene, before signal.Observation) error {
	if s.node == nil {
		return nil
	}
	now, err := s.node()
	if err != nil {
		return err
	}
	if moved := now.Available - before.Available; max(moved, -moved) > s.quarter {
		return fmt.Errorf("%w by %d", errDisturbed, moved)
	}
	return nil
}

// eviction waits for the closed line of the scene's victim.
func eviction(ctx context.Context, a *bench.Agent, cgroup string) (*record.Line, error) {
	l, err := a.Await(ctx, func(l *record.Line) bool { return l.Kind == record.KindEviction })
	if err != nil {
		return nil, fmt.Errorf("wait for the eviction: %w", err)
	}
	if l.Victim == nil || l.Victim.Cgroup != cgroup || l.Outcome != record.OutcomeKilled {
		return nil, fmt.Errorf("%w: %s, %s", errDisturbed, l.Outcome, l.Reason)
	}
	return l, nil
}
