package decide_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// stays is what the kernel asks of a nominee after usages moved, by index; those behind
// the known units are new.
func stays(n *decide.Nominee, ws []workload.Workload, moved []int64) bool {
	grown := moved[n.Victim]
	if n.Use+grown < n.Least {
		return false
	}
	for i, by := range moved {
		at := slices.IndexFunc(n.Rivals, func(r decide.Rival) bool { return i < len(ws) && r.Index == i })
		switch {
		case i == n.Victim:
		case at < 0 && by-min(0, grown) > n.Others:
			return false
		case at >= 0 && n.Rivals[at].Relative && by-grown > n.Rivals[at].Growth:
			return false
		case at >= 0 && !n.Rivals[at].Relative && by > n.Rivals[at].Growth:
			return false
		}
	}
	return true
}

// Whatever moves: as long as the kernel finds that the nominee stays, it is the one whom
// Decide would evict.
func TestNomineeStaysTheVictimWhileNobodyOutgrowsIt(t *testing.T) {
	var stayed, moved int
	property := func(t *rapid.T) {
		w := drawWorld(t)
		w.in.Observations = nil
		bound := rapid.IntRange(0, len(w.s.Bounds)-1).Draw(t, "bound")
		b := w.s.Bounds[bound]
		if !b.Hard() || b.Signal.Disk() {
			return
		}
		n := decide.Nominee{Rivals: make([]decide.Rival, 0, rapid.IntRange(0, 3).Draw(t, "room"))}
		decide.Nominate(w.s, &w.m, w.in, bound, &n)
		if n.Victim < 0 {
			return
		}
		in := *w.in
		in.Workloads = slices.Clone(w.in.Workloads)
		root := b.Root
		if root == "" {
			root = "/a"
		}
		for range often(t, 0, "young") {
			in.Workloads = append(in.Workloads, workload.Workload{UID: root + "/young", Cgroup: root + "/young"})
		}
		by := make([]int64, len(in.Workloads))
		for i := range in.Workloads {
			use := w.s.Use(&b, &in.Workloads[i])
			if use == workload.NoData || rapid.IntRange(0, 2).Draw(t, "moves") == 0 {
				continue
			}
			by[i] = max(-use, rapid.Int64Range(-3, 6).Draw(t, "by"))
			if b.Signal.Memory() {
				in.Workloads[i].Usage.WorkingSetBytes = use + by[i]
			} else {
				in.Workloads[i].Usage.Tasks = use + by[i]
			}
		}
		if !stays(&n, w.in.Workloads, by) {
			moved++
			return
		}
		stayed++
		var now decide.Nominee
		decide.Nominate(w.s, &w.m, &in, bound, &now)
		if now.Victim != n.Victim {
			t.Fatalf("%v: nominee %d by %+v, and after moves by %v it would be %d", b.Signal, n.Victim, n, by, now.Victim)
		}
	}
	for range 20 { // few worlds have a nominee
		if rapid.Check(t, property); stayed > 0 && moved > 0 || t.Failed() {
			break
		}
	}
	if stayed == 0 || moved == 0 {
		t.Errorf("stayed %d times, did not %d times: the property was never tried", stayed, moved)
	}
	t.Logf("stayed %d times, did not %d times", stayed, moved)
}

func TestNomineeIsWhomDecideWouldEvict(t *testing.T) {
	tried := 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		d := decide.Decide(w.s, &w.m, w.in)
		if d.Verdict != decide.Evict || !w.s.Bounds[d.Bound].Hard() || w.s.Bounds[d.Bound].Signal.Disk() {
			return
		}
		var n decide.Nominee
		decide.Nominate(w.s, &w.m, w.in, d.Bound, &n)
		if n.Victim >= 0 {
			tried++
		}
		if n.Victim >= 0 && n.Victim != d.Victim {
			t.Fatalf("nominee %d, victim %d", n.Victim, d.Victim)
		}
	})
	if tried == 0 {
		t.Error("no world had a nominee")
	}
}

func TestNobodyIsNominated(t *testing.T) {
	for name, tc := range map[string]struct {
		bound  decide.Bound
		change func(*decide.Settings, *decide.Input)
	}{
		"budget spent":                       {nodeMemory, func(s *decide.Settings, _ *decide.Input) { s.Budget.PerMinute = 0 }},
		"soft":                               {soft(nodeMemory), nil},
		"nobody is there":                    {nodeMemory, func(_ *decide.Settings, in *decide.Input) { in.Workloads = nil }},
		"protected":                          {nodeMemory, func(_ *decide.Settings, in *decide.Input) { in.Workloads[0].Protected = "protect" }},
		"critical":                           {nodeMemory, func(_ *decide.Settings, in *decide.Input) { in.Workloads[0].Static = true }},
		"usage not known":                    {nodeMemory, func(_ *decide.Settings, in *decide.Input) { in.Workloads[0].Usage = workload.NoUsage }},
		"outside the bound's root":           {bound(signal.AllocatableMemoryAvailable, "/b", 100, 0), nil},
		"tasks ranked by processes (compat)": {nodePIDs, func(s *decide.Settings, _ *decide.Input) { s.Compat = true }},
	} {
		t.Run(name, func(t *testing.T) {
			s, in := settings(tc.bound), &decide.Input{NowNs: now, Workloads: []workload.Workload{full("/a/u", 50)}}
			n := decide.Nominee{Rivals: make([]decide.Rival, 0, 4)}
			if tc.change != nil {
				tc.change(s, in)
			}
			if decide.Nominate(s, &decide.Memory{}, in, 0, &n); n.Victim >= 0 {
				t.Errorf("nominated: %+v", n)
			}
		})
	}
}

func TestNominateAllocatesNothing(t *testing.T) {
	for _, b := range []decide.Bound{nodeMemory, nodePIDs} {
		s, m, in := full1000(b, 1_000_000)
		n := decide.Nominee{Rivals: make([]decide.Rival, 0, 32)}
		if allocs := testing.AllocsPerRun(100, func() { decide.Nominate(s, m, in, 0, &n) }); allocs != 0 || n.Victim < 0 {
			t.Errorf("%s: %v allocations, victim %d", b.Signal, allocs, n.Victim)
		}
	}
}

func BenchmarkNominate(b *testing.B) {
	for _, kind := range []decide.Bound{nodeMemory, nodePIDs} {
		b.Run(string(kind.Signal), func(b *testing.B) {
			s, m, in := full1000(kind, 1_000_000)
			n := decide.Nominee{Rivals: make([]decide.Rival, 0, 32)}
			for b.Loop() {
				decide.Nominate(s, m, in, 0, &n)
			}
		})
	}
}
