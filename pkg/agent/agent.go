package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Agent is one running agent. All fields belong to the hot thread unless they say else.
type Agent struct {
	kernel   kernel
	scout    *scout
	wires    *wires
	recorder *recorder
	poller   *poller
	crew     *actuator.Crew // what follows a first SIGKILL
	fs       *cgroupfs.FS
	proc     signal.Proc
	log      zerolog.Logger
	onStage  func(stage)
	alive    func()

	node, mode    string
	shadow        bool
	fillPerSecond int64

	settings   decide.Settings
	disks      *signal.Disks // nil where no threshold is about one
	stopDisks  context.CancelFunc
	pending    atomic.Pointer[plan] // from any goroutine
	memory     decide.Memory
	conditions decide.Conditions
	input      decide.Input
	guards     [decide.MaxBounds]signal.Guard
	fills      [decide.MaxBounds]fill // of what is used of each signal, a second apart
	scene      *scene
	reader     *workload.Reader // of single units that can't wait for the scout

	open      [maxOpen]eviction
	shadowMet [decide.MaxBounds]bool
	refused   [decide.MaxBounds]decide.Reason
	// unmeasured is the unit without disk figures for which nobody is killed, nil: there is none.
	unmeasured *unit
	// left is the dead unit, no pod, whose files hold what a disk lacks, "": there is none.
	left      string
	entropy   [10]byte
	crossings crossings     // of this turn
	canary    sample.Sample // a drill's crossing of this turn
	taken     sample.Sample // the last record
	passedNs  uint64
	// onlyCrossings: this turn is for a crossing or for nothing; no clock asked for it.
	onlyCrossings bool

	backstop backstop
	slow     bool // the hot thread has no real-time priority
	apart    bool // in a PID namespace of its own: the PIDs of BPF's records are others' here
	late     bool // it was away for a while, and the scout with it
	clocked  bool // it wakes by itself; else a test makes its turns, whenever it likes
	leaving  bool // no new eviction; those under way are closed as they are

	blind    [decide.MaxBounds]blindness
	rootRead rootRead
	beside   loader.At // a unit to be read with the root or the node
	looked   int       // the unit that was read for the last decision, -1: none
	waiting  [decide.MaxBounds]wait
	viewed   time.Time
	state    string
	stateMu  sync.Mutex // one writer of the state file at a time

	comebacks [maxComebacks]comeback

	reclaim   reclaim
	reclaimMu sync.Mutex // one writer of the request at a time
	limits    limits

	drills     drilling
	rehearsals *rehearsals
}

const (
	reasonFull       decide.Reason = "too many evictions under way"
	reasonIncomplete decide.Reason = "a unit can't be opened, and may be the one to evict"
)

const (
	// overdue is how long a victim holds up the next one: 1 GiB is back in 65 to 235 ms.
	overdue = 5 * time.Second
	// drained is the same for one that has less left than is missing: a frozen or blocked task
	// does not die, and process_mrelease has taken its memory.
	drained = 250 * time.Millisecond
)

// watch is the life of the agent. The hot thread is this goroutine's.
func (a *Agent) watch(ctx context.Context, o Options, p *plan) error {
	runtime.LockOSThread() // never unlocked: the thread's priority must not leak to others
	settle(a.log)
	keepOwnMemory(a.fs, a.log)
	a.slow = !raise(a.log, hotPriority)
	a.setGrace()
	crew, err := actuator.NewCrew(maxOpen+runtime.NumCPU(), func() { raise(zerolog.Nop(), crewPriority) })
	if err != nil {
		return err
	}
	defer crew.Close()
	a.crew = crew
	ctx, cancel := context.WithCancelCause(ctx)
	var others sync.WaitGroup
	if hasOneCPU() {
		others.Go(func() { guard(ctx, a.log) })
	}
	others.Go(func() { a.scout.run(ctx) })
	others.Go(func() { a.scout.changes.listen(ctx, a.scout.kick) })
	others.Go(func() { a.listLeads(ctx) })
	others.Go(func() { a.scout.readFigures(ctx, o.Config.Disk) })
	others.Go(func() { a.keepUp(ctx, p, o.Reload) })
	others.Go(func() { a.rehearsals.run(ctx) })
	others.Go(func() { a.hear(ctx, o, cancel) })
	others.Go(func() { a.awaitHooks(ctx, o, cancel) })
	others.Go(func() { <-ctx.Done(); a.poller.wake() })
	defer others.Wait()
	defer cancel(nil)
	tiers := describeTiers(a.kernel)
	a.log.Info().Str("tiers", tiers).Msg("started")
	a.recorder.send(&record.Line{Kind: record.KindStart, Node: a.node, Mode: a.mode, Reason: tiers}, nil)
	a.announceBackstop()
	a.announceApart()
	if o.Ready != nil {
		o.Ready()
	}
	for ctx.Err() == nil {
		patience := a.patience()
		due := sample.Now() + uint64(patience)
		only := a.poller.wait(patience)
		woke := sample.Now()
		a.onlyCrossings = only && woke-a.passedNs < uint64(patience)
		a.clocked, a.late = true, woke > due+uint64(mostLate)
		if err := a.turn(woke); err != nil {
			return err
		}
	}
	a.leave()
	stop := record.Line{Kind: record.KindStop, Node: a.node, Mode: a.mode}
	err = context.Cause(ctx)
	if !errors.Is(err, ErrDrill) && !errors.Is(err, ErrRenew) {
		err = nil
	} else {
		stop.Reason = err.Error()
	}
	a.recorder.send(&stop, nil)
	return err
}

// farewell is how long an agent that ends waits for its last victims to die, and as long
// again for the disk: it is to be gone within a second.
const farewell = 400 * time.Millisecond

// leave closes the evictions that are under way, and starts none.
func (a *Agent) leave() {
	a.leaving = true
	for range 10 { // a kill by the kernel takes microseconds
		if a.takeNote(); a.withdraw() {
			break
		}
		a.poller.wait(followTick)
	}
	for end := time.Now().Add(farewell); a.following() && time.Now().Before(end); {
		a.poller.wait(followTick)
		a.observe(-1)
		a.follow()
	}
	for i := range a.open {
		if e := &a.open[i]; e.used && !e.recorded {
			a.settle(e) // it may have died since the last look
			a.release(e)
			a.closeEviction(e)
		}
	}
}

// turn takes what is in the ring buffer and makes one pass; without a crossing the pass is
// the clock's.
func (a *Agent) turn(wokeNs uint64) error {
	a.takeNote()
	if p := a.pending.Load(); p != nil && a.withdraw() && a.pending.CompareAndSwap(p, nil) {
		if err := a.take(p); err != nil {
			return err
		}
	}
	a.crossings, a.canary = a.crossings[:0], sample.Sample{}
	for {
		s := &a.taken
		ok, err := a.kernel.Next(s)
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		if !ok {
			break
		}
		switch {
		case s.Kind == sample.KindArm:
			a.scout.kick() // it attaches the hook; the timer stands in meanwhile
		case isCanarys(s):
			if a.canary.Seq == 0 { // two CPUs may report one at once
				a.canary = *s
			}
		case s.Kind == sample.KindCrossing && len(a.crossings) < cap(a.crossings):
			a.crossings = append(a.crossings, *s)
			a.late = a.late || a.clocked && wokeNs > s.Ns+uint64(mostLate) // stopped for less than a patience
		}
	}
	switch {
	case len(a.crossings) > 0:
		a.at(stageWoke)
	case a.onlyCrossings && a.canary.Seq == 0:
		return nil // a reading that crossed nothing, near a wire one each millisecond
	}
	a.passedNs = wokeNs
	d := a.pass(a.crossings, wokeNs)
	a.strikeCanary(&a.canary, wokeNs)
	a.nominate(&d)
	a.idle()
	return nil
}

const (
	// followTick is how often an open eviction is looked at: dead and recovered are known
	// to that.
	followTick = time.Millisecond
	// nearTick and farTick catch what no event told: a lost record, a limit that moved.
	nearTick = 50 * time.Millisecond
	farTick  = time.Second
)

// mostLate is far above what a wake-up takes: who is later than that was stopped, and with it
// everybody here.
const mostLate = 50 * time.Millisecond

func (a *Agent) patience() time.Duration {
	switch {
	case a.following() || a.kernel.BackstopActs():
		return followTick
	case a.wires.near.Load():
		return nearTick
	}
	return farTick
}

// rearm lets the wires of bounds that are not met fire again. Without data a wire stays as
// it is: the kernel, which has some, would fire it at once, and again.
func (a *Agent) rearm(d *decide.Decision) {
	for i, number := range a.wires.number {
		if d.Met[i] || a.observed(&a.settings.Bounds[i]) == nil {
			continue
		}
		a.shadowMet[i], a.refused[i] = false, ""
		if number == noWire {
			continue
		}
		if seq, fired := a.kernel.WireSeq(number); seq != 0 && fired >= seq {
			a.kernel.ArmWire(number)
		}
	}
}

// report records a refusal, once for each time and reason.
func (a *Agent) report(d *decide.Decision) {
	a.noteUnmeasured(d)
	a.noteLeft(d)
	if d.Verdict != decide.Refuse || a.refused[d.Bound] == d.Reason {
		return
	}
	a.refused[d.Bound] = d.Reason
	b := &a.settings.Bounds[d.Bound]
	reason := a.refusal(d.Reason)
	a.log.Error().Str("signal", string(b.Signal)).Int64("available", d.Observed.Available).
		Str("reason", reason).Msg("threshold met, and nobody is killed")
	a.recorder.send(&record.Line{
		Kind: record.KindEviction, ID: record.MakeID(uint64(time.Now().UnixMilli()), record.Entropy()),
		Node: a.node, Mode: a.mode, Signal: string(b.Signal),
		Tier: a.tierFor(b.Signal), Threshold: thresholdLine(b, d),
		Observed: &record.Observed{Available: d.Observed.Available, Capacity: d.Observed.Capacity},
		Reclaim:  a.precededBy(b, d), Ranked: a.ranked(d), Outcome: record.OutcomeRefused, Reason: reason, By: record.ByAgent,
	}, nil)
}

func (a *Agent) wake() { a.poller.wake() }

// nextEntropy counts on from what was drawn at the start, as a monotonic ULID does: to draw
// may allocate, once in a thousand times.
func (a *Agent) nextEntropy() {
	for i := len(a.entropy) - 1; i >= 0; i-- {
		if a.entropy[i]++; a.entropy[i] != 0 {
			return
		}
	}
}
