package disk

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// BenchmarkRoundOf200Pods is what the disk process does about 200 pods at rest in half a
// minute, but for what it asks the runtime: six looks for units, one visit of each part, six
// tables.
func BenchmarkRoundOf200Pods(b *testing.B) {
	n := newNode(b)
	clear(n.units.units)
	for i := range 200 {
		uid := fmt.Sprintf("0f0e2b6a-6a3b-4c59-9a0e-%012d", i)
		group := "/kubepods/pod" + uid
		for v := range 2 {
			for f := range 25 {
				write(b, filepath.Join(n.base, "kubelet/pods", uid, "volumes/kubernetes.io~empty-dir", fmt.Sprint("v", v), fmt.Sprint(f)), 100)
			}
			write(b, filepath.Join(n.base, "logs", "ns_pod_"+uid, fmt.Sprint("c", v), "0.log"), 1000)
		}
		n.units.units[group] = workload.Unit{
			Workload: workload.Workload{UID: uid, Cgroup: group, QOSClass: workload.QOSBurstable},
			Targets:  []workload.Target{{Cgroup: group + "/" + strings.Repeat("1", 64)}},
		}
	}
	w := newWorker(n.Options)
	w.find()
	b.ReportAllocs()
	for b.Loop() {
		for _, u := range w.units {
			u.readNs, u.bornNs = 0, 0
		}
		for range 6 {
			w.find()
			if err := w.write(); err != nil {
				b.Fatal(err)
			}
		}
		for _, u := range w.units {
			w.visitAll(u)
		}
	}
}
