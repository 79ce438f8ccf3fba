// Package bench runs `ebpf-evict bench` for real, a few rounds of each: EBPF_EVICT_BIN names
// the program. Natively alone: an emulated CPU is not what it measures.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

func binary(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs and makes cgroups")
	}
	bin := os.Getenv("EBPF_EVICT_BIN")
	if bin == "" {
		t.Fatal("EBPF_EVICT_BIN names no program: run `make test-root`, or `make build` and set it to bin/ebpf-evict")
	}
	return bin
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// benchmark measures for real.
func benchmark[T any](t *testing.T, args ...string) (result T) {
	t.Helper()
	cmd := exec.Command(binary(t), append([]string{"bench"}, append(args, "--quiet", "-o", "json")...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	must(t, json.Unmarshal(out, &result))
	leavesNothing(t, cmd.Process.Pid)
	return result
}

func leavesNothing(t *testing.T, pid int) {
	t.Helper()
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	names, err := fs.Children("/")
	must(t, err)
	for _, n := range names {
		if strings.HasPrefix(n, "ebpf-evict-bench") && strings.HasSuffix(n, fmt.Sprintf("-%d", pid)) {
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
			l := benchmark[bench.Latency](t, append([]string{"latency", "--rounds", "3"}, args...)...)
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

// earlyoom kills whatever ranks first of all that it sees. This one notes what that is and
// kills the hog.
const spy = `#!/bin/sh
cat /proc/[0-9]*/comm >>"$SPY"
echo "sending SIGTERM when mem <= all"
sleep 0.3
for p in /proc/[0-9]*; do
	if [ "$(cat "$p/comm")" = load-hog ]; then kill -KILL "${p#/proc/}"; fi
done
sleep 60
`

func TestPeerSeesTheHogAndSleepersAlone(t *testing.T) {
	binary(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "earlyoom"), []byte(spy), 0o700))
	seen := filepath.Join(dir, "seen")
	t.Setenv("SPY", seen)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	l := benchmark[bench.Latency](t, "latency", "--rounds", "1", "--tool", "earlyoom")
	r := l.Runs[0]
	if r.Missed != 0 || r.WrongVictims != 0 || len(r.Raw) == 0 {
		t.Errorf("missed %d, wrong %d, %d raw", r.Missed, r.WrongVictims, len(r.Raw))
	}
	text, err := os.ReadFile(seen)
	must(t, err)
	comms := strings.Fields(string(text))
	for _, c := range comms {
		if !slices.Contains([]string{"load-hog", "load-sleeper", filepath.Base(binary(t)), "earlyoom", "exe", "cat"}, c) {
			t.Errorf("the peer saw %q", c)
		}
	}
	if !slices.Contains(comms, "load-hog") || !slices.Contains(comms, "load-sleeper") {
		t.Errorf("the peer saw %v, want the hog and sleepers", comms)
	}
}

func TestBenchOverheadHasPairsAndTheHookAttachedWhenNear(t *testing.T) {
	o := benchmark[bench.Overhead](t, "overhead", "--pairs", "1", "--state", "near")
	if len(o.Runs) != 1 || o.Runs[0].Ratio == nil || o.Runs[0].Ratio.Median <= 0 || o.Runs[0].Baseline.Median <= 0 {
		t.Errorf("runs %+v", o.Runs)
	}
	if len(o.Hooks) > 0 && !slices.ContainsFunc(o.Hooks, func(h bench.Hook) bool { return h.Program == "page_alloc" }) {
		t.Errorf("hooks %+v, want page_alloc among them", o.Hooks)
	}
}

func TestBenchScaleEvictsAmongManyUnits(t *testing.T) {
	s := benchmark[bench.Scale](t, "scale", "--workloads", "40", "--rounds", "2")
	if len(s.Points) != 1 || s.Points[0].Missed != 0 || s.Points[0].PassNs == nil || s.Points[0].RSSBytes <= 0 {
		t.Errorf("points %+v", s.Points)
	}
}
