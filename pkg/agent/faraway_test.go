package agent

import (
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// watch is a kernel side without an agent, which a test answers for.
func (b *bed) watch(fillPerSecond, margin int64) *loader.Loader {
	b.t.Helper()
	kernel, err := loader.Open(loader.Options{FillBytesPerSecond: fillPerSecond, MarginBytes: margin, MemoryTier: b.tier, Log: zerolog.Nop()})
	must(b.t, err)
	b.t.Cleanup(func() { must(b.t, kernel.Close()) })
	_, err = kernel.Walk()
	must(b.t, err)
	return kernel
}

// wire arms a wire on a cgroup below the root that fires when that has used so much.
func (b *bed) wire(kernel *loader.Loader, scope sample.Scope, unit string, capacity, used int64) int {
	b.t.Helper()
	c := b.cgroup(unit)
	controller, id := loader.Memory, c.MemoryID()
	if scope == sample.ScopeCgroupTasks {
		controller, id = loader.Pids, c.PidsID()
	}
	for _, row := range kernel.Index(controller, nil) {
		if row.CgroupID == id {
			index, err := kernel.AddWire(scope)
			must(b.t, err)
			kernel.SetWire(index, loader.Wire{Scope: scope, Limit: capacity - used, Capacity: capacity, CgroupID: id, CSSID: row.CSSID})
			kernel.ArmWire(index)
			return index
		}
	}
	b.t.Fatalf("no row of %q", unit)
	return -1
}

// As fast as this machine fills, from far, with the hook detached: the crossing is seen, by
// the timer's bridge when nobody answers its ask, by either when the hook comes.
func TestFastestFillsFromFarAreSeen(t *testing.T) {
	for _, fill := range load.Fills {
		t.Run(string(fill)+", nobody answers", func(t *testing.T) { fillFromFar(t, fill, false) })
		t.Run(string(fill)+", the hook is attached when the timer asks", func(t *testing.T) { fillFromFar(t, fill, true) })
	}
}

func fillFromFar(t *testing.T, fill load.Fill, answers bool) {
	const (
		capacity, used = 512 << 20, 384 << 20
		margin         = 128 << 20
	)
	b := newBed(t)
	b.tier = loader.TierAlloc
	b.limit(b.root, capacity, bedTasks)
	b.create("hog")
	hog := b.run("hog", load.Spec{Kind: load.Hog, Bytes: 450 << 20, Fill: fill, Held: true})
	kernel := b.watch(0, margin)
	wire := b.wire(kernel, sample.ScopeCgroupMemory, "", capacity, used)
	must(t, kernel.Tick())
	must(t, hog.Go())
	asked := false
	var seen *sample.Sample
	b.await("the crossing", func() bool {
		for _, s := range records(t, kernel) {
			if s.Kind == sample.KindArm && answers {
				must(t, kernel.Arm())
			}
			asked = asked || s.Kind == sample.KindArm
			if s.Kind == sample.KindCrossing && s.Wire == wire && seen == nil {
				seen = &s
			}
		}
		return seen != nil
	})
	if !answers && (kernel.Armed() || seen.By != sample.ObserverTimer) {
		t.Errorf("seen by %s, the hook is attached: %v", tierOf(seen.By), kernel.Armed())
	}
	if !asked {
		t.Error("the timer did not ask for the hook")
	}
	t.Logf("seen by %s, %d KiB past the wire", tierOf(seen.By), (seen.LimitValue-seen.Available)>>10)
	must(t, hog.Stop())
}

func records(t *testing.T, kernel *loader.Loader) (found []sample.Sample) {
	t.Helper()
	for {
		var s sample.Sample
		ok, err := kernel.Next(&s)
		must(t, err)
		if !ok {
			return found
		}
		found = append(found, s)
	}
}

// The node's memory, that of two roots and the tasks of one are crossed at once.
func TestWiresOfSeveralSignalsFireOnceEach(t *testing.T) {
	const capacity = 128 << 20
	b := newBed(t)
	for _, root := range []string{"a", "b"} {
		b.create(root)
	}
	loads := []*load.Load{
		b.run("a", load.Spec{Kind: load.Hog, Bytes: 96 << 20, Held: true}),
		b.run("b", load.Spec{Kind: load.Hog, Bytes: 96 << 20, Held: true}),
		b.run("b", load.Spec{Kind: load.Bomb, Tasks: 40, Held: true}),
	}
	kernel := b.watch(0, 0)
	node, err := available(kernel)
	must(t, err)
	wires := map[int]string{
		b.wire(kernel, sample.ScopeCgroupMemory, "a", capacity, 64<<20):    "memory of a",
		b.wire(kernel, sample.ScopeCgroupMemory, "b", capacity, 64<<20):    "memory of b",
		b.wire(kernel, sample.ScopeCgroupTasks, "b", cgroupTasks, 30):      "tasks of b",
		b.wire(kernel, sample.ScopeCgroupMemory, "", 4*capacity, capacity): "memory of both",
	}
	index, err := kernel.AddWire(sample.ScopeNodeMemory)
	must(t, err)
	kernel.SetWire(index, loader.Wire{Scope: sample.ScopeNodeMemory, Limit: node + (1 << 30)}) // crossed as it is
	kernel.ArmWire(index)
	wires[index] = "memory of the node"
	must(t, kernel.Arm())
	must(t, kernel.Tick())
	for _, l := range loads {
		must(t, l.Go())
	}
	fired := map[int]int{}
	b.await("all wires", func() bool {
		for _, s := range records(t, kernel) {
			if s.Kind == sample.KindCrossing {
				fired[s.Wire]++
			}
		}
		return len(fired) == len(wires)
	})
	time.Sleep(100 * time.Millisecond) // ticks and allocations go on
	for _, s := range records(t, kernel) {
		if s.Kind == sample.KindCrossing {
			fired[s.Wire]++
		}
	}
	for wire, name := range wires {
		if n := fired[wire]; n < 1 || n > runtime.NumCPU() { // two CPUs at the same instant both report
			t.Errorf("%s fired %d times, want once", name, n)
		}
	}
}

const cgroupTasks = cgroupfs.Unlimited / 4

// available is memory.available of the node.
func available(kernel *loader.Loader) (int64, error) {
	mem, err := signal.NewProc("/proc").Node()
	if err != nil {
		return 0, err
	}
	if err := kernel.SetLimits(mem.MemTotalBytes, mem.TasksMax); err != nil {
		return 0, err
	}
	n, err := kernel.Look()
	return n.MemTotalBytes - n.AnonBytes - n.FileBytes + n.InactiveFileBytes, err
}
