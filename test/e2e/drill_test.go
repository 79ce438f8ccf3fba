package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// drillCmd is the drill command for the agent of this world.
func (w *world) drillCmd(args ...string) *exec.Cmd {
	return exec.Command(binary(w.t), append([]string{"drill", "--config", filepath.Join(w.dir, "config.yaml")}, args...)...)
}

// drill holds one by command.
func (w *world) drill() (r drill.Result, code int, errText string) {
	var out, errOut strings.Builder
	cmd := w.drillCmd("-o", "json")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		w.t.Errorf("run the drill: %v", err)
	}
	if out.Len() > 0 {
		if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
			w.t.Errorf("drill -o json: %v in %q", err, out.String())
		}
	}
	return r, code, errOut.String()
}

// passed checks the lines of a drill that went well, its memory seen by the best hook or by
// one of others.
func passed(t *testing.T, lines []record.Line, others ...string) {
	t.Helper()
	signals := map[string]string{}
	for _, l := range lines {
		if testing.Verbose() {
			t.Log(record.RenderTimeline(&l))
		}
		signals[l.Signal] = l.Tier
		tl := l.Timeline
		if l.Kind != record.KindDrill || l.Outcome != record.OutcomeKilled || !drill.IsCanary(l.Victim.Cgroup) {
			t.Errorf("line %+v of %+v", l, l.Victim)
		} else if tl.Crossed == 0 || tl.Woke < tl.Crossed || tl.Decided < tl.Woke || tl.Signalled < tl.Decided || tl.Dead < tl.Signalled {
			t.Errorf("times out of order: %+v", *tl)
		}
	}
	byHook := slices.Contains(append(others, memoryTier(t)), signals["allocatableMemory.available"])
	if len(lines) != 2 || !byHook || signals["allocatablePID.available"] != "bpf-task" {
		t.Errorf("%d lines, seen by %v, want one of the hook for memory and one of that for tasks", len(lines), signals)
	}
}

// nothingOfDrills checks that no cgroup and, as they are all in some, no process is left.
func (w *world) nothingOfDrills() {
	w.t.Helper()
	w.await("the drills' cgroups to go", func() bool {
		_, err := w.fs.Children(drill.Parent)
		return errors.Is(err, cgroupfs.ErrGone)
	})
}

// drilled are the drill lines of one id or, of several drills, those of the last.
func (w *world) drilled() (last []record.Line, ids int) {
	for _, l := range w.lines(record.KindDrill) {
		if len(last) == 0 || last[0].ID != l.ID {
			last, ids = nil, ids+1
		}
		last = append(last, l)
	}
	return last, ids
}

func TestDrillByCommand(t *testing.T) {
	binary(t)
	for _, mode := range []string{"shadow", "enforce"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			w.mode, w.extra = mode, noDrill
			bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 64 << 20})
			w.start(hogsOnly)
			if out, err := w.drillCmd().Output(); err != nil || !strings.Contains(string(out), "drill passed") {
				t.Errorf("printed %q, ended with %v", out, err)
			}
			r, code, errText := w.drill()
			if code != 0 || !r.OK || errText != "" {
				t.Fatalf("exit code %d, %q, result %+v", code, errText, r)
			}
			passed(t, r.Drills)
			lines, ids := w.drilled()
			passed(t, lines)
			if ids != 2 || r.Drills[0].Mode != mode {
				t.Errorf("%d drills in the journal, want 2; mode %s", ids, r.Drills[0].Mode)
			}
			w.await("the state file to tell", func() bool {
				s, err := record.ReadState(filepath.Join(w.dir, "state.json"))
				return err == nil && s.Drill != nil && s.Drill.OK && s.Drill.SignalledNs > 0
			})
			if !bystander.Alive() || w.count(record.KindKill) != 0 || w.count(record.KindEviction) != 0 {
				t.Error("a drill evicted somebody")
			}
			w.nothingOfDrills()
		})
	}
}

func TestDrillAtStartAndOnTheTimer(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.extra = "drill: {every: 1s}\n"
	w.start(hogsOnly)
	for n := 1; n <= 2; n++ {
		w.await("a drill", func() bool { last, ids := w.drilled(); return ids == n && len(last) == 2 || ids > n })
	}
	last, _ := w.drilled()
	w.await("a whole drill", func() bool { last, _ = w.drilled(); return len(last) == 2 })
	passed(t, last)
	w.stop()
	w.nothingOfDrills()
}

func TestDrillNeedsAnAgent(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.config(hogsOnly)
	refused(t, w.drillCmd(), 3, "no agent runs")
	w.start(hogsOnly)
	must(t, w.agent.Process.Kill())
	_ = w.agent.Wait()
	w.agent = nil
	refused(t, w.drillCmd(), 3, "the agent is dead")
	w.nothingOfDrills()
}

// withReadOnlyCgroups executes a program in a mount namespace in which no cgroup can be made.
func withReadOnlyCgroups(args []string) int {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	fs, fsErr := cgroupfs.New("/sys/fs/cgroup")
	if err = errors.Join(err, fsErr); err == nil {
		for _, procs := range fs.ProcsFiles("/") {
			err = errors.Join(err, unix.Mount("", filepath.Dir(procs), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}
	}
	if err == nil {
		err = unix.Exec(args[0], args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "read-only-cgroups:", err)
	return 1
}

func TestDrillThatFailsAtStartEndsEnforce(t *testing.T) {
	bin := binary(t)
	w := newWorld(t)
	file := w.config(hogsOnly)
	refused(t, exec.Command("/proc/self/exe", "read-only-cgroups", bin, "run", "--config", file, "--log-level", "error"), 3, `failed at the stage "canary"`)
	w.await("the programs to go", func() bool { return len(ourPrograms(t)) == 0 })
	if _, err := os.Stat(drill.MailboxOf(filepath.Join(w.dir, "state.json"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mailbox is left: %v", err)
	}
	w.nothingOfDrills()
}

// A drill that fails later, or in shadow mode, is a line and an error in the log.
func TestDrillThatFailsLaterIsAnAlarm(t *testing.T) {
	bin := binary(t)
	for name, tc := range map[string]struct{ mode, drill string }{
		"at start in shadow mode":      {"shadow", "{every: 0}"},
		"on the timer in enforce mode": {"enforce", "{atStart: false, every: 1s}"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mode, w.extra = tc.mode, "drill: "+tc.drill+"\n"
			var errOut strings.Builder
			w.agent = exec.Command("/proc/self/exe", "read-only-cgroups", bin, "run", "--config", w.config(hogsOnly), "--log-level", "error")
			w.agent.Stderr = &errOut
			must(t, w.agent.Start())
			t.Cleanup(w.stop)
			alarm := func() bool {
				for _, l := range w.lines(record.KindDegraded) {
					if strings.Contains(l.Reason, `drill failed at the stage "canary"`) {
						return true
					}
				}
				return false
			}
			w.await("the degraded line", alarm)
			w.stop()
			if !strings.Contains(errOut.String(), "degraded: drill failed") {
				t.Errorf("log: %q", errOut.String())
			}
		})
	}
}

func TestDrillRequestsThatAreHostileAreRefused(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.extra = noDrill
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 16 << 20})
	w.start(hogsOnly)
	box := drill.MailboxOf(filepath.Join(w.dir, "state.json"))
	request := func(cgroup string) []byte {
		text, err := json.Marshal(drill.Request{Schema: drill.Schema, ID: drill.NewID(), Signal: "allocatableMemory.available", Cgroup: cgroup})
		must(t, err)
		return text
	}
	unit := path.Join(w.root, "bystander")
	elsewhere := filepath.Join(w.dir, "elsewhere")
	must(t, os.WriteFile(elsewhere, request(unit), 0o600))
	for n, tc := range []struct {
		name string
		put  func(file string) error
	}{
		{"a unit's cgroup", func(f string) error { return os.WriteFile(f, request(unit), 0o600) }},
		{"a way out of the canaries'", func(f string) error { return os.WriteFile(f, request(drill.Parent+"/.."+unit), 0o600) }},
		{"a link", func(f string) error { return os.Symlink(elsewhere, f) }},
		{"a fifo", func(f string) error { return syscall.Mkfifo(f, 0o600) }},
		{"another user's file", func(f string) error {
			if err := os.WriteFile(f, request(unit), 0o600); err != nil {
				return err
			}
			return os.Chown(f, nobody, nobody)
		}},
		{"a long file", func(f string) error { return os.WriteFile(f, make([]byte, 1<<20), 0o600) }},
	} {
		part := filepath.Join(box, fmt.Sprintf("%d.part", n))
		must(t, tc.put(part))
		must(t, os.Rename(part, filepath.Join(box, fmt.Sprintf("%d.request", n))))
		w.await("the refusal of "+tc.name, func() bool { return w.count(record.KindDrill) > n })
	}
	for _, l := range w.lines(record.KindDrill) {
		if l.Outcome != record.OutcomeRefused || l.Reason == "" {
			t.Errorf("line %+v", l)
		}
	}
	if !bystander.Alive() || w.count(record.KindKill) != 0 {
		t.Error("a request hit somebody")
	}
	if r, code, errText := w.drill(); code != 0 || !r.OK {
		t.Errorf("after them a drill: %d, %q", code, errText)
	}
	w.nothingOfDrills()
}

func TestDrillWhoseClientIsKilledLeavesNothing(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.extra = noDrill
	w.start(hogsOnly)
	for n := range 10 {
		cmd := w.drillCmd()
		must(t, cmd.Start())
		time.Sleep(time.Duration(4*n) * time.Millisecond) // somewhere in its 40 ms
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	r, code, errText := w.drill()
	if code != 0 {
		t.Fatalf("the next drill: exit code %d, %q", code, errText)
	}
	passed(t, r.Drills)
	w.nothingOfDrills()
}

func TestDrillWhoseAgentIsKilledLeavesNothing(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.extra = "drill: {atStart: true, every: 1s}\n"
	for n := range 5 {
		w.start(hogsOnly)
		cmd := w.drillCmd()
		must(t, cmd.Start())
		time.Sleep(time.Duration(10*n) * time.Millisecond)
		must(t, w.agent.Process.Kill())
		_ = w.agent.Wait()
		w.agent = nil
		_ = cmd.Wait() // sees that nobody answers
		w.nothingOfDrills()
	}
	w.start(hogsOnly)
	if _, code, errText := w.drill(); code != 0 {
		t.Fatalf("the next drill: exit code %d, %q", code, errText)
	}
	w.stop()
	w.nothingOfDrills()
}

func TestDrillOfTwoClientsAtOnce(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.start(hogsOnly)
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			r, code, errText := w.drill()
			if code != 0 {
				t.Errorf("exit code %d, %q", code, errText)
				return
			}
			passed(t, r.Drills, record.TierAlloc) // by which the charge hook is helped at times
		})
	}
	clients.Wait()
	w.stop()
	w.nothingOfDrills()
}

func TestDrillDoesNotHoldUpAnEviction(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.extra = noDrill
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 64 << 20})
	w.start(hogsOnly)
	stop, held := make(chan struct{}), 0
	var drills sync.WaitGroup
	drills.Go(func() { // one after the other
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r, code, errText := w.drill(); code == 0 {
				held++
			} else if !r.Skipped {
				t.Errorf("a drill failed: %q", errText)
			}
		}
	})
	kills := w.play(5, "hog", load.Spec{Kind: load.Hog, Bytes: 800 << 20}, nil)
	w.await("a drill beside all that", func() bool { _, ids := w.drilled(); return ids > 1 })
	close(stop)
	drills.Wait()
	if !bystander.Alive() || w.count(record.KindKill) != kills {
		t.Errorf("%d kills in %d rounds; the bystander lives: %v", w.count(record.KindKill), kills, bystander.Alive())
	}
	seenBy := map[string]int{}
	for _, l := range w.lines(record.KindDrill) {
		seenBy[l.Signal+" by "+l.Tier]++
	}
	t.Logf("beside %d drills, their canaries seen: %v", held, seenBy)
	w.nothingOfDrills()
}
