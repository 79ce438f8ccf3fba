package kube_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/kube"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// unexported are an entry's own.
var unexported = cmpopts.IgnoreUnexported(workload.Entry{})

// entryOf has so many volumes and containers.
func entryOf(uid string, volumes, containers int) workload.Entry {
	e := workload.Entry{UID: uid, Namespace: "shop", Name: "pod-" + uid, QOSClass: "Burstable", Priority: 7, Memory: workload.EntryMemory{RequestBytes: new(int64(1 << 20))}}
	for i := range volumes {
		e.Volumes = append(e.Volumes, workload.EntryVolume{Name: fmt.Sprintf("v%d", i), SizeLimitBytes: 1})
	}
	for i := range containers {
		e.Containers = append(e.Containers, workload.EntryContainer{Name: fmt.Sprintf("c%d", i)})
	}
	return e
}

func TestTheTableLeavesOutWhatIsTooMuchOfThosePodsThatHaveTheMost(t *testing.T) {
	long := entryOf("long", 3, 1)
	long.Volumes[0].Name = strings.Repeat("n", 5000)
	for name, c := range map[string]struct {
		entries, want   []workload.Entry
		elements, bytes int
	}{
		"nothing, where all fits": {
			[]workload.Entry{entryOf("a", 4, 3), entryOf("b", 1, 1)},
			[]workload.Entry{entryOf("a", 4, 3), entryOf("b", 1, 1)},
			11, math.MaxInt,
		},
		"the volumes of the one that has the most": {
			[]workload.Entry{entryOf("a", 2, 1), entryOf("b", 50, 2), entryOf("c", 3, 1)},
			[]workload.Entry{entryOf("a", 2, 1), entryOf("b", 0, 2), entryOf("c", 3, 1)},
			20, math.MaxInt,
		},
		"its containers too, before the volumes of those that have fewer": {
			[]workload.Entry{entryOf("a", 2, 1), entryOf("b", 1, 50), entryOf("c", 3, 1)},
			[]workload.Entry{entryOf("a", 2, 1), entryOf("b", 0, 0), entryOf("c", 3, 1)},
			20, math.MaxInt,
		},
		"of as many as it takes, of equal ones by their uid": {
			[]workload.Entry{entryOf("a", 1, 1), entryOf("b", 9, 1), entryOf("c", 9, 1), entryOf("d", 9, 1)},
			[]workload.Entry{entryOf("a", 1, 1), entryOf("b", 0, 1), entryOf("c", 0, 1), entryOf("d", 9, 1)},
			20, math.MaxInt,
		},
		"of the one with the most bytes, where bytes are too many": {
			[]workload.Entry{entryOf("a", 20, 1), long},
			[]workload.Entry{entryOf("a", 20, 1), entryOf("long", 0, 1)},
			100, 4000,
		},
		"never a row, be they too many": {
			[]workload.Entry{entryOf("a", 1, 1), entryOf("b", 0, 0), entryOf("c", 0, 1)},
			[]workload.Entry{entryOf("a", 0, 0), entryOf("b", 0, 0), entryOf("c", 0, 0)},
			2, 100,
		},
	} {
		t.Run(name, func(t *testing.T) {
			given := slices.Clone(c.entries)
			if diff := cmp.Diff(c.want, kube.Fit(given, c.elements, c.bytes), unexported); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(c.entries, given, unexported); diff != "" {
				t.Errorf("what was given has changed\n%s", diff)
			}
		})
	}
}

// withEmptyDirs is a pod of a tenant's: an API server takes it up to 1.5 MiB.
func withEmptyDirs(uid, name string, n int) *corev1.Pod {
	p := runningPod(uid, name)
	for i := range n {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{
			Name: fmt.Sprintf("v%d", i), VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
		})
	}
	return p
}

func TestPodsOfTooManyVolumesDoNotStopTheTable(t *testing.T) {
	for name, sizes := range map[string][]int{"one": {33_000}, "many": {30_000, 33_000, 9_000, 9_000, 9_000, 9_000, 9_000}} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			for i, n := range sizes {
				b.server.set(withEmptyDirs(fmt.Sprintf("0a1b2c3d-0000-0000-0000-%012d", i), fmt.Sprintf("hog-%d", i), n))
			}
			critical := withEmptyDirs(uidA, "critical", 2)
			critical.Spec.Priority = new(int32(2_000_000_000))
			b.server.set(critical)
			b.start()
			b.await("the table", func() bool { return b.companion.Ready() == nil })
			shortened := 0
			for _, e := range b.table().Workloads {
				switch {
				case e.UID == uidA && (e.Priority != *critical.Spec.Priority || len(e.Volumes) != 2 || len(e.Containers) != 1):
					t.Errorf("the critical pod is %+v", e)
				case e.QOSClass != "BestEffort" || len(e.Containers) != 1:
					t.Errorf("row of %s: %+v", e.Name, e)
				case len(e.Volumes) == 0:
					shortened++
				}
			}
			if n := len(b.table().Workloads); n != len(sizes)+1 {
				t.Errorf("%d pods in the table, want all %d", n, len(sizes)+1)
			}
			b.tells(fmt.Sprintf(`
# HELP ebpf_evict_kube_shortened_pods Pods of which the workload table leaves out volumes or containers, as the node's pods have more than it may hold.
# TYPE ebpf_evict_kube_shortened_pods gauge
ebpf_evict_kube_shortened_pods %d
`, shortened), "ebpf_evict_kube_shortened_pods")
			if want := map[string]int{"one": 1, "many": 4}[name]; shortened != want {
				t.Errorf("%d pods have no volumes, want %d", shortened, want)
			}
		})
	}
}
