package decide_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

// often is usual in five of eight draws, else 0 to 2: worlds in which everything is rare
// at once say little.
func often(t *rapid.T, usual int, label string) int {
	return rapid.SampledFrom([]int{usual, usual, usual, usual, usual, 0, 1, 2}).Draw(t, label)
}

// drawWorld draws settings, an earlier pass and the input of the next.
func drawWorld(t *rapid.T) world {
	s := drawSettings(t)
	s.Bounds = rapid.SliceOfN(rapid.Custom(drawBound), 1, 5).Draw(t, "bounds")
	decide.SortBounds(s.Bounds, s.Compat)
	in := &decide.Input{NowNs: now, Workloads: drawWorkloads(t)}
	in.Observations = drawObservations(t, s.Bounds, now)
	in.Reclaimed = decide.NodeReclaim{
		Containers: rapid.Bool().Draw(t, "containers"), Images: rapid.Bool().Draw(t, "images"), Figures: rapid.Bool().Draw(t, "figures"),
	}
	in.AfterReclaim = drawObservations(t, s.Bounds, now)
	for _, w := range in.Workloads {
		if often(t, 0, "dies") != 0 {
			in.Dying = append(in.Dying, drawDying(t, w))
		}
	}
	var m decide.Memory
	for range often(t, 0, "kills") {
		m.Killed(now - uint64(rapid.IntRange(0, 100).Draw(t, "ago"))*second)
	}
	// Long enough ago for a soft bound to be due now, or not.
	earlier := &decide.Input{NowNs: now - rapid.SampledFrom([]uint64{1, 60}).Draw(t, "earlier")*second}
	earlier.Observations = drawObservations(t, s.Bounds, earlier.NowNs)
	d := decide.Decide(s, &m, earlier)
	m.Next(s, earlier, &d)
	return world{s: s, m: m, in: in}
}

// drawSettings draws all but the bounds.
func drawSettings(t *rapid.T) *decide.Settings {
	return &decide.Settings{
		Compat:           rapid.Bool().Draw(t, "compat"),
		Layout:           rapid.SampledFrom([]signal.Layout{singleFs, dedicatedFs, splitFs}).Draw(t, "layout"),
		TransitionPeriod: time.Duration(rapid.IntRange(0, 90).Draw(t, "transition")) * time.Second,
		Budget:           decide.Budget{PerMinute: often(t, 2, "perMinute"), PerHour: often(t, 3, "perHour")},
		Drained:          time.Duration(rapid.IntRange(0, 3).Draw(t, "drained")) * time.Second / 4,
		Overdue:          time.Duration(rapid.IntRange(0, 3).Draw(t, "overdue")) * time.Second,
	}
}

// drawBound draws a bound of any signal, and now and then of one without a ranking.
func drawBound(t *rapid.T) decide.Bound {
	s := rapid.SampledFrom(append(signal.Names(), "yak.available")).Draw(t, "signal")
	root := ""
	if s.Allocatable() {
		root = rapid.SampledFrom([]string{"/a", "/b", "/a/c"}).Draw(t, "root")
	}
	b := bound(s, root, rapid.Int64Range(1, 20).Draw(t, "value"), rapid.Int64Range(0, 10).Draw(t, "minReclaim"))
	if often(t, 0, "soft") != 0 {
		b = soft(b)
	}
	b.Passes = rapid.SampledFrom([]decide.Passes{decide.AnyPass, decide.AnyPass, decide.LaterPasses, decide.FirstPass}).Draw(t, "passes")
	return b
}

// drawObservations observes each signal and root once, or not at all.
func drawObservations(t *rapid.T, bounds []decide.Bound, ns uint64) []signal.Observation {
	var os []signal.Observation
	for _, b := range bounds {
		seen := slices.ContainsFunc(os, func(o signal.Observation) bool { return o.Signal == b.Signal && o.Root == b.Root })
		if !seen && often(t, 1, "observed") != 0 {
			o := observe(b, rapid.Int64Range(-10, 25).Draw(t, "available"))
			o.Ns = ns
			os = append(os, o)
		}
	}
	return os
}

// figure is a small amount, or not known.
var figure = rapid.SampledFrom([]int64{0, 1, 2, 3, 3, 4, 5, workload.NoData})

// drawWorkloads makes units whose cgroups differ and whose uids may not.
func drawWorkloads(t *rapid.T) []workload.Workload {
	ws := make([]workload.Workload, rapid.SampledFrom([]int{0, 1, 2, 5, 8, 12}).Draw(t, "workloads"))
	for i := range ws {
		root := rapid.SampledFrom([]string{"/a", "/b", "/ab", "/a/c"}).Draw(t, "below")
		ws[i] = workload.Workload{
			UID:                          rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "uid"),
			Cgroup:                       fmt.Sprintf("%s/u%d", root, i),
			Priority:                     rapid.SampledFrom([]int32{-1, 0, 0, 0, 1, workload.CriticalPriority}).Draw(t, "priority"),
			Static:                       often(t, 0, "static") == 1,
			Mirror:                       often(t, 0, "mirror") == 1,
			Evict:                        rapid.SampledFrom([]string{"", "", "allow", "first", "never"}).Draw(t, "evict"),
			Protected:                    rapid.SampledFrom([]string{"", "", "", "protect: glob"}).Draw(t, "protected"),
			MemoryRequestBytes:           rapid.Int64Range(0, 5).Draw(t, "request"),
			EphemeralStorageRequestBytes: rapid.Int64Range(0, 5).Draw(t, "storageRequest"),
			PodLevelRequest:              often(t, 0, "podLevel") == 1,
			Usage: workload.Usage{
				WorkingSetBytes: figure.Draw(t, "workingSet"),
				Tasks:           figure.Draw(t, "tasks"),
				Processes:       figure.Draw(t, "processes"),
				Disk:            drawDisk(t),
			},
		}
	}
	return ws
}

func drawDisk(t *rapid.T) *workload.DiskUsage {
	if often(t, 1, "disk") == 0 {
		return nil
	}
	part := func(name string) workload.FsUsage {
		return workload.FsUsage{Bytes: figure.Draw(t, name), Inodes: figure.Draw(t, name+"Inodes")}
	}
	return &workload.DiskUsage{Rootfs: part("rootfs"), Logs: part("logs"), LocalVolumes: part("volumes"), UsedBytes: workload.NoData}
}

func drawDying(t *rapid.T, w workload.Workload) decide.Dying {
	return decide.Dying{
		UID: w.UID, Cgroup: w.Cgroup,
		Signal:      rapid.SampledFrom(signal.Names()).Draw(t, "killedFor"),
		KilledNs:    now - uint64(rapid.IntRange(0, 5).Draw(t, "killedAgo"))*second,
		Terminating: rapid.Bool().Draw(t, "terminating"),
		Populated:   rapid.Bool().Draw(t, "populated"),
		HeldBytes:   rapid.Int64Range(0, 20).Draw(t, "heldBytes"),
		HeldTasks:   rapid.Int64Range(0, 20).Draw(t, "heldTasks"),
		HeldDisk:    rapid.Int64Range(0, 20).Draw(t, "heldDisk"),
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
			if r.Evictable && !w.isDying(d.Bound, r.Index) {
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

// isDying: one that was only asked to end is not, where the bound is hard.
func (w world) isDying(bound, i int) bool {
	hard := w.s.Bounds[bound].Hard()
	return slices.ContainsFunc(w.in.Dying, func(v decide.Dying) bool {
		return v.UID == w.in.Workloads[i].UID && v.Cgroup == w.in.Workloads[i].Cgroup && !(hard && v.Terminating)
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
		switch held := w.s.Use(&b, &v); {
		case v.Protected != "", v.Critical(), v.Evict == "never":
			t.Fatalf("spared and killed: %+v", v)
		case b.Root != "" && !strings.HasPrefix(v.Cgroup, b.Root+"/"):
			t.Fatalf("outside %s and killed: %+v", b.Root, v)
		case w.isDying(d.Bound, d.Victim):
			t.Fatalf("killed twice: %+v", v)
		case held <= 0 && !w.s.Compat:
			t.Fatalf("killed for nothing: %+v", v)
		case !d.Due[d.Bound] || !d.Met[d.Bound]:
			t.Fatalf("killed for a bound that is not due: %+v", b)
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
			Reclaimed:    w.in.Reclaimed,
			Observations: rapid.Permutation(w.in.Observations).Draw(t, "observations"),
			AfterReclaim: rapid.Permutation(w.in.AfterReclaim).Draw(t, "afterReclaim"),
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
			if diff := cmp.Diff(ranking(w.s, b, w.in.Workloads), ranking(w.s, b, shuffled.Workloads)); diff != "" {
				t.Fatalf("another ranking (-original +shuffled):\n%s", diff)
			}
		}
	})
}

// ranking is what Rank says, without the places in the input.
func ranking(s *decide.Settings, b *decide.Bound, ws []workload.Workload) []string {
	var out []string
	for _, r := range decide.Rank(s, b, ws) {
		out = append(out, fmt.Sprintf("%s %v %s", ws[r.Index].Cgroup, r.Evictable, r.Reason))
	}
	return out
}

// eachRanking asks about every signal in every layout, by default and in compat.
func eachRanking(t *testing.T, check func(*rapid.T, *decide.Settings, *decide.Bound)) {
	for _, name := range append(signal.Names(), "yak.available") {
		for layout, l := range map[string]signal.Layout{"single": singleFs, "dedicated": dedicatedFs, "split": splitFs} {
			for _, compat := range []bool{true, false} {
				t.Run(string(name)+", "+layout+mode(compat), rapid.MakeCheck(func(t *rapid.T) {
					check(t, &decide.Settings{Layout: l, Compat: compat}, &decide.Bound{Threshold: signal.Threshold{Signal: name}})
				}))
			}
		}
	}
}

// Two units in the order of any ranking stay in that order in every other: the order
// does not depend on who else is there.
func TestRankIsATotalOrder(t *testing.T) {
	eachRanking(t, func(t *rapid.T, s *decide.Settings, b *decide.Bound) {
		ws := drawWorkloads(t)
		ranked := decide.Rank(s, b, ws)
		for i := range ranked {
			for j := i + 1; j < len(ranked); j++ {
				pair := []workload.Workload{ws[ranked[j].Index], ws[ranked[i].Index]}
				if got := decide.Rank(s, b, pair); got[0].Index != 1 {
					t.Fatalf("%+v ranks before %+v among all, and after it alone", pair[1], pair[0])
				}
			}
		}
		shuffled := rapid.Permutation(ws).Draw(t, "shuffled")
		if diff := cmp.Diff(ranking(s, b, ws), ranking(s, b, shuffled)); diff != "" {
			t.Fatalf("another order of the input, another ranking (-original +shuffled):\n%s", diff)
		}
	})
}

func TestEvictingTheFirstLeavesTheRest(t *testing.T) {
	eachRanking(t, func(t *rapid.T, s *decide.Settings, b *decide.Bound) {
		ws := drawWorkloads(t)
		before := ranking(s, b, ws)
		if len(ws) == 0 {
			return
		}
		first := decide.Rank(s, b, ws)[0].Index
		if diff := cmp.Diff(before[1:], ranking(s, b, slices.Delete(slices.Clone(ws), first, first+1)), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("the rest ranks in another way without the first (-with +without):\n%s", diff)
		}
	})
}

// With more available a bound that was not met is not met, and nobody dies who would not
// have died for something. The kubelet looks at one bound alone: with more memory a pod may
// die for the pids that were second.
func TestMoreHeadroomNeverCausesAnEviction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		if w.s.Compat {
			w.s.Bounds = w.s.Bounds[:1]
		}
		low := decide.Decide(w.s, &w.m, w.in)
		for _, os := range [][]signal.Observation{w.in.Observations, w.in.AfterReclaim} {
			for i := range os {
				os[i].Available += rapid.Int64Range(0, 15).Draw(t, "more")
			}
		}
		high := decide.Decide(w.s, &w.m, w.in)
		if high.Verdict == decide.Evict && low.Verdict != decide.Evict && low.Verdict != decide.Reclaim {
			t.Fatalf("%v with less, %v with more available", low.Verdict, high.Verdict)
		}
		for i := range high.Met {
			if high.Met[i] && !low.Met[i] {
				t.Fatalf("bound %d is met with more available alone", i)
			}
		}
	})
}

// What is met at a constant reading stays met, what is not does not become it, and what is
// due stays due.
func TestHysteresisNeverOscillates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		d := decide.Decide(w.s, &w.m, w.in)
		for range 20 {
			w.m.Next(w.s, w.in, &d)
			later := *w.in
			later.NowNs += uint64(rapid.IntRange(0, 20).Draw(t, "later")) * second
			next := decide.Decide(w.s, &w.m, &later)
			if next.Met != d.Met {
				t.Fatalf("met %v, then %v at the same reading", d.Met, next.Met)
			}
			for i := range next.Due {
				if d.Due[i] && !next.Due[i] {
					t.Fatalf("bound %d was due, and is not at the same reading", i)
				}
			}
			*w.in, d = later, next
		}
	})
}

// A condition is there if and only if it was met less than the transition period ago.
func TestConditionsNeverFlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSettings(t)
		s.Bounds = rapid.SliceOfN(rapid.Custom(drawBound), 1, 5).Draw(t, "bounds")
		var m decide.Memory
		met := map[string]uint64{}
		in := &decide.Input{NowNs: now}
		for range 20 {
			in.NowNs += uint64(rapid.IntRange(0, 40).Draw(t, "later")) * second
			in.Observations = drawObservations(t, s.Bounds, in.NowNs)
			d := decide.Decide(s, &m, in)
			for i, b := range s.Bounds {
				if d.Met[i] {
					met[pressureOf(b.Signal)] = in.NowNs
				}
			}
			for name, got := range map[string]bool{"memory": d.Conditions.MemoryPressure, "disk": d.Conditions.DiskPressure, "pids": d.Conditions.PIDPressure} {
				last, ever := met[name]
				if want := ever && in.NowNs-last < uint64(s.TransitionPeriod); got != want {
					t.Fatalf("pressure of %s is %v, last met %d ns ago (ever: %v), transition period %v", name, got, in.NowNs-last, ever, s.TransitionPeriod)
				}
			}
			m.Next(s, in, &d)
		}
	})
}

func pressureOf(s signal.Signal) string {
	switch {
	case s.Memory():
		return "memory"
	case s.Disk():
		return "disk"
	}
	return "pids"
}

// Soft bounds, and the units that they asked to end, change nothing about a kill for a
// hard bound.
func TestSoftNeverDelaysAHardEviction(t *testing.T) {
	tried := 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.s.Compat = false
		decide.SortBounds(w.s.Bounds, false)
		hard := *w.s
		hard.Bounds = slices.DeleteFunc(slices.Clone(w.s.Bounds), func(b decide.Bound) bool { return !b.Hard() })
		alone := *w.in
		alone.Dying = slices.DeleteFunc(slices.Clone(w.in.Dying), func(v decide.Dying) bool { return v.Terminating })
		want := decide.Decide(&hard, &decide.Memory{}, &alone)
		if want.Verdict != decide.Evict {
			return
		}
		tried++
		var m decide.Memory // in which every soft bound is due
		earlier := &decide.Input{Observations: slices.Clone(w.in.Observations)}
		for i := range earlier.Observations {
			earlier.Observations[i].Ns = 0
		}
		d := decide.Decide(w.s, &m, earlier)
		m.Next(w.s, earlier, &d)
		got := decide.Decide(w.s, &m, w.in)
		if got.Verdict != decide.Evict || got.Victim != want.Victim || !w.s.Bounds[got.Bound].Hard() {
			t.Fatalf("%v of %d with soft bounds, %v of %d without", got.Verdict, got.Victim, want.Verdict, want.Victim)
		}
	})
	if tried == 0 {
		t.Error("no world asked for a hard eviction: the property was never tried")
	}
}
