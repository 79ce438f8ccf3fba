// Package decide turns observations, workloads and a given time into a Decision. It is
// pure: it reads no clock and no file, changes none of its arguments (Memory has methods
// of its own for that) and allocates nothing on the way to a decision.
package decide

import (
	"math"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Input is what one decision is made from.
type Input struct {
	// NowNs is the time of the decision, CLOCK_MONOTONIC. A NowNs before an earlier one
	// counts as no time passed since.
	NowNs uint64
	// Observations hold at most one of each signal and root. What is absent is no data:
	// its bounds are not met, and no longer held.
	Observations []signal.Observation
	Workloads    []workload.Workload
	// Dying are the victims that still hold something, in any order.
	Dying []Dying
	// Reclaimed is what was tried to free of the node since these observations, and
	// AfterReclaim are those made after it.
	Reclaimed    NodeReclaim
	AfterReclaim []signal.Observation
	// Reclaiming: somebody is at it, or nobody has looked since. Bounds that need it wait.
	Reclaiming bool
	// Disk holds up everything that is due for a disk; its zero value nothing.
	Disk Hold
}

// Hold is what is answered in the place of a reclaim or an eviction: Wait or Refuse, and why.
// Nothing holds nothing up.
type Hold struct {
	Verdict Verdict
	Reason  Reason
}

// urgency orders verdicts over several bounds: a memory victim that is still dying does
// not hold up a kill for pids, and a refusal is an alarm, which a wait would hide.
var urgency = [...]uint8{Nothing: 0, Wait: 1, Refuse: 2, Reclaim: 3, Evict: 3}

// Decide says what to do now. A bound is due when it has been met, or held by its minimum
// reclaim, for its grace period; it is acted on when its reading is newer than the one of
// the last pass. Of those bounds the first that asks for an eviction or for node-level
// reclaim wins, else the first that has to refuse, else the first that waits. The kubelet
// looks at the first one alone.
func Decide(s *Settings, m *Memory, in *Input) Decision {
	out := Decision{Bound: -1, Victim: -1}
	var met, due [MaxBounds]bool
	for i := range s.Bounds {
		b := &s.Bounds[i]
		o, ok := observed(in.Observations, b)
		if !ok || !m.watches(s, i) {
			continue
		}
		d := b.measure(o, m.due[i])
		if d.Reason == "" {
			continue
		}
		met[i] = true
		due[i] = m.metFor(i, in.NowNs) >= uint64(max(0, b.GracePeriod))
		if !due[i] || m.isStale(i, o) || out.isFinal(s) {
			continue
		}
		d.Bound = i
		d.answer(s, m, in, b)
		if out.Bound < 0 || urgency[d.Verdict] > urgency[out.Verdict] {
			out = d
		}
	}
	out.Met, out.Due = met, due
	out.Conditions = m.conditions(s, &met, in.NowNs)
	return out
}

func (d *Decision) isFinal(s *Settings) bool {
	return d.Verdict == Evict || d.Verdict == Reclaim || s.Compat && d.Bound >= 0
}

func observed(obs []signal.Observation, b *Bound) (signal.Observation, bool) {
	for i := range obs {
		if obs[i].Signal == b.Signal && obs[i].Root == b.Root {
			return obs[i], true
		}
	}
	return signal.Observation{}, false
}

// measure holds a bound against its observation. Reason stays empty when the bound is
// neither met nor held. Equal is not met, as in the kubelet.
func (b *Bound) measure(o signal.Observation, held bool) Decision {
	d := Decision{Observed: o, Victim: -1, ThresholdValue: b.Value.Of(o.Capacity)}
	d.TargetAvailable = add(d.ThresholdValue, max(0, b.MinReclaim.Of(o.Capacity)))
	switch {
	case d.ThresholdValue > o.Available:
		d.Reason = ReasonMet
	case held && d.TargetAvailable > o.Available:
		d.Reason = ReasonHeld
	}
	return d
}

// answer fills in what to do about a bound that is due.
func (d *Decision) answer(s *Settings, m *Memory, in *Input, b *Bound) {
	r := s.resourceOf(b.Signal)
	d.Reclaim = s.reclaimFor(r)
	switch {
	case in.awaits(s, b, r, d.Missing()):
		d.Verdict, d.Reason = Wait, ReasonDying
	case d.Reclaim.Any() && d.wantsReclaim(in, r) && !in.Reclaiming && d.Missing() <= in.credit(s, b, r):
		d.Verdict = Reclaim // a dead victim's containers can go
	case d.Missing() <= in.credit(s, b, r):
		d.Verdict, d.Reason = Wait, ReasonCredit
	case r.disk() && in.Disk.Verdict != Nothing:
		d.Verdict, d.Reason = in.Disk.Verdict, in.Disk.Reason
	case d.wantsReclaim(in, r) && in.Reclaiming:
		d.Verdict, d.Reason = Wait, ReasonReclaiming
	case d.wantsReclaim(in, r):
		d.Verdict = Reclaim
	case d.Reclaim.Any() && s.isRelieved(r, in.AfterReclaim):
		d.Verdict, d.Reason = Wait, ReasonReclaimed
	case m.spent(s, in.NowNs):
		d.Verdict, d.Reason = Refuse, ReasonBudget
	default:
		d.pick(s, in, b)
	}
}

// wantsReclaim: something can be freed that has not been, and somebody is there who does it.
func (d *Decision) wantsReclaim(in *Input, r resource) bool {
	return !d.Reclaim.within(in.Reclaimed) && !(r.disk() && in.Disk.Verdict != Nothing)
}

// Missing is how much has to be given back until the target is reached.
func (d *Decision) Missing() int64 { return sub(d.TargetAvailable, d.Observed.Available) }

// pick names the victim: the first of Rank that may be evicted and is not dying already,
// found in one scan. The reason why the bound asks for it stays. Nobody dies in the place of one
// that would precede it if it held all that it can have filled.
func (d *Decision) pick(s *Settings, in *Input, b *Bound) {
	r, unmeasured, unknown := s.resourceOf(b.Signal), -1, false
	var first, worst place
	for i := range in.Workloads {
		w := &in.Workloads[i]
		if !b.covers(w.Cgroup) {
			continue
		}
		switch s.unfit(b, w) { // dying last: it compares the most text
		case "":
			p := s.place(b, w)
			if (d.Victim < 0 || p.compare(&first) < 0) && !in.isDying(b, w) {
				d.Victim, first = i, p
			}
		case noUsage:
			if in.isDying(b, w) {
				continue
			}
			unknown = true
			if most := s.mayHold(r, w); most > 0 {
				if p := s.placeOf(r, w, most); unmeasured < 0 || p.compare(&worst) < 0 {
					unmeasured, worst = i, p
				}
			}
		}
	}
	switch {
	case d.Victim >= 0 && unmeasured >= 0 && worst.compare(&first) < 0:
		d.Verdict, d.Reason, d.Victim, d.Unmeasured = Refuse, ReasonUnmeasured, -1, unmeasured
	case d.Victim >= 0:
		d.Verdict = Evict
	case unknown:
		d.Verdict, d.Reason = Refuse, ReasonNoUsage
	default:
		d.Verdict, d.Reason = Refuse, ReasonNoCandidate
	}
}

// awaits reports whether a victim killed for the same resource is still running and not
// yet overdue. Memory that the dying don't hold any more none of them can give back, however
// long it takes to die.
func (in *Input) awaits(s *Settings, b *Bound, r resource, missing int64) bool {
	patience := s.Overdue
	if r == memory && missing > in.credit(s, b, r) {
		patience = min(patience, s.Drained)
	}
	for i := range in.Dying {
		v := &in.Dying[i]
		if v.Populated && v.counts(b) && s.resourceOf(v.Signal) == r &&
			(v.Terminating || elapsed(in.NowNs, v.KilledNs) < uint64(max(0, patience))) {
			return true
		}
	}
	return false
}

// credit is what the dying still hold of the bound's resource, whatever they were killed
// for and however long ago: a reaper that stalls is no reason to kill the next.
func (in *Input) credit(s *Settings, b *Bound, r resource) int64 {
	var sum int64
	for i := range in.Dying {
		if v := &in.Dying[i]; v.counts(b) {
			sum = add(sum, max(0, v.held(r, s.resourceOf(v.Signal))))
		}
	}
	return sum
}

// counts reports whether a bound has to do with the victim. A unit that is only asked to
// end gives a hard bound nothing yet: a soft eviction never delays a hard one.
func (v *Dying) counts(b *Bound) bool {
	return b.covers(v.Cgroup) && !(v.Terminating && b.Hard())
}

// held is what the victim holds of a resource; of disk only of the one it was killed for.
func (v *Dying) held(r, killedFor resource) int64 {
	switch {
	case r == memory:
		return v.HeldBytes
	case r == tasks:
		return v.HeldTasks
	case r == killedFor:
		return v.HeldDisk
	}
	return 0
}

// isDying matches by uid and cgroup: a unit that is no pod has only its path.
func (in *Input) isDying(b *Bound, w *workload.Workload) bool {
	for i := range in.Dying {
		if v := &in.Dying[i]; v.Cgroup == w.Cgroup && v.UID == w.UID && v.counts(b) {
			return true
		}
	}
	return false
}

// covers reports whether a cgroup lies below the bound's root, where its victims are sought.
func (b *Bound) covers(cgroup string) bool {
	if b.Root == "" {
		return true
	}
	rest, ok := strings.CutPrefix(cgroup, strings.TrimSuffix(b.Root, "/"))
	return ok && len(rest) > 1 && rest[0] == '/'
}

// elapsed is 0 when the clock went back: implausible, and no reason to call a victim
// overdue or to forget a kill.
func elapsed(nowNs, thenNs uint64) uint64 {
	if nowNs < thenNs {
		return 0
	}
	return nowNs - thenNs
}

// add and sub saturate: what an operator or a table wrote must not wrap around into the
// opposite decision.
func add(a, b int64) int64 {
	if sum := a + b; (sum > a) == (b > 0) {
		return sum
	}
	if b > 0 {
		return math.MaxInt64
	}
	return math.MinInt64
}

func sub(a, b int64) int64 {
	if diff := a - b; (diff < a) == (b > 0) {
		return diff
	}
	if b > 0 {
		return math.MinInt64
	}
	return math.MaxInt64
}
