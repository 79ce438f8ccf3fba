package decide_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	overEmptyDir  = `Usage of EmptyDir volume "cache" exceeds the limit "1Mi". `
	overPod       = `Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. `
	overContainer = `Container app exceeded its local ephemeral storage limit "1500". `
)

// stored is a pod that keeps every limit: an emptyDir of 1Mi, 2Mi for the pod, 1500 bytes
// for a container, each used to the last byte.
func stored(change func(*workload.Workload)) workload.Workload {
	w := disk("u", 0, 0, 1000, 500, mi)
	limit := int64(2 * mi)
	w.EphemeralStorageLimitBytes = &limit
	w.Usage.Disk.UsedBytes = 2 * mi
	w.Volumes = []workload.Volume{{Name: "cache", UsedBytes: mi, SizeLimitBytes: mi}}
	w.Containers = []workload.Container{{Name: "app", RootfsBytes: 1000, LogsBytes: 500, EphemeralStorageLimitBytes: 1500, WorkingSetBytes: workload.NoData}}
	change(&w)
	return w
}

func TestLocalStorage(t *testing.T) {
	emptyDir := func(w *workload.Workload) { w.Volumes[0].UsedBytes++ }
	pod := func(w *workload.Workload) { w.Usage.Disk.UsedBytes++ }
	container := func(w *workload.Workload) { w.Containers[0].LogsBytes++ }
	all := func(w *workload.Workload) { emptyDir(w); pod(w); container(w) }
	limit := func(n int64) func(*workload.Workload) {
		return func(w *workload.Workload) { w.EphemeralStorageLimitBytes = &n; w.Containers = nil }
	}
	tests := map[string]struct {
		change         func(*workload.Workload)
		layout         signal.Layout
		check, message string
	}{
		"every limit used to the last byte": {change: func(*workload.Workload) {}},
		"an emptyDir":                       {change: emptyDir, check: "emptydirfs.limit", message: overEmptyDir},
		"the pod":                           {change: pod, check: "ephemeralpodfs.limit", message: overPod},
		"a container":                       {change: container, check: "ephemeralcontainerfs.limit", message: overContainer},
		"all three: the emptyDir is first":  {change: all, check: "emptydirfs.limit", message: overEmptyDir},
		"pod and container: the pod is first": {
			change: func(w *workload.Workload) { pod(w); container(w) }, check: "ephemeralpodfs.limit", message: overPod,
		},
		"an emptyDir in memory counts too": {
			change: func(w *workload.Workload) { emptyDir(w); w.Volumes[0].Medium = "Memory" }, check: "emptydirfs.limit", message: overEmptyDir,
		},
		"an emptyDir without a limit": {change: func(w *workload.Workload) { w.Volumes[0].SizeLimitBytes = 0 }},
		"an emptyDir of unknown usage": {change: func(w *workload.Workload) {
			w.Volumes[0].UsedBytes = workload.NoData
		}},
		"the second of two emptyDirs": {
			change: func(w *workload.Workload) {
				w.Volumes = []workload.Volume{{Name: "a", UsedBytes: 1, SizeLimitBytes: 1}, {Name: `b"`, UsedBytes: 2, SizeLimitBytes: 1}}
			},
			check: "emptydirfs.limit", message: `Usage of EmptyDir volume "b\"" exceeds the limit "1". `,
		},
		"a pod limit of zero": {
			change: limit(0), check: "ephemeralpodfs.limit", message: "Pod ephemeral local storage usage exceeds the total limit of containers 0. ",
		},
		"a pod limit of zero, nothing used": {change: func(w *workload.Workload) { limit(0)(w); w.Usage.Disk.UsedBytes = 0 }},
		"no pod limit":                      {change: func(w *workload.Workload) { pod(w); w.EphemeralStorageLimitBytes = nil }},
		"the pod's total is the sum of what is known": {
			change: func(w *workload.Workload) { limit(mi + 1499)(w); w.Usage.Disk.UsedBytes = workload.NoData },
			check:  "ephemeralpodfs.limit", message: "Pod ephemeral local storage usage exceeds the total limit of containers 1050075. ",
		},
		"the pod's total is the sum, with logs elsewhere": {
			change: func(w *workload.Workload) {
				limit(mi + 1999)(w)
				w.Usage.Disk.UsedBytes, w.Usage.Disk.LogsElsewhere.Bytes = workload.NoData, 500
			},
			check: "ephemeralpodfs.limit", message: "Pod ephemeral local storage usage exceeds the total limit of containers 1050575. ",
		},
		"the pod's total is the sum, of one part": {
			change: func(w *workload.Workload) {
				limit(499)(w)
				w.Usage.Disk.UsedBytes, w.Usage.Disk.Rootfs.Bytes, w.Usage.Disk.LocalVolumes.Bytes = workload.NoData, workload.NoData, workload.NoData
			},
			check: "ephemeralpodfs.limit", message: "Pod ephemeral local storage usage exceeds the total limit of containers 499. ",
		},
		"the pod's total where nothing is known of the disk": {
			change: func(w *workload.Workload) { limit(0)(w); w.Usage.Disk = nil; w.Usage.Tasks = 1 },
		},
		"a container's writable layer, with one filesystem": {
			change: func(w *workload.Workload) { w.Containers[0].RootfsBytes++ }, check: "ephemeralcontainerfs.limit", message: overContainer,
		},
		"a container's writable layer, on a dedicated imagefs": {
			change: func(w *workload.Workload) { w.Containers[0].RootfsBytes = 1 << 40 }, layout: dedicatedFs,
		},
		"a container's writable layer, on a split imagefs": {
			change: func(w *workload.Workload) { w.Containers[0].RootfsBytes = 1 << 40 }, layout: splitFs,
		},
		"a container's logs, on a dedicated imagefs": {
			change: func(w *workload.Workload) { w.Containers[0].LogsBytes = 1501 }, layout: dedicatedFs, check: "ephemeralcontainerfs.limit", message: overContainer,
		},
		"a container without a limit": {change: func(w *workload.Workload) { w.Containers[0].EphemeralStorageLimitBytes = 0 }},
		"a container whose logs are not known": {change: func(w *workload.Workload) {
			w.Containers[0].LogsBytes = workload.NoData
		}},
		"the second of two containers": {
			change: func(w *workload.Workload) {
				container(w)
				w.Containers = []workload.Container{{Name: "first", LogsBytes: 9, EphemeralStorageLimitBytes: 9, RootfsBytes: workload.NoData}, w.Containers[0]}
			},
			check: "ephemeralcontainerfs.limit", message: overContainer,
		},
		"absurd figures don't wrap around": {
			change: func(w *workload.Workload) { w.Containers[0].LogsBytes, w.Containers[0].RootfsBytes = 1<<62, 1<<62 },
			check:  "ephemeralcontainerfs.limit", message: overContainer,
		},
		"of critical priority": {change: func(w *workload.Workload) { all(w); w.Priority = workload.CriticalPriority }},
		"static":               {change: func(w *workload.Workload) { all(w); w.Static = true }},
		"a mirror pod":         {change: func(w *workload.Workload) { all(w); w.Mirror = true }},
		"protected":            {change: func(w *workload.Workload) { all(w); w.Protected = "protect: glob" }},
		"marked never":         {change: func(w *workload.Workload) { all(w); w.Evict = "never" }},
		"without statistics": {change: func(w *workload.Workload) {
			limit(-1)(w)
			w.Usage, w.Volumes = workload.NoUsage, nil
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &decide.Settings{LocalStorageIsolation: true, Layout: tc.layout}
			var want []decide.Offender
			if tc.check != "" {
				want = []decide.Offender{{Index: 1, Check: tc.check, Message: tc.message}}
			}
			ws := []workload.Workload{stored(func(*workload.Workload) {}), stored(tc.change)}
			if diff := cmp.Diff(want, decide.LocalStorage(s, ws), noAmounts); diff != "" {
				t.Errorf("offenders (-want +got):\n%s", diff)
			}
			s.LocalStorageIsolation = false
			if got := decide.LocalStorage(s, ws); got != nil {
				t.Errorf("offenders %+v with the limits off", got)
			}
		})
	}
}

// All offenders of a pass, in the order given.
func TestEveryOffenderIsListed(t *testing.T) {
	over := stored(func(w *workload.Workload) { w.Usage.Disk.UsedBytes++ })
	critical := with(over, func(w *workload.Workload) { w.Static = true })
	emptyDir := stored(func(w *workload.Workload) { w.Volumes[0].UsedBytes++ })
	got := decide.LocalStorage(&decide.Settings{LocalStorageIsolation: true}, []workload.Workload{over, critical, emptyDir, over})
	want := []decide.Offender{
		{Index: 0, Check: decide.CheckPod, Message: overPod},
		{Index: 2, Check: decide.CheckEmptyDir, Message: overEmptyDir},
		{Index: 3, Check: decide.CheckPod, Message: overPod},
	}
	if diff := cmp.Diff(want, got, noAmounts); diff != "" {
		t.Errorf("offenders (-want +got):\n%s", diff)
	}
}

var noAmounts = cmpopts.IgnoreFields(decide.Offender{}, "Name", "UsedBytes", "LimitBytes")

func TestAmountsOfOffenders(t *testing.T) {
	ws := []workload.Workload{
		stored(func(w *workload.Workload) { w.Volumes[0].UsedBytes = 2 * mi }),
		stored(func(w *workload.Workload) { w.Usage.Disk.UsedBytes = 3 * mi }),
		stored(func(w *workload.Workload) { w.Containers[0].LogsBytes = 600 }),
	}
	var got [][2]int64
	for _, o := range decide.LocalStorage(&decide.Settings{LocalStorageIsolation: true}, ws) {
		got = append(got, [2]int64{o.UsedBytes, o.LimitBytes})
	}
	if diff := cmp.Diff([][2]int64{{2 * mi, mi}, {3 * mi, 2 * mi}, {1600, 1500}}, got); diff != "" {
		t.Errorf("used and limit (-want +got):\n%s", diff)
	}
}

func TestWhoCanBeAboveALimit(t *testing.T) {
	none := func(w *workload.Workload) {
		w.EphemeralStorageLimitBytes, w.Volumes[0].SizeLimitBytes, w.Containers[0].EphemeralStorageLimitBytes = nil, 0, 0
	}
	zero := int64(0)
	for name, tc := range map[string]struct {
		change func(*workload.Workload)
		want   bool
	}{
		"no limit at all":      {func(*workload.Workload) {}, false},
		"a pod limit of zero":  {func(w *workload.Workload) { w.EphemeralStorageLimitBytes = &zero }, true},
		"an emptyDir's":        {func(w *workload.Workload) { w.Volumes[0].SizeLimitBytes = 1 }, true},
		"a container's":        {func(w *workload.Workload) { w.Containers[0].EphemeralStorageLimitBytes = 1 }, true},
		"of no volume, either": {func(w *workload.Workload) { w.Volumes, w.Containers = nil, nil }, false},
	} {
		w := stored(func(w *workload.Workload) { none(w); tc.change(w) })
		if got := decide.HasLimit(&w); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
