package loader

import (
	"encoding/binary"
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
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// emptyCharge is what the kernel says to a program that does nothing on the function of the
// charge hook: whether it allows any there.
func emptyCharge() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: "page_counter_try_charge", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	hook, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err != nil {
		return err
	}
	return hook.Close()
}

func TestMemoryTierIsTheBestThatTheKernelTakes(t *testing.T) {
	refused := emptyCharge()
	best := open(t, Options{})
	alloc := open(t, Options{MemoryTier: TierAlloc})
	if alloc.MemoryTier() != TierAlloc || alloc.ChargeRefused() != nil {
		t.Errorf("%s was asked for: got %s, refused: %v", TierAlloc, alloc.MemoryTier(), alloc.ChargeRefused())
	}
	charge, err := Open(Options{MemoryTier: TierCharge})
	if err == nil {
		defer func() { _ = charge.Close() }()
	}
	if refused == nil {
		if best.MemoryTier() != TierCharge || best.ChargeRefused() != nil || err != nil || charge.MemoryTier() != TierCharge {
			t.Fatalf("the kernel allows the hook: got %s, refused: %v; forced: %v", best.MemoryTier(), best.ChargeRefused(), err)
		}
		return
	}
	t.Logf("the kernel refuses it: %v", best.ChargeRefused())
	if best.MemoryTier() != TierAlloc || !errors.Is(best.ChargeRefused(), syscall.EPERM) || strings.Contains(best.ChargeRefused().Error(), "MEMLOCK") {
		t.Errorf("got %s, refused: %v; want %s, and the kernel's own words of %v", best.MemoryTier(), best.ChargeRefused(), TierAlloc, refused)
	}
	if !errors.Is(err, syscall.EPERM) {
		t.Errorf("forced: %v, want the same words", err)
	}
	if err := best.Arm(); err != nil {
		t.Errorf("what is left can't be attached: %v", err)
	}
}

func TestUnknownMemoryTierIsRefused(t *testing.T) {
	if l, err := Open(Options{MemoryTier: "bpf"}); err == nil || !strings.Contains(err.Error(), TierCharge) {
		t.Errorf("%v, want the tiers that there are", err)
	} else if l != nil {
		t.Error("a loader came with the error")
	}
}

// openCharged skips where the kernel allows nobody a program there, and no sooner.
func openCharged(t *testing.T, o Options) *Loader {
	t.Helper()
	if err := emptyCharge(); err != nil {
		t.Skipf("needs fentry of page_counter_try_charge, which this kernel refuses to an empty program too: %v", plain(err))
	}
	o.MemoryTier = TierCharge
	return open(t, o)
}

const (
	stepBytes = 16 << 12
	// batchBytes is what is charged at once and used up without an event (MEMCG_CHARGE_BATCH
	// of mm/memcontrol.c; 32 before 5.12).
	batchBytes = 64 << 12
)

// filler is a process in a cgroup that takes memory step by step.
type filler struct {
	t      *testing.T
	cmd    *exec.Cmd
	order  io.WriteCloser
	answer io.Reader
	base   uintptr // of its memory
}

// newFiller starts one of a kind of fill; dir is where its files lie.
func newFiller(t *testing.T, kind, dir string, cgroups ...string) *filler {
	t.Helper()
	f := &filler{t: t, cmd: exec.Command("/proc/self/exe")}
	f.cmd.Args = []string{"fill", kind, dir}
	f.cmd.Stderr = os.Stderr
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if f.order, err = f.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if f.answer, err = f.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // whose death is the child's
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.end)
	f.base = f.told()
	for _, dir := range cgroups {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(f.cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *filler) end() {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
	runtime.UnlockOSThread()
}

func (f *filler) told() uintptr {
	f.t.Helper()
	answer := make([]byte, 8)
	if _, err := io.ReadFull(f.answer, answer); err != nil {
		f.t.Fatalf("the filler says nothing: %v", err)
	}
	return uintptr(binary.NativeEndian.Uint64(answer))
}

// step has it take stepBytes more, and returns when it has them.
func (f *filler) step() {
	f.t.Helper()
	if _, err := f.order.Write([]byte{1}); err != nil {
		f.t.Fatal(err)
	}
	f.told()
}

const mostFill = 64 << 20

// fill is the process of a filler.
func fill(args []string) {
	step, err := stepper(args[0], args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "fill", args[0]+":", err)
		return // the test reads no answer
	}
	order, answer := make([]byte, 1), make([]byte, 8)
	for n := 0; ; n++ {
		at, err := step(n)
		if err != nil {
			fmt.Fprintln(os.Stderr, "fill", args[0]+":", err)
			return
		}
		binary.NativeEndian.PutUint64(answer, uint64(at))
		if _, err := os.Stdout.Write(answer); err != nil {
			return
		}
		if _, err := os.Stdin.Read(order); err != nil {
			return
		}
	}
}

// stepper returns what takes one step more. Its result is where the memory lies.
func stepper(kind, dir string) (func(n int) (uintptr, error), error) {
	data := make([]byte, stepBytes)
	switch kind {
	case "4k", "populated", "hugetlb":
		flags := unix.MAP_PRIVATE | unix.MAP_ANON
		if kind == "hugetlb" {
			flags |= unix.MAP_HUGETLB
		}
		mem, err := unix.Mmap(-1, 0, mostFill, unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_NORESERVE)
		if err != nil {
			return nil, err
		}
		base := uintptr(unsafe.Pointer(&mem[0]))
		if kind == "hugetlb" { // each step is one huge page
			return func(n int) (uintptr, error) { mem[n*hugePage] = 1; return base, nil }, nil
		}
		// No huge pages, which are charged 512 at once, in what is mapped later either.
		if err := errors.Join(unix.Madvise(mem, unix.MADV_NOHUGEPAGE), unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)); err != nil {
			return nil, err
		}
		return func(n int) (uintptr, error) {
			part := mem[n*stepBytes : (n+1)*stepBytes]
			if kind == "populated" {
				_, err := unix.Mmap(-1, 0, stepBytes, unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_POPULATE)
				return base, err
			}
			for i := 0; i < len(part); i += 4096 {
				part[i] = 1
			}
			return base, nil
		}, nil
	case "file":
		f, err := os.Create(filepath.Join(dir, "fill"))
		return func(int) (uintptr, error) { _, err := f.Write(data); return 0, err }, err
	case "kernel": // a pipe's pages are the kernel's, charged to who writes
		return func(int) (uintptr, error) {
			fds := make([]int, 2)
			if err := unix.Pipe2(fds, unix.O_NONBLOCK); err != nil {
				return 0, err
			}
			_, err := unix.Write(fds[1], data)
			return 0, err
		}, nil
	}
	return nil, fmt.Errorf("unknown")
}

const hugePage = 2 << 20

// nest makes a cgroup with one below it, both with the memory controller.
func nest(t *testing.T) (parent, leaf cgroupDirs) {
	t.Helper()
	parent = newNamedCgroup(t, "parent")
	if parent.memory == parent.pids {
		if err := os.WriteFile(filepath.Join(parent.memory, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			t.Fatal(err)
		}
	}
	parent.usageFile, leaf.usageFile = newCgroup(t).usageFile, newCgroup(t).usageFile
	leaf.memory, leaf.pids = filepath.Join(parent.memory, "leaf"), filepath.Join(parent.pids, "leaf")
	for _, dir := range []string{leaf.memory, leaf.pids} {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
	}
	return parent, leaf
}

func mount(t *testing.T, fstype string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, fstype, 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fills are what takes memory, and on which file system.
var fills = []struct{ name, kind, fs string }{
	{"4 KiB pages", "4k", ""},
	{"populated at once", "populated", ""},
	{"tmpfs", "file", "tmpfs"},
	{"page cache", "file", "ramfs"},
	{"kernel memory", "kernel", ""},
}

func cssOf(t *testing.T, l *Loader, dir string) (css uint32, id uint64) {
	t.Helper()
	if _, err := l.Walk(); err != nil {
		t.Fatal(err)
	}
	id = inode(t, dir)
	if css = l.Find(Memory, id); css == 0 {
		t.Fatalf("no row of %s", dir)
	}
	return css, id
}

// Whatever is charged, the rows of the cgroup and of its parent are what memory.current says,
// within one batch.
func TestEachChargeRefreshesTheRowsOfTheCgroupAndItsAncestors(t *testing.T) {
	for _, tc := range fills {
		t.Run(tc.name, func(t *testing.T) {
			l := openCharged(t, Options{DeltaBytes: 4096})
			parent, leaf := nest(t)
			dir := ""
			if tc.fs != "" {
				dir = mount(t, tc.fs)
			}
			f := newFiller(t, tc.kind, dir, leaf.memory)
			leafCSS, leafID := cssOf(t, l, leaf.memory)
			parentCSS, parentID := cssOf(t, l, parent.memory)
			before := l.Node().Charges
			charged, worst := readInt(t, filepath.Join(leaf.memory, leaf.usageFile)), int64(0)
			const steps = 128
			for n := range steps {
				f.step()
				for _, of := range []struct {
					what string
					dir  cgroupDirs
					css  uint32
					id   uint64
				}{{"leaf", leaf, leafCSS, leafID}, {"parent", parent, parentCSS, parentID}} {
					row, ok := l.Row(Memory, of.css, of.id)
					file := readInt(t, filepath.Join(of.dir.memory, of.dir.usageFile))
					off := file - row.Usage
					worst = max(worst, off, -off)
					if !ok || off > batchBytes || off < -batchBytes {
						t.Fatalf("step %d, %s: row %d, file %d (%v)", n, of.what, row.Usage, file, ok)
					}
				}
			}
			charged = readInt(t, filepath.Join(leaf.memory, leaf.usageFile)) - charged
			events := int64(l.Node().Charges - before)
			if charged < steps*stepBytes/2 || events < charged/batchBytes-1 {
				t.Errorf("%d bytes charged, %d events", charged, events)
			}
			t.Logf("%d bytes charged, %d events, worst difference %d bytes", charged, events, worst)
		})
	}
}

// A crossing is reported when it is one, not before, and at the latest one batch after; by the
// cgroup that is charged and the process that filled.
func TestCrossingIsSeenWithinOneBatch(t *testing.T) {
	const capacity, room = 1 << 30, 2 << 20
	for _, tc := range fills {
		t.Run(tc.name, func(t *testing.T) {
			l := openCharged(t, Options{})
			parent, leaf := nest(t)
			dir := ""
			if tc.fs != "" {
				dir = mount(t, tc.fs)
			}
			f := newFiller(t, tc.kind, dir, leaf.memory)
			_, leafID := cssOf(t, l, leaf.memory)
			css, id := cssOf(t, l, parent.memory)
			usage := filepath.Join(parent.memory, parent.usageFile)
			most := readInt(t, usage) + room
			index, err := l.AddWire(sample.ScopeCgroupMemory)
			if err != nil {
				t.Fatal(err)
			}
			l.SetWire(index, Wire{Scope: sample.ScopeCgroupMemory, Limit: capacity - most, Capacity: capacity, CgroupID: id, CSSID: css})
			seq := l.ArmWire(index)
			for n := 0; ; n++ {
				f.step()
				// A timer's look is no earlier, but may be what finds it: between two batches.
				found, now := drain(t, l), readInt(t, usage)
				if len(found) == 0 {
					if now > most+2*batchBytes {
						t.Fatalf("step %d: %d bytes in use, %d beyond the wire, and no record", n, now, now-most)
					}
					continue
				}
				s := found[0]
				if used := capacity - s.Available; used <= most || used > most+batchBytes || used > now {
					t.Errorf("reported with %d in use, want within a batch beyond %d; the file says %d", used, most, now)
				}
				if s.By == sample.ObserverTimer {
					t.Fatalf("seen by the timer: this test sees little; %+v", s)
				}
				if s.By != sample.ObserverCharge || s.Seq != seq || s.CgroupID != leafID || s.TGID != uint32(f.cmd.Process.Pid) || s.Atomic {
					t.Errorf("%+v, want sequence %d, cgroup %d, process %d by the charge hook", s, seq, leafID, f.cmd.Process.Pid)
				}
				break
			}
			if l.Armed() {
				t.Error("the allocation hook is attached")
			}
		})
	}
}

// memory.available of the node, with one CPU's batch and what each CPU has not folded yet.
func TestNodeWireIsSeenByTheChargeHook(t *testing.T) {
	l := openCharged(t, Options{MarginBytes: 1})
	cg := newCgroup(t)
	f := newFiller(t, "4k", "", cg.memory)
	node, err := l.Look()
	if err != nil {
		t.Fatal(err)
	}
	limit := node.MemTotalBytes - node.AnonBytes - node.FileBytes + node.InactiveFileBytes - (8 << 20)
	index, err := l.AddWire(sample.ScopeNodeMemory)
	if err != nil {
		t.Fatal(err)
	}
	l.SetWire(index, Wire{Scope: sample.ScopeNodeMemory, Limit: limit})
	l.ArmWire(index)
	for n := 0; n < mostFill/stepBytes-1; n++ {
		f.step()
		for _, s := range drain(t, l) {
			slack := int64(batchBytes + runtime.NumCPU()*3*125*4096)
			if s.By != sample.ObserverCharge || limit-s.Available > slack || s.TGID != uint32(f.cmd.Process.Pid) {
				t.Errorf("%+v, %d bytes beyond the wire, want at most %d, by the charge hook from process %d", s, limit-s.Available, slack, f.cmd.Process.Pid)
			}
			return
		}
	}
	t.Error("not seen")
}

// Who runs is not always who is charged: a debugger's write into another's memory is
// charged to that other's cgroup, and nobody in that one ran.
func TestCrossingByAnothersHandHasNoCulprit(t *testing.T) {
	l := openCharged(t, Options{})
	cg := newCgroup(t)
	f := newFiller(t, "4k", "", cg.memory)
	css, id := cssOf(t, l, cg.memory)
	index, err := l.AddWire(sample.ScopeCgroupMemory)
	if err != nil {
		t.Fatal(err)
	}
	l.SetWire(index, Wire{Scope: sample.ScopeCgroupMemory, Limit: 1 << 40, Capacity: 1 << 30, CgroupID: id, CSSID: css}) // crossed as it is
	data := make([]byte, mostFill/2)
	local := []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	remote := []unix.RemoteIovec{{Base: f.base + stepBytes, Len: len(data)}}
	before := ktime(t)
	l.ArmWire(index)
	if n, err := unix.ProcessVMWritev(f.cmd.Process.Pid, local, remote, 0); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	for _, s := range drain(t, l) {
		if s.By != sample.ObserverCharge || s.Ns < before {
			continue
		}
		if s.CgroupID != id || s.CSSID != css || s.TGID != 0 || s.TID != 0 {
			t.Errorf("%+v, want cgroup %d, and no process", s, id)
		}
		return
	}
	t.Error("not seen by the charge hook")
}

// The same function charges hugetlb's counters, which are no memory cgroup's.
func TestChargesOfOtherCountersAreRejected(t *testing.T) {
	l := openCharged(t, Options{})
	const pool = "/proc/sys/vm/nr_hugepages"
	former := readInt(t, pool)
	if err := os.WriteFile(pool, []byte(strconv.FormatInt(former+8, 10)), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(pool, []byte(strconv.FormatInt(former, 10)), 0) })
	if got := readInt(t, pool); got < former+8 {
		t.Fatalf("%d huge pages, want %d", got, former+8)
	}
	cg := newCgroup(t)
	before := l.Node().ForeignCharges
	f := newFiller(t, "hugetlb", "", cg.memory)
	css, id := cssOf(t, l, cg.memory)
	for range 4 {
		f.step()
	}
	if got := l.Node().ForeignCharges - before; got < 5 { // the first page was taken at the start
		t.Errorf("%d foreign charges for 5 huge pages", got)
	}
	row, _ := l.Row(Memory, css, id)
	if file := readInt(t, filepath.Join(cg.memory, cg.usageFile)); row.Usage > file+batchBytes {
		t.Errorf("row %d, file %d: somebody else's counter was taken for it", row.Usage, file)
	}
	t.Logf("%d foreign charges", l.Node().ForeignCharges-before)
}

// What the hook makes of a counter is tried on every kernel: of all counters in a memory
// cgroup, and of all addresses beside the right one, that alone is a memory cgroup's.
func TestOnlyTheMemoryCounterIsAMemoryCgroups(t *testing.T) {
	l := open(t, Options{})
	cg := newCgroup(t)
	css, id := cssOf(t, l, cg.memory)
	size, offsets := counterOffsets(t)
	memory := offsets["memory"]
	delete(offsets, "memory")
	if got := l.resolve(t, css, id, 0); got != css {
		t.Fatalf("the memory counter is row %d's, want %d", got, css)
	}
	for name, offset := range offsets {
		if got := l.resolve(t, css, id, offset-memory); got != 0 {
			t.Errorf("counter %s was taken for the memory of row %d", name, got)
		}
	}
	for offset := 8 - size; offset < size; offset += 8 { // behind that, its neighbours may be memory cgroups
		if got := l.resolve(t, css, id, offset); got != 0 && offset != 0 {
			t.Errorf("an address %d bytes beside was taken for the memory of row %d", offset, got)
		}
	}
	if len(offsets) == 0 {
		t.Error("there is no other counter: this test sees little")
	}
}

func (l *Loader) resolve(t *testing.T, css uint32, id uint64, offset int64) uint32 {
	t.Helper()
	r := newTestRun(l.objs.Resolve.FD())
	r.args[0], r.args[1], r.args[2] = uint64(css), id, uint64(offset)
	got, err := r.run()
	if err != nil || int32(got) < 0 {
		t.Fatal(int32(got), err)
	}
	return got
}

// counterOffsets are where the page counters of a memory cgroup lie, by name, and its size; in
// bytes.
func counterOffsets(t *testing.T) (size int64, found map[string]int64) {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var memcg *btf.Struct
	if err := kernel.TypeByName("mem_cgroup", &memcg); err != nil {
		t.Fatal(err)
	}
	found = map[string]int64{}
	var collect func(members []btf.Member, base int64)
	collect = func(members []btf.Member, base int64) {
		for _, m := range members {
			at := base + int64(m.Offset.Bytes())
			switch typ := btf.UnderlyingType(m.Type).(type) {
			case *btf.Struct:
				if typ.Name == "page_counter" {
					found[m.Name] = at
				}
			case *btf.Union:
				collect(typ.Members, at)
			}
		}
	}
	collect(memcg.Members, 0)
	return int64(memcg.Size), found
}

// Tasks in the root are charged to nobody: the timer sees what they fill, and asks for the
// allocation hook.
func TestTimerSeesWhatNobodyIsChargedFor(t *testing.T) {
	l := openCharged(t, Options{MarginBytes: 1 << 40, FillBytesPerSecond: 1 << 30})
	node, err := l.Look()
	if err != nil {
		t.Fatal(err)
	}
	limit := node.MemTotalBytes - node.AnonBytes - node.FileBytes + node.InactiveFileBytes - (32 << 20)
	index, err := l.AddWire(sample.ScopeNodeMemory)
	if err != nil {
		t.Fatal(err)
	}
	l.SetWire(index, Wire{Scope: sample.ScopeNodeMemory, Limit: limit})
	l.ArmWire(index)
	if err := l.Tick(); err != nil {
		t.Fatal(err)
	}
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root += "/memory"
	}
	f := newFiller(t, "4k", "", root)
	for range mostFill/stepBytes - 1 {
		f.step()
	}
	var crossed *sample.Sample
	asked := false
	for end := ktime(t) + 30e9; (crossed == nil || !asked) && ktime(t) < end; {
		var s sample.Sample
		if ok, err := l.Next(&s); err != nil {
			t.Fatal(err)
		} else if ok {
			asked = asked || s.Kind == sample.KindArm
			if s.Kind == sample.KindCrossing {
				crossed = &s
			}
		}
	}
	if crossed == nil || crossed.By == sample.ObserverAlloc || !asked {
		t.Errorf("crossing %+v, asked %v", crossed, asked)
	}
	if l.Node().UnchargedNs == 0 {
		t.Error("nobody was charged for 64 MiB, and it was not noticed")
	}
}

// A condemned cgroup's task dies at its next charge, with the allocation hook off.
func TestCondemnedDiesWhenItIsCharged(t *testing.T) {
	l := openCharged(t, Options{})
	cg, other := newNamedCgroup(t, "condemned"), newNamedCgroup(t, "other")
	f, bystander := newFiller(t, "4k", "", cg.memory), newFiller(t, "4k", "", other.memory)
	slot := l.Condemn(inode(t, cg.memory), 1<<62)
	defer l.Pardon(slot)
	for range 32 {
		bystander.step()
	}
	answer := make([]byte, 8)
	for range mostFill/stepBytes - 1 {
		if _, err := f.order.Write([]byte{1}); err != nil {
			break
		}
		if _, err := io.ReadFull(f.answer, answer); err != nil {
			break // it is dead
		}
	}
	if err := f.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v, want SIGKILL", err)
	}
	if l.SignalsSent() == 0 || l.Armed() {
		t.Errorf("%d signals by the hooks; the allocation hook is attached: %v", l.SignalsSent(), l.Armed())
	}
}

// Who is out of reach of the timer dies when it is charged: by bpf_send_signal, on every kernel.
func TestBackstopKillsWhoIsCharged(t *testing.T) {
	l := openCharged(t, Options{})
	if l.Reach() == ReachNone {
		t.Skip("needs 5.15, bpf_timer")
	}
	cg := newNamedCgroup(t, "nominee")
	f := newFiller(t, "4k", "", cg.memory)
	css, id := cssOf(t, l, cg.memory)
	index, err := l.AddWire(sample.ScopeCgroupMemory)
	if err != nil {
		t.Fatal(err)
	}
	usage := readInt(t, filepath.Join(cg.memory, newCgroup(t).usageFile))
	l.SetWire(index, Wire{Scope: sample.ScopeCgroupMemory, Limit: 1 << 20, Capacity: usage + 4<<20, CgroupID: id, CSSID: css})
	l.ArmWire(index)
	l.nominateOrFail(t, index, Nominee{
		Intent:   Intent{ID: [16]byte{7}, Cgroup: cg.memory, UID: cg.memory, Signal: "memory.available"},
		MemoryID: id, UnitID: id, UnitCSS: css, Use: usage, Least: 1, Available: 4 << 20, Others: 1 << 40,
	})
	l.SetGrace(0)
	if !l.License(ktime(t) + 60e9) {
		t.Fatal("no licence")
	}
	answer := make([]byte, 8)
	for range mostFill/stepBytes - 1 {
		if _, err := f.order.Write([]byte{1}); err != nil {
			break
		}
		if _, err := io.ReadFull(f.answer, answer); err != nil {
			break // it is dead
		}
	}
	if err := f.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v, want SIGKILL", err)
	}
	k, ok := l.TakeNote()
	if !ok || k.By != sample.ObserverCharge || l.Armed() {
		t.Errorf("%+v, %v, want a kill seen by the charge hook; the allocation hook is attached: %v", k, ok, l.Armed())
	}
	l.FreeIntent(k.Slot)
}
