package actuator

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "load" {
		os.Exit(load.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

type bed struct {
	t    *testing.T
	fs   *cgroupfs.FS
	root string
}

func newBed(t *testing.T) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	b := &bed{t, fs, "/ebpf-evict-actuator-test-" + strconv.Itoa(os.Getpid())}
	must(t, fs.Create(b.root))
	t.Cleanup(func() { _ = fs.Remove(b.root) })
	b.limit(b.root, 256<<20, 150)
	return b
}

func (b *bed) limit(dir string, memoryBytes, tasks int64) {
	b.t.Helper()
	c, err := b.fs.Open(dir)
	must(b.t, err)
	defer c.Close()
	must(b.t, c.SetMemoryMax(memoryBytes))
	must(b.t, c.SetPidsMax(tasks))
}

// unit makes a cgroup and, unless kind is empty, a load in it.
func (b *bed) unit(name string, kind load.Kind) (workload.Unit, *load.Load) {
	b.t.Helper()
	dir := b.root + "/" + name
	must(b.t, b.fs.Create(dir))
	c, err := b.fs.Open(dir)
	must(b.t, err)
	defer c.Close()
	u := workload.Unit{
		Workload: workload.Workload{UID: dir, Cgroup: dir, ID: workload.Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()}},
		Targets:  []workload.Target{{Cgroup: dir}},
	}
	if kind == "" {
		return u, nil
	}
	spec := load.Spec{Kind: kind, ProcsFiles: b.fs.ProcsFiles(dir), Deadline: 2 * time.Minute}
	switch kind {
	case load.Bomb:
		spec.Tasks = 100
	case load.Sleeper:
		spec.Hold = 8 << 20
	}
	l, err := load.Start("/proc/self/exe", []string{"load"}, spec)
	must(b.t, err)
	b.t.Cleanup(func() { _ = l.Stop() })
	return u, l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

func TestStrikeAndFinishKillOneUnitAndNoOther(t *testing.T) {
	b := newBed(t)
	victim, dying := b.unit("victim", load.Sleeper)
	_, bystander := b.unit("bystander", load.Sleeper)
	h, err := Open(b.fs, &victim)
	must(t, err)
	defer h.Close()
	if _, err := h.Strike(); err != nil {
		t.Fatalf("strike: %v", err)
	}
	if out := h.Finish(monotonic, 30*time.Second); out.Err != nil || out.DeadNs == 0 {
		t.Fatalf("finish: %+v", out)
	}
	if dying.Alive() {
		t.Error("the victim lives")
	}
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
	if h.Busy() {
		t.Error("busy after Finish")
	}
}

// A directory made again under the name of a removed one is another unit.
func TestOldIdentityHitsNothingOfTheNewUnit(t *testing.T) {
	b := newBed(t)
	old, _ := b.unit("unit", "")
	h, err := Open(b.fs, &old)
	must(t, err)
	defer h.Close()
	must(t, b.fs.Remove(old.Cgroup))
	young, alive := b.unit("unit", load.Sleeper)
	if young.ID == old.ID {
		t.Skip("the kernel gave the same inode again")
	}
	if _, err := h.Strike(); !errors.Is(err, ErrGone) {
		t.Errorf("strike through the old handle: %v, want ErrGone", err)
	}
	if _, err := Open(b.fs, &old); !errors.Is(err, ErrGone) {
		t.Errorf("open with the old identity: %v, want ErrGone", err)
	}
	if !alive.Alive() {
		t.Error("the new unit died")
	}
}

// SIGKILL waits in a task that somebody froze on cgroup v1.
func TestFrozenUnitDies(t *testing.T) {
	b := newBed(t)
	if b.fs.Version() != cgroupfs.V1 {
		t.Skip("cgroup v2 kills frozen tasks by itself")
	}
	victim, dying := b.unit("frozen", load.Sleeper)
	must(t, os.WriteFile(filepath.Join("/sys/fs/cgroup/freezer", victim.Cgroup, "freezer.state"), []byte("FROZEN"), 0))
	h, err := Open(b.fs, &victim)
	must(t, err)
	defer h.Close()
	if _, err := h.Strike(); err != nil {
		t.Fatalf("strike: %v", err)
	}
	if out := h.Finish(monotonic, 30*time.Second); out.DeadNs == 0 {
		t.Errorf("finish: %+v", out)
	}
	if dying.Alive() {
		t.Error("the frozen unit lives")
	}
}
