package agent

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// wires are the bounds as the kernel watches them: one wire for each hard bound.
type wires struct {
	kernel kernel
	// mu guards the next two against the hot thread, which alone changes them.
	mu     sync.Mutex
	bounds []decide.Bound
	// number is the wire of each bound, noWire for one that the kernel does not watch.
	number []int
	// roots are the cgroups that some bound or some unit belongs to.
	roots []string
	// near: some memory wire is nearer than the margin.
	near atomic.Bool
	// killing counts the victims that are not dead yet: the allocation hook helps with them.
	killing atomic.Int32
}

const noWire = -1

// assign gives each hard bound that the kernel can watch a wire, and takes all former ones
// away. They are armed by the next place.
func (w *wires) assign(bounds []decide.Bound) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.kernel.ClearWires(); err != nil {
		return err
	}
	w.bounds, w.number = bounds, make([]int, 0, len(bounds))
	for i := range bounds {
		scope, number := scopeOf(bounds[i].Signal), noWire
		if scope != sample.ScopeOff && bounds[i].Hard() {
			n, err := w.kernel.AddWire(scope)
			if err != nil {
				return err
			}
			number = n
		}
		w.number = append(w.number, number)
	}
	return nil
}

func scopeOf(s signal.Signal) sample.Scope {
	switch s {
	case signal.MemoryAvailable:
		return sample.ScopeNodeMemory
	case signal.AllocatableMemoryAvailable:
		return sample.ScopeCgroupMemory
	case signal.PIDAvailable:
		return sample.ScopeNodeTasks
	case signal.AllocatablePIDAvailable:
		return sample.ScopeCgroupTasks
	}
	return sample.ScopeOff
}

// place puts every wire where its threshold is now, and arms those that are off: new ones,
// and those whose root came back. The kernel looks at once: its timer sleeps by where they
// were.
func (w *wires) place(s *roster) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	node := w.kernel.Node()
	for i, number := range w.number {
		if number == noWire {
			continue
		}
		wire, ok := w.wire(&w.bounds[i], node, s)
		if !ok {
			w.kernel.DisarmWire(number)
			continue
		}
		w.kernel.SetWire(number, wire)
		if seq, _ := w.kernel.WireSeq(number); seq == 0 {
			w.kernel.ArmWire(number)
		}
	}
	return w.kernel.Tick()
}

func (w *wires) wire(b *decide.Bound, node sample.Node, s *roster) (loader.Wire, bool) {
	wire := loader.Wire{Scope: scopeOf(b.Signal)}
	switch b.Signal {
	case signal.MemoryAvailable:
		wire.Capacity = node.MemTotalBytes
	case signal.PIDAvailable:
		wire.Capacity = node.TasksMax
	default:
		r := s.root(b.Root)
		if r == nil {
			return wire, false
		}
		wire.Capacity, wire.CgroupID, wire.CSSID, wire.Cgroup = r.pidsMax, r.id.PidsID, r.pidsCSS, r.path
		if b.Signal == signal.AllocatableMemoryAvailable {
			wire.Capacity, wire.CgroupID, wire.CSSID = r.memoryMax, r.id.MemoryID, r.memoryCSS
			wire.InactiveFileBytes = r.inactiveFile
		}
		if wire.Capacity >= cgroupfs.Unlimited/2 || wire.CSSID == 0 {
			return wire, false
		}
	}
	wire.Limit = b.Value.Of(wire.Capacity)
	return wire, true
}

// boundOf returns the bound that a wire belongs to, -1 for none. For the hot thread.
func (w *wires) boundOf(wire int) int { return slices.Index(w.number, wire) }

// move has the kernel's watchers take wires over from each other.
func (w *wires) move(take func(numbers []int)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	take(w.number)
}

// lend places a drill's wire and arms it.
func (w *wires) lend(wire loader.Wire) (number int, seq uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kernel.AddDrillWire(wire)
}

// giveBack takes it away; without one it does nothing.
func (w *wires) giveBack() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kernel.RemoveDrillWire()
}

// memoryDistance is how many bytes the nearest memory wire is away; false when there is none.
func (w *wires) memoryDistance(node sample.Node, s *roster) (int64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	nearest, any := int64(math.MaxInt64), false
	for i, number := range w.number {
		b := &w.bounds[i]
		if number == noWire || !b.Signal.Memory() {
			continue
		}
		wire, ok := w.wire(b, node, s)
		if !ok {
			continue
		}
		available := node.MemTotalBytes - node.AnonBytes - node.FileBytes + node.InactiveFileBytes
		if b.Signal == signal.AllocatableMemoryAvailable {
			row, ok := w.kernel.Row(loader.Memory, wire.CSSID, wire.CgroupID)
			if !ok {
				continue
			}
			available = wire.Capacity - signal.WorkingSetBytes(row.Usage, wire.InactiveFileBytes)
		}
		nearest, any = min(nearest, available-wire.Limit), true
	}
	return nearest, any
}
