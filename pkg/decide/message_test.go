package decide_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const mi = 1 << 20

// quantity is a bound of an amount as it was written.
func quantity(s signal.Signal, value int64, text string) decide.Bound {
	b := bound(s, "", value, 0)
	b.Value.Text = text
	return b
}

// percent is a bound of a tenth of the capacity.
func percent(s signal.Signal) decide.Bound {
	b := share(bound(s, "", 0, 0), 0.1)
	b.Value.Text = "10%"
	return b
}

func TestMessage(t *testing.T) {
	const nothing = workload.NoData
	pod := with(mem("uid", 0, 100*mi, 300*mi), func(w *workload.Workload) {
		w.Name = "web"
		w.Containers = []workload.Container{
			{Name: "app", WorkingSetBytes: 200 * mi, MemoryRequestBytes: 100 * mi, RootfsBytes: 3 * mi, LogsBytes: 2 * mi, EphemeralStorageRequestBytes: 4 * mi},
			{Name: "at", WorkingSetBytes: 7, MemoryRequestBytes: 7, RootfsBytes: 3, LogsBytes: 4, EphemeralStorageRequestBytes: 7},
			{Name: "side", WorkingSetBytes: 1500, RootfsBytes: 0, LogsBytes: 1},
			{Name: "new", WorkingSetBytes: nothing, RootfsBytes: nothing, LogsBytes: 1},
			{Name: "newer", WorkingSetBytes: nothing, RootfsBytes: 1, LogsBytes: nothing},
		}
	})
	podLevel := with(pod, func(w *workload.Workload) { w.PodLevelRequest = true; w.Containers = nil })
	tests := map[string]struct {
		bound     decide.Bound
		available int64
		capacity  int64
		w         workload.Workload
		want      string
		notes     map[string]string
	}{
		"memory": {
			bound: quantity(signal.MemoryAvailable, 100*mi, "100Mi"), available: 51201 << 10, capacity: 1 << 40, w: pod,
			want: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51201Ki. " +
				"Container app was using 200Mi, request is 100Mi, has larger consumption of memory. " +
				"Container side was using 1500, request is 0, has larger consumption of memory. ",
			notes: map[string]string{"offending_containers": "app,side", "offending_containers_usage": "200Mi,1500", "starved_resource": "memory"},
		},
		"allocatable memory, negative": {
			bound: quantity(signal.AllocatableMemoryAvailable, 5000, "5k"), available: -3 * mi, capacity: 1 << 40, w: mem("u", 0, 0, 5),
			want:  "The node was low on resource: memory. Threshold quantity: 5k, available: -3Mi. ",
			notes: map[string]string{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "memory"},
		},
		"a share of the memory": {
			bound: percent(signal.MemoryAvailable), available: 1, capacity: 10000 * mi, w: mem("u", 0, 0, 5),
			want:  "The node was low on resource: memory. Threshold quantity: 1048576015, available: 1. ",
			notes: map[string]string{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "memory"},
		},
		"a request of the pod's own": {
			bound: quantity(signal.MemoryAvailable, mi, "1Mi"), available: 0, capacity: mi, w: podLevel,
			want: "The node was low on resource: memory. Threshold quantity: 1Mi, available: 0. " +
				"Pod web was using 300Mi, request is 100Mi, has larger consumption of memory. ",
			notes: map[string]string{
				"offending_pod": "web", "offending_pod_usage": "300Mi",
				"offending_containers": "", "offending_containers_usage": "", "starved_resource": "memory",
			},
		},
		"a request of the pod's own, not exceeded: named all the same": {
			bound: quantity(signal.MemoryAvailable, mi, "1Mi"), available: 0, capacity: mi,
			w: with(podLevel, func(w *workload.Workload) { w.MemoryRequestBytes = 1 << 40 }),
			want: "The node was low on resource: memory. Threshold quantity: 1Mi, available: 0. " +
				"Pod web was using 300Mi, request is 1Ti, has larger consumption of memory. ",
			notes: map[string]string{
				"offending_pod": "web", "offending_pod_usage": "300Mi",
				"offending_containers": "", "offending_containers_usage": "", "starved_resource": "memory",
			},
		},
		"a request of the pod's own, usage not known": {
			bound: quantity(signal.MemoryAvailable, mi, "1Mi"), available: 0, capacity: mi,
			w:     with(podLevel, func(w *workload.Workload) { w.Usage = workload.NoUsage; w.Usage.Tasks = 1 }),
			want:  "The node was low on resource: memory. Threshold quantity: 1Mi, available: 0. ",
			notes: map[string]string{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "memory"},
		},
		"a request of the pod's own, for the disk": {
			bound: quantity(signal.NodeFsAvailable, mi, "1Mi"), available: 0, capacity: mi, w: podLevel,
			want:  "The node was low on resource: ephemeral-storage. Threshold quantity: 1Mi, available: 0. ",
			notes: map[string]string{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "ephemeral-storage"},
		},
		"disk bytes: writable layer and logs": {
			bound: percent(signal.NodeFsAvailable), available: 512, capacity: 10240, w: pod,
			want: "The node was low on resource: ephemeral-storage. Threshold quantity: 1Ki, available: 512. " +
				"Container app was using 5Mi, request is 4Mi, has larger consumption of ephemeral-storage. " +
				"Container side was using 1, request is 0, has larger consumption of ephemeral-storage. ",
			notes: map[string]string{"offending_containers": "app,side", "offending_containers_usage": "5Mi,1", "starved_resource": "ephemeral-storage"},
		},
		"inodes: a share is binary, what is available decimal": {
			bound: percent(signal.ImageFsInodesFree), available: 500000, capacity: 6553600, w: pod,
			want:  "The node was low on resource: inodes. Threshold quantity: 640Ki, available: 500k. ",
			notes: map[string]string{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "inodes"},
		},
		"pids": {
			bound: quantity(signal.PIDAvailable, 1000, "1k"), available: -5, capacity: 32768, w: pod,
			want:  "The node was low on resource: pids. Threshold quantity: 1k, available: -5. ",
			notes: map[string]string{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "pids"},
		},
		"pids below a root": {
			bound: quantity(signal.AllocatablePIDAvailable, 10, "10"), available: 9, capacity: 32768, w: pod,
			want:  "The node was low on resource: pids. Threshold quantity: 10, available: 9. ",
			notes: map[string]string{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "pids"},
		},
		"no text: printed in binary": {
			bound: bound(signal.MemoryAvailable, "", 2048, 0), available: 9, capacity: 32768, w: noStats("u", 0, 0),
			want: "The node was low on resource: memory. Threshold quantity: 2Ki, available: 9. ", notes: map[string]string{},
		},
		"no statistics, no annotations": {
			bound: quantity(signal.MemoryAvailable, mi, "1Mi"), available: 0, capacity: mi,
			w:    with(noStats("u", 0, 0), func(w *workload.Workload) { w.PodLevelRequest = true }),
			want: "The node was low on resource: memory. Threshold quantity: 1Mi, available: 0. ", notes: map[string]string{},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := settings(tc.bound)
			s.Compat = true
			low := []signal.Observation{{Signal: tc.bound.Signal, Available: tc.available, Capacity: tc.capacity}}
			d := decide.Decide(s, &decide.Memory{}, &decide.Input{
				NowNs: now, Workloads: []workload.Workload{tc.w}, Observations: low, Reclaimed: both, AfterReclaim: low,
			})
			if d.Verdict != decide.Evict {
				t.Fatalf("%v %q, want an eviction", d.Verdict, d.Reason)
			}
			got, notes := decide.Message(s, &d, &tc.w)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.notes, notes); diff != "" {
				t.Errorf("annotations (-want +got):\n%s", diff)
			}
		})
	}
}
