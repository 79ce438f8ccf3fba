package decide_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// full1000 is a full node under pressure of one bound: 1000 units with long names, the
// victim last, and four dying, in an hour of many kills.
func full1000(b decide.Bound, available int64) (*decide.Settings, *decide.Memory, *decide.Input) {
	s := settings(b)
	in := &decide.Input{NowNs: now + 3600*second, Workloads: units(1000), Reclaimed: both}
	o := observe(b, available)
	o.Ns = 0 // never stale, however often it is asked about
	in.Observations, in.AfterReclaim = []signal.Observation{o}, []signal.Observation{o}
	for i := range 4 {
		w := in.Workloads[i]
		in.Dying = append(in.Dying, decide.Dying{UID: w.UID, Cgroup: w.Cgroup, Signal: b.Signal, KilledNs: now, HeldBytes: 1})
	}
	m := &decide.Memory{}
	for range decide.MaxBudgetPerHour {
		m.Killed(0)
	}
	s.Budget = decide.Budget{PerMinute: 5, PerHour: decide.MaxBudgetPerHour + 1}
	return s, m, in
}

// units hold more of everything one after the other, from uid to uid as long as a pod's.
func units(n int) []workload.Workload {
	ws := make([]workload.Workload, 0, n)
	for i := range int64(n) {
		w := full(fmt.Sprintf("/kubepods/burstable/pod0b2a61e2-5f0c-4f0e-9b3c-0a1b2c3d%04d", i), i+1)
		w.UID = fmt.Sprintf("0b2a61e2-5f0c-4f0e-9b3c-0a1b2c3d%04d", i)
		ws = append(ws, w)
	}
	return ws
}

// kinds are the signals whose rankings differ in kind.
var kinds = []decide.Bound{
	nodeMemory, nodePIDs, bound(signal.NodeFsAvailable, "", 100, 0), bound(signal.NodeFsInodesFree, "", 100, 0),
}

func TestDecideAllocatesNothing(t *testing.T) {
	for _, b := range kinds {
		for _, compat := range []bool{true, false} {
			t.Run(string(b.Signal)+mode(compat), func(t *testing.T) {
				s, m, in := full1000(b, -1_000_000)
				s.Compat = compat
				var d decide.Decision
				allocs := testing.AllocsPerRun(100, func() {
					d = decide.Decide(s, m, in)
					m.Next(s, in, &d)
				})
				if allocs != 0 {
					t.Errorf("%v allocations, want 0", allocs)
				}
				if d.Verdict != decide.Evict || d.Victim != 999 {
					t.Errorf("%v of %d, want the eviction of 999", d.Verdict, d.Victim)
				}
			})
		}
	}
}

// A pass over 1000 units: it has to take less than 200 µs.
func BenchmarkDecide1000(b *testing.B) {
	for _, kind := range kinds {
		b.Run(string(kind.Signal), func(b *testing.B) {
			s, m, in := full1000(kind, -1_000_000)
			b.ReportAllocs()
			for b.Loop() {
				decide.Decide(s, m, in)
			}
		})
	}
}

// Ranking 10,000 units: it has to take well under 10 ms.
func BenchmarkRank10000(b *testing.B) {
	ws := units(10000)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(ws), func(i, j int) { ws[i], ws[j] = ws[j], ws[i] })
	for _, kind := range kinds {
		b.Run(string(kind.Signal), func(b *testing.B) {
			s := settings(kind)
			for b.Loop() {
				decide.Rank(s, &s.Bounds[0], ws)
			}
		})
	}
}
