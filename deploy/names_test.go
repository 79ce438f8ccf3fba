// Package deploy_test checks what is deployed beside the program against the program.
package deploy_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/ebpf-evict/ebpf-evict/pkg/kube"
	"github.com/ebpf-evict/ebpf-evict/pkg/metrics"
)

// served are the names of all metrics.
func served(t *testing.T) map[string]bool {
	t.Helper()
	dir := t.TempDir()
	companion, err := kube.New(kube.Options{Rest: &rest.Config{}, Table: dir + "/table.json", Cursor: dir + "/cursor.json"})
	if err != nil {
		t.Fatal(err)
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		metrics.New(metrics.Options{}).Describe(descs)
		companion.Metrics().Describe(descs)
		close(descs)
	}()
	names := map[string]bool{}
	fqName := regexp.MustCompile(`fqName: "(\w+)"`)
	for d := range descs {
		names[fqName.FindStringSubmatch(d.String())[1]] = true
	}
	return names
}

// named are the metrics that a file names, series of a histogram by the histogram's name.
func named(t *testing.T, path string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bebpf_evict_\w+`).FindAllString(string(text), -1) {
		names[strings.TrimSuffix(name, "_bucket")] = true
	}
	return names
}

func TestEveryMetricThatIsNamedIsServed(t *testing.T) {
	all := served(t)
	for _, path := range []string{"grafana/ebpf-evict.json", "prometheus/rules.yaml", "prometheus/rules_test.yaml", "../docs/metrics.md", "../README.md"} {
		names := named(t, path)
		for name := range names {
			if !all[name] {
				t.Errorf("%s: no metric %s", path, name)
			}
		}
		if len(names) == 0 && path != "../README.md" {
			t.Errorf("%s names no metric", path)
		}
	}
}

func TestEveryMetricIsDocumentedAndShown(t *testing.T) {
	documented, shown := named(t, "../docs/metrics.md"), named(t, "grafana/ebpf-evict.json")
	maps.Copy(shown, named(t, "prometheus/rules.yaml"))
	// Of the last reclaim the counters show enough; a version is for joins.
	hidden := []string{
		"ebpf_evict_build_info", "ebpf_evict_reclaim_under_way", "ebpf_evict_reclaim_last_ok", "ebpf_evict_reclaim_last_duration_seconds",
		"ebpf_evict_reclaim_last_freed_bytes", "ebpf_evict_reclaim_last_removed",
	}
	for name := range served(t) {
		if !documented[name] {
			t.Errorf("docs/metrics.md lacks %s", name)
		}
		if !shown[name] && !slices.Contains(hidden, name) {
			t.Errorf("neither dashboard nor rules have %s", name)
		}
	}
}
