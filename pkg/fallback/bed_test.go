package fallback

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "load" {
		os.Exit(load.Main(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "member" {
		os.Exit(obey())
	}
	os.Exit(m.Run())
}

const (
	// memoryMax and pidsMax are the limits of the bed's cgroup: no load gets beyond.
	memoryMax = 128 << 20
	pidsMax   = 3000
	// patience bounds waits for what must come; no test measures it.
	patience = time.Minute
)

// bed is a limited cgroup, a watcher and the thread that looks.
type bed struct {
	testing.TB
	*Watcher
	fs     *cgroupfs.FS
	path   string
	memory Wire
	tasks  Wire
	wakes  int     // how often there was a reason to look
	one    *member // of the benchmark
}

func newBed(t testing.TB, tier Tier) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root; `make test` has it")
	}
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	b := &bed{TB: t, fs: fs, path: fmt.Sprintf("/fallback-test-%d-%d", os.Getpid(), time.Now().UnixNano())}
	must(t, fs.Create(b.path))
	t.Cleanup(func() { must(t, fs.Remove(b.path)) })
	c, err := fs.Open(b.path)
	must(t, err)
	defer c.Close()
	must(t, c.SetMemoryMax(memoryMax))
	must(t, c.SetPidsMax(pidsMax))
	b.memory = Wire{Scope: sample.ScopeCgroupMemory, Capacity: memoryMax, Cgroup: b.path, CgroupID: c.MemoryID()}
	b.tasks = Wire{Scope: sample.ScopeCgroupTasks, Capacity: pidsMax, Cgroup: b.path, CgroupID: c.PidsID()}
	b.Watcher, err = Open(Options{FS: fs, Tier: tier, Log: zerolog.New(zerolog.NewTestWriter(t))})
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	var info unix.Sysinfo_t
	must(t, unix.Sysinfo(&info))
	must(t, b.SetLimits(int64(info.Totalram)*int64(info.Unit), 1<<22))
	return b
}

// tiers are those that this kernel has for a scope.
func tiers(t *testing.T, scope sample.Scope, test func(*testing.T, *bed)) {
	t.Run("poll", func(t *testing.T) { test(t, newBed(t, Poll)) })
	t.Run("event", func(t *testing.T) {
		b := newBed(t, Event)
		if got, why := b.Tier(scope); got != Event {
			if isMemory(scope) && b.fs.Version() == cgroupfs.V2 {
				t.Skip(why)
			}
			if !isMemory(scope) && noProcEvents() {
				t.Skip(why)
			}
			t.Fatal(why)
		}
		test(t, b)
	})
}

// noProcEvents reports whether the kernel was built without the proc connector.
func noProcEvents() bool {
	_, err := os.Stat("/proc/net/connector")
	return err != nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place adds a wire, sets and arms it.
func (b *bed) place(set Wire) (index int, seq uint64) {
	b.Helper()
	index, err := b.AddWire(set.Scope)
	must(b, err)
	must(b, b.SetWire(index, set))
	return index, b.ArmWire(index)
}

// look waits as a caller's epoll would, and takes what there is.
func (b *bed) look(most time.Duration) (s sample.Sample, found bool) {
	b.Helper()
	fds := []unix.PollFd{{Fd: int32(b.CrossingsFD()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(most/time.Millisecond)); err == nil && n > 0 {
		b.wakes++
	}
	found, err := b.Next(&s)
	must(b, err)
	return s, found
}

// await returns the next crossing.
func (b *bed) await() sample.Sample {
	b.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if s, ok := b.look(time.Second); ok {
			return s
		}
	}
	b.Fatal("no crossing")
	return sample.Sample{}
}

// settle looks until nothing more is to be done at once, and wants no crossing.
func (b *bed) settle() {
	b.Helper()
	for range 20 {
		if s, ok := b.look(10 * time.Millisecond); ok {
			b.Fatalf("a crossing: %+v", s)
		}
	}
}

func (b *bed) start(spec load.Spec) *load.Load {
	b.Helper()
	spec.ProcsFiles, spec.Held = b.fs.ProcsFiles(b.path), true
	l, err := load.Start("/proc/self/exe", []string{"load"}, spec)
	must(b, err)
	b.Cleanup(func() { must(b, l.Stop()) })
	return l
}

// available is what is left of a wire's capacity, by the cgroup's own files.
func (b *bed) available(set Wire) int64 {
	b.Helper()
	c, err := b.fs.Open(b.path)
	must(b, err)
	defer c.Close()
	if set.Scope == sample.ScopeCgroupTasks {
		tasks, err := c.PidsCurrent()
		must(b, err)
		return set.Capacity - tasks
	}
	usage, err := c.MemoryCurrentBytes()
	must(b, err)
	inactive, err := c.InactiveFileBytes()
	must(b, err)
	return set.Capacity - max(0, usage-inactive)
}

// member is a process of ours in the bed's cgroup that does as it is told.
type member struct {
	testing.TB
	in  *json.Encoder
	out *bufio.Scanner
}

type task struct {
	// Forks are children to make. They end at once and stay zombies, which count, until it
	// is negative: then all are reaped.
	Forks int
	// File is to be written, in that size.
	File string
	Size int
}

func (b *bed) member() *member {
	b.Helper()
	cmd := exec.Command("/proc/self/exe", "member")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	runtime.LockOSThread() // Pdeathsig is about the thread that forks
	b.Cleanup(runtime.UnlockOSThread)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(b, cmd.Start())
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	for _, file := range b.fs.ProcsFiles(b.path) {
		must(b, os.WriteFile(file, []byte(fmt.Sprint(cmd.Process.Pid)), 0))
	}
	m := &member{b, json.NewEncoder(in), bufio.NewScanner(out)}
	m.fork(1) // its own threads have all been made
	m.fork(-1)
	return m
}

func (m *member) fork(n int) uint64 { return m.do(task{Forks: n}) }

// do returns CLOCK_MONOTONIC at the begin of the last fork.
func (m *member) do(t task) (ns uint64) {
	m.Helper()
	must(m, m.in.Encode(t))
	if !m.out.Scan() {
		m.Fatalf("the member ended: %v", m.out.Err())
	}
	must(m, json.Unmarshal(m.out.Bytes(), &ns))
	return ns
}

func obey() int {
	tasks := json.NewDecoder(os.Stdin)
	for {
		var t task
		if err := tasks.Decode(&t); err == io.EOF {
			return 0
		} else if err != nil {
			return 1
		}
		done := sample.Now()
		for range t.Forks {
			done = sample.Now()
			if !spawn() {
				return 1
			}
		}
		if t.File != "" && os.WriteFile(t.File, make([]byte, t.Size), 0o600) != nil {
			return 1
		}
		for t.Forks < 0 {
			if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
				break
			}
		}
		fmt.Println(done)
	}
}

// spawn makes a child that ends at once: a copy of this thread alone, in which nothing may
// call into the runtime.
//
//go:nosplit
//go:norace
func spawn() bool {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 && errno == 0 {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return errno == 0
}
