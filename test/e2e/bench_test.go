package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// benchLatency measures for real, three rounds of each tool.
func benchLatency(t *testing.T, args ...string) bench.Latency {
	t.Helper()
	cmd := exec.Command(binary(t), append([]string{"bench", "latency", "--rounds", "3", "--quiet", "-o", "json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	var l bench.Latency
	must(t, json.Unmarshal(out, &l))
	leavesNothing(t)
	return l
}

func leavesNothing(t *testing.T) {
	t.Helper()
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	names, err := fs.Children("/")
	must(t, err)
	for _, n := range names {
		if len(n) > 17 && n[:17] == "ebpf-evict-bench-" {
			t.Errorf("left the cgroup %s", n)
		}
	}
}

func TestBenchLatencyMissesNobodyAndHitsNobodyElse(t *testing.T) {
	for name, args := range map[string][]string{
		"memory of the root":    {},
		"the kernel's killer":   {"--tool", "kernel-oom"},
		"tasks of the root":     {"--scenario", "forkbomb"},
		"page faults elsewhere": {"--scenario", "hogs", "--fill", "tmpfs"},
	} {
		t.Run(name, func(t *testing.T) {
			l := benchLatency(t, args...)
			if len(l.Runs) != 1 {
				t.Fatalf("%d runs, want one", len(l.Runs))
			}
			r := l.Runs[0]
			if r.Rounds != 3 || r.Missed != 0 || r.WrongVictims != 0 || len(r.Raw) != 3+r.Disturbed {
				t.Errorf("rounds %d, missed %d, wrong %d, %d raw", r.Rounds, r.Missed, r.WrongVictims, len(r.Raw))
			}
			if q := r.CrossedToSignalledNs; q == nil || q.P50 <= 0 || q.P50 > q.P99 || q.P99 > q.Max {
				t.Errorf("crossed to signalled: %+v", q)
			}
		})
	}
}
