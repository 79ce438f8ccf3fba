package decide_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// world is everything one decision depends on. Its figures are small, so that ties and
// edges are common.
type world struct {
	s  *decide.Settings
	m  decide.Memory
	in *decide.Input
}

// signals are those with a ranking, and one without.
var signals = []signal.Signal{
	signal.MemoryAvailable, signal.AllocatableMemoryAvailable,
	signal.PIDAvailable, signal.AllocatablePIDAvailable, signal.NodeFsAvailable,
}

// often is usual in five of eight draws, else 0 to 2: worlds in which everything is rare
// at once say little.
func often(t *rapid.T, usual int, label string) int {
	return rapid.SampledFrom([]int{usual, usual, usual, usual, usual, 0, 1, 2}).Draw(t, label)
}

func drawWorld(t *rapid.T) world {
	bounds := rapid.SliceOfN(rapid.Custom(drawBound), 1, 5).Draw(t, "bounds")
	s := &decide.Settings{
		Bounds:  bounds,
		Budget:  decide.Budget{PerMinute: often(t, 2, "perMinute"), PerHour: often(t, 3, "perHour")},
		Overdue: time.Duration(rapid.IntRange(0, 3).Draw(t, "overdue")) * time.Second,
	}
	in := &decide.Input{NowNs: now, Workloads: drawWorkloads(t)}
	in.Observations = drawObservations(t, bounds)
	for _, w := range in.Workloads {
		if often(t, 0, "dies") != 0 {
			in.Dying = append(in.Dying, drawDying(t, w))
		}
	}
	var m decide.Memory
	for range often(t, 0, "kills") {
		m.Killed(now - uint64(rapid.IntRange(0, 100).Draw(t, "ago"))*second)
	}
	earlier := &decide.Input{NowNs: now - second, Observations: drawObservations(t, bounds)}
	for i := range earlier.Observations {
		earlier.Observations[i].Ns = earlier.NowNs
	}
	d := decide.Decide(s, &m, earlier)
	m.Next(s, earlier, &d)
	return world{s: s, m: m, in: in}
}

func drawBound(t *rapid.T) decide.Bound {
	s := rapid.SampledFrom(signals).Draw(t, "signal")
	root := ""
	if s.Allocatable() {
		root = rapid.SampledFrom([]string{"/a", "/b", "/a/c"}).Draw(t, "root")
	}
	b := bound(s, root, rapid.Int64Range(1, 20).Draw(t, "value"), rapid.Int64Range(0, 10).Draw(t, "minReclaim"))
	if often(t, 0, "soft") != 0 {
		b = soft(b)
	}
	return b
}

// drawObservations observes each signal and root once, or not at all.
func drawObservations(t *rapid.T, bounds []decide.Bound) []signal.Observation {
	var os []signal.Observation
	for _, b := range bounds {
		seen := slices.ContainsFunc(os, func(o signal.Observation) bool { return o.Signal == b.Signal && o.Root == b.Root })
		if !seen && often(t, 1, "observed") != 0 {
			os = append(os, observe(b, rapid.Int64Range(-10, 25).Draw(t, "available")))
		}
	}
	return os
}

// drawWorkloads makes units whose cgroups differ and whose uids may not.
func drawWorkloads(t *rapid.T) []workload.Workload {
	figure := rapid.SampledFrom([]int64{0, 1, 2, 3, 3, 4, 5, workload.NoData})
	ws := make([]workload.Workload, rapid.SampledFrom([]int{0, 1, 2, 5, 8, 12}).Draw(t, "workloads"))
	for i := range ws {
		root := rapid.SampledFrom([]string{"/a", "/b", "/ab", "/a/c"}).Draw(t, "below")
		ws[i] = workload.Workload{
			UID:                rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "uid"),
			Cgroup:             fmt.Sprintf("%s/u%d", root, i),
			Priority:           rapid.SampledFrom([]int32{-1, 0, 0, 0, 1, workload.CriticalPriority}).Draw(t, "priority"),
			Static:             often(t, 0, "static") == 1,
			Mirror:             often(t, 0, "mirror") == 1,
			Evict:              rapid.SampledFrom([]string{"", "", "allow", "first", "never"}).Draw(t, "evict"),
			Protected:          rapid.SampledFrom([]string{"", "", "", "protect: glob"}).Draw(t, "protected"),
			MemoryRequestBytes: rapid.Int64Range(0, 5).Draw(t, "request"),
			Usage: workload.Usage{
				WorkingSetBytes: figure.Draw(t, "workingSet"),
				Tasks:           figure.Draw(t, "tasks"),
			},
		}
	}
	return ws
}

func drawDying(t *rapid.T, w workload.Workload) decide.Dying {
	return decide.Dying{
		UID: w.UID, Cgroup: w.Cgroup,
		Signal:    rapid.SampledFrom(signals).Draw(t, "killedFor"),
		KilledNs:  now - uint64(rapid.IntRange(0, 5).Draw(t, "killedAgo"))*second,
		Populated: rapid.Bool().Draw(t, "populated"),
		HeldBytes: rapid.Int64Range(0, 20).Draw(t, "heldBytes"),
		HeldTasks: rapid.Int64Range(0, 20).Draw(t, "heldTasks"),
	}
}

func TestDecidePicksTheFirstEvictableOfRank(t *testing.T) {
	evictions := 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		d := decide.Decide(w.s, &w.m, w.in)
		if d.Verdict != decide.Evict {
			return
		}
		evictions++
		for _, r := range decide.Rank(w.s, &w.s.Bounds[d.Bound], w.in.Workloads) {
			if r.Evictable && !w.isDying(r.Index) {
				if r.Index != d.Victim {
					t.Fatalf("victim %d, first evictable %d", d.Victim, r.Index)
				}
				return
			}
		}
		t.Fatalf("victim %d, and Rank has none", d.Victim)
	})
	if evictions == 0 {
		t.Error("no world asked for an eviction: the property was never tried")
	}
	t.Logf("%d worlds with an eviction", evictions)
}

func (w world) isDying(i int) bool {
	return slices.ContainsFunc(w.in.Dying, func(v decide.Dying) bool {
		return v.UID == w.in.Workloads[i].UID && v.Cgroup == w.in.Workloads[i].Cgroup
	})
}

func TestVictimIsNeverSpared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		d := decide.Decide(w.s, &w.m, w.in)
		if (d.Verdict == decide.Evict) != (d.Victim >= 0) {
			t.Fatalf("verdict %v with victim %d", d.Verdict, d.Victim)
		}
		if d.Victim < 0 {
			return
		}
		b, v := w.s.Bounds[d.Bound], w.in.Workloads[d.Victim]
		held := v.Usage.Tasks
		if b.Signal.Memory() {
			held = v.Usage.WorkingSetBytes
		}
		switch {
		case v.Protected != "", v.Critical(), v.Evict == "never":
			t.Fatalf("spared and killed: %+v", v)
		case b.Root != "" && !strings.HasPrefix(v.Cgroup, b.Root+"/"):
			t.Fatalf("outside %s and killed: %+v", b.Root, v)
		case w.isDying(d.Victim):
			t.Fatalf("killed twice: %+v", v)
		case held <= 0:
			t.Fatalf("killed for nothing: %+v", v)
		case !b.Hard() || !d.Met[d.Bound]:
			t.Fatalf("killed for a bound that is soft or not met: %+v", b)
		}
		if minute, hour := w.m.Left(w.s, now); minute == 0 || hour == 0 {
			t.Fatal("killed beyond the budget")
		}
	})
}

func TestDecideIsPure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		m, s, in := w.m, *w.s, *w.in
		s.Bounds = slices.Clone(s.Bounds)
		in.Observations, in.Workloads, in.Dying = slices.Clone(in.Observations), slices.Clone(in.Workloads), slices.Clone(in.Dying)
		first := decide.Decide(w.s, &w.m, w.in)
		if diff := cmp.Diff(first, decide.Decide(w.s, &w.m, w.in)); diff != "" {
			t.Fatalf("asked twice (-first +second):\n%s", diff)
		}
		if w.m != m {
			t.Fatal("Decide changed the memory")
		}
		if diff := cmp.Diff(s, *w.s) + cmp.Diff(in, *w.in); diff != "" {
			t.Fatalf("Decide changed its input:\n%s", diff)
		}
	})
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		shuffled := &decide.Input{
			NowNs:        now,
			Observations: rapid.Permutation(w.in.Observations).Draw(t, "observations"),
			Workloads:    rapid.Permutation(w.in.Workloads).Draw(t, "shuffled"),
			Dying:        rapid.Permutation(w.in.Dying).Draw(t, "dying"),
		}
		x, y := decide.Decide(w.s, &w.m, w.in), decide.Decide(w.s, &w.m, shuffled)
		if x.Victim >= 0 && y.Victim >= 0 {
			if diff := cmp.Diff(w.in.Workloads[x.Victim], shuffled.Workloads[y.Victim]); diff != "" {
				t.Fatalf("another victim (-original +shuffled):\n%s", diff)
			}
			y.Victim = x.Victim
		}
		if diff := cmp.Diff(x, y); diff != "" {
			t.Fatalf("another decision (-original +shuffled):\n%s", diff)
		}
		for i := range w.s.Bounds {
			b := &w.s.Bounds[i]
			if diff := cmp.Diff(ranking(b, w.in.Workloads), ranking(b, shuffled.Workloads)); diff != "" {
				t.Fatalf("another ranking (-original +shuffled):\n%s", diff)
			}
		}
	})
}

// ranking is what Rank says, without the places in the input.
func ranking(b *decide.Bound, ws []workload.Workload) []string {
	var out []string
	for _, r := range decide.Rank(&decide.Settings{}, b, ws) {
		out = append(out, fmt.Sprintf("%s %v %s", ws[r.Index].Cgroup, r.Evictable, r.Reason))
	}
	return out
}

// Two units in the order of any ranking stay in that order in every other: the order
// does not depend on who else is there.
func TestRankIsATotalOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, ws := drawBound(t), drawWorkloads(t)
		ranked := decide.Rank(&decide.Settings{}, &b, ws)
		for i := range ranked {
			for j := i + 1; j < len(ranked); j++ {
				pair := []workload.Workload{ws[ranked[j].Index], ws[ranked[i].Index]}
				if got := decide.Rank(&decide.Settings{}, &b, pair); got[0].Index != 1 {
					t.Fatalf("%+v ranks before %+v among all, and after it alone", pair[1], pair[0])
				}
			}
		}
	})
}

func TestMoreHeadroomNeverCausesAnEviction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		low := decide.Decide(w.s, &w.m, w.in)
		for i := range w.in.Observations {
			w.in.Observations[i].Available += rapid.Int64Range(0, 15).Draw(t, "more")
		}
		high := decide.Decide(w.s, &w.m, w.in)
		if high.Verdict == decide.Evict && low.Verdict != decide.Evict {
			t.Fatalf("%v with less, %v with more available", low.Verdict, high.Verdict)
		}
		for i := range high.Met {
			if high.Met[i] && !low.Met[i] {
				t.Fatalf("bound %d is met with more available alone", i)
			}
		}
	})
}
