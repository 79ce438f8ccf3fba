package decide_test

import (
	"fmt"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// thousand is a full node under pressure: 1000 units with long names, the victim last,
// and four dying.
func thousand() (*decide.Settings, *decide.Memory, *decide.Input) {
	s := settings(nodePIDs, nodeMemory)
	in := &decide.Input{
		NowNs:        now,
		Observations: []signal.Observation{observe(nodePIDs, 999), observe(nodeMemory, -1_000_000)},
	}
	for i := range in.Observations {
		in.Observations[i].Ns = 0 // never stale, however often it is asked about
	}
	for i := range int64(1000) {
		w := unit(fmt.Sprintf("/kubepods/burstable/pod0b2a61e2-5f0c-4f0e-9b3c-0a1b2c3d%04d", i), i+1)
		w.UID = fmt.Sprintf("0b2a61e2-5f0c-4f0e-9b3c-0a1b2c3d%04d", i)
		in.Workloads = append(in.Workloads, w)
	}
	for i := range 4 {
		w := in.Workloads[i]
		in.Dying = append(in.Dying, decide.Dying{UID: w.UID, Cgroup: w.Cgroup, Signal: signal.MemoryAvailable, KilledNs: now, HeldBytes: 1})
	}
	m := &decide.Memory{}
	for range decide.MaxBudgetPerHour {
		m.Killed(0)
	}
	s.Budget = decide.Budget{PerMinute: 5, PerHour: decide.MaxBudgetPerHour + 1}
	in.NowNs += 3600 * second
	return s, m, in
}

func TestDecideAllocatesNothing(t *testing.T) {
	s, m, in := thousand()
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
}

func BenchmarkDecide1000(b *testing.B) {
	s, m, in := thousand()
	b.ReportAllocs()
	for b.Loop() {
		decide.Decide(s, m, in)
	}
}
