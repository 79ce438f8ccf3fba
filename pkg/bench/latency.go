package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench/sigtrace"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Tool is what ends the victim.
type Tool string

const (
	// ToolAgent is this program with its defaults.
	ToolAgent Tool = "ebpf-evict"
	// ToolKernelFirst is this program with a backstop of no grace: the kernel kills.
	ToolKernelFirst Tool = "ebpf-evict-kernel-first"
)

// Ours: the tool is this program.
func (t Tool) Ours() bool { return t == ToolAgent || t == ToolKernelFirst }

// LatencyOptions say what is measured. Zero values are not defaults.
type LatencyOptions struct {
	Tools    []Tool
	Rounds   int
	Scenario Scenario
	Fill     load.Fill
	// RatesBytes are the fill rates, a run each; 0 is as fast as it goes.
	RatesBytes []int64
	// Tiers are what the agent is forced to watch by, a run each; "" is the best there is.
	Tiers []string
	// Signal is what the agent watches. Empty: allocatableMemory.available, with a fork
	// bomb allocatablePID.available.
	Signal  signal.Signal
	Version string
	// Progress is told about every round; may be nil.
	Progress func(tool Tool, done, of int, r Round)
}

// ErrOptions are options that can't be measured, in one sentence.
var ErrOptions = errors.New("can't be measured")

func (o *LatencyOptions) validate() error {
	if o.Signal == "" {
		o.Signal = signal.AllocatableMemoryAvailable
		if o.Scenario == Forkbomb {
			o.Signal = signal.AllocatablePIDAvailable
		}
	}
	switch {
	case !slices.Contains(Scenarios, o.Scenario):
		return fmt.Errorf("%w: scenario %q, want one of %v", ErrOptions, o.Scenario, Scenarios)
	case !slices.Contains(load.Fills, o.Fill):
		return fmt.Errorf("%w: fill %q, want one of %v", ErrOptions, o.Fill, load.Fills)
	case !o.bomb() && o.Signal != signal.MemoryAvailable && o.Signal != signal.AllocatableMemoryAvailable:
		return fmt.Errorf("%w: signal %q, want one of memory and pids", ErrOptions, o.Signal)
	case o.Scenario == Forkbomb && !o.bomb():
		return fmt.Errorf("%w: a fork bomb crosses no wire of %s", ErrOptions, o.Signal)
	case o.Rounds < 1 || len(o.Tools) == 0 || len(o.RatesBytes) == 0 || len(o.Tiers) == 0:
		return fmt.Errorf("%w: no round, tool, rate or tier", ErrOptions)
	case !slices.Equal(o.Tiers, []string{""}) && !slices.Equal(o.Tools, []Tool{ToolAgent}):
		return fmt.Errorf("%w: tiers are %s's alone", ErrOptions, ToolAgent)
	}
	for _, t := range o.Tools {
		if _, ok := makers[t]; !ok {
			return fmt.Errorf("%w: tool %q, want some of %v", ErrOptions, t, Tools)
		}
		if !t.Ours() && (o.bomb() || o.Scenario.stalls()) {
			return fmt.Errorf("%w: %s watches no tasks and can't be stalled by us; leave it out of this scenario", ErrOptions, t)
		}
		if !t.Ours() && (t == ToolPlainKill) != (o.Scenario == MemoryBack) {
			return fmt.Errorf("%w: %s in the scenario %s; %s is for %s, and beside it only this program", ErrOptions, t, o.Scenario, ToolPlainKill, MemoryBack)
		}
	}
	return nil
}

func (o *LatencyOptions) bomb() bool {
	return o.Signal == signal.PIDAvailable || o.Signal == signal.AllocatablePIDAvailable
}

// victim is the load that crosses the wire.
func (o *LatencyOptions) victim(rate int64) load.Spec {
	s := load.Spec{Held: true, Deadline: victimDeadline}
	if o.bomb() {
		s.Kind, s.Tasks = load.Bomb, bombTasks
		return s
	}
	s.Kind, s.Bytes, s.Hold, s.Fill, s.Rate = load.Hog, o.Scenario.amounts().hog, victimHold, o.Fill, rate
	return s
}

// distance is how far above the wire a round begins, in the unit of the signal.
func (o *LatencyOptions) distance() int64 {
	if o.bomb() {
		return 200
	}
	return o.Scenario.amounts().distance
}

const (
	// fieldMemory and fieldPids are the usual limits of a tool's root.
	fieldMemory = 2 << 30
	fieldPids   = 700
	bombTasks   = 450
	// victimDeadline ends what no tool ended.
	victimDeadline = 90 * time.Second
	// attempts bounds how many rounds are played in all: that many for each one asked for.
	attempts = 3
)

// tool plays rounds.
type tool interface {
	// play plays one round. A round that shows nothing is a result, not an error.
	play(ctx context.Context) (Round, error)
	// note says what was done to the tool so that it can take part.
	note() string
	close() error
}

// every is how many rounds of the others beside it a tool plays one in: the poller is slow,
// and kernel first is our own second.
var every = map[Tool]int{ToolPoller: 10, ToolKernelFirst: 2}

// makers make the tools; Tools are their names in the order of the report.
var (
	makers = map[Tool]func(*stand) (tool, error){
		ToolAgent: newAgentTool, ToolKernelFirst: newKernelFirst, ToolEarlyoom: newEarlyoom, ToolNohang: newNohang,
		ToolKernelOOM: newKernelTool, ToolPoller: newPoller, ToolPlainKill: newPlainKill,
	}
	Tools = []Tool{ToolAgent, ToolKernelFirst, ToolEarlyoom, ToolNohang, ToolKernelOOM, ToolPoller, ToolPlainKill}
)

// MeasureLatency plays the rounds of all tools in turn, so that what disturbs one disturbs
// all. It holds the calling thread at real-time priority, where that is allowed: the thread
// only waits.
func MeasureLatency(ctx context.Context, o LatencyOptions) (result Latency, err error) {
	if err := o.validate(); err != nil {
		return result, err
	}
	runtime.LockOSThread() // not unlocked: it has another priority, and the agent's life hangs on it
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}, 0)
	for _, rate := range o.RatesBytes {
		for _, tier := range o.Tiers {
			if err := result.measure(ctx, o, rate, tier); err != nil {
				return result, err
			}
		}
	}
	result.MemoryBack = result.memoryBack()
	return result, nil
}

// measure adds the runs of one rate and tier.
func (l *Latency) measure(ctx context.Context, o LatencyOptions, rate int64, tier string) error {
	s, err := newStand(o, rate, tier)
	if err == nil {
		err = s.play(ctx)
	}
	if l.Machine.Kernel == "" && err == nil {
		l.Machine, err = ThisMachine(o.Version, s.cgroupVersion())
	}
	if err = errors.Join(err, s.close()); err != nil {
		return err
	}
	for i := range s.runs {
		s.runs[i].summarise()
	}
	l.Runs = append(l.Runs, s.runs...)
	return nil
}

// stand is what the tools of a run share.
type stand struct {
	options    LatencyOptions
	rate       int64
	tier       string
	background *background
	trace      *sigtrace.Trace
	// peers is the root of the tools that don't watch one.
	peers *field
	// tools has nil for one that can't take part.
	tools   []tool
	present int
	runs    []Run
	// turn is how many rounds a tool plays before it is the next one's turn.
	turn int
	// watching is the tool whose agent runs: a node has one at a time.
	watching *agentTool
}

// agentTurn is long enough that starting one agent after the other takes little of a run.
const agentTurn = 10

func newStand(o LatencyOptions, rate int64, tier string) (*stand, error) {
	s := &stand{options: o, rate: rate, tier: tier, turn: 1}
	var err error
	if s.background, err = newBackground(o.Scenario); err != nil {
		return s, err
	}
	if s.peers, err = newField("bench-peers", o.Scenario.amounts().limit); err != nil {
		return s, err
	}
	if s.trace, err = sigtrace.Open(s.peers.Dir); err != nil {
		return s, err
	}
	for _, name := range o.Tools {
		run := Run{Tool: name, Tier: tier, Scenario: o.Scenario, RateBytes: rate, Signal: string(o.Signal), Raw: []Round{}}
		if !o.bomb() {
			run.Fill = o.Fill
		}
		t, err := makers[name](s)
		if errors.Is(err, ErrRefused) || errors.Is(err, ErrNoPeer) {
			run.Skipped = err.Error()
			if err = nil; t != nil {
				err = t.close()
			}
			t = nil
		}
		s.tools = append(s.tools, t)
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
		if t != nil {
			run.Note = t.note()
			s.present++
		}
		s.runs = append(s.runs, run)
	}
	if s.present == 0 {
		return s, fmt.Errorf("no tool can take part: %s", s.runs[0].Skipped)
	}
	if o.agents() > 1 {
		s.turn = agentTurn
	}
	return s, nil
}

// agents is how many of the tools are this program.
func (o *LatencyOptions) agents() (n int) {
	for _, t := range o.Tools {
		if t.Ours() {
			n++
		}
	}
	return n
}

func (s *stand) cgroupVersion() string { return fmt.Sprintf("v%d", s.peers.FS.Version()) }

func (s *stand) play(ctx context.Context) error {
	for n := 0; n < s.options.Rounds; n += s.turn {
		if err := s.background.refresh(); err != nil {
			return err
		}
		for i, name := range s.options.Tools {
			for round := n; round < min(n+s.turn, s.options.Rounds); round++ {
				if s.tools[i] == nil || s.present > 1 && round%max(1, every[name]) != 0 {
					continue // not here, or not its round
				}
				err := s.playOne(ctx, i)
				if err = errors.Join(err, ctx.Err()); err != nil {
					return fmt.Errorf("%s, round %d: %w", name, round, err)
				}
			}
		}
	}
	return nil
}

// playOne plays a round until it is undisturbed, or too many were not.
func (s *stand) playOne(ctx context.Context, i int) error {
	run := &s.runs[i]
	for {
		r, err := s.tools[i].play(ctx)
		if err != nil {
			return err
		}
		run.Raw = append(run.Raw, r)
		if s.options.Progress != nil {
			s.options.Progress(run.Tool, len(run.Raw), s.options.Rounds, r)
		}
		if !r.Disturbed || len(run.Raw) >= attempts*s.options.Rounds {
			return nil
		}
	}
}

func (s *stand) close() error {
	var errs []error
	for _, t := range s.tools {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	if s.trace != nil {
		errs = append(errs, s.trace.Close())
	}
	if s.peers != nil {
		errs = append(errs, s.peers.close())
	}
	return errors.Join(append(errs, s.background.close())...)
}

func monotonicNs() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // can't fail for this clock
	return ts.Nano()
}
