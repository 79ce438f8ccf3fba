// Package decide turns observations, workloads and a given time into a Decision. It is
// pure: it reads no clock and no file, changes none of its arguments (Memory has methods
// of its own for that) and allocates nothing on the way to a decision.
package decide

import (
	"math"
	"strings"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Input is what one decision is made from.
type Input struct {
	// NowNs is the time of the decision, CLOCK_MONOTONIC. A NowNs before a kill counts as
	// no time passed since.
	NowNs uint64
	// Observations hold at most one of each signal and root. What is absent is no data:
	// its bounds are not met, and no longer held.
	Observations []signal.Observation
	Workloads    []workload.Workload
	// Dying are the victims that still hold something, in any order.
	Dying []Dying
}

// urgency orders verdicts over several bounds: a memory victim that is still dying does
// not hold up a kill for pids, and a refusal is an alarm, which a wait would hide.
var urgency = [...]uint8{Nothing: 0, Wait: 1, Refuse: 2, Evict: 3}

// Decide says what to do now. Of the bounds that are met or held, the first that asks for
// an eviction wins, else the first that has to refuse, else the first that waits. Soft
// thresholds show up in Decision.Met and are never acted on.
func Decide(s *Settings, m *Memory, in *Input) Decision {
	out := Decision{Bound: -1, Victim: -1}
	var met [MaxBounds]bool
	for i := range s.Bounds {
		b := &s.Bounds[i]
		o, ok := in.observed(b)
		if !ok {
			continue
		}
		d := b.measure(o, m.held[i])
		met[i] = d.Reason != ""
		if !met[i] || !b.Hard() || out.Verdict == Evict {
			continue
		}
		d.Bound = i
		d.answer(s, m, in, b)
		if urgency[d.Verdict] > urgency[out.Verdict] {
			out = d
		}
	}
	out.Met = met
	return out
}

func (in *Input) observed(b *Bound) (signal.Observation, bool) {
	for _, o := range in.Observations {
		if o.Signal == b.Signal && o.Root == b.Root {
			return o, true
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

// answer fills in what to do about a bound that is met or held.
func (d *Decision) answer(s *Settings, m *Memory, in *Input, b *Bound) {
	switch {
	case in.awaits(b, s.Overdue):
		d.Verdict, d.Reason = Wait, ReasonDying
	case sub(d.TargetAvailable, d.Observed.Available) <= in.credit(b):
		d.Verdict, d.Reason = Wait, ReasonCredit
	case m.spent(s, in.NowNs):
		d.Verdict, d.Reason = Refuse, ReasonBudget
	default:
		d.pick(in, b)
	}
}

// pick names the victim: the first of Rank that may be evicted and is not dying already,
// found in one scan. The reason why the bound asks for it stays.
func (d *Decision) pick(in *Input, b *Bound) {
	unknown := false
	for i := range in.Workloads {
		w := &in.Workloads[i]
		if !b.covers(w.Cgroup) || spared(w) != "" {
			continue
		}
		switch use := b.use(w); { // dying last: it compares the most text
		case use == workload.NoData:
			unknown = unknown || !in.dying(w)
		case use <= 0: // frees nothing
		case (d.Victim < 0 || b.compare(w, &in.Workloads[d.Victim]) < 0) && !in.dying(w):
			d.Victim = i
		}
	}
	switch {
	case d.Victim >= 0:
		d.Verdict = Evict
	case unknown:
		d.Verdict, d.Reason = Refuse, ReasonNoUsage
	default:
		d.Verdict, d.Reason = Refuse, ReasonNoCandidate
	}
}

// awaits reports whether a victim killed for the same resource is still running and not
// yet overdue.
func (in *Input) awaits(b *Bound, overdue time.Duration) bool {
	for i := range in.Dying {
		v := &in.Dying[i]
		if v.Populated && b.covers(v.Cgroup) && resourceOf(v.Signal) == resourceOf(b.Signal) &&
			elapsed(in.NowNs, v.KilledNs) < uint64(max(0, overdue)) {
			return true
		}
	}
	return false
}

// credit is what the dying still hold of the bound's resource, whatever they were killed
// for and however long ago: a reaper that stalls is no reason to kill the next.
func (in *Input) credit(b *Bound) int64 {
	var sum int64
	for i := range in.Dying {
		v := &in.Dying[i]
		if b.covers(v.Cgroup) {
			sum = add(sum, max(0, v.held(resourceOf(b.Signal))))
		}
	}
	return sum
}

func (v *Dying) held(r resource) int64 {
	switch r {
	case memory:
		return v.HeldBytes
	case tasks:
		return v.HeldTasks
	}
	return 0
}

// dying matches by uid and cgroup: a unit that is no pod has only its path.
func (in *Input) dying(w *workload.Workload) bool {
	for i := range in.Dying {
		if in.Dying[i].Cgroup == w.Cgroup && in.Dying[i].UID == w.UID {
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

// resource is what a victim gives back. A signal of no resource known here can be met and
// has no usage to rank by, so it ends in ReasonNoUsage.
type resource uint8

const (
	other resource = iota
	memory
	tasks
)

func resourceOf(s signal.Signal) resource {
	switch s {
	case signal.MemoryAvailable, signal.AllocatableMemoryAvailable:
		return memory
	case signal.PIDAvailable, signal.AllocatablePIDAvailable:
		return tasks
	}
	return other
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
