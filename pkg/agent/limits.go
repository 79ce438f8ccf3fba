package agent

import (
	"math"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// offence is a unit above a limit of its own, by the disk figures.
type offence struct {
	decide.Offender
	unit *unit
	// readNs is when the figure was read, fromNs the unit's figuresFrom at that time.
	readNs, fromNs uint64
}

// findOffences looks for the units that are above a limit. Text is made here, off the hot
// thread. The caller holds the lock.
func (s *scout) findOffences() {
	l, settings, table := &s.lead, s.settings.Load(), s.figures.Load()
	if l.judged.Equal(l.figuresAt) && time.Since(l.judged) < figuresEvery {
		return
	}
	l.judged = l.figuresAt
	if settings == nil || !settings.LocalStorageIsolation {
		s.limited.Store(false)
		s.offences.Store(nil)
		return
	}
	var found []offence
	limited, nowNs := false, sample.Now()
	for _, u := range s.known.units {
		if !decide.HasLimit(&u.Workload) {
			continue
		}
		limited = true
		o, does := s.offenceOf(settings, table, u, nowNs)
		if !does {
			u.limitSaid.Store(nil)
			continue
		}
		found = append(found, o)
	}
	s.limited.Store(limited)
	if len(found) == 0 {
		s.offences.Store(nil)
		return
	}
	s.offences.Store(&found)
	s.wake()
}

// offenceOf judges a unit by the figures that were read of what it is now: one that was
// started again, or killed, since a figure was read is not judged by that one.
func (s *scout) offenceOf(settings *decide.Settings, table *workload.DiskTable, u *unit, nowNs uint64) (offence, bool) {
	o := offence{unit: u, fromNs: u.figuresFrom.Load()}
	if table == nil || o.fromNs >= nowNs {
		return o, false
	}
	e := table.Entry(u.UID)
	if e == nil {
		return o, false
	}
	w := u.Workload
	e.Measure(&w, nowNs, min(figuresAge, time.Duration(min(nowNs-o.fromNs-1, math.MaxInt64))))
	offenders := decide.LocalStorage(settings, []workload.Workload{w})
	if len(offenders) == 0 {
		return o, false
	}
	o.Offender = offenders[0]
	o.readNs = readOf(e, &o.Offender)
	return o, true
}

// readOf is when the figure of an offender was read.
func readOf(e *workload.DiskEntry, o *decide.Offender) uint64 {
	switch o.Check {
	case decide.CheckEmptyDir:
		if i := slices.IndexFunc(e.Volumes, func(v workload.VolumeDisk) bool { return v.Name == o.Name }); i >= 0 {
			return e.Volumes[i].ReadNs
		}
	case decide.CheckContainer:
		if i := slices.IndexFunc(e.Containers, func(c workload.ContainerDisk) bool { return c.Name == o.Name }); i >= 0 {
			return e.Containers[i].ReadNs
		}
	}
	if e.EphemeralStorage != nil {
		return e.EphemeralStorage.ReadNs
	}
	return 0
}

// limits is how far the hot thread is with the scout's list of offences.
type limits struct {
	list *[]offence
	next int
}

// limitsPending reports whether somebody above a limit has not had its turn. In shadow mode
// nobody gives a disk anything back, so nobody waits for that.
func (a *Agent) limitsPending() bool {
	list := a.scout.offences.Load()
	return list != nil && !a.shadow && (list != a.limits.list || a.limits.next < len(*list))
}

// enforceLimits evicts the units above a limit of their own, all of them, after whatever else
// the pass had to do. No more are under way at once than leave room for who is evicted for
// memory; the others follow.
func (a *Agent) enforceLimits(d *decide.Decision, wokeNs uint64) {
	list := a.scout.offences.Load()
	if list == nil || a.leaving || !a.settings.LocalStorageIsolation || d.Verdict == decide.Evict {
		return
	}
	l := &a.limits
	if l.list != list {
		*l = limits{list: list}
	}
	for ; l.next < len(*list); l.next++ {
		if o := &(*list)[l.next]; !a.enforce(o, wokeNs) {
			return
		}
	}
}

// enforce gives an offence its turn. False: there is no room, or it is not the time.
func (a *Agent) enforce(o *offence, wokeNs uint64) bool {
	if said := o.unit.limitSaid.Load(); said != nil && *said == o.Check && a.mayOnlySay() {
		return true
	}
	i := a.scene.unit(o.unit.ID)
	if i < 0 || a.scene.units[i].grip != o.unit.grip || o.unit.figuresFrom.Load() != o.fromNs {
		return true // another unit by now, or killed since
	}
	a.scene.look(a.kernel, i)
	if a.scene.workloads[i].Protected != "" || a.isStruck(o.unit) {
		return true
	}
	switch {
	case a.shadow:
		a.sayLimit(o, i, wokeNs, record.OutcomeShadow, "would have been killed")
		return true
	case a.isSpent():
		a.sayLimit(o, i, wokeNs, record.OutcomeRefused, string(decide.ReasonBudget))
		return true
	case a.limitsUnderWay() >= maxSoft || !a.withdraw():
		return false
	}
	e := a.slot()
	if e == nil {
		return false
	}
	a.beginLimit(e, o, i, wokeNs)
	o.unit.limitSaid.Store(nil)
	a.kill(e, nil)
	return true
}

// mayOnlySay: an offence that was said already is nothing to do about.
func (a *Agent) mayOnlySay() bool { return a.shadow || a.isSpent() }

func (a *Agent) isSpent() bool {
	minute, hour := a.memory.Left(&a.settings, sample.Now())
	return minute == 0 || hour == 0
}

// sayLimit records what is not done about an offence, once.
func (a *Agent) sayLimit(o *offence, i int, wokeNs uint64, outcome record.Outcome, reason string) {
	e := &eviction{} // no slot: nothing is under way
	a.beginLimit(e, o, i, wokeNs)
	o.unit.limitSaid.Store(&o.Check)
	e.outcome, e.reason = outcome, reason
	if outcome == record.OutcomeRefused {
		a.log.Error().Str("signal", o.Check).Str("cgroup", o.unit.Cgroup).Str("reason", reason).Msg("limit exceeded, and nobody is killed")
	}
	a.recorder.send(a.line(record.KindEviction, e), nil)
}

// isStruck: it got its SIGKILL, and its eviction is not closed.
func (a *Agent) isStruck(u *unit) bool {
	for i := range a.open {
		if e := &a.open[i]; e.used && !e.recorded && e.signalledNs() != 0 && e.victim.ID == u.ID {
			return true
		}
	}
	return false
}

func (a *Agent) limitsUnderWay() (n int) {
	for i := range a.open {
		if e := &a.open[i]; e.used && !e.recorded && e.limit != nil {
			n++
		}
	}
	return n
}

// limitBound is what evictions for a limit count for: what is above one lies on nodefs, but
// for writable layers and logs on filesystems of their own. The kubelet gives them a grace period of 1,
// as it does to hard thresholds.
var limitBound = decide.Bound{Threshold: signal.Threshold{Signal: signal.NodeFsAvailable}}

// beginLimit is begin, of an offence of the unit at index i of the scene.
func (a *Agent) beginLimit(e *eviction, o *offence, i int, wokeNs uint64) {
	*e = eviction{
		used: true, id: record.MakeID(uint64(time.Now().UnixMilli()), a.entropy), killer: record.ByAgent, by: sample.ObserverTimer,
		decision: decide.Decision{Verdict: decide.Evict, Bound: -1, Victim: i}, bound: limitBound, wire: noWire, limit: o,
		victim: a.scene.workloads[i], unit: a.scene.units[i], targets: a.scene.units[i].targets,
		intent: -1, condemned: -1, wall: time.Now(), message: o.Message,
	}
	e.lowest = o.LimitBytes - o.UsedBytes
	e.disk.held = max(0, a.settings.Use(&e.bound, &e.victim)) // nodefs may be short as well
	e.decision.Observed = signal.Observation{Signal: signal.Signal(o.Check), Available: e.lowest, Capacity: o.LimitBytes, Ns: o.readNs}
	e.timeline.Crossed, e.timeline.Woke, e.timeline.Decided = o.readNs, wokeNs, sample.Now()
	a.nextEntropy()
	a.intend(e)
}

// label is the eviction signal, or the label of the limit that was exceeded.
func (e *eviction) label() string {
	if e.limit != nil {
		return e.limit.Check
	}
	return string(e.bound.Signal)
}
