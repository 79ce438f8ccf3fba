package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// agentArgs start an agent as a process of its own that kills itself, as `kill -9` would,
// at a stage; 0: at none.
type agentArgs struct {
	Config       config.Config
	PinDir, Lock string
	Tier         string
	Die          stage
	// Ordinary: the agent may not raise its priority.
	Ordinary bool
}

// agentMain is that process.
func agentMain(args []string) int {
	var in agentArgs
	if err := json.Unmarshal([]byte(args[0]), &in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if in.Ordinary {
		in.Ordinary = false
		fmt.Fprintln(os.Stderr, becomeOrdinary(in))
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o := Options{
		Config: &in.Config, PinDir: in.PinDir, Lock: in.Lock, Tier: in.Tier,
		Log: zerolog.New(os.Stderr).Level(zerolog.ErrorLevel),
	}
	if in.Die != 0 {
		o.onStage = func(s stage) {
			if s == in.Die {
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			}
		}
	}
	if err := Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// becomeOrdinary starts the process's program anew without CAP_SYS_NICE.
func becomeOrdinary(in agentArgs) error {
	runtime.LockOSThread()
	arg, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_NICE, 0, 0, 0); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", []string{os.Args[0], "agent", string(arg)}, os.Environ())
}

func (b *bed) pinDir() string {
	return "/sys/fs/bpf/ebpf-evict-agent-test-" + strconv.Itoa(os.Getpid())
}

// start runs an agent as a process and waits until it watches.
func (b *bed) start(die stage) *exec.Cmd {
	b.t.Helper()
	return b.startAs(agentArgs{Die: die})
}

func (b *bed) startAs(in agentArgs) *exec.Cmd {
	b.t.Helper()
	in.Config, in.PinDir, in.Lock = *b.conf, b.pinDir(), filepath.Join(filepath.Dir(b.conf.Journal), "lock")
	in.Tier = b.tier
	arg, err := json.Marshal(in)
	must(b.t, err)
	before := len(b.lines(record.KindStart))
	cmd := exec.Command("/proc/self/exe", "agent", string(arg))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(b.t, cmd.Start())
	b.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(b.pinDir()) // what kill -9 leaves
	})
	b.await("the agent's start", func() bool { return len(b.lines(record.KindStart)) > before })
	return cmd
}

func TestKill9AtEachStageLeavesNothingAndTheNextStartClosesIt(t *testing.T) {
	killed, failed, gone := record.OutcomeKilled, record.OutcomeFailed, record.OutcomeGone
	for _, tc := range []struct {
		name string
		die  stage
		// want are the hog's closed evictions after the next agent has done its work.
		want []record.Outcome
		// kills is how many kill lines there are then.
		kills int
	}{
		{"before the crossing", 0, []record.Outcome{killed}, 1},
		{"after the crossing woke it", stageWoke, []record.Outcome{killed}, 1},
		{"after the intent and before SIGKILL", stageStored, []record.Outcome{failed, killed}, 1},
		{"after SIGKILL, before the intent says so", stageStruck, []record.Outcome{gone}, 0},
		{"after SIGKILL, before the kill line", stageSignalled, []record.Outcome{killed}, 1},
		{"after the kill line, before the death", stageKillLine, []record.Outcome{killed}, 1},
		{"after the death, before the eviction line", stageDead, []record.Outcome{killed}, 1},
		{"after the eviction line", stageClosed, []record.Outcome{killed}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t)
			b.conf.EvictionHard = map[string]string{"allocatableMemory.available": "200Mi"}
			bystander := b.sleeper("bystander", 64<<20)
			b.create("hog")
			hog := b.run("hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20, Held: true})

			first := b.start(tc.die)
			if len(ourPrograms(t)) == 0 {
				t.Fatal("no program is loaded while the agent runs: this test sees nothing")
			}
			if tc.die == 0 {
				_ = first.Process.Kill()
			} else {
				must(t, hog.Go())
			}
			_ = first.Wait()
			if ws, ok := first.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("the agent ended with %v, want SIGKILL", first.ProcessState)
			}
			b.nothingIsLeft()
			before := b.lines("")
			tear(t, b.conf.Journal)

			second := b.start(0)
			if tc.die == 0 {
				must(t, hog.Go())
			}
			b.await("the hog's last line", func() bool { return len(b.outcomes("hog")) >= len(tc.want) })
			if !hog.Wait(time.Minute) {
				t.Error("the hog lives")
			}
			must(t, second.Process.Signal(syscall.SIGTERM))
			if err := second.Wait(); err != nil {
				t.Errorf("the next agent ended with %v", err)
			}
			if diff := cmp.Diff(tc.want, b.outcomes("hog")); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s\n%s", diff, b.journal())
			}
			b.eachEvictionOnce(tc.kills)
			if diff := cmp.Diff(before, b.lines("")[:len(before)]); diff != "" {
				t.Errorf("lines before the tear changed (-want +got):\n%s", diff)
			}
			if !bystander.Alive() {
				t.Error("the bystander died")
			}
			if _, err := os.Stat(b.pinDir()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("pins after a clean end: %v", err)
			}
		})
	}
}

// nothingIsLeft checks what a dead agent must not leave once RCU has freed what was its own:
// programs, and with them links and timers, maps that could act, frozen cgroups.
func (b *bed) nothingIsLeft() {
	b.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if len(ourPrograms(b.t)) == 0 && len(actingMaps(b.t)) == 0 {
			break
		}
	}
	if left := ourPrograms(b.t); len(left) != 0 {
		b.t.Errorf("programs are left: %v", left)
	}
	if left := actingMaps(b.t); len(left) != 0 {
		b.t.Errorf("maps are left: %v", left)
	}
	for _, unit := range []string{"", "hog", "bystander"} {
		for _, file := range []string{
			filepath.Join("/sys/fs/cgroup/freezer", b.root, unit, "freezer.state"),
			filepath.Join("/sys/fs/cgroup", b.root, unit, "cgroup.freeze"),
		} {
			state, err := os.ReadFile(file)
			if err == nil && string(state) != "THAWED\n" && string(state) != "0\n" {
				b.t.Errorf("%s says %q", file, state)
			}
		}
	}
}

// eachEvictionOnce checks that no line of an eviction is there twice or is missing.
func (b *bed) eachEvictionOnce(kills int) {
	b.t.Helper()
	count := map[record.ID]map[record.Kind]int{}
	for _, l := range b.lines("") {
		if l.ID.IsZero() {
			continue
		}
		if count[l.ID] == nil {
			count[l.ID] = map[record.Kind]int{}
		}
		count[l.ID][l.Kind]++
	}
	total := 0
	for id, of := range count {
		total += of[record.KindKill]
		if of[record.KindKill] > 1 || of[record.KindEviction] != 1 {
			b.t.Errorf("%s has %v, want one eviction line and at most one kill line", id, of)
		}
	}
	if total != kills {
		b.t.Errorf("%d kill lines, want %d:\n%s", total, kills, b.journal())
	}
}

// tear appends what a crash leaves of a line.
func tear(t *testing.T, journal string) {
	t.Helper()
	f, err := os.OpenFile(journal, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(`{"schema":"ebpf-evict/v1","kind":"kil`)
	must(t, err)
}

// ourPrograms are the names of our BPF programs that are loaded, by whomever.
func ourPrograms(t *testing.T) (names []string) {
	t.Helper()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return names
		}
		must(t, err)
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(t, err)
		info, err := p.Info()
		must(t, errors.Join(err, p.Close()))
		if slices.Contains([]string{"page_alloc", "newtask", "start_far_timer", "walk", "look", "refresh", "learn"}, info.Name) {
			names = append(names, info.Name)
		}
	}
}

// actingMaps are the names of our maps but for those that are pinned to be looked at.
func actingMaps(t *testing.T) (names []string) {
	t.Helper()
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return names
		}
		must(t, err)
		id = next
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(t, err)
		info, err := m.Info()
		must(t, errors.Join(err, m.Close()))
		if slices.Contains([]string{"far_timers", "wires", "credits", "crossings", "deltas"}, info.Name) {
			names = append(names, info.Name)
		}
	}
}

// leaveMemory joins the cgroups named by its arguments but the first, writes that many
// bytes to the memfd it was given, and ends.
func leaveMemory(args []string) int {
	size, err := strconv.Atoi(args[0])
	for _, procs := range args[1:] {
		err = errors.Join(err, os.WriteFile(procs, []byte("0"), 0))
	}
	if err == nil {
		_, err = os.NewFile(3, "memfd").Write(make([]byte, size))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// leftover makes a unit without processes whose memory stays charged: tmpfs pages of a
// file that somebody else keeps.
func (b *bed) leftover(unit string, size int) {
	b.t.Helper()
	b.create(unit)
	fd, err := unix.MemfdCreate("leftover", unix.MFD_CLOEXEC)
	must(b.t, err)
	f := os.NewFile(uintptr(fd), "leftover")
	b.t.Cleanup(func() { f.Close() })
	cmd := exec.Command("/proc/self/exe", append([]string{"leave-memory", strconv.Itoa(size)}, b.fs.ProcsFiles(path.Join(b.root, unit))...)...)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, os.Stderr
	must(b.t, cmd.Run())
	c, err := b.fs.Open(path.Join(b.root, unit))
	must(b.t, err)
	defer c.Close()
	if n, err := c.MemoryCurrentBytes(); err != nil || n < int64(size) {
		b.t.Fatalf("%d bytes are charged to the leftover, want %d (%v)", n, size, err)
	}
}
