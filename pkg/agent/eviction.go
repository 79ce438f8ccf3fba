package agent

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// maxOpen is how many evictions can be under way at once; more intents can't be kept.
	maxOpen = 8
	// maxUnreaped is how many units with nothing but zombies are credited.
	maxUnreaped = 64
	// finishDeadline is how long a victim is helped to die. In D state it dies later, and
	// what it holds stays credited.
	finishDeadline = 30 * time.Second
	// closeAfter is how long a dead victim's eviction waits for the signal to recover.
	closeAfter = 5 * time.Second
	// cleanUp is how long the disk of a dead victim may take to come back: somebody has to
	// remove its files first. The kubelet waits as long (podCleanupTimeout).
	cleanUp = 30 * time.Second
	// sumSlack is which part of a unit's memory may be none of its containers', or be taken
	// while they are read one by one: its sandbox's, and what the kernel keeps for its cgroups.
	sumSlack = 8
)

// eviction is one victim from the decision to the closed journal line.
type eviction struct {
	used     bool
	id       record.ID
	killer   string // record.ByAgent, record.ByBackstop
	by       sample.Observer
	decision decide.Decision
	bound    decide.Bound
	wire     int
	seq      uint64
	victim   workload.Workload
	unit     *unit
	handle   *actuator.Handle // nil until it is needed
	targets  []rows           // what the strike kills, of a pod the containers
	intended loader.Intent
	intent   int
	// condemned is the slot of the condemned word, -1: none.
	condemned int
	timeline  record.Timeline
	wall      time.Time
	struck    int
	ranked    []record.Ranked
	// message and annotations are those of the kubelet's status and event.
	message     string
	annotations map[string]string
	outcome     record.Outcome
	reason      string
	// limit is what a unit of its own was above, nil where the node was short of something.
	limit *offence
	// attempt is which kill of its pod this is, 0 and 1: the first. unasked: no pressure asked
	// for it.
	attempt int
	unasked bool
	// reclaim is what was freed of the node before, nil: nothing was tried.
	reclaim *record.Reclaim
	// lowest is the least that was available from the crossing to the recovery.
	lowest int64
	// heldAfter is what the unit still held when it was dead, bytes.
	heldAfter int64
	// killedNs is when a unit that was asked to end got its SIGKILL after all, finished
	// what became of it. Both are set by the finisher.
	killedNs atomic.Uint64
	finished atomic.Pointer[actuator.Outcome]
	// ended is finished as the hot thread took it over, in settle: asked twice in a pass,
	// finished may give two answers. nil: it goes on.
	ended *actuator.Outcome
	// endedNs is when that was: since its death, or since nobody could end it, what the victim
	// has on disk can be read once and for all.
	endedNs uint64
	disk    diskHold
	// revived: the unit runs again, so nothing in it is the victim's any more.
	revived  bool
	recorded bool
}

// begin takes a slot, nil when all are under way. Every figure is copied: the scene goes on.
func (a *Agent) begin(d *decide.Decision, woke crossings, wokeNs uint64) *eviction {
	e := a.slot()
	if e == nil || a.softIsFull(&a.settings.Bounds[d.Bound]) {
		return nil
	}
	*e = eviction{
		used: true, id: record.MakeID(uint64(time.Now().UnixMilli()), a.entropy), killer: record.ByAgent,
		decision: *d, bound: a.settings.Bounds[d.Bound],
		victim: a.scene.workloads[d.Victim], unit: a.scene.units[d.Victim], targets: a.scene.units[d.Victim].targets,
		intent: -1, condemned: -1, lowest: d.Observed.Available, wall: time.Now(), disk: diskHold{held: math.MaxInt64},
	}
	e.timeline.Woke, e.timeline.Decided = wokeNs, sample.Now()
	e.wire = a.wires.number[d.Bound]
	// What the clock found was crossed before it looked, nobody knows when; what is met for a
	// while, by a grace period or a victim that was waited for, when that was seen first.
	found := min(wokeNs, d.Observed.Ns)
	if since, ok := a.memory.MetSince(d.Bound); ok {
		found = min(found, since)
	}
	switch c := woke.of(e.wire, a.armedSeq(e.wire)); {
	case e.wire == noWire:
		e.by, e.timeline.Crossed = sample.ObserverTimer, found
	case c != nil:
		e.by, e.seq, e.timeline.Crossed = c.By, c.Seq, c.Ns
		if c.By == sample.ObserverEvent || c.By == sample.ObserverPoll {
			e.timeline.Crossed = found // the reading came after it was woken
		}
	default:
		// Seen by the clock, or still below after an earlier victim, or a record of an
		// earlier sequence: a new one.
		e.by, e.seq, e.timeline.Crossed = sample.ObserverTimer, a.kernel.ArmWire(e.wire), found
	}
	e.reclaim = a.precededBy(&e.bound, d)
	a.nextEntropy()
	a.intend(e)
	return e
}

// intend makes the intent of an eviction.
func (a *Agent) intend(e *eviction) {
	d := &e.decision
	e.intended = loader.Intent{
		ID: e.id, Ns: e.timeline.Crossed, WallNs: uint64(e.wall.UnixNano()),
		MemoryID: e.victim.ID.MemoryID, PidsID: e.victim.ID.PidsID, Seq: e.seq,
		Available: d.Observed.Available, ThresholdValue: d.ThresholdValue, Capacity: d.Observed.Capacity,
		Signal: e.label(), UID: e.victim.UID, Cgroup: e.victim.Cgroup,
	}
}

func (a *Agent) armedSeq(wire int) uint64 {
	if wire == noWire {
		return 0
	}
	seq, _ := a.kernel.WireSeq(wire)
	return seq
}

// slot returns a free eviction, else the closed one whose victim holds least, else nil. A
// closed one is kept for the credit alone: victims that don't die, and zombies that nobody
// reaps, must not use up the slots for good.
func (a *Agent) slot() *eviction {
	var (
		least  *eviction
		holds  workload.Usage
		onDisk int64
	)
	for i := range a.open {
		e := &a.open[i]
		if !e.used {
			return e
		}
		if !e.recorded {
			continue
		}
		h, disk := a.held(e), a.heldDisk(e)
		if least == nil || cmp.Or(cmp.Compare(h.MemoryBytes, holds.MemoryBytes), cmp.Compare(h.Tasks, holds.Tasks), cmp.Compare(disk, onDisk)) < 0 {
			least, holds, onDisk = e, h, disk
		}
	}
	return least
}

// opened starts what follows a first SIGKILL: the finisher, the ranking, the kill line.
func (a *Agent) opened(e *eviction, struck int) {
	e.struck = struck
	a.spendReclaim(e)
	a.viewed = time.Time{} // a change: the state file follows this pass
	h := e.handle
	a.wires.killing.Add(1)
	a.crew.Do(func() {
		// With the fork hook alone a bomb hops: each fork costs it the parent, and the child
		// goes on. The allocation hook gets the child too, at its first page.
		if err := a.kernel.Arm(); err != nil {
			a.log.Warn().Err(err).Msg("the allocation hook does not help with this kill")
		}
	})
	a.crew.Do(func() {
		defer a.wires.killing.Add(-1)
		out := h.Finish(a.crew, sample.Now, finishDeadline)
		a.release(e)
		e.finished.Store(&out)
		a.wake()
	})
	a.noted(e)
}

// noted writes the kill line, of a pod that came back no other one: whoever acts on it has.
func (a *Agent) noted(e *eviction) {
	if a.expect(e); e.isAgain() {
		return
	}
	if e.message == "" {
		a.explain(e)
	}
	a.recorder.send(a.line(record.KindKill, e), nil)
}

// explain makes what is said about a decision, from the figures that led to it.
func (a *Agent) explain(e *eviction) {
	e.ranked = a.ranked(&e.decision)
	if e.bound.Signal.Disk() {
		a.measureContainers(e)
	}
	e.message, e.annotations = decide.Message(&a.settings, &e.decision, &e.victim)
}

// weighContainers adds what each container holds of memory, the kubelet's measure: the working
// set of its own cgroup. A container without one does not run, and a cgroup may be of one that
// the table does not list: ephemeral, or started since. Right after SIGKILL: a victim of 24 MiB
// has given them back before its kill line is made.
func (a *Agent) weighContainers(e *eviction) {
	if !e.bound.Signal.Memory() || len(e.victim.Containers) == 0 {
		return
	}
	held := a.heldByEach(e)
	e.victim.Containers = slices.Clone(e.victim.Containers) // the table's
	for i := range held {
		if c := e.unit.ContainerOf(i); c >= 0 {
			e.victim.Containers[c].WorkingSetBytes = held[i]
		}
	}
}

// heldByEach is what each target held, nil where that is not known. Alone it held what the unit
// did, but for some 300 KiB of the sandbox. Of several the rows tell, which are from before the
// SIGKILL as a rule, or a reading now: what was given back since, or taken since a row was read,
// shows in the sum.
func (a *Agent) heldByEach(e *eviction) []int64 {
	unit, held := e.victim.Usage.WorkingSetBytes, make([]int64, len(e.targets))
	if len(held) == 1 {
		held[0] = unit
		return held
	}
	for range 2 {
		sum, isKnown := int64(0), unit != workload.NoData
		for i := range e.targets {
			var u workload.Usage
			e.targets[i].usage(a.kernel, &u)
			held[i], isKnown = u.WorkingSetBytes, isKnown && u.WorkingSetBytes != workload.NoData
			sum += held[i]
		}
		if isKnown && max(sum-unit, unit-sum) <= unit/sumSlack {
			return held
		}
		for i := range e.targets {
			a.kernel.Refresh(e.targets[i].at(), loader.At{})
		}
	}
	return nil
}

// measureContainers adds what each container holds of a disk.
func (a *Agent) measureContainers(e *eviction) {
	nowNs := sample.Now()
	if t := a.scout.fresh(nowNs); t != nil {
		if entry := t.Entry(e.victim.UID); entry != nil {
			w := e.victim
			entry.Measure(&w, nowNs, figuresAge)
			e.victim.Containers = w.Containers
		}
	}
}

// line is the journal's line of an eviction as it stands now.
func (a *Agent) line(kind record.Kind, e *eviction) *record.Line {
	l := &record.Line{
		Kind: kind, ID: e.id, Time: record.Time{Time: e.wall}, Node: a.node, Mode: a.mode,
		Tier: tierOf(e.by), Signal: e.label(), Reclaim: e.reclaim,
		Observed: &record.Observed{Available: e.decision.Observed.Available, Capacity: e.decision.Observed.Capacity},
		Victim: &record.Victim{
			UID: e.victim.UID, Namespace: e.victim.Namespace, Name: e.victim.Name, Cgroup: e.victim.Cgroup,
			CgroupID: max(e.victim.ID.MemoryID, e.victim.ID.PidsID), QOSClass: string(e.victim.QOSClass),
			Priority: e.victim.Priority, RequestBytes: requestBytes(&e.bound, &e.victim),
			UsageBytes: figure(usageBytes(&a.settings, &e.bound, &e.victim)), Tasks: figure(e.victim.Usage.Tasks),
		},
		Ranked: e.ranked, Attempts: max(1, e.attempt), Outcome: e.outcome, Reason: e.reason, By: e.killer,
		Message: e.message, Annotations: e.annotations,
	}
	if e.victim.ID.MemoryID != 0 {
		l.Victim.CgroupID = e.victim.ID.MemoryID
	}
	if e.limit != nil {
		l.Victim.UsageBytes = &e.limit.UsedBytes
	} else {
		l.Threshold = thresholdLine(&e.bound, &e.decision)
	}
	timeline := e.timeline
	l.Timeline = &timeline
	if kind == record.KindKill {
		l.Reason = string(e.decision.Reason)
		return l
	}
	a.figures(l, e)
	return l
}

// figures adds what is known only when an eviction is closed.
func (a *Agent) figures(l *record.Line, e *eviction) {
	if e.bound.Signal.Bytes() {
		overshoot := max(0, e.decision.ThresholdValue-e.lowest)
		l.OvershootBytes = &overshoot
	}
	if !e.bound.Signal.Disk() && e.timeline.Dead != 0 && e.victim.Usage.WorkingSetBytes != workload.NoData {
		freed := e.victim.Usage.WorkingSetBytes - e.heldAfter
		l.FreedBytes = &freed
	}
	if out := e.ended; out != nil {
		l.ProcessesKilled = max(out.Processes, e.struck, 1)
	}
}

func thresholdLine(b *decide.Bound, d *decide.Decision) *record.Threshold {
	t := &record.Threshold{
		Signal: string(b.Signal), Hard: b.Hard(), Value: b.Value.Text,
		GracePeriodSeconds: int64(b.GracePeriod / time.Second),
	}
	if b.Signal.Bytes() {
		value, reclaim := d.ThresholdValue, d.TargetAvailable-d.ThresholdValue
		t.ValueBytes, t.MinReclaimBytes = &value, &reclaim
	}
	return t
}

func (a *Agent) ranked(d *decide.Decision) []record.Ranked {
	return ranking(&a.settings, &a.settings.Bounds[d.Bound], a.scene.workloads)
}

// ranking is the top of a ranking as it is recorded.
func ranking(s *decide.Settings, b *decide.Bound, ws []workload.Workload) (out []record.Ranked) {
	for _, r := range decide.RankTop(s, b, ws, record.MaxRanked) {
		w := &ws[r.Index]
		out = append(out, record.Ranked{
			UID: w.UID, Name: w.Name,
			UsageBytes: figure(usageBytes(s, b, w)), RequestBytes: requestBytes(b, w),
			Tasks: figure(w.Usage.Tasks), Priority: w.Priority,
			Evictable: r.Evictable, Reason: r.Reason,
		})
	}
	return out
}

// usageBytes is what a unit holds of the bound's signal, or of memory where that counts no
// bytes.
func usageBytes(s *decide.Settings, b *decide.Bound, w *workload.Workload) int64 {
	if b.Signal.Disk() && b.Signal.Bytes() {
		return s.Use(b, w)
	}
	return w.Usage.WorkingSetBytes
}

func requestBytes(b *decide.Bound, w *workload.Workload) int64 {
	if b.Signal.Disk() {
		return w.EphemeralStorageRequestBytes
	}
	return w.MemoryRequestBytes
}

// figure turns "no data" into an absent figure.
func figure(v int64) *int64 {
	if v == workload.NoData {
		return nil
	}
	return &v
}

// shadowed records what would have been done, once for each time the threshold is met.
func (a *Agent) shadowed(e *eviction, d *decide.Decision) {
	e.used = false
	if a.shadowMet[d.Bound] {
		return
	}
	a.shadowMet[d.Bound] = true
	a.spendReclaim(e)
	a.weighContainers(e)
	a.explain(e)
	e.outcome, e.reason = record.OutcomeShadow, "would have been killed"
	a.recorder.send(a.line(record.KindEviction, e), nil)
}

// dying lists what former victims still hold.
func (a *Agent) dying(dst []decide.Dying) []decide.Dying {
	for i := range a.open {
		e := &a.open[i]
		if !e.underWay() {
			continue
		}
		if e.revived = e.revived || a.runsAgain(e); e.revived {
			continue
		}
		held := a.held(e)
		v := decide.Dying{
			UID: e.victim.UID, Cgroup: e.victim.Cgroup, Signal: e.bound.Signal,
			KilledNs: e.signalledNs(), Terminating: e.signalledNs() == 0, Populated: e.timeline.Dead == 0,
			HeldBytes: held.MemoryBytes, HeldTasks: held.Tasks, HeldDisk: a.heldDisk(e),
		}
		if e.timeline.Dead != 0 {
			v.Terminating, v.HeldBytes = false, 0 // exit_mm comes before a cgroup counts as unpopulated
			if v.HeldTasks == 0 && v.HeldDisk == 0 {
				continue
			}
		}
		dst = append(dst, v)
	}
	return dst
}

// underWay: somebody was signalled, by SIGKILL or asked to end.
func (e *eviction) underWay() bool {
	return e.used && (e.timeline.Signalled != 0 || e.timeline.Asked != 0)
}

// signalledNs is when the victim got SIGKILL, 0: not yet.
func (e *eviction) signalledNs() uint64 { return max(e.timeline.Signalled, e.killedNs.Load()) }

// held reads what the struck cgroups still hold. What else is in a pod, its sandbox or a
// container that was started since, is not the victim's.
func (a *Agent) held(e *eviction) (sum workload.Usage) {
	for i := range e.targets {
		u := e.targets[i].held(a.kernel)
		sum.MemoryBytes += u.MemoryBytes
		sum.Tasks += u.Tasks
	}
	return sum
}

// follow moves the open evictions on: dead, recovered, closed, let go of.
func (a *Agent) follow() {
	for i := range a.open {
		e := &a.open[i]
		if !e.underWay() {
			continue
		}
		a.followOne(e)
		if e.recorded && (e.revived || !a.holds(e)) {
			e.used = false
		}
	}
}

func (a *Agent) followOne(e *eviction) {
	a.settle(e)
	if o := a.observed(&e.bound); o != nil && e.timeline.Recovered == 0 && e.limit == nil {
		e.lowest = min(e.lowest, o.Available)
		if o.Available >= e.decision.TargetAvailable {
			e.timeline.Recovered = o.Ns
		}
	}
	if !e.recorded && e.over(sample.Now(), a.leaving) {
		a.closeEviction(e)
	}
}

// settle takes over, once, what the finisher says.
func (a *Agent) settle(e *eviction) {
	out := e.finished.Load()
	if out == nil || e.ended != nil {
		return
	}
	e.ended, e.endedNs = out, cmp.Or(out.DeadNs, sample.Now())
	e.timeline.Dead, e.timeline.Signalled = out.DeadNs, e.signalledNs()
	e.timeline.SignalledAll = max(e.timeline.Signalled, out.SignalledAllNs)
	e.heldAfter = a.held(e).MemoryBytes
	a.pardon(e) // dead, or given up: a frozen one dies when it is thawed, a word would be missed
	if e.timeline.Dead != 0 {
		a.viewed = time.Time{}
		if c := a.comebackBy(e.id); c != nil {
			c.deadNs = e.timeline.Dead
		}
		e.unit.figuresFrom.Store(e.timeline.Dead)
		a.at(stageDead)
	}
}

// closeEviction records how it ended. The intent stays until that is on disk.
func (a *Agent) closeEviction(e *eviction) {
	e.recorded = true
	a.viewed = time.Time{}
	e.outcome, e.reason = e.ending()
	intent := e.intent
	free := func() { a.kernel.FreeIntent(intent) }
	if l := a.closedAs(e, a.line(record.KindEviction, e)); l != nil {
		a.recorder.send(l, free)
	} else {
		a.recorder.after(free)
	}
}

// ending says how the eviction ended.
func (e *eviction) ending() (record.Outcome, string) {
	out := e.ended
	switch {
	case out == nil && e.signalledNs() == 0:
		return record.OutcomeFailed, "asked to end, and the agent ended before it did"
	case out == nil:
		return record.OutcomeFailed, "signalled, and not dead when the agent ended"
	case errors.Is(out.Err, actuator.ErrGone):
		return record.OutcomeGone, "it ended before it was asked to"
	case e.timeline.Dead == 0 && out.Err != nil:
		return record.OutcomeFailed, "signalled, and not dead in time: " + out.Err.Error()
	case e.timeline.Dead == 0:
		return record.OutcomeFailed, "signalled, and not dead in time"
	}
	how := "dead"
	if e.timeline.Signalled == 0 {
		how = "ended within its grace period"
	}
	if e.limit != nil || e.unasked {
		return record.OutcomeKilled, how
	}
	if e.timeline.Recovered != 0 {
		return record.OutcomeKilled, how + "; the signal is back above the threshold"
	}
	return record.OutcomeKilled, how + "; the signal has not recovered"
}

// runsAgain reports whether a dead victim's unit has processes that are not the victim's.
func (a *Agent) runsAgain(e *eviction) bool {
	if e.timeline.Dead == 0 {
		return false
	}
	i := a.scene.unit(e.victim.ID)
	if i < 0 { // a service that is started again has another cgroup of the same name
		i = a.scene.at(e.victim.Cgroup)
	}
	if i < 0 {
		return false
	}
	return runsSince(a.scene.units[i], e.unit, e.timeline.Dead)
}

// runsSince reports whether a unit has processes that came after the death of what was struck,
// nil: by a former agent.
func runsSince(u, struck *unit, deadNs uint64) bool {
	if struck != nil && u.grip == struck.grip {
		return u.revived.Load()
	}
	return u.ranNs.Load() > deadNs // else the runtime has removed what was struck, and nothing was started
}

// holds reports whether something is left to credit: zombies of a dead victim, anything
// that is charged to one that does not die.
func (a *Agent) holds(e *eviction) bool {
	u := a.held(e)
	return u.Tasks > 0 || e.timeline.Dead == 0 && u.MemoryBytes > 0 || a.heldDisk(e) > 0
}

// over reports whether the eviction's line can be closed. An agent that ends does not wait
// for the signal.
func (e *eviction) over(nowNs uint64, leaving bool) bool {
	if e.ended == nil {
		return false
	}
	if e.timeline.Dead == 0 {
		return true // the finisher gave up
	}
	patience := closeAfter
	if e.bound.Signal.Disk() {
		patience = cleanUp
	}
	return leaving || e.limit != nil || e.unasked || e.timeline.Recovered != 0 || nowNs-e.timeline.Dead > uint64(patience)
}

// pardon gives the condemned word back, once: by the next time it may be another victim's.
func (a *Agent) pardon(e *eviction) {
	a.kernel.Pardon(e.condemned)
	e.condemned = -1
}

func (a *Agent) observed(b *decide.Bound) *signal.Observation {
	for i := range a.input.Observations {
		if o := &a.input.Observations[i]; o.Signal == b.Signal && o.Root == b.Root {
			return o
		}
	}
	return nil
}

// following reports whether some eviction needs frequent looks. What takes seconds, a grace
// period or a disk that is cleaned up, does not.
func (a *Agent) following() bool {
	for i := range a.open {
		if e := &a.open[i]; e.used && !e.recorded && !e.isSlow() {
			return true
		}
	}
	return false
}

func (e *eviction) isSlow() bool {
	return e.signalledNs() == 0 && e.ended == nil || e.bound.Signal.Disk() && e.ended != nil
}
