package agent

import (
	"errors"
	"sync/atomic"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// canary is the victim of a drill, with a bound, a scene and a wire of its own: what is
// decided about it is decided about nobody else.
type canary struct {
	id       record.ID
	settings decide.Settings // one bound
	memory   decide.Memory
	input    decide.Input
	scene    *scene // one unit, and as its root the unit itself
	handle   *actuator.Handle
	wire     int
	seq      uint64

	// The rest is the hot thread's until done is closed, once; withdraw makes it the caller's.
	timeline record.Timeline
	by       sample.Observer
	decision decide.Decision
	struck   int
	outcome  record.Outcome
	reason   string
	// skipped: something more urgent came in between.
	skipped bool
	done    chan struct{}
}

func (c *canary) end(o record.Outcome, reason string) { c.outcome, c.reason = o, reason }

// drilling is what the hot thread and the one that holds drills share.
type drilling struct {
	// current has an armed wire; whoever takes it out ends its drill.
	current atomic.Pointer[canary]
	// unrest says why this is no time for a drill, as of the pass that passes counts.
	unrest atomic.Pointer[string]
	passes atomic.Uint64
	mode   atomic.Pointer[string]
	state  atomic.Pointer[record.DrillState]
	// proven: a unit was struck since the start, by the agent or by the kernel in its place, which
	// says more than a canary does.
	proven atomic.Bool
}

// looked tells what a pass found.
func (d *drilling) looked(unrest *string) {
	d.unrest.Store(unrest)
	d.passes.Add(1)
}

// withdraw takes a canary back. False: the hot thread has it, and closes done at once.
func (d *drilling) withdraw(c *canary) bool { return d.current.CompareAndSwap(c, nil) }

// strikeCanary gives a canary that crossed its wire a victim's way: look, decide, claim,
// strike. It comes after the pass, so that a drill never delays an eviction, and like
// a pass it allocates and reads nothing. It strikes in shadow mode too: the canary is the
// drill's own. What it leaves out is for victims that could escape or be forgotten: the
// intent, the condemned word, the budget.
func (a *Agent) strikeCanary(woke *sample.Sample, wokeNs uint64) {
	c := a.drills.current.Load()
	if woke.Seq == 0 || c == nil || woke.Wire != c.wire || woke.Seq != c.seq || !a.drills.withdraw(c) {
		return // none, or of a drill that is over
	}
	defer close(c.done)
	c.timeline.Crossed, c.timeline.Woke, c.by = woke.Ns, wokeNs, woke.By
	if why := a.drills.unrest.Load(); why != nil {
		c.skipped, c.reason = true, *why
		return
	}
	if c.decision = a.considerCanary(c); c.decision.Verdict != decide.Evict {
		c.spared()
		return
	}
	c.timeline.Decided = sample.Now()
	if !a.kernel.Claim(c.wire, c.seq) {
		c.end(record.OutcomeFailed, "its crossing is claimed already")
		return
	}
	a.at(stageCanaryDecided)
	struck, err := c.handle.Strike(a.culpritOf(woke, c.scene.units[0].targets))
	c.timeline.Signalled, c.struck = sample.Now(), struck
	if err != nil {
		c.timeline.Signalled = 0
		c.fail(err)
		return
	}
	a.at(stageCanaryStruck)
}

// spared says why nobody is struck. A crossing can be over when it is looked at again: what
// the kernel had charged ahead (mm/memcontrol.c) it gives back when somebody else allocates.
// For a victim that is no kill and a wire that is armed again, for a canary another drill.
func (c *canary) spared() {
	switch {
	case c.scene.empty[0]:
		c.end(record.OutcomeGone, "it ended before it was signalled")
		return
	case c.decision.Verdict == decide.Nothing && len(c.input.Observations) > 0:
		c.skipped, c.reason = true, "its crossing was over when the agent looked again"
		return
	}
	c.end(record.OutcomeFailed, "it is not to be evicted: "+string(c.decision.Reason))
}

func (c *canary) fail(err error) {
	if errors.Is(err, actuator.ErrGone) {
		c.end(record.OutcomeGone, "it ended before it was signalled")
		return
	}
	c.end(record.OutcomeFailed, err.Error())
}

func (a *Agent) considerCanary(c *canary) decide.Decision {
	c.input.Observations = c.input.Observations[:0]
	if o, err := a.observeRoot(c.scene.from, &c.settings.Bounds[0]); err == nil {
		c.input.Observations = append(c.input.Observations, o)
	}
	c.scene.look(a.kernel, 0)
	c.input.NowNs, c.input.Workloads = sample.Now(), c.scene.workloads
	return decide.Decide(&c.settings, &c.memory, &c.input)
}

// Why it is no time for a drill.
var (
	unrestMet   = "a threshold is met"
	unrestNear  = "a threshold of the node is too near for a canary"
	unrestDying = "a victim is dying"
)

// unrest is what a pass has found that is more urgent than a drill, nil for nothing.
func (a *Agent) unrest(d *decide.Decision) *string {
	for i := range a.open {
		if e := &a.open[i]; e.underWay() && e.timeline.Dead == 0 {
			return &unrestDying
		}
	}
	for i := range a.settings.Bounds {
		b := &a.settings.Bounds[i]
		if d.Met[i] {
			return &unrestMet
		}
		if o := a.observed(b); o != nil && !b.Signal.Disk() && b.Root == "" && o.Available-b.Value.Of(o.Capacity) < canaryRoom(b) {
			return &unrestNear
		}
	}
	return nil
}

// canaryRoom is how much of a signal of the node must be left above a threshold: twice what
// a canary and its keeper may take.
func canaryRoom(b *decide.Bound) int64 {
	if b.Signal.Memory() {
		return 2 * drill.MaxMemoryBytes
	}
	return 2 * drill.MaxTasks
}

// isCanarys reports whether a record is of a drill's wire.
func isCanarys(s *sample.Sample) bool {
	return s.Kind == sample.KindCrossing && loader.IsDrillWire(s.Wire)
}
