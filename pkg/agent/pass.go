package agent

import (
	"errors"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// pass is one pass: look, decide, look at the victim if that was not read yet, strike, record.
// Nothing here allocates, reads text or waits until the SIGKILL is sent, but in doubt: a cgroup
// that the scout has not seen yet (it alone is read), or may not have while everybody was stopped
// (all are looked at); a refusal, or a victim, that may come from what is not known (likewise);
// and a fall faster than the machine can fill (the other source is read).
func (a *Agent) pass(woke crossings, wokeNs uint64) decide.Decision {
	a.scene.take(a.scout.current())
	if a.late {
		a.refresh()
	}
	a.meetStrangers(woke)
	d := a.consider(woke)
	if a.isDoubtful(&d) {
		a.refresh()
		d = a.consider(woke)
	}
	if d.Verdict == decide.Evict && !a.seenByHook(&d, woke) && !a.isSaid(&d) {
		a.walkNow(&d)
		d = a.consider(woke)
	}
	for range lookAgain {
		if d.Verdict != decide.Evict {
			break
		}
		if d.Victim != a.looked {
			d = a.decide(d.Victim)
			continue
		}
		if a.evict(&d, woke, wokeNs) {
			break
		}
		a.refresh() // the victim was none: nobody else pays for what we don't know
		d = a.consider(woke)
	}
	a.memory.Next(&a.settings, &a.input, &d)
	a.report(&d)
	a.concludeReclaim(&d)
	a.enforceLimits(&d, wokeNs)
	a.killComebacks(&d, wokeNs)
	a.watchWait(&d)
	a.publish(d.Conditions)
	a.follow()
	a.rearm(&d)
	a.drills.looked(a.unrest(&d))
	return d
}

// seenByHook reports whether a hook saw the crossing that d is about, or would have: it has
// kept the rows of whoever allocates or forks fresh.
func (a *Agent) seenByHook(d *decide.Decision, woke crossings) bool {
	if a.settings.Bounds[d.Bound].Signal.Memory() && a.memoryTier() == record.TierCharge {
		return true
	}
	wire := a.wires.number[d.Bound]
	c := woke.of(wire, a.armedSeq(wire))
	return c != nil && !isReading(tierOf(c.By))
}

// walkNow has every row read. Without a hook near the wire the tables are as old as the last
// walk: who filled since then would look idle, and somebody else would pay. Where no hook tells
// of strangers either, they are looked for.
func (a *Agent) walkNow(d *decide.Decision) {
	if isReading(a.tierFor(a.settings.Bounds[d.Bound].Signal)) && a.hasStrangers() {
		a.refresh() // which has them read as well
		return
	}
	if err := a.kernel.WalkNow(); err != nil {
		a.log.Warn().Err(err).Msg("the rows are as old as the last walk")
	}
}

// hasStrangers reports whether there are other units than the scene has, or fewer.
func (a *Agent) hasStrangers() bool {
	for _, l := range a.scene.from.levels {
		if a.fs.Links(l.path) != l.children {
			return true
		}
	}
	return false
}

// isSaid: in shadow mode nothing more is to be said of this threshold.
func (a *Agent) isSaid(d *decide.Decision) bool { return a.shadow && a.shadowMet[d.Bound] }

// isDoubtful reports whether a refusal, or the choice of a victim, may come from what we
// don't know yet: nobody is spared, or killed, for that before a fresh read. Asked once for
// each refusal.
func (a *Agent) isDoubtful(d *decide.Decision) bool {
	if d.Verdict == decide.Evict {
		return a.scene.hasNewcomer(a.settings.Bounds[d.Bound].Signal)
	}
	return d.Verdict == decide.Refuse && a.refused[d.Bound] != d.Reason &&
		(d.Reason == decide.ReasonNoCandidate || d.Reason == decide.ReasonNoUsage)
}

// lookAgain is how many looks a pass may take. A look shows that one holds less than
// it did, so the second or third is the one, or that nobody is in it, and of cgroups with
// nothing but page cache there may be some. Each takes 30 µs.
const lookAgain = 16

// consider reads every unit's usage and decides.
func (a *Agent) consider(woke crossings) decide.Decision {
	a.scene.fill(a.kernel)
	return a.decide(a.suspect(woke))
}

// decide reads the signals and decides by the usages as they are in the scene. One unit, -1:
// none, counts with what it holds now, not what it held at the last walk.
func (a *Agent) decide(unit int) decide.Decision {
	a.looked = unit
	a.observe(unit)
	a.input.NowNs = sample.Now()
	a.input.Workloads = a.scene.workloads
	a.input.Dying = a.scene.unreaped(a.dying(a.input.Dying[:0]))
	a.input.Reclaimed, a.input.Reclaiming = a.reclaimed(a.input.NowNs)
	a.input.AfterReclaim, a.input.Disk = a.input.Observations, a.holdDisks(a.input.NowNs)
	d := decide.Decide(&a.settings, &a.memory, &a.input)
	if d.Verdict == decide.Reclaim && !a.leaving {
		if a.isSaid(&d) {
			a.input.Reclaimed = allReclaimed
		} else {
			a.askReclaim(&d)
			a.input.Reclaiming = true // others need not wait for that
		}
		d = decide.Decide(&a.settings, &a.memory, &a.input)
	}
	return d
}

// evict strikes the victim, or asks it to end where the threshold is soft, or in shadow mode
// only says that it would have. False: the victim is gone, and another may be found.
func (a *Agent) evict(d *decide.Decision, woke crossings, wokeNs uint64) bool {
	if a.scene.from.incomplete {
		d.Verdict, d.Victim, d.Reason = decide.Refuse, -1, reasonIncomplete
		return true
	}
	if a.isSaid(d) {
		return true
	}
	e := a.begin(d, woke, wokeNs)
	if e == nil {
		d.Verdict, d.Victim, d.Reason = decide.Refuse, -1, reasonFull
		return true
	}
	if a.shadow {
		a.shadowed(e, d)
		return true
	}
	if !e.bound.Hard() {
		return a.asked(e)
	}
	if !a.withdraw() || e.wire != noWire && !a.kernel.Claim(e.wire, e.seq) {
		e.used = false
		return true // the kernel acts, or somebody has acted on this crossing
	}
	return a.kill(e, woke)
}

// kill strikes an eviction's unit, after what a crash must not lose is stored. False: the unit
// is gone, and another may be found.
func (a *Agent) kill(e *eviction, woke crossings) bool {
	a.resume(e)
	e.intent = a.kernel.StoreIntent(&e.intended)
	a.at(stageStored)
	sent := a.kernel.SignalsSent()
	e.condemned = a.condemn(e)
	struck, err := a.strike(e, woke)
	e.timeline.Signalled = sample.Now()
	a.scout.tell(e.unit)
	if errors.Is(err, actuator.ErrGone) && e.handle != nil && a.kernel.SignalsSent() > sent && a.isCondemnedAlone(e) {
		struck, err = 0, nil // the condemned word was faster, and hit all of them
		e.handle.Struck()
	}
	if err != nil {
		a.standDown(e, err)
		return !errors.Is(err, actuator.ErrGone)
	}
	a.at(stageStruck)
	a.kernel.IntentSignalled(e.intent)
	a.weighContainers(e)
	if !e.isAgain() {
		a.memory.Killed(e.timeline.Signalled)
	}
	a.drills.proven.Store(true)
	a.at(stageSignalled)
	e.unit.figuresFrom.Store(e.timeline.Signalled)
	a.brake(e)
	a.opened(e, max(struck, e.handle.StrikeOthers()))
	return true
}

// strike sends the first SIGKILL. The handle of a unit that came from far behind is opened
// first, 30 µs.
func (a *Agent) strike(e *eviction, woke crossings) (struck int, err error) {
	if e.handle, err = e.unit.open(a.fs); err != nil {
		return 0, err
	}
	return e.handle.Strike(a.culprit(e, woke))
}

// isCondemnedAlone: no other victim is condemned, so what the hooks killed was e's.
func (a *Agent) isCondemnedAlone(e *eviction) bool {
	for i := range a.open {
		if o := &a.open[i]; o != e && o.used && o.condemned >= 0 {
			return false
		}
	}
	return e.condemned >= 0
}

// condemn names what the strike kills; of a pod with several containers the pod, as there is
// one word.
func (a *Agent) condemn(e *eviction) int {
	id := struckID(e.victim.ID, e.targets)
	return a.kernel.Condemn(id.MemoryID, id.PidsID)
}

func struckID(unit workload.Identity, targets []rows) workload.Identity {
	if len(targets) == 1 {
		return targets[0].id
	}
	return unit
}

// culprit is the process that crossed a wire, if it did so in a cgroup that the strike kills.
func (a *Agent) culprit(e *eviction, woke crossings) actuator.Culprit {
	for i := range woke {
		if c := a.culpritOf(&woke[i], e.targets); c.PID != 0 {
			return c
		}
	}
	return actuator.Culprit{}
}

// culpritOf is nobody where the record is an interrupt's, or of a task that is elsewhere:
// whoever allocates when a wire is compared shows that it is crossed; and where its number
// is somebody else's here.
func (a *Agent) culpritOf(c *sample.Sample, targets []rows) actuator.Culprit {
	if a.apart || c.CSSID == 0 || c.Atomic || !a.crossedIn(c, targets) {
		return actuator.Culprit{}
	}
	return actuator.Culprit{PID: int(c.TGID), Age: time.Duration(sample.Now() - c.Ns)}
}

func (a *Agent) crossedIn(c *sample.Sample, targets []rows) (inside bool) {
	controller := loader.Memory
	if c.By == sample.ObserverTask {
		controller = loader.Pids
	}
	climb(a.kernel, controller, c.CSSID, func(_ uint32, id uint64) bool {
		for i := range targets {
			of := targets[i].id
			inside = inside || controller == loader.Memory && of.MemoryID == id || controller == loader.Pids && of.PidsID == id
		}
		return !inside
	})
	return inside
}

// asked has the unit of a soft eviction end; false as of evict.
func (a *Agent) asked(e *eviction) bool {
	err := a.ask(e)
	a.scout.tell(e.unit)
	if err != nil {
		a.standDown(e, err)
	}
	return !errors.Is(err, actuator.ErrGone)
}

// standDown takes back what a strike that hit nobody had prepared.
func (a *Agent) standDown(e *eviction, err error) {
	a.pardon(e)
	a.kernel.FreeIntent(e.intent)
	if e.wire != noWire {
		a.kernel.Release(e.wire, e.seq)
	}
	if errors.Is(err, actuator.ErrGone) {
		e.outcome, e.reason = record.OutcomeGone, "it ended before it was signalled"
	} else {
		e.outcome, e.reason = record.OutcomeFailed, err.Error()
	}
	if e.used, e.timeline.Signalled = false, 0; e.isAgain() {
		return // what was killed before stays as it is recorded
	}
	a.recorder.send(a.line(record.KindEviction, e), nil)
}
