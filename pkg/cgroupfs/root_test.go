package cgroupfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The test binary is its own sleeper, so that the tests run where there is no sleep.
const roleEnv = "CGROUPFS_TEST_ROLE"

func init() {
	switch os.Getenv(roleEnv) {
	case "":
	case "sleep":
		time.Sleep(time.Minute)
		os.Exit(0)
	case "grow": // once moved, it holds 8 MiB
		_, _ = io.Copy(io.Discard, os.Stdin)
		held := make([]byte, 8<<20)
		for i := 0; i < len(held); i += 4096 {
			held[i] = 1
		}
		time.Sleep(time.Minute)
		runtime.KeepAlive(held)
		os.Exit(0)
	case "leaderless": // once moved, the first thread ends and another lives on
		_, _ = io.Copy(io.Discard, os.Stdin)
		go func() { time.Sleep(time.Minute); os.Exit(0) }()
		runtime.LockOSThread()
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root; `make test` has it")
	}
}

// start runs a child in a role, a member of the given cgroups.
func start(t *testing.T, role string, procsFiles ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	runtime.LockOSThread() // Pdeathsig is about the thread that forks
	t.Cleanup(runtime.UnlockOSThread)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	moved, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, file := range procsFiles {
		join(t, file, cmd.Process.Pid)
	}
	moved.Close()
	return cmd
}

func join(t *testing.T, file string, pid int) {
	t.Helper()
	if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what the kernel does on its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never came: %s", what)
}

func state(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), ") ")
	return after[:1]
}

// machine is this machine's own tree and a new cgroup in it.
func machine(t *testing.T) (*FS, string) {
	t.Helper()
	needRoot(t)
	return own(t, mustNew(t, "/sys/fs/cgroup"))
}

func own(t *testing.T, f *FS) (*FS, string) {
	t.Helper()
	path := fmt.Sprintf("/ebpf-evict-test-%d", os.Getpid())
	if err := f.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return f, path
}

// unified is the v2 side of this machine: all of it, or the part of a hybrid host. The
// latter has no memory controller, but processes and cgroup.kill.
func unified(t *testing.T) (*FS, string) {
	t.Helper()
	needRoot(t)
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
			return own(t, &FS{version: V2, memory: root, pids: root})
		}
	}
	t.Skip("needs a cgroup2 mount")
	return nil, ""
}

func TestRealTree(t *testing.T) {
	f, path := machine(t)
	if err := f.Create(path + "/child"); err != nil {
		t.Fatal(err)
	}
	c := mustOpen(t, f, path)
	cmd := start(t, "sleep", f.ProcsFiles(path+"/child")...)

	if err := errors.Join(c.SetMemoryMax(64<<20), c.SetPidsMax(32)); err != nil {
		t.Fatal(err)
	}
	got := read(t, c)
	want := figures{"max": 64 << 20, "pidsMax": 32}
	for _, name := range []string{"current", "inactive", "pids"} {
		v, ok := got[name]
		if !ok || v < 0 || v > 64<<20 {
			t.Errorf("%s is %d, %v", name, v, ok)
		}
		delete(got, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	procs, err := c.Procs(nil)
	if diff := cmp.Diff([]int{cmd.Process.Pid}, procs); diff != "" || err != nil {
		t.Errorf("processes: error %v, (-want +got)\n%s", err, diff)
	}
	if populated, err := c.Populated(); !populated || err != nil {
		t.Errorf("populated %v, %v", populated, err)
	}
	names, err := f.Children(path)
	if diff := cmp.Diff([]string{"child"}, names); diff != "" || err != nil {
		t.Errorf("children: error %v, (-want +got)\n%s", err, diff)
	}
	st, err := os.Stat(f.MemoryDir(path))
	if err != nil || st.Sys().(*syscall.Stat_t).Ino != c.MemoryID() || c.PidsID() == 0 {
		t.Errorf("ids %d and %d, directory %v, %v", c.MemoryID(), c.PidsID(), st, err)
	}
}

func TestRealZombieDoesNotPopulate(t *testing.T) {
	for name, tree := range map[string]func(*testing.T) (*FS, string){"memory tree": machine, "unified tree": unified} {
		t.Run(name, func(t *testing.T) {
			f, path := tree(t)
			c := mustOpen(t, f, path)
			cmd := start(t, "sleep", f.ProcsFiles(path)...)
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "unpopulated", func() bool {
				populated, err := c.Populated()
				return !populated && err == nil
			})
			if s := state(t, cmd.Process.Pid); s != "Z" {
				t.Errorf("the child is %s, the test needs it unreaped", s)
			}
		})
	}
}

func TestRealProcessWithoutItsFirstThreadPopulates(t *testing.T) {
	for name, tree := range map[string]func(*testing.T) (*FS, string){"memory tree": machine, "unified tree": unified} {
		t.Run(name, func(t *testing.T) {
			f, path := tree(t)
			c := mustOpen(t, f, path)
			cmd := start(t, "leaderless", f.ProcsFiles(path)...)
			eventually(t, "a zombie first thread", func() bool { return state(t, cmd.Process.Pid) == "Z" })
			if populated, err := c.Populated(); !populated || err != nil {
				t.Errorf("populated %v, %v: its other threads live", populated, err)
			}
			procs, err := c.Procs(nil)
			if diff := cmp.Diff([]int{cmd.Process.Pid}, procs); diff != "" || err != nil {
				t.Errorf("error %v, (-want +got)\n%s", err, diff)
			}
		})
	}
}

func TestRealRemovedCgroupIsGone(t *testing.T) {
	f, path := machine(t)
	if err := f.Create(path + "/child"); err != nil {
		t.Fatal(err)
	}
	c := mustOpen(t, f, path+"/child")
	if err := f.Remove(path + "/child"); err != nil {
		t.Fatal(err)
	}
	if err := f.Create(path + "/child"); err != nil {
		t.Fatal(err)
	}
	start(t, "sleep", f.ProcsFiles(path+"/child")...)
	for name, call := range map[string]func() error{
		"usage":  func() error { _, err := c.MemoryCurrentBytes(); return err },
		"pids":   func() error { _, err := c.PidsCurrent(); return err },
		"procs":  func() error { _, err := c.Procs(nil); return err },
		"events": func() error { _, err := c.Populated(); return err },
		"limit":  func() error { return c.SetPidsMax(1) },
	} {
		if err := call(); !errors.Is(err, ErrGone) {
			t.Errorf("%s: got %v, want ErrGone", name, err)
		}
	}
	if c.CanKill() {
		if err := c.Kill(); !errors.Is(err, ErrGone) {
			t.Errorf("kill: got %v, want ErrGone", err)
		}
	}
	if again := mustOpen(t, f, path+"/child"); again.MemoryID() == c.MemoryID() {
		t.Error("the new directory has the old id")
	}
}

func TestRealKill(t *testing.T) {
	f, path := unified(t)
	c := mustOpen(t, f, path)
	if !c.CanKill() {
		t.Skip("needs 5.14, cgroup.kill")
	}
	cmd := start(t, "sleep", f.ProcsFiles(path)...)
	bystander := start(t, "sleep")
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the child ended by %v", err)
	}
	if err := f.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(); !errors.Is(err, ErrGone) {
		t.Errorf("kill of a removed cgroup: got %v, want ErrGone", err)
	}
	if s := state(t, bystander.Process.Pid); s == "Z" {
		t.Error("the bystander was killed, too")
	}
}

func TestRealThreadedChildShowsInItsDomain(t *testing.T) {
	f, path := unified(t)
	if err := f.Create(path + "/threaded"); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(f.MemoryDir(path), "cgroup.subtree_control")
	_ = os.WriteFile(below, []byte("-memory -pids"), 0) // no controllers of domains beside processes
	threaded := mustOpen(t, f, path+"/threaded")
	if err := threaded.memory.write("cgroup.type", "threaded"); err != nil {
		t.Fatalf("make it threaded: %v", err)
	}
	cmd := start(t, "sleep", f.ProcsFiles(path)...)
	join(t, filepath.Join(f.MemoryDir(path+"/threaded"), "cgroup.threads"), cmd.Process.Pid)
	procs, err := mustOpen(t, f, path).Procs(nil)
	if diff := cmp.Diff([]int{cmd.Process.Pid}, procs); diff != "" || err != nil {
		t.Errorf("error %v, (-want +got)\n%s", err, diff)
	}
	procs, err = threaded.Procs(nil)
	if diff := cmp.Diff([]int{cmd.Process.Pid}, procs); diff != "" || err != nil {
		t.Errorf("threaded: error %v, (-want +got)\n%s", err, diff)
	}
	if err := threaded.Kill(); threaded.CanKill() && !errors.Is(err, ErrUnsupported) {
		t.Errorf("kill of a threaded cgroup: got %v, want ErrUnsupported", err)
	}
}

func TestRealThaw(t *testing.T) {
	f, path := machine(t)
	if f.freezer == "" {
		t.Skip("needs the v1 freezer")
	}
	if err := f.Create(path + "/child"); err != nil {
		t.Fatal(err)
	}
	c, child := mustOpen(t, f, path), mustOpen(t, f, path+"/child")
	cmd := start(t, "sleep", f.ProcsFiles(path+"/child")...)
	for _, frozen := range []*Cgroup{c, child} {
		// Whatever fails below, nothing may stay frozen: it could not be killed.
		t.Cleanup(func() { _ = frozen.freezer.write("freezer.state", "THAWED") })
		if err := frozen.freezer.write("freezer.state", "FROZEN"); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if populated, err := c.Populated(); !populated || err != nil {
		t.Errorf("frozen: populated %v, %v", populated, err)
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "death after the thaw", func() bool {
		populated, err := c.Populated()
		return !populated && err == nil
	})
}

func TestRealRemoveWaitsForTheDying(t *testing.T) {
	f, path := machine(t)
	if err := f.Create(path + "/a/b"); err != nil {
		t.Fatal(err)
	}
	cmd := start(t, "sleep", f.ProcsFiles(path+"/a/b")...)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(path + "/a"); err != nil {
		t.Error(err)
	}
	if _, err := f.Open(path + "/a"); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

func TestRealRemoveGivesUpOnTheLiving(t *testing.T) {
	f, path := machine(t)
	start(t, "sleep", f.ProcsFiles(path)...)
	if err := f.Remove(path); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want EBUSY", err)
	}
}

// By its id alone a cgroup is found, in either hierarchy, and once removed no more.
func TestRealCgroupIsFoundByItsID(t *testing.T) {
	needRoot(t)
	f, err := New("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	parent := "/cgroupfs-test-find-" + strconv.Itoa(os.Getpid())
	path := parent + "/a b/c"
	if err := f.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	c, err := f.OpenToRead(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := f.PathOfMemoryID(c.MemoryID()); got != path || err != nil {
		t.Errorf("by memory id: %q, %v, want %q", got, err, path)
	}
	if got, err := f.PathOfPidsID(c.PidsID()); got != path || err != nil {
		t.Errorf("by pids id: %q, %v, want %q", got, err, path)
	}
	before := f.Links(parent)
	if err := f.Remove(parent + "/a b"); err != nil {
		t.Fatal(err)
	}
	if after := f.Links(parent); before == 0 || after != 0 {
		t.Errorf("%d links and %d without the child, want some and none", before, after)
	}
	if got, err := f.PathOfMemoryID(c.MemoryID()); !errors.Is(err, ErrGone) {
		t.Errorf("removed: %q, %v, want ErrGone", got, err)
	}
}
