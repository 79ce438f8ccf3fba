// Package bench runs `ebpf-evict bench` for real, a few rounds of each: EBPF_EVICT_BIN names
// the program. Natively alone: an emulated CPU is not what it measures.
package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

func binary(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: loads BPF programs and makes cgroups; `make test` has it")
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
	cmd, files := command(t, append(args, "--quiet", "-o", "json")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	must(t, json.Unmarshal(out, &result))
	leavesNothing(t, cmd.Process.Pid, files)
	return result
}

// command has its files below a directory of its own.
func command(t *testing.T, args ...string) (cmd *exec.Cmd, files string) {
	t.Helper()
	files = t.TempDir()
	cmd = exec.Command(binary(t), append([]string{"bench"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+files)
	return cmd, files
}

// leavesNothing looks for cgroups, for files, and for the processes of agents and loads, which
// name either in their arguments.
func leavesNothing(t *testing.T, pid int, files string) {
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
	entries, err := os.ReadDir(files)
	must(t, err)
	for _, e := range entries {
		t.Errorf("left the file %s", e.Name())
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	root := regexp.MustCompile(fmt.Sprintf(`/ebpf-evict-bench[a-z-]*-%d/`, pid))
	for _, p := range processes {
		text, _ := os.ReadFile(p) // gone meanwhile
		if root.Match(text) || strings.Contains(string(text), files) {
			t.Errorf("left a process: %q", text)
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

// Whether anybody acts for a stopped agent is not the bench's to say: each round is counted,
// and no agent stays stopped.
func TestBenchStallsTheAgentNearAndFar(t *testing.T) {
	for _, scenario := range []string{"stalled", "stalled-far"} {
		t.Run(scenario, func(t *testing.T) {
			l := benchmark[bench.Latency](t, "latency", "--rounds", "1", "--scenario", scenario)
			r := l.Runs[0]
			if r.Rounds != 1 || r.WrongVictims != 0 || (r.Missed == 0) != (r.CrossedToSignalledNs != nil) {
				t.Errorf("rounds %d, missed %d, wrong %d, signalled %+v", r.Rounds, r.Missed, r.WrongVictims, r.CrossedToSignalledNs)
			}
		})
	}
}

func TestBenchKernelFirstTakesPartOrSaysWhyNot(t *testing.T) {
	l := benchmark[bench.Latency](t, "latency", "--rounds", "2", "--tool", "ebpf-evict,ebpf-evict-kernel-first")
	if len(l.Runs) != 2 || l.Runs[0].Rounds != 2 || l.Runs[0].Missed != 0 {
		t.Fatalf("runs %+v, want two rounds of ours", l.Runs)
	}
	if k := l.Runs[1]; (k.Skipped == "") != (k.Rounds == 1) || k.Missed != 0 || k.WrongVictims != 0 {
		t.Errorf("kernel first: rounds %d, missed %d, wrong %d, skipped %q; want one round in two, or why not", k.Rounds, k.Missed, k.WrongVictims, k.Skipped)
	}
}

func TestBenchMemoryBackHasAFactorAgainstAPlainKill(t *testing.T) {
	l := benchmark[bench.Latency](t, "latency", "--rounds", "1", "--scenario", "memoryback", "--tool", "ebpf-evict,plain-kill")
	if len(l.Runs) != 2 || len(l.MemoryBack) != 1 || l.MemoryBack[0].P50 <= 0 {
		t.Fatalf("runs %+v, factors %+v", l.Runs, l.MemoryBack)
	}
	for _, r := range l.Runs {
		if r.Missed != 0 || r.WrongVictims != 0 || r.SignalledToBackNs == nil || r.SignalledToBackNs.P50 <= 0 {
			t.Errorf("%s: missed %d, wrong %d, back %+v", r.Tool, r.Missed, r.WrongVictims, r.SignalledToBackNs)
		}
	}
}

func TestBenchOverheadHasAllWorksAndTheHookAttachedWhenNearAlone(t *testing.T) {
	o := benchmark[bench.Overhead](t, "overhead", "--pairs", "1", "--work", "fault,fork,thread,compile", "--state", "far,near")
	if len(o.Runs) != 8 {
		t.Fatalf("%d runs, want four works in two states", len(o.Runs))
	}
	for _, r := range o.Runs {
		if r.Ratio == nil || r.Ratio.Median <= 0 || r.Baseline == nil || r.Baseline.Median <= 0 {
			t.Errorf("%s, %s: ratio %+v, baseline %+v", r.Work, r.State, r.Ratio, r.Baseline)
		}
		if slices.Contains(r.Attached, "page_alloc") != (r.State == bench.Near) || !slices.Contains(r.Attached, "newtask") {
			t.Errorf("%s, %s: attached are %v", r.Work, r.State, r.Attached)
		}
		if (r.Note != "") != (r.Work == bench.WorkCompile) {
			t.Errorf("%s: the compiler is %q", r.Work, r.Note)
		}
	}
	if len(o.Hooks) > 0 && !slices.ContainsFunc(o.Hooks, func(h bench.Hook) bool { return h.Program == "page_alloc" }) {
		t.Errorf("hooks %+v, want page_alloc among them", o.Hooks)
	}
}

func TestBenchScaleEvictsAmongManyUnits(t *testing.T) {
	s := benchmark[bench.Scale](t, "scale", "--workloads", "40", "--rounds", "2")
	if len(s.Points) != 1 || s.Points[0].Missed != 0 || s.Points[0].PassNs == nil {
		t.Fatalf("points %+v", s.Points)
	}
	if p := s.Points[0]; p.RSSFarBytes <= 0 || p.RSSNearBytes <= 0 || p.RSSBytes != max(p.RSSFarBytes, p.RSSNearBytes) || p.CPUPercent <= 0 {
		t.Errorf("resident %d far, %d near, %d in all; CPU %f", p.RSSFarBytes, p.RSSNearBytes, p.RSSBytes, p.CPUPercent)
	}
}

// SIGINT comes when there are all cgroups and an agent starts.
func TestBenchScaleRemovesItsCgroupsWhenInterrupted(t *testing.T) {
	cmd, files := command(t, "scale", "--workloads", "3000")
	progress, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(progress)
	for lines.Scan() && !strings.HasSuffix(lines.Text(), ": idle") {
	}
	must(t, cmd.Process.Signal(os.Interrupt))
	for lines.Scan() { // to its end
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended as if it had measured")
	}
	leavesNothing(t, cmd.Process.Pid, files)
}
