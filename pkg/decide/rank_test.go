package decide_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// mem and pid make units whose uid is their name; figures are bytes of request and
// working set, or tasks.
func mem(name string, priority int32, request, use int64) workload.Workload {
	return workload.Workload{
		UID: name, Cgroup: "/" + name, Priority: priority, MemoryRequestBytes: request,
		Usage: workload.Usage{MemoryBytes: 1, WorkingSetBytes: use, Tasks: workload.NoData},
	}
}

func pid(name string, priority int32, tasks int64) workload.Workload {
	return workload.Workload{
		UID: name, Cgroup: "/" + name, Priority: priority,
		Usage: workload.Usage{MemoryBytes: workload.NoData, WorkingSetBytes: workload.NoData, Tasks: tasks},
	}
}

func TestRankMemory(t *testing.T) {
	const unknown = workload.NoData
	first := func(w *workload.Workload) { w.Evict = "first" }
	cgroup := func(path string) func(*workload.Workload) {
		return func(w *workload.Workload) { w.Cgroup = path }
	}
	tests := map[string]struct {
		ws   []workload.Workload
		want []string
	}{
		"equal in all but the uid": {
			[]workload.Workload{mem("b", 0, 0, 50), mem("c", 0, 0, 50), mem("a", 0, 0, 50)},
			[]string{"a", "b", "c"},
		},
		"equal in all but the cgroup": {
			[]workload.Workload{with(mem("u", 0, 0, 50), cgroup("/2")), with(mem("u", 0, 0, 50), cgroup("/1"))},
			[]string{"u/1", "u/2"},
		},
		"the uid comes before the cgroup": {
			[]workload.Workload{with(mem("b", 0, 0, 50), cgroup("/1")), with(mem("a", 0, 0, 50), cgroup("/2"))},
			[]string{"a/2", "b/1"},
		},
		"unknown usage ranks last": {
			[]workload.Workload{mem("unknown", -9, 0, unknown), mem("under", 9, 500, 1)},
			[]string{"under", "-unknown"},
		},
		"unknown usage ranks last, marked or not": {
			[]workload.Workload{with(mem("unknown", -9, 0, unknown), first), mem("under", 9, 500, 1)},
			[]string{"under", "-unknown"},
		},
		"two of unknown usage rank by priority, whatever they request": {
			[]workload.Workload{mem("request", 5, 100, unknown), mem("none", 0, 0, unknown)},
			[]string{"-none", "-request"},
		},
		"marked first outranks every key": {
			[]workload.Workload{mem("hog", -9, 0, 9999), with(mem("marked", 9, 500, 1), first)},
			[]string{"marked", "hog"},
		},
		"two marked ones rank as any": {
			[]workload.Workload{with(mem("x", 0, 0, 10), first), with(mem("y", 0, 0, 20), first)},
			[]string{"y", "x"},
		},
		"who holds nothing is ranked and not evictable": {
			[]workload.Workload{mem("idle", -9, 0, 0), mem("under", 9, 500, 1), mem("below-zero", -10, 0, -7)},
			[]string{"-below-zero", "-idle", "under"},
		},
		"a request so negative that the excess would wrap around": {
			[]workload.Workload{mem("small", 0, 0, 10), mem("hostile", 0, -1<<63, 20)},
			[]string{"hostile", "small"},
		},
		"nobody": {nil, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) { checkRank(t, settings(nodeMemory), tc.ws, tc.want) })
	}
}

func TestRankPIDs(t *testing.T) {
	tests := map[string]struct {
		ws   []workload.Workload
		want []string
	}{
		"requests do not count": {
			[]workload.Workload{with(pid("over", 0, 50), func(w *workload.Workload) { w.Usage.WorkingSetBytes = 999 }), pid("more", 0, 51)},
			[]string{"more", "over"},
		},
		"equal in all but the uid": {
			[]workload.Workload{pid("b", 0, 5), pid("a", 0, 5)},
			[]string{"a", "b"},
		},
		"unknown tasks rank last": {
			[]workload.Workload{pid("unknown", -9, workload.NoData), pid("known", 9, 1)},
			[]string{"known", "-unknown"},
		},
		"no tasks": {
			[]workload.Workload{pid("empty", -9, 0), pid("known", 9, 1)},
			[]string{"-empty", "known"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) { checkRank(t, settings(nodePIDs), tc.ws, tc.want) })
	}
}

// The same unit given many times over, which no input should hold, stays in its order.
func TestRankOfEqualsKeepsTheirOrder(t *testing.T) {
	ws := make([]workload.Workload, 100)
	for i := range ws {
		ws[i] = mem("same", int32(i%3), 0, 50)
	}
	last := -1
	for _, r := range decide.Rank(settings(nodeMemory), &nodeMemory, ws) {
		if last >= 0 && r.Index < last && ws[r.Index].Priority == ws[last].Priority {
			t.Fatalf("index %d after %d", r.Index, last)
		}
		last = r.Index
	}
	d := decide.Decide(settings(nodeMemory), &decide.Memory{}, &decide.Input{
		NowNs: now, Observations: []signal.Observation{observe(nodeMemory, 1)}, Workloads: ws,
	})
	if d.Victim != 0 {
		t.Errorf("Decide's victim is %d, want the first of the equals", d.Victim)
	}
}

// checkRank ranks for the first bound. It compares uids (with the cgroup where that is not
// the uid), "-" for one that is not evictable, and asks Decide for the first evictable one.
func checkRank(t *testing.T, s *decide.Settings, ws []workload.Workload, want []string) {
	t.Helper()
	var got []string
	victim := -1
	for _, r := range decide.Rank(s, &s.Bounds[0], ws) {
		name := ws[r.Index].UID
		if ws[r.Index].Cgroup != "/"+name {
			name += ws[r.Index].Cgroup
		}
		if !r.Evictable {
			name = "-" + name
		} else if victim < 0 {
			victim = r.Index
		}
		got = append(got, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ranking (-want +got):\n%s", diff)
	}
	low := []signal.Observation{observe(s.Bounds[0], 1)}
	d := decide.Decide(s, &decide.Memory{}, &decide.Input{
		NowNs: now, Observations: low, Workloads: ws,
		Reclaimed: both, AfterReclaim: low,
	})
	if d.Victim != victim {
		t.Errorf("Decide's victim is %d, the first evictable one %d", d.Victim, victim)
	}
}

func TestRankReasons(t *testing.T) {
	const mi = 1 << 20
	change := func(c func(*workload.Workload)) workload.Workload { return with(mem("u", 3, 0, 50), c) }
	tests := map[string]struct {
		bound decide.Bound
		w     workload.Workload
		want  decide.Ranked
	}{
		"above":          {nodeMemory, mem("u", 0, 100*mi, 220*mi), decide.Ranked{Evictable: true, Reason: "120Mi above its request, priority 0"}},
		"a whole unit":   {nodeMemory, mem("u", 0, 0, 1024), decide.Ranked{Evictable: true, Reason: "1Ki above its request, priority 0"}},
		"inodes":         {bound(signal.NodeFsInodesFree, "", 1, 0), inodes("u", 0, 9, 7), decide.Ranked{Evictable: true, Reason: "7 inodes, priority 0"}},
		"with a tenth":   {nodeMemory, mem("u", -7, 0, 1536*mi), decide.Ranked{Evictable: true, Reason: "1.5Gi above its request, priority -7"}},
		"below":          {nodeMemory, mem("u", 0, 100, 37), decide.Ranked{Evictable: true, Reason: "63 below its request, priority 0"}},
		"at":             {nodeMemory, mem("u", 0, 100, 100), decide.Ranked{Evictable: true, Reason: "at its request, priority 0"}},
		"absurd request": {nodeMemory, mem("u", 0, -1<<63, 100), decide.Ranked{Evictable: true, Reason: "8Ei above its request, priority 0"}},
		"tasks":          {nodePIDs, pid("u", 9, 30000), decide.Ranked{Evictable: true, Reason: "30000 tasks, priority 9"}},
		"marked first":   {nodeMemory, change(func(w *workload.Workload) { w.Evict = "first" }), decide.Ranked{Evictable: true, Reason: `marked "first", 50 above its request, priority 3`}},
		"marked allow":   {nodeMemory, change(func(w *workload.Workload) { w.Evict = "allow" }), decide.Ranked{Evictable: true, Reason: "50 above its request, priority 3"}},
		"marked never":   {nodeMemory, change(func(w *workload.Workload) { w.Evict = "never" }), decide.Ranked{Reason: `marked "never"`}},
		"protected":      {nodeMemory, change(func(w *workload.Workload) { w.Protected = "the agent itself" }), decide.Ranked{Reason: "the agent itself"}},
		"critical":       {nodeMemory, change(func(w *workload.Workload) { w.Priority = workload.CriticalPriority }), decide.Ranked{Reason: "critical"}},
		"just not":       {nodeMemory, change(func(w *workload.Workload) { w.Priority = workload.CriticalPriority - 1 }), decide.Ranked{Evictable: true, Reason: "50 above its request, priority 1999999999"}},
		"static":         {nodeMemory, change(func(w *workload.Workload) { w.Static = true }), decide.Ranked{Reason: "critical"}},
		"mirror":         {nodeMemory, change(func(w *workload.Workload) { w.Mirror = true }), decide.Ranked{Reason: "critical"}},
		"unknown":        {nodeMemory, pid("u", 0, 5), decide.Ranked{Reason: "no usage known"}},
		"unknown tasks":  {nodePIDs, mem("u", 0, 0, 5), decide.Ranked{Reason: "no usage known"}},
		"nothing":        {nodeMemory, mem("u", 0, 0, 0), decide.Ranked{Reason: "holds nothing"}},
		"other resource": {bound(signal.NodeFsAvailable, "", 1, 0), mem("u", 0, 0, 5), decide.Ranked{Reason: "no usage known"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := decide.Rank(settings(tc.bound), &tc.bound, []workload.Workload{tc.w})
			if diff := cmp.Diff([]decide.Ranked{tc.want}, got); diff != "" {
				t.Errorf("ranking (-want +got):\n%s", diff)
			}
		})
	}
}

// Logs that lie on another filesystem than nodefs free nothing there. The kubelet counts them.
func TestLogsElsewhereDoNotCountForNodefs(t *testing.T) {
	logger := full("/logger", 1)
	logger.Usage.Disk.LogsElsewhere = workload.FsUsage{Bytes: 500, Inodes: 500}
	logsAlone := full("/logs-alone", 0)
	logsAlone.Usage.Disk.LogsElsewhere = workload.FsUsage{Bytes: 900, Inodes: 900}
	ws := []workload.Workload{full("/holder", 10), logger, logsAlone}
	for _, compat := range []bool{false, true} {
		for _, by := range []signal.Signal{signal.NodeFsAvailable, signal.NodeFsInodesFree} {
			b := bound(by, "", 100, 0)
			s := settings(b)
			s.Compat = compat
			want := map[bool][]int64{false: {30, 3, 0}, true: {30, 503, 900}}[compat]
			for i := range ws {
				if got := s.Use(&b, &ws[i]); got != want[i] {
					t.Errorf("%s%s: %s holds %d, want %d", by, mode(compat), ws[i].Cgroup, got, want[i])
				}
			}
			ranked, first := decide.Rank(s, &b, ws), map[bool]int{false: 0, true: 2}[compat]
			if ranked[0].Index != first || !compat && (ranked[2].Index != 2 || ranked[2].Reason != "holds nothing") {
				t.Errorf("%s%s: %+v", by, mode(compat), ranked)
			}
		}
	}
}

// In compat a unit without a figure is evictable, and processes are what counts.
func TestRankReasonsInCompat(t *testing.T) {
	tests := map[string]struct {
		bound decide.Bound
		w     workload.Workload
		want  string
	}{
		"processes":        {nodePIDs, with(pid("u", 9, 30000), func(w *workload.Workload) { w.Usage.Processes = 7 }), "7 processes, priority 9"},
		"no statistics":    {nodeMemory, noStats("u", 0, 5), "no usage known, priority 0"},
		"marked first":     {nodeMemory, with(mem("u", 0, 0, 5), func(w *workload.Workload) { w.Evict = "first" }), "5 above its request, priority 0"},
		"a missing figure": {nodeMemory, pid("u", 0, 5), "at its request, priority 0"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := settings(tc.bound)
			s.Compat = true
			got := decide.Rank(s, &tc.bound, []workload.Workload{tc.w})
			if diff := cmp.Diff([]decide.Ranked{{Evictable: true, Reason: tc.want}}, got); diff != "" {
				t.Errorf("ranking (-want +got):\n%s", diff)
			}
		})
	}
}
