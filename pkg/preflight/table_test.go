package preflight

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
)

func TestWorkloadTable(t *testing.T) {
	const good = `{"schema":"ebpf-evict/workloads/v1","generation":7,"workloads":[{"uid":"a"},{"uid":"b"}]}`
	for name, tc := range map[string]struct {
		text   string
		wanted bool
		owner  int
		want   WorkloadTable // but for Error, of which it is a part
	}{
		"none, and units are pods":    {"", true, os.Getuid(), WorkloadTable{Wanted: true, Error: "there is none", Effect: agent.NoTable}},
		"none, and units are no pods": {"", false, os.Getuid(), WorkloadTable{Error: "there is none"}},
		"a good one":                  {good, true, os.Getuid(), WorkloadTable{Wanted: true, OK: true, AgeSeconds: 60, Workloads: 2, Generation: 7}},
		"torn":                        {good[:60], true, os.Getuid(), WorkloadTable{Wanted: true, Error: "unexpected end of JSON", Effect: agent.NoTable}},
		"somebody else's":             {good, true, os.Getuid() + 1, WorkloadTable{Wanted: true, Error: "belongs to uid", Effect: agent.NoTable}},
	} {
		c := config.Default()
		c.Workloads, c.TableOwner = filepath.Join(t.TempDir(), "workloads.json"), uint32(tc.owner)
		written := time.Unix(1_700_000_000, 0)
		if tc.text != "" {
			if err := os.WriteFile(c.Workloads, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(c.Workloads, written, written); err != nil {
				t.Fatal(err)
			}
		}
		got := workloadTable(c, tc.wanted, written.Add(time.Minute))
		if !strings.Contains(got.Error, tc.want.Error) || (got.Error == "") != tc.want.OK {
			t.Errorf("%s: error %q, want %q", name, got.Error, tc.want.Error)
		}
		got.Error = tc.want.Error
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
