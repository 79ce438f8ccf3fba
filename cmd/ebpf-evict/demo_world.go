package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
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

// world is the demo's own cgroup root with its bystanders, and a directory for the files.
type world struct {
	fs     *cgroupfs.FS
	root   string
	dir    string
	self   string
	idle   map[string]*load.Load
	rounds int
	log    zerolog.Logger
}

func newWorld(log zerolog.Logger) (*world, error) {
	w := &world{root: "/ebpf-evict-demo-" + strconv.Itoa(os.Getpid()), idle: map[string]*load.Load{}, log: log}
	var err error
	if w.self, err = os.Executable(); err != nil {
		return w, fmt.Errorf("find this program: %w", err)
	}
	if w.fs, err = cgroupfs.New("/sys/fs/cgroup"); err != nil {
		return w, err
	}
	if w.dir, err = os.MkdirTemp("", "ebpf-evict-demo-"); err != nil {
		return w, err
	}
	if err := w.makeRoot(); err != nil {
		return w, fmt.Errorf("make the demo's cgroup root: %w", err)
	}
	for name, hold := range bystanders {
		if w.idle[name], err = w.start(name, load.Spec{Kind: load.Sleeper, Hold: hold, Deadline: 10 * time.Minute}); err != nil {
			return w, fmt.Errorf("start %s: %w", name, err)
		}
	}
	return w, nil
}

func (w *world) makeRoot() error {
	if err := w.fs.Create(w.root); err != nil {
		return err
	}
	c, err := w.fs.Open(w.root)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return errors.Join(c.SetMemoryMax(worldMemory), c.SetPidsMax(worldPids))
}

func (w *world) start(name string, s load.Spec) (*load.Load, error) {
	unit := path.Join(w.root, name)
	if err := w.fs.Create(unit); err != nil {
		return nil, err
	}
	s.ProcsFiles = w.fs.ProcsFiles(unit)
	return load.Start(w.self, []string{loadCommand}, s)
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
	if w.fs != nil {
		if err := w.fs.Remove(w.root); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			errs = append(errs, err)
		}
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// round plays a scene once: a fresh agent, a fresh load, one closed eviction.
func (w *world) round(ctx context.Context, s scene) (line *record.Line, err error) {
	ctx, cancel := context.WithTimeout(ctx, sceneDeadline)
	defer cancel()
	w.rounds++
	unit := fmt.Sprintf("%s-%d", s.kind, w.rounds)
	l, err := w.start(unit, load.Spec{Kind: s.kind, Bytes: hogBytes, Tasks: bombTasks, Held: true, Deadline: sceneDeadline})
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", s.kind, err)
	}
	defer func() {
		err = errors.Join(err, l.Stop(), ignoreGone(w.fs.Remove(path.Join(w.root, unit))))
	}()
	before, err := observe(s.node)
	if err != nil {
		return nil, err
	}
	a, err := w.startAgent(ctx, s, before)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	if err := undisturbed(s, before); err != nil {
		return nil, err
	}
	if err := l.Go(); err != nil {
		return nil, err
	}
	return a.eviction(ctx, path.Join(w.root, unit))
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

func ignoreGone(err error) error {
	if errors.Is(err, cgroupfs.ErrGone) {
		return nil
	}
	return err
}

// runningAgent is `ebpf-evict run` as a process of its own.
type runningAgent struct {
	cmd     *exec.Cmd
	journal string
	exited  chan error
}

func (w *world) startAgent(ctx context.Context, s scene, now signal.Observation) (*runningAgent, error) {
	sig, value := s.threshold(now)
	journal := filepath.Join(w.dir, fmt.Sprintf("journal-%d.jsonl", w.rounds))
	file := filepath.Join(w.dir, "config.yaml")
	text := fmt.Sprintf("mode: enforce\nroots: [%q]\nenforceNodeAllocatable: []\nevictionHard:\n  %s: \"%v\"\njournal: %q\nstate: %q\nworkloads: %q\n",
		w.root, sig, resource.NewQuantity(value, resource.BinarySI), journal, filepath.Join(w.dir, "state.json"), filepath.Join(w.dir, "no-table.json"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	a := &runningAgent{journal: journal, exited: make(chan error, 1)}
	a.cmd = exec.Command(w.self, "run", "--config", file, "--log-level", "error")
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	go func() { a.exited <- a.cmd.Wait() }()
	_, err := a.await(ctx, func(l *record.Line) bool { return l.Kind == record.KindStart })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the agent: %w", err), a.stop())
	}
	return a, nil
}

// eviction waits for the closed line of the scene's victim.
func (a *runningAgent) eviction(ctx context.Context, cgroup string) (*record.Line, error) {
	l, err := a.await(ctx, func(l *record.Line) bool { return l.Kind == record.KindEviction })
	if err != nil {
		return nil, fmt.Errorf("wait for the eviction: %w", err)
	}
	if l.Victim == nil || l.Victim.Cgroup != cgroup || l.Outcome != record.OutcomeKilled {
		return nil, fmt.Errorf("%w: %s, %s", errDisturbed, l.Outcome, l.Reason)
	}
	return l, nil
}

func (a *runningAgent) await(ctx context.Context, want func(*record.Line) bool) (*record.Line, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		lines, _, err := record.ReadJournal(a.journal)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for i := range lines {
			if want(&lines[i]) {
				return &lines[i], nil
			}
		}
		select {
		case err := <-a.exited:
			a.exited <- err
			return nil, fmt.Errorf("the agent ended: %w", err)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// stop ends the agent as systemd does and waits for it.
func (a *runningAgent) stop() error {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-a.exited:
		return err
	case <-time.After(5 * time.Second):
		return errors.Join(errors.New("the agent did not end within five seconds of SIGTERM"), a.cmd.Process.Kill())
	}
}
