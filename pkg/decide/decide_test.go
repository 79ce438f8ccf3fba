package decide_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	second = uint64(time.Second)
	// now is the time of a decision where it does not matter.
	now = 1000 * second
)

// bound is hard; values are amounts.
func bound(s signal.Signal, root string, value, minReclaim int64) decide.Bound {
	return decide.Bound{
		Threshold: signal.Threshold{
			Signal: s, Value: signal.Quantity{Value: value}, MinReclaim: signal.Quantity{Value: minReclaim},
		},
		Root: root,
	}
}

func soft(b decide.Bound) decide.Bound {
	b.GracePeriod = 30 * time.Second
	return b
}

func settings(bounds ...decide.Bound) *decide.Settings {
	return &decide.Settings{
		Bounds:  bounds,
		Budget:  decide.Budget{PerMinute: 10, PerHour: 60},
		Overdue: 5 * time.Second,
		Drained: time.Second / 4,
	}
}

func observe(b decide.Bound, available int64) signal.Observation {
	return signal.Observation{Signal: b.Signal, Root: b.Root, Available: available, Capacity: 1000, Ns: now}
}

// unit uses both memory and tasks, and has no request.
func unit(cgroup string, use int64) workload.Workload {
	return workload.Workload{
		UID: cgroup, Cgroup: cgroup,
		Usage: workload.Usage{MemoryBytes: use, WorkingSetBytes: use, Tasks: use},
	}
}

func with(w workload.Workload, change func(*workload.Workload)) workload.Workload {
	change(&w)
	return w
}

// dying was killed for memory a second ago and still runs.
func dying(cgroup string, held int64) decide.Dying {
	return decide.Dying{
		UID: cgroup, Cgroup: cgroup, Signal: signal.MemoryAvailable,
		KilledNs: now - second/10, Populated: true, HeldBytes: held,
	}
}

var (
	nodeMemory = bound(signal.MemoryAvailable, "", 100, 50)
	nodePIDs   = bound(signal.PIDAvailable, "", 20, 0)
	rootMemory = bound(signal.AllocatableMemoryAvailable, "/a", 100, 0)
)

// The state table of the kubelet's hard thresholds: memory.available < 100, minimum
// reclaim 50, a fresh reading every ten seconds.
func TestHysteresisScene(t *testing.T) {
	s := settings(nodeMemory)
	const absent = math.MinInt64
	scene := []struct {
		at        uint64
		available int64
		want      decide.Verdict
		reason    decide.Reason
		why       string
	}{
		{0, 100, decide.Nothing, "", "equality is not met"},
		{10, 99, decide.Evict, decide.ReasonMet, "below the threshold"},
		{20, 120, decide.Evict, decide.ReasonHeld, "120 < 100 + 50"},
		{30, 149, decide.Evict, decide.ReasonHeld, "149 < 150"},
		{40, 150, decide.Nothing, "", "150 is not below 150"},
		{50, 120, decide.Nothing, "", "was let go, and 120 is not below 100"},
		{60, 99, decide.Evict, decide.ReasonMet, "below again"},
		{70, absent, decide.Nothing, "", "no reading is not met, and lets go"},
		{80, 120, decide.Nothing, "", "was let go by the missing reading"},
		{90, -5, decide.Evict, decide.ReasonMet, "a derived signal may be negative"},
		{319, 500, decide.Nothing, "", "plenty"},
	}
	var m decide.Memory
	for _, step := range scene {
		in := &decide.Input{NowNs: step.at * second, Workloads: []workload.Workload{unit("/u", 10)}}
		if step.available != absent {
			in.Observations = []signal.Observation{observe(nodeMemory, step.available)}
			in.Observations[0].Ns = in.NowNs
		}
		d := decide.Decide(s, &m, in)
		if d.Verdict != step.want || d.Reason != step.reason {
			t.Errorf("t=%d: %v %q, want %v %q: %s", step.at, d.Verdict, d.Reason, step.want, step.reason, step.why)
		}
		if d.Met[0] != (step.reason != "") {
			t.Errorf("t=%d: met %v: %s", step.at, d.Met[0], step.why)
		}
		m.Next(s, in, &d)
	}
}

// New settings number the bounds anew: none is held, and the kills still count.
func TestReleaseLetsGoOfHeldBounds(t *testing.T) {
	s := settings(nodeMemory)
	in := &decide.Input{NowNs: now, Observations: []signal.Observation{observe(nodeMemory, 99)}}
	var m decide.Memory
	m.Killed(now)
	d := decide.Decide(s, &m, in)
	m.Next(s, in, &d)
	in.NowNs += second
	in.Observations[0] = observe(nodeMemory, 120)
	in.Observations[0].Ns = in.NowNs
	if d := decide.Decide(s, &m, in); !d.Met[0] {
		t.Fatal("120 is not held before Release")
	}
	m.Release()
	if d := decide.Decide(s, &m, in); d.Met[0] {
		t.Error("120 is still held after Release")
	}
	if minute, hour := m.Left(s, now); minute != 9 || hour != 59 {
		t.Errorf("%d and %d kills left after Release, want 9 and 59", minute, hour)
	}
}

// A percentage is of the observed capacity, in the kubelet's float32 arithmetic.
func TestThresholdOfCapacity(t *testing.T) {
	b := nodeMemory
	b.Value = signal.Quantity{Percent: 0.29}
	b.MinReclaim = signal.Quantity{Percent: 0.1}
	tests := map[string]struct {
		available int64
		want      decide.Verdict
	}{
		"29% of 100 is 28 in float32": {28, decide.Nothing},
		"below":                       {27, decide.Evict},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := signal.Observation{Signal: b.Signal, Available: tc.available, Capacity: 100, Ns: now}
			d := decide.Decide(settings(b), &decide.Memory{}, &decide.Input{
				NowNs: now, Observations: []signal.Observation{o}, Workloads: []workload.Workload{unit("/u", 10)},
			})
			if d.Verdict != tc.want {
				t.Errorf("verdict %v, want %v", d.Verdict, tc.want)
			}
			if d.Verdict == decide.Evict && (d.ThresholdValue != 28 || d.TargetAvailable != 38) {
				t.Errorf("threshold %d and target %d, want 28 and 38", d.ThresholdValue, d.TargetAvailable)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	never := with(unit("/never", 900), func(w *workload.Workload) { w.Evict = "never" })
	protected := with(unit("/protected", 900), func(w *workload.Workload) { w.Protected = "protect: glob" })
	static := with(unit("/static", 900), func(w *workload.Workload) { w.Static = true })
	mirror := with(unit("/mirror", 900), func(w *workload.Workload) { w.Mirror = true })
	critical := with(unit("/critical", 900), func(w *workload.Workload) { w.Priority = workload.CriticalPriority })
	unknown := with(unit("/unknown", 0), func(w *workload.Workload) { w.Usage = workload.NoUsage })
	idle := unit("/idle", 0)
	hog, small := unit("/hog", 500), unit("/small", 5)
	spared := []workload.Workload{never, protected, static, mirror, critical}

	tests := map[string]struct {
		in     decide.Input
		want   decide.Verdict
		reason decide.Reason
		victim string
	}{
		"the largest goes": {
			in:   decide.Input{Workloads: []workload.Workload{small, hog}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"protected, critical, static, mirror and never are passed over": {
			in:   decide.Input{Workloads: append(spared[:5:5], small)},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/small",
		},
		"nobody there": {
			want: decide.Refuse, reason: decide.ReasonNoCandidate,
		},
		"nobody but the spared": {
			in:   decide.Input{Workloads: spared},
			want: decide.Refuse, reason: decide.ReasonNoCandidate,
		},
		"unknown usage is no reason to die": {
			in:   decide.Input{Workloads: []workload.Workload{unknown, small}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/small",
		},
		"nobody of known usage": {
			in:   decide.Input{Workloads: append(spared[:5:5], unknown)},
			want: decide.Refuse, reason: decide.ReasonNoUsage,
		},
		"who holds nothing is not killed for nothing": {
			in:   decide.Input{Workloads: []workload.Workload{idle}},
			want: decide.Refuse, reason: decide.ReasonNoCandidate,
		},
		"an idle unit does not hide an unknown one": {
			in:   decide.Input{Workloads: []workload.Workload{unknown, idle}},
			want: decide.Refuse, reason: decide.ReasonNoUsage,
		},
		"an idle unit of lower priority lets the hog go first": {
			in: decide.Input{Workloads: []workload.Workload{
				with(idle, func(w *workload.Workload) { w.Priority = -1; w.MemoryRequestBytes = -1 }), hog,
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"a victim still runs": {
			in:   decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{dying("/old", 0)}},
			want: decide.Wait, reason: decide.ReasonDying,
		},
		"a victim of another memory signal still runs": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 0), func(v *decide.Dying) { v.Signal = signal.AllocatableMemoryAvailable }),
			}},
			want: decide.Wait, reason: decide.ReasonDying,
		},
		"a victim of a pid signal does not hold up memory": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 0), func(v *decide.Dying) { v.Signal = signal.PIDAvailable; v.HeldTasks = 9999 }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"what a pid victim holds of memory is credited": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 60), func(v *decide.Dying) { v.Signal = signal.PIDAvailable }),
			}},
			want: decide.Wait, reason: decide.ReasonCredit,
		},
		"a dead victim holds just what is missing to the target": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 60), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Wait, reason: decide.ReasonCredit,
		},
		"a dead victim holds one byte less": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 59), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"two victims hold it together": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 30), func(v *decide.Dying) { v.Populated = false }),
				also(dying("/older", 30), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Wait, reason: decide.ReasonCredit,
		},
		"an unknown holding counts nothing": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", workload.NoData), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"an unknown holding takes nothing off a known one": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", workload.NoData), func(v *decide.Dying) { v.Populated = false }),
				also(dying("/older", 60), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Wait, reason: decide.ReasonCredit,
		},
		"absurd holdings don't wrap around": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", math.MaxInt64), func(v *decide.Dying) { v.Populated = false }),
				also(dying("/older", math.MaxInt64), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Wait, reason: decide.ReasonCredit,
		},
		"one instant before a victim is overdue": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 60), func(v *decide.Dying) { v.KilledNs = now - 5*second + 1 }),
			}},
			want: decide.Wait, reason: decide.ReasonDying,
		},
		"one instant before it is clear that a victim has nothing left to give": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 0), func(v *decide.Dying) { v.KilledNs = now - second/4 + 1 }),
			}},
			want: decide.Wait, reason: decide.ReasonDying,
		},
		"a victim that can't die and has nothing left to give does not hold up the next": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 0), func(v *decide.Dying) { v.KilledNs = now - second/4 }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"an overdue victim no longer holds up the next": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 0), func(v *decide.Dying) { v.KilledNs = now - 5*second }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"an overdue victim is still credited": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 60), func(v *decide.Dying) { v.KilledNs = now - 5*second }),
			}},
			want: decide.Wait, reason: decide.ReasonCredit,
		},
		"a kill in the future is no time ago": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/old", 0), func(v *decide.Dying) { v.KilledNs = now + second }),
			}},
			want: decide.Wait, reason: decide.ReasonDying,
		},
		"the dying is not killed twice": {
			in: decide.Input{Workloads: []workload.Workload{hog, small}, Dying: []decide.Dying{
				also(dying("/hog", 0), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/small",
		},
		"nobody but the dying": {
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(dying("/hog", 0), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Refuse, reason: decide.ReasonNoCandidate,
		},
		"nobody but the dying, of unknown usage": {
			in: decide.Input{Workloads: []workload.Workload{unknown}, Dying: []decide.Dying{
				also(dying("/unknown", 0), func(v *decide.Dying) { v.Populated = false }),
			}},
			want: decide.Refuse, reason: decide.ReasonNoCandidate,
		},
		"another unit of the same uid is not the dying one": {
			in: decide.Input{Workloads: []workload.Workload{hog, small}, Dying: []decide.Dying{
				also(dying("/hog", 0), func(v *decide.Dying) { v.Populated = false; v.Cgroup = "/elsewhere" }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
		"another uid in the same cgroup is not the dying one": {
			in: decide.Input{Workloads: []workload.Workload{hog, small}, Dying: []decide.Dying{
				also(dying("/hog", 0), func(v *decide.Dying) { v.Populated = false; v.UID = "another" }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, victim: "/hog",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.in.NowNs = now
			tc.in.Observations = []signal.Observation{observe(nodeMemory, 90)}
			got := decide.Decide(settings(nodeMemory), &decide.Memory{}, &tc.in)
			want := decide.Decision{
				Verdict: tc.want, Reason: tc.reason, Observed: observe(nodeMemory, 90),
				ThresholdValue: 100, TargetAvailable: 150, Victim: indexOf(tc.in.Workloads, tc.victim),
			}
			want.Met[0], want.Due[0] = true, true
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

func also(v decide.Dying, change func(*decide.Dying)) decide.Dying {
	change(&v)
	return v
}

func indexOf(ws []workload.Workload, cgroup string) int {
	for i := range ws {
		if ws[i].Cgroup == cgroup {
			return i
		}
	}
	return -1
}

func TestDecideOverSeveralBounds(t *testing.T) {
	hog := unit("/a/hog", 500)
	elsewhere := unit("/b/hog", 900)
	memoryVictim := dying("/a/old", 0)
	pids := with(hog, func(w *workload.Workload) { w.Usage = workload.NoUsage; w.Usage.Tasks = 30 })
	tests := map[string]struct {
		bounds    []decide.Bound
		available []int64
		in        decide.Input
		want      decide.Verdict
		reason    decide.Reason
		bound     int
		met       []bool
	}{
		"nothing is met": {
			bounds: []decide.Bound{nodeMemory, nodePIDs}, available: []int64{100, 20},
			in:   decide.Input{Workloads: []workload.Workload{hog}},
			want: decide.Nothing, bound: -1, met: []bool{false, false},
		},
		"the first that evicts wins": {
			bounds: []decide.Bound{nodeMemory, nodePIDs}, available: []int64{99, 19},
			in:   decide.Input{Workloads: []workload.Workload{hog}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 0, met: []bool{true, true},
		},
		"a memory victim that is dying does not block a pid kill": {
			bounds: []decide.Bound{nodeMemory, nodePIDs}, available: []int64{99, 19},
			in:   decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{memoryVictim}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 1, met: []bool{true, true},
		},
		"a refusal is louder than a wait": {
			bounds: []decide.Bound{nodeMemory, nodePIDs}, available: []int64{99, 19},
			in:   decide.Input{Dying: []decide.Dying{memoryVictim}},
			want: decide.Refuse, reason: decide.ReasonNoCandidate, bound: 1, met: []bool{true, true},
		},
		"an eviction is louder than a refusal": {
			bounds: []decide.Bound{nodeMemory, nodePIDs}, available: []int64{99, 19},
			in:   decide.Input{Workloads: []workload.Workload{pids}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 1, met: []bool{true, true},
		},
		"the first of two refusals": {
			bounds: []decide.Bound{nodeMemory, nodePIDs}, available: []int64{99, 19},
			want: decide.Refuse, reason: decide.ReasonNoCandidate, bound: 0, met: []bool{true, true},
		},
		"a soft threshold is met and not acted on": {
			bounds: []decide.Bound{soft(nodeMemory)}, available: []int64{1},
			in:   decide.Input{Workloads: []workload.Workload{hog}},
			want: decide.Nothing, bound: -1, met: []bool{true},
		},
		"a hard one behind a soft one is acted on": {
			bounds: []decide.Bound{soft(nodeMemory), nodePIDs}, available: []int64{1, 19},
			in:   decide.Input{Workloads: []workload.Workload{hog}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 1, met: []bool{true, true},
		},
		"a dying victim elsewhere does not hold up a root": {
			bounds: []decide.Bound{rootMemory}, available: []int64{1},
			in:   decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{dying("/b/old", 9999)}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 0, met: []bool{true},
		},
		"a dying victim below the root does": {
			bounds: []decide.Bound{rootMemory}, available: []int64{1},
			in:   decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{memoryVictim}},
			want: decide.Wait, reason: decide.ReasonDying, bound: 0, met: []bool{true},
		},
		"a root does not take victims elsewhere": {
			bounds: []decide.Bound{rootMemory}, available: []int64{1},
			in:   decide.Input{Workloads: []workload.Workload{elsewhere}},
			want: decide.Refuse, reason: decide.ReasonNoCandidate, bound: 0, met: []bool{true},
		},
		"what pid victims hold is counted in tasks": {
			bounds: []decide.Bound{nodePIDs}, available: []int64{1},
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(memoryVictim, func(v *decide.Dying) { v.HeldTasks = 19 }),
			}},
			want: decide.Wait, reason: decide.ReasonCredit, bound: 0, met: []bool{true},
		},
		"memory held is no credit for tasks": {
			bounds: []decide.Bound{nodePIDs}, available: []int64{1},
			in: decide.Input{Workloads: []workload.Workload{hog}, Dying: []decide.Dying{
				also(memoryVictim, func(v *decide.Dying) { v.HeldTasks = 18; v.HeldBytes = 9999 }),
			}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 0, met: []bool{true},
		},
		"a signal of another resource finds nobody's usage": {
			bounds: []decide.Bound{bound(signal.NodeFsAvailable, "", 100, 0)}, available: []int64{1},
			in: decide.Input{
				Workloads: []workload.Workload{hog}, Reclaimed: both,
				AfterReclaim: []signal.Observation{{Signal: signal.NodeFsAvailable, Available: 1, Capacity: 1000}},
			},
			want: decide.Refuse, reason: decide.ReasonNoUsage, bound: 0, met: []bool{true},
		},
		"a negative minimum reclaim takes nothing off": {
			bounds: []decide.Bound{bound(signal.PIDAvailable, "", 20, -100)}, available: []int64{19},
			in:   decide.Input{Workloads: []workload.Workload{hog}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 0, met: []bool{true},
		},
		"a target beyond 63 bits does not wrap around": {
			bounds: []decide.Bound{bound(signal.PIDAvailable, "", math.MaxInt64, math.MaxInt64)}, available: []int64{5},
			in:   decide.Input{Workloads: []workload.Workload{hog}},
			want: decide.Evict, reason: decide.ReasonMet, bound: 0, met: []bool{true},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.in.NowNs = now
			for i, b := range tc.bounds {
				tc.in.Observations = append(tc.in.Observations, observe(b, tc.available[i]))
			}
			d := decide.Decide(settings(tc.bounds...), &decide.Memory{}, &tc.in)
			if d.Verdict != tc.want || d.Reason != tc.reason || d.Bound != tc.bound {
				t.Errorf("verdict %v %q of bound %d, want %v %q of %d", d.Verdict, d.Reason, d.Bound, tc.want, tc.reason, tc.bound)
			}
			if diff := cmp.Diff(tc.met, d.Met[:len(tc.met)]); diff != "" {
				t.Errorf("met (-want +got):\n%s", diff)
			}
			if (d.Victim >= 0) != (d.Verdict == decide.Evict) {
				t.Errorf("verdict %v with victim %d", d.Verdict, d.Victim)
			}
		})
	}
}

// Each root has its own observation: the same signal of another root is not taken for it.
func TestObservationOfAnotherRoot(t *testing.T) {
	in := &decide.Input{
		NowNs:        now,
		Observations: []signal.Observation{{Signal: signal.AllocatableMemoryAvailable, Root: "/b", Available: 1, Capacity: 1000}},
		Workloads:    []workload.Workload{unit("/a/hog", 5)},
	}
	want := decide.Decision{Bound: -1, Victim: -1}
	if diff := cmp.Diff(want, decide.Decide(settings(rootMemory), &decide.Memory{}, in)); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
}

// A soft threshold has not completed its grace period, so the minimum reclaim does not
// hold it; a hard one of the same signal is held beside it.
func TestSoftIsNotHeld(t *testing.T) {
	s := settings(nodeMemory, soft(nodeMemory))
	var m decide.Memory
	for _, step := range []struct {
		available  int64
		hard, soft bool
	}{{99, true, true}, {120, true, false}, {150, false, false}} {
		in := &decide.Input{NowNs: now, Observations: []signal.Observation{observe(nodeMemory, step.available)}}
		d := decide.Decide(s, &m, in)
		if d.Met[0] != step.hard || d.Met[1] != step.soft {
			t.Errorf("available %d: met %v, want %v %v", step.available, d.Met[:2], step.hard, step.soft)
		}
		m.Next(s, in, &d)
	}
}

func TestScope(t *testing.T) {
	tests := []struct {
		root, cgroup string
		want         bool
	}{
		{"", "/anywhere", true},
		{"/kubepods", "/kubepods/pod1", true},
		{"/kubepods", "/kubepods/burstable/pod1", true},
		{"/kubepods/", "/kubepods/pod1", true},
		{"/", "/pod1", true},
		{"/kubepods", "/kubepods", false},
		{"/kubepods", "/kubepods/", false},
		{"/kubepods", "/kubepods2/pod1", false},
		{"/kubepods", "/kubepods.slice/pod1", false},
		{"/kubepods", "/other/kubepods/pod1", false},
		{"/kubepods", "", false},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprintf("%s in %s", tc.cgroup, tc.root), func(t *testing.T) {
			b := bound(signal.AllocatableMemoryAvailable, tc.root, 100, 0)
			in := &decide.Input{
				NowNs: now, Observations: []signal.Observation{observe(b, 1)},
				Workloads: []workload.Workload{unit(tc.cgroup, 5)},
			}
			d := decide.Decide(settings(b), &decide.Memory{}, in)
			if got := d.Verdict == decide.Evict; got != tc.want {
				t.Errorf("evicted %v, want %v", got, tc.want)
			}
			if got := len(decide.Rank(settings(b), &b, in.Workloads)) == 1; got != tc.want {
				t.Errorf("ranked %v, want %v", got, tc.want)
			}
		})
	}
}
