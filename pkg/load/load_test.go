package load_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
)

const (
	mib = 1 << 20
	// patience bounds waits for what must happen; no test measures it. A bomb on an
	// emulated CPU takes most of it for itself.
	patience = 2 * time.Minute
	// beyondPatience is a deadline that can't end a load in place of what is tested.
	beyondPatience = 5 * time.Minute
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "load" {
		os.Exit(load.Main(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "starter" {
		os.Exit(starter(os.Args[2]))
	}
	os.Exit(m.Run())
}

// starter starts a load, prints its pid and waits to be killed.
func starter(spec string) int {
	var s load.Spec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	l, err := load.Start("/proc/self/exe", []string{"load"}, s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(l.PID())
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(l)
	return 0
}

// group is a cgroup with a memory and a pids limit: one directory on v2, two on v1.
type group struct{ memory, pids string }

func newGroup(t testing.TB, memoryMax int64, pidsMax int) group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root; `make test` has it")
	}
	const root = "/sys/fs/cgroup"
	name := fmt.Sprintf("load-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	g, memoryFile := group{filepath.Join(root, "memory", name), filepath.Join(root, "pids", name)}, "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		g, memoryFile = group{filepath.Join(root, name), filepath.Join(root, name)}, "memory.max"
		write(t, filepath.Join(root, "cgroup.subtree_control"), "+memory +pids")
	}
	for _, dir := range slices.Compact([]string{g.memory, g.pids}) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remove(t, dir) })
	}
	t.Cleanup(func() { g.killAll(t) }) // what a failed test left
	write(t, filepath.Join(g.memory, memoryFile), strconv.FormatInt(memoryMax, 10))
	write(t, filepath.Join(g.pids, "pids.max"), strconv.Itoa(pidsMax))
	return g
}

// remove removes dir, which stays busy for a moment after its last task.
func remove(t testing.TB, dir string) {
	t.Helper()
	eventually(t, "remove "+dir, func() bool {
		err := os.Remove(dir)
		return err == nil || errors.Is(err, os.ErrNotExist)
	})
}

func (g group) procsFiles() []string {
	return slices.Compact([]string{filepath.Join(g.memory, "cgroup.procs"), filepath.Join(g.pids, "cgroup.procs")})
}

// procs are the processes in the group, zombies not counted.
func (g group) procs(t testing.TB) []string {
	t.Helper()
	return strings.Fields(read(t, filepath.Join(g.pids, "cgroup.procs")))
}

// tasks are the threads in the group, zombies counted.
func (g group) tasks(t testing.TB) int {
	t.Helper()
	return number(t, filepath.Join(g.pids, "pids.current"))
}

// killAll kills what is in the group until nothing is; without a pid to fork, a bomb too.
func (g group) killAll(t testing.TB) {
	t.Helper()
	write(t, filepath.Join(g.pids, "pids.max"), "0")
	eventually(t, "kill all of the group", func() bool {
		procs := g.procs(t)
		for _, p := range procs {
			kill(t, p)
		}
		return len(procs) == 0
	})
}

func kill(t testing.TB, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil || n < 2 {
		t.Fatalf("pid %q: %v", pid, err)
	}
	fd, err := unix.PidfdOpen(n, 0)
	if err != nil {
		return // died meanwhile
	}
	defer unix.Close(fd)
	if name, _ := os.ReadFile("/proc/" + pid + "/cmdline"); !strings.Contains(string(name), "\x00load\x00") {
		return // another process by now
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func number(t testing.TB, path string) int {
	t.Helper()
	n, err := strconv.Atoi(read(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v, still not: %s", patience, what)
		}
	}
}

func start(t testing.TB, spec load.Spec) *load.Load {
	t.Helper()
	l, err := load.Start("/proc/self/exe", []string{"load"}, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, l) })
	return l
}

func stop(t testing.TB, l *load.Load) {
	t.Helper()
	if err := l.Stop(); err != nil {
		t.Error(err)
	}
}

func progress(t testing.TB, l *load.Load) int64 {
	t.Helper()
	n, err := l.Progress()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLoadIsInItsGroupsAndFirstToDie(t *testing.T) {
	g := newGroup(t, 256*mib, 200)
	l := start(t, load.Spec{Kind: load.Sleeper, Hold: 8 * mib, ProcsFiles: g.procsFiles()})

	pid := strconv.Itoa(l.PID())
	for _, f := range g.procsFiles() {
		if got := strings.Fields(read(t, f)); !slices.Equal(got, []string{pid}) {
			t.Errorf("%s holds %v, want %s alone", f, got, pid)
		}
	}
	if got := read(t, "/proc/"+pid+"/oom_score_adj"); got != "1000" {
		t.Errorf("oom_score_adj is %s, want 1000", got)
	}
	if got := progress(t, l); got != 8*mib {
		t.Errorf("a ready sleeper holds %d bytes, want 8 MiB", got)
	}
	if !l.Alive() {
		t.Error("a sleeper is dead at once")
	}
	stop(t, l)
	if l.Alive() || !l.Wait(0) {
		t.Error("alive after Stop")
	}
	stop(t, l)
}

func TestHogFillsWhenToldAndHolds(t *testing.T) {
	g := newGroup(t, 256*mib, 200)
	l := start(t, load.Spec{Kind: load.Hog, Bytes: 128*mib + 1, Hold: 32 * mib, ProcsFiles: g.procsFiles(), Held: true})
	if l.Wait(50*time.Millisecond) || progress(t, l) != 0 {
		t.Fatalf("alive %v, %d bytes touched before Go", l.Alive(), progress(t, l))
	}
	if usage := usageBytes(t, g); usage < 32*mib || usage > 100*mib {
		t.Errorf("before Go the group is charged %d bytes, want some more than the 32 MiB to hold", usage)
	}
	if err := l.Go(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "128 MiB touched", func() bool { return progress(t, l) == 128*mib })
	if rss := residentBytes(t, l.PID()); rss < 128*mib {
		t.Errorf("%d bytes resident, want 128 MiB or more", rss)
	}
	if !l.Alive() {
		t.Error("the hog does not hold what it filled")
	}
	if usage := usageBytes(t, g); usage < 160*mib {
		t.Errorf("the group is charged %d bytes, want 160 MiB or more", usage)
	}
}

func residentBytes(t testing.TB, pid int) int {
	t.Helper()
	pages, err := strconv.Atoi(strings.Fields(read(t, fmt.Sprintf("/proc/%d/statm", pid)))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func usageBytes(t testing.TB, g group) int {
	t.Helper()
	if g.memory == g.pids {
		return number(t, filepath.Join(g.memory, "memory.current"))
	}
	return number(t, filepath.Join(g.memory, "memory.usage_in_bytes"))
}

func TestHogIsNeverAheadOfItsRate(t *testing.T) {
	const rate = 32 * mib
	g := newGroup(t, 256*mib, 200)
	l := start(t, load.Spec{Kind: load.Hog, Bytes: 16 * mib, Rate: rate, ProcsFiles: g.procsFiles(), Held: true})
	begun := time.Now()
	if err := l.Go(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "16 MiB touched", func() bool {
		touched := progress(t, l)
		if most := int64(rate * time.Since(begun).Seconds()); touched > most {
			t.Fatalf("%d bytes touched, want at most %d", touched, most)
		}
		return touched == 16*mib
	})
}

func TestDelayComesBeforeTheFirstByte(t *testing.T) {
	g := newGroup(t, 64*mib, 200)
	l := start(t, load.Spec{Kind: load.Hog, Bytes: mib, Delay: time.Hour, ProcsFiles: g.procsFiles()})
	if l.Wait(50*time.Millisecond) || progress(t, l) != 0 {
		t.Errorf("alive %v, %d bytes touched inside the delay", l.Alive(), progress(t, l))
	}
}

func TestBombOutlivesItsFirstProcessAndDiesOnStop(t *testing.T) {
	// Each refused fork costs a whole one: more processes would take an emulated CPU for themselves.
	const pidsMax = 32
	g := newGroup(t, 256*mib, pidsMax)
	l := start(t, load.Spec{Kind: load.Bomb, Tasks: 1000, Deadline: beyondPatience, ProcsFiles: g.procsFiles()})
	eventually(t, "pids.max reached", func() bool { return g.tasks(t) == pidsMax })

	kill(t, strconv.Itoa(l.PID()))
	if !l.Wait(patience) {
		t.Fatal("the first process does not die")
	}
	for round := range 3 {
		before, procs := progress(t, l), g.procs(t)
		for _, p := range procs[len(procs)/2:] { // the younger half: their parents live
			kill(t, p)
		}
		// Not all are made up for: a fork whose parent is killed in the middle is not counted.
		eventually(t, fmt.Sprintf("forks after killing half, round %d", round), func() bool {
			return progress(t, l) >= before+int64(len(procs)/4) && g.tasks(t) == pidsMax
		})
	}
	stop(t, l)
	if n := g.tasks(t); n != 0 {
		t.Errorf("%d tasks left in the group after Stop", n)
	}
}

func TestBombKeepsToItsTasks(t *testing.T) {
	g := newGroup(t, 256*mib, 200)
	l := start(t, load.Spec{Kind: load.Bomb, Tasks: 20, ProcsFiles: g.procsFiles()})
	eventually(t, "19 forks", func() bool { return progress(t, l) >= 19 })
	if n := len(g.procs(t)); n != 20 {
		t.Errorf("%d processes, want 20", n)
	}
	kill(t, strconv.Itoa(l.PID()))
	eventually(t, "a fork in its place", func() bool { return progress(t, l) >= 20 })
	if n := len(g.procs(t)); n != 20 {
		t.Errorf("%d processes after one died, want 20", n)
	}
}

func TestOrphansStayZombiesWithoutReaping(t *testing.T) {
	for name, tc := range map[string]struct {
		noReap time.Duration
		left   func(tasks int) bool
	}{
		"not reaped for an hour": {time.Hour, func(tasks int) bool { return tasks >= 20 }},
		"reaped at once":         {0, func(tasks int) bool { return tasks == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 256*mib, 200)
			l := start(t, load.Spec{Kind: load.Bomb, Tasks: 20, NoReap: tc.noReap, Deadline: beyondPatience, ProcsFiles: g.procsFiles()})
			eventually(t, "20 processes", func() bool { return len(g.procs(t)) == 20 })
			g.killAll(t)
			eventually(t, "the tasks left as they should be", func() bool { return tc.left(g.tasks(t)) })
			stop(t, l)
			if n := g.tasks(t); n != 0 {
				t.Errorf("%d tasks left after Stop", n)
			}
		})
	}
}

func TestDeadlineEndsTheLoad(t *testing.T) {
	for name, spec := range map[string]load.Spec{
		"hog":  {Kind: load.Hog, Bytes: mib},
		"bomb": {Kind: load.Bomb, Tasks: 50},
	} {
		for _, keeper := range []string{"running", "stopped"} {
			t.Run(name+" with its keeper "+keeper, func(t *testing.T) {
				g := newGroup(t, 256*mib, 200)
				spec.ProcsFiles, spec.Deadline = g.procsFiles(), 2*time.Second
				l := start(t, spec)
				if keeper == "stopped" {
					if err := unix.Kill(parent(t, l.PID()), unix.SIGSTOP); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "something of it runs no more", func() bool { return len(g.procs(t)) == 0 })
				if !l.Wait(patience) {
					t.Error("the main process lives")
				}
			})
		}
	}
}

// parent is the keeper of a load that is alive.
func parent(t testing.TB, pid int) int {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if text, ok := strings.CutPrefix(line, "PPid:"); ok {
			ppid, err := strconv.Atoi(strings.TrimSpace(text))
			if err == nil && ppid > 1 && ppid != os.Getpid() {
				return ppid
			}
		}
	}
	t.Fatalf("no keeper of %d", pid)
	return 0
}

// startStarter starts a process that starts spec; prepare runs on its thread before.
func startStarter(t *testing.T, spec load.Spec, prepare func() error) (cmd *exec.Cmd, pid int) {
	t.Helper()
	arg, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("/proc/self/exe", "starter", string(arg))
	cmd.Stderr = os.Stderr
	if _, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with what prepare did to it
		if err := prepare(); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Skip("needs SCHED_FIFO:", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal("read the load's pid:", err)
	}
	return cmd, pid
}

func TestDeathOfTheStarterEndsTheLoad(t *testing.T) {
	g := newGroup(t, 256*mib, 64)
	spec := load.Spec{Kind: load.Bomb, Tasks: 1000, Deadline: beyondPatience, ProcsFiles: g.procsFiles()}
	cmd, _ := startStarter(t, spec, func() error { return nil })
	eventually(t, "pids.max reached", func() bool { return g.tasks(t) == 64 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the group is empty", func() bool { return g.tasks(t) == 0 })
}

func TestLoadOfARealTimeStarterIsAnOrdinaryTask(t *testing.T) {
	g := newGroup(t, 64*mib, 200)
	fifo := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	cmd, pid := startStarter(t, load.Spec{Kind: load.Sleeper, Hold: mib, ProcsFiles: g.procsFiles()},
		func() error { return unix.SchedSetAttr(0, fifo, 0) })

	if got := policy(t, cmd.Process.Pid); got.Policy != unix.SCHED_FIFO {
		t.Fatalf("the starter has policy %d; the test shows nothing", got.Policy)
	}
	for name, pid := range map[string]int{"load": pid, "keeper": parent(t, pid)} {
		if got := policy(t, pid); got.Policy != unix.SCHED_NORMAL || got.Nice != 0 {
			t.Errorf("the %s has policy %d, nice %d, want SCHED_OTHER, 0", name, got.Policy, got.Nice)
		}
	}
}

func policy(t testing.TB, pid int) *unix.SchedAttr {
	t.Helper()
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return attr
}

func TestStartRefuses(t *testing.T) {
	g := newGroup(t, 64*mib, 200)
	plain := filepath.Join(t.TempDir(), "cgroup.procs")
	for _, f := range []string{plain, filepath.Join(filepath.Dir(plain), "pids.max")} {
		if err := os.WriteFile(f, []byte("5"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gone := filepath.Join(g.pids, "gone", "cgroup.procs")
	for name, tc := range map[string]struct {
		spec load.Spec
		want error
		text string
	}{
		"unknown kind":              {load.Spec{Kind: "fork"}, load.ErrSpec, "fork"},
		"deadline over ten minutes": {load.Spec{Kind: load.Spinner, Deadline: time.Hour}, load.ErrSpec, "1h0m0s"},
		"negative rate":             {load.Spec{Kind: load.Hog, Bytes: mib, Rate: -1}, load.ErrSpec, "negative"},
		"hog without bytes":         {load.Spec{Kind: load.Hog, ProcsFiles: g.procsFiles()}, load.ErrSpec, "0 bytes"},
		"unknown fill":              {load.Spec{Kind: load.Hog, Bytes: mib, Fill: "swap", ProcsFiles: g.procsFiles()}, load.ErrSpec, "swap"},
		"bomb without tasks":        {load.Spec{Kind: load.Bomb, ProcsFiles: g.procsFiles()}, load.ErrSpec, "0 tasks"},
		"another file":              {load.Spec{Kind: load.Spinner, ProcsFiles: []string{"/etc/passwd"}}, load.ErrSpec, "/etc/passwd"},
		"hog without a cgroup":      {load.Spec{Kind: load.Hog, Bytes: mib}, load.ErrUnlimited, "memory.max"},
		"hog in the root cgroup":    {load.Spec{Kind: load.Hog, Bytes: mib, ProcsFiles: []string{"/sys/fs/cgroup/memory/cgroup.procs"}}, load.ErrUnlimited, "memory.max"},
		"sleeper without a cgroup":  {load.Spec{Kind: load.Sleeper, Hold: mib}, load.ErrUnlimited, "memory.max"},
		"bomb without pids.max":     {load.Spec{Kind: load.Bomb, Tasks: 9, ProcsFiles: []string{"/sys/fs/cgroup/cgroup.procs"}}, load.ErrUnlimited, "pids.max"},
		"vanished cgroup":           {load.Spec{Kind: load.Bomb, Tasks: 9, ProcsFiles: []string{gone}}, nil, gone},
		"no cgroup filesystem":      {load.Spec{Kind: load.Bomb, Tasks: 9, ProcsFiles: []string{plain}}, nil, "not on a cgroup filesystem"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := load.Start("/proc/self/exe", []string{"load"}, tc.spec)
			if err == nil {
				stop(t, l)
				t.Fatal("started")
			}
			if tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %q, want %v with %q", err, tc.want, tc.text)
			}
		})
	}
	if procs := g.procs(t); len(procs) > 0 {
		t.Errorf("%v run", procs)
	}
}

func TestProgramThatIsNoLoadIsAnError(t *testing.T) {
	newGroup(t, 64*mib, 200) // skips without root
	if l, err := load.Start("/bin/true", nil, load.Spec{Kind: load.Spinner}); err == nil {
		stop(t, l)
		t.Error("/bin/true passes for a load")
	}
}

// BenchmarkHog is the fill rate of a hog at full speed.
func BenchmarkHog(b *testing.B) {
	const size = 1024 * mib
	g := newGroup(b, size+256*mib, 200)
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		l := start(b, load.Spec{Kind: load.Hog, Bytes: size, ProcsFiles: g.procsFiles(), Held: true})
		b.StartTimer()
		if err := l.Go(); err != nil {
			b.Fatal(err)
		}
		for progress(b, l) < size {
			time.Sleep(100 * time.Microsecond)
		}
		b.StopTimer()
		stop(b, l)
		b.StartTimer()
	}
}

func TestEveryFillIsChargedToTheGroupAndMarked(t *testing.T) {
	for _, f := range load.Fills {
		t.Run(string(f), func(t *testing.T) {
			g := newGroup(t, 256*mib, 200)
			l := start(t, load.Spec{Kind: load.Hog, Bytes: 64 * mib, Fill: f, ProcsFiles: g.procsFiles()})
			eventually(t, "64 MiB filled", func() bool { return progress(t, l) == 64*mib })
			if usage := usageBytes(t, g); usage < 64*mib {
				t.Errorf("the group is charged %d bytes, want 64 MiB or more", usage)
			}
			marks := l.Marks()
			if len(marks) != 64*mib/load.MarkBytes || !slices.IsSorted(marks) {
				t.Errorf("%d marks, in order %v; want %d", len(marks), slices.IsSorted(marks), 64*mib/load.MarkBytes)
			}
		})
	}
}

func TestFaulterKeepsToItsBytes(t *testing.T) {
	g := newGroup(t, 256*mib, 200)
	l := start(t, load.Spec{Kind: load.Faulter, Bytes: 8 * mib, ProcsFiles: g.procsFiles()})
	eventually(t, "8 MiB faulted", func() bool { return usageBytes(t, g) > 8*mib })
	if usage := usageBytes(t, g); !l.Alive() || usage > 64*mib {
		t.Errorf("alive %v, charged %d bytes", l.Alive(), usage)
	}
}
