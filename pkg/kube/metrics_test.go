package kube_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/kube"
)

func TestMetricsTellOfReportsAndWhatIsUnderWay(t *testing.T) {
	b := newBed(t)
	b.taintMost = 50 * time.Millisecond // there is none while the server is away
	b.options.Report = map[string]string{"ReplicaSet": kube.ReportDelete}
	kept, deleted := runningPod(uidA, "kept"), runningPod(uidB, "deleted")
	deleted.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Controller: new(true)}}
	b.server.set(kept)
	b.server.set(deleted)
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	b.server.setDown(true)
	b.append(kill(1, uidA, "kept"))
	b.append(kill(2, uidB, "deleted"))
	b.await("the backlog", func() bool { return b.companion.Stats().Backlog == 2 })
	b.tells(`
# HELP ebpf_evict_kube_backlog Kills that the cluster does not show for good yet.
# TYPE ebpf_evict_kube_backlog gauge
ebpf_evict_kube_backlog 2
# HELP ebpf_evict_kube_ready 1 while the node's pods are known, and in the workload table; 0 also while the table can't be written, or when no list or watch of pods was answered for a minute.
# TYPE ebpf_evict_kube_ready gauge
ebpf_evict_kube_ready 1
`, "ebpf_evict_kube_backlog", "ebpf_evict_kube_ready")
	b.await("failed tries", func() bool {
		return b.value("ebpf_evict_kube_errors_total", "report") > 0 && b.value("ebpf_evict_kube_errors_total", "node") > 0
	})
	b.server.setDown(false)
	for _, name := range []string{"kept", "deleted"} {
		b.await("the status", func() bool { return b.isEvicted(name) })
		b.server.update("shop", name, ends)
	}
	b.awaitReports(map[string]int{"done": 2})
	b.tells(`
# HELP ebpf_evict_kube_backlog Kills that the cluster does not show for good yet.
# TYPE ebpf_evict_kube_backlog gauge
ebpf_evict_kube_backlog 0
# HELP ebpf_evict_kube_reports_total Evictions that were brought to the cluster, by kind of report (status or delete) and result.
# TYPE ebpf_evict_kube_reports_total counter
ebpf_evict_kube_reports_total{kind="delete",result="done"} 1
ebpf_evict_kube_reports_total{kind="delete",result="ended"} 0
ebpf_evict_kube_reports_total{kind="delete",result="gave-up"} 0
ebpf_evict_kube_reports_total{kind="delete",result="gone"} 0
ebpf_evict_kube_reports_total{kind="delete",result="late"} 0
ebpf_evict_kube_reports_total{kind="delete",result="overwritten"} 0
ebpf_evict_kube_reports_total{kind="delete",result="refused"} 0
ebpf_evict_kube_reports_total{kind="status",result="done"} 1
ebpf_evict_kube_reports_total{kind="status",result="ended"} 0
ebpf_evict_kube_reports_total{kind="status",result="gave-up"} 0
ebpf_evict_kube_reports_total{kind="status",result="gone"} 0
ebpf_evict_kube_reports_total{kind="status",result="late"} 0
ebpf_evict_kube_reports_total{kind="status",result="overwritten"} 0
ebpf_evict_kube_reports_total{kind="status",result="refused"} 0
`, "ebpf_evict_kube_backlog", "ebpf_evict_kube_reports_total")
	if n := b.value("ebpf_evict_kube_report_seconds", ""); n != 2 {
		t.Errorf("%v statuses were timed, want 2", n)
	}
}

func (b *bed) tells(want string, names ...string) {
	b.Helper()
	if err := testutil.CollectAndCompare(b.companion.Metrics(), strings.NewReader(want), names...); err != nil {
		b.Error(err)
	}
}

// value is what a counter of one label, or a histogram's count, is at now.
func (b *bed) value(name, label string) float64 {
	b.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b.companion.Metrics())
	families, err := registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name {
				continue
			}
			if h := m.GetHistogram(); h != nil {
				return float64(h.GetSampleCount())
			}
			if m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	b.Fatalf("no metric %s of %s", name, label)
	return 0
}

func TestTheTablesDirectoryIsGiven(t *testing.T) {
	dir := t.TempDir() + "/run/table"
	uid := uint32(os.Getuid()) // another one needs root
	for range 2 {
		if err := kube.GiveTable(dir, uid); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", fi, err)
	}
}
