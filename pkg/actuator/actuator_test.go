package actuator

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
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
		t.Fatal("needs root: makes cgroups; `make test` has it")
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
	return u, b.start(dir, kind)
}

// start runs a load in a cgroup.
func (b *bed) start(dir string, kind load.Kind) *load.Load {
	b.t.Helper()
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
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStrikeAndFinishKillOneUnitAndNoOther(t *testing.T) {
	b := newBed(t)
	victim, dying := b.unit("victim", load.Sleeper)
	_, bystander := b.unit("bystander", load.Sleeper)
	h, err := Open(b.fs, &victim)
	must(t, err)
	defer h.Close()
	if _, err := h.Strike(Culprit{}); err != nil {
		t.Fatalf("strike: %v", err)
	}
	if out := h.Finish(nil, sample.Now, 30*time.Second); out.Err != nil || out.DeadNs == 0 {
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
	if _, err := h.Strike(Culprit{}); !errors.Is(err, ErrGone) {
		t.Errorf("strike through the old handle: %v, want ErrGone", err)
	}
	if _, err := Open(b.fs, &old); !errors.Is(err, ErrGone) {
		t.Errorf("open with the old identity: %v, want ErrGone", err)
	}
	if !alive.Alive() {
		t.Error("the new unit died")
	}
}

// freeze freezes a cgroup and waits until it is.
func (b *bed) freeze(u workload.Unit) {
	b.t.Helper()
	file, word, state, want := filepath.Join("/sys/fs/cgroup/freezer", u.Cgroup, "freezer.state"), "FROZEN", "", "FROZEN\n"
	thawed := "THAWED"
	state = file
	if b.fs.Version() == cgroupfs.V2 {
		file, word, thawed = filepath.Join(b.fs.MemoryDir(u.Cgroup), "cgroup.freeze"), "1", "0"
		state, want = filepath.Join(b.fs.MemoryDir(u.Cgroup), "cgroup.events"), "frozen 1\n"
	}
	must(b.t, os.WriteFile(file, []byte(word), 0))
	b.t.Cleanup(func() { _ = os.WriteFile(file, []byte(thawed), 0) })
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(state)
		must(b.t, err)
		if strings.Contains(string(data), want) {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("%s never frozen: %q", u.Cgroup, data)
		}
	}
}

// SIGKILL waits in a task that somebody froze on v1, which Finish thaws. On v2 it does not,
// and the cgroup, frozen still, is unpopulated.
func TestFrozenUnitDies(t *testing.T) {
	b := newBed(t)
	victim, dying := b.unit("frozen", load.Sleeper)
	b.freeze(victim)
	h, err := Open(b.fs, &victim)
	must(t, err)
	defer h.Close()
	if _, err := h.Strike(Culprit{}); err != nil {
		t.Fatalf("strike: %v", err)
	}
	if out := h.Finish(nil, sample.Now, 30*time.Second); out.Err != nil || out.DeadNs == 0 {
		t.Errorf("finish: %+v", out)
	}
	if dying.Alive() {
		t.Error("the frozen unit lives")
	}
}

// A frozen task does not hear SIGTERM, and on v2 it can't be known whether the freezer wants
// it to: the grace runs, then SIGKILL ends it.
func TestFrozenUnitThatIsAskedToEndDies(t *testing.T) {
	b := newBed(t)
	victim, dying := b.unit("frozen", load.Sleeper)
	b.freeze(victim)
	h, err := Open(b.fs, &victim)
	must(t, err)
	defer h.Close()
	out := h.End(nil, sample.Now, 100*time.Millisecond, 30*time.Second, func() {})
	if out.Err != nil || out.DeadNs == 0 || dying.Alive() {
		t.Errorf("ended as %+v; it lives: %v", out, dying.Alive())
	}
}

// Threads of a process may be in cgroups of their own below its domain (v2), where neither
// cgroup.procs nor cgroup.kill work.
func TestUnitWithThreadedCgroupsBelowDies(t *testing.T) {
	b := newBed(t)
	if b.fs.Version() != cgroupfs.V2 {
		t.Skip("needs cgroup v2, where the memory controller is")
	}
	victim, _ := b.unit("domain", "")
	must(t, b.fs.Create(victim.Cgroup+"/threads"))
	// Both the domain and the memory controller, which is none of threads, are in the way.
	must(t, os.WriteFile(filepath.Join(b.fs.MemoryDir(victim.Cgroup), "cgroup.subtree_control"), []byte("-memory -pids"), 0))
	dying := b.start(victim.Cgroup, load.Sleeper)
	must(t, os.WriteFile(filepath.Join(b.fs.MemoryDir(victim.Cgroup), "threads", "cgroup.type"), []byte("threaded"), 0))
	must(t, os.WriteFile(filepath.Join(b.fs.MemoryDir(victim.Cgroup), "threads", "cgroup.threads"), []byte(strconv.Itoa(dying.PID())), 0))
	b.dies(&victim, dying)
}

// dies strikes and finishes a unit. A task has left its cgroup a moment before it is a zombie.
func (b *bed) dies(unit *workload.Unit, dying *load.Load) {
	b.t.Helper()
	h, err := Open(b.fs, unit)
	must(b.t, err)
	defer h.Close()
	if _, err := h.Strike(Culprit{}); err != nil {
		b.t.Fatalf("strike: %v", err)
	}
	if out := h.Finish(nil, sample.Now, 30*time.Second); out.Err != nil || out.DeadNs == 0 || !dying.Wait(time.Minute) {
		b.t.Errorf("finish: %+v; it lives: %v", out, dying.Alive())
	}
}

// A unit, or a pod's container, that somebody made threaded: it is killed process by process.
func TestUnitThatIsThreadedItselfDies(t *testing.T) {
	b := newBed(t)
	if b.fs.Version() != cgroupfs.V2 {
		t.Skip("needs cgroup v2, where the memory controller is")
	}
	pod, _ := b.unit("pod", "")
	must(t, b.fs.Create(pod.Cgroup+"/c"))
	must(t, os.WriteFile(filepath.Join(b.fs.MemoryDir(pod.Cgroup), "cgroup.subtree_control"), []byte("-memory -pids"), 0))
	dying := b.start(pod.Cgroup, load.Sleeper)
	must(t, os.WriteFile(filepath.Join(b.fs.MemoryDir(pod.Cgroup), "c", "cgroup.type"), []byte("threaded"), 0))
	must(t, os.WriteFile(filepath.Join(b.fs.MemoryDir(pod.Cgroup), "c", "cgroup.threads"), []byte(strconv.Itoa(dying.PID())), 0))
	pod.Targets = []workload.Target{{Cgroup: pod.Cgroup + "/c"}}
	b.dies(&pod, dying)
}

// A container that starts, or starts again, in a pod that is known already.
func TestHandleFitsOnlyTheTargetsItWasOpenedFor(t *testing.T) {
	b := newBed(t)
	pod, _ := b.unit("pod", "")
	b.unit("pod/first", "")
	pod.Targets = []workload.Target{{Cgroup: pod.Cgroup + "/first"}}
	h, err := Open(b.fs, &pod)
	must(t, err)
	defer h.Close()
	if !h.Fits(&pod) {
		t.Error("does not fit what it was opened for")
	}
	if ids := h.Targets(); len(ids) != 1 || ids[0] == pod.ID {
		t.Errorf("targets %v, want the container alone", ids)
	}
	grown := pod
	grown.Targets = append(grown.Targets[:1:1], workload.Target{Cgroup: pod.Cgroup + "/second"})
	if h.Fits(&grown) {
		t.Error("fits a pod with one more container")
	}
	must(t, b.fs.Remove(pod.Cgroup+"/first"))
	must(t, b.fs.Create(pod.Cgroup+"/first"))
	if h.Fits(&pod) {
		t.Error("fits a container made again under the same name")
	}
}

func TestKilledUnitThatRunsAgainIsRevived(t *testing.T) {
	b := newBed(t)
	u, _ := b.unit("unit", load.Sleeper)
	h, err := Open(b.fs, &u)
	must(t, err)
	defer h.Close()
	if h.Revived() {
		t.Error("revived before it was killed")
	}
	_, err = h.Strike(Culprit{})
	must(t, err)
	if out := h.Finish(nil, sample.Now, time.Minute); out.DeadNs == 0 {
		t.Fatalf("finish: %+v", out)
	}
	if h.Revived() {
		t.Error("revived while it is dead")
	}
	b.start(u.Cgroup, load.Sleeper)
	if !h.Revived() {
		t.Error("not revived with a new process in it")
	}
}

// Where nothing is held ready, the process that was seen is hit first.
func TestStrikeHitsTheCulpritOnlyInItsUnit(t *testing.T) {
	b := newBed(t)
	young, _ := b.unit("young", "")
	h, err := Open(b.fs, &young) // before its first process: nothing is held
	must(t, err)
	defer h.Close()
	if h.kernelKills() {
		t.Skip("cgroup.kill (v2, 5.14) needs no culprit")
	}
	_, bystander := b.unit("bystander", load.Sleeper)
	if _, err := h.Strike(Culprit{PID: bystander.PID(), Age: time.Minute}); !errors.Is(err, ErrGone) || !bystander.Alive() {
		t.Fatalf("a culprit of another unit: %v, it lives: %v", err, bystander.Alive())
	}
	if !h.Empty() {
		t.Error("not empty after a strike that hit nobody")
	}
	first, second := b.start(young.Cgroup, load.Sleeper), b.start(young.Cgroup, load.Sleeper)
	n, err := h.Strike(Culprit{PID: second.PID(), Age: time.Minute})
	if n != 1 || err != nil {
		t.Fatalf("struck %d, %v, want the culprit alone", n, err)
	}
	if !second.Wait(time.Minute) || !first.Alive() {
		t.Error("the culprit lives, or the other died with it")
	}
	must(t, h.Prepare())
	if h.Empty() {
		t.Error("empty with a process in it")
	}
}

// What runs is signalled sooner than what sleeps, and it is what crossed the wire.
func TestStrikeHitsACulpritJustSeenBeforeTheOthers(t *testing.T) {
	b := newBed(t)
	unit, held := b.unit("unit", load.Sleeper)
	h, err := Open(b.fs, &unit)
	must(t, err)
	defer h.Close()
	if h.kernelKills() {
		t.Skip("cgroup.kill (v2, 5.14) needs no culprit")
	}
	seen := b.start(unit.Cgroup, load.Sleeper)
	if n, err := h.Strike(Culprit{PID: seen.PID()}); n != 1 || err != nil {
		t.Fatalf("struck %d, %v", n, err)
	}
	if !seen.Wait(time.Minute) || !held.Alive() {
		t.Error("the culprit lives, or the other was hit first")
	}
	if n := h.StrikeOthers(); n != 1 || !held.Wait(time.Minute) {
		t.Errorf("%d others hit, want one, and dead", n)
	}
}

// By its number: cgroup.kill waits for whoever has the lock of all cgroups.
func TestStrikeHitsACulpritJustSeenWhereverItIs(t *testing.T) {
	b := newBed(t)
	unit, own := b.unit("unit", load.Sleeper)
	_, seen := b.unit("elsewhere", load.Sleeper) // which the agent does not ask for: Culprit
	h, err := Open(b.fs, &unit)
	must(t, err)
	defer h.Close()
	_, err = h.Strike(Culprit{PID: seen.PID()})
	must(t, err)
	if !seen.Wait(time.Minute) {
		t.Error("who was seen lives")
	}
	h.Finish(nil, sample.Now, time.Minute)
	if own.Alive() {
		t.Error("the unit lives")
	}
}

// Who was hit was killed by us, also if the unit ended by that.
func TestStrikeOfALastProcessIsNoneOfAUnitThatIsGone(t *testing.T) {
	b := newBed(t)
	unit, _ := b.unit("unit", "")
	_, seen := b.unit("elsewhere", load.Sleeper)
	h, err := Open(b.fs, &unit)
	must(t, err)
	defer h.Close()
	must(t, b.fs.Remove(unit.Cgroup))
	if n, err := h.Strike(Culprit{PID: seen.PID()}); n != 1 || err != nil {
		t.Errorf("struck %d, %v, want the one that was hit", n, err)
	}
	h.Finish(nil, sample.Now, time.Minute)
}

// A pid that was listed may be another process by the time it is opened.
func TestProcessOfAnotherUnitIsNotHeldReady(t *testing.T) {
	b := newBed(t)
	unit, own := b.unit("unit", load.Sleeper)
	_, stranger := b.unit("stranger", load.Sleeper)
	h, err := Open(b.fs, &unit)
	must(t, err)
	defer h.Close()
	var leads []lead
	for _, l := range []*load.Load{own, stranger} {
		fd, err := unix.PidfdOpen(l.PID(), 0)
		must(t, err)
		leads = append(leads, lead{l.PID(), fd})
	}
	kept, err := h.stillMembers(leads)
	must(t, err)
	defer closeLeads(kept)
	if len(kept) != 1 || kept[0].pid != own.PID() {
		t.Errorf("held %+v, want process %d alone", kept, own.PID())
	}
}
