package fallback

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Wire is a value that is watched: the fields of loader.Wire, and the cgroup by its path.
type Wire struct {
	Scope sample.Scope
	// Limit is crossed when less than this is available: bytes or tasks.
	Limit int64
	// Capacity is the cgroup's own limit (cgroup scopes): bytes or tasks.
	Capacity int64
	// Cgroup is the path below the mounts, and CgroupID the inode that it must have in the
	// scope's hierarchy (cgroup scopes).
	Cgroup   string
	CgroupID uint64
}

// The numbers of wires are the loader's: memory from 0, tasks from 16, and the last of each
// half is kept for a drill.
const (
	memoryWires = 16
	taskWires   = 16
	maxWires    = memoryWires + taskWires

	drillMemoryWire = memoryWires - 1
	drillTaskWire   = maxWires - 1
)

// ErrTooManyWires means that one half of the wires is full.
var ErrTooManyWires = errors.New("too many wires: 15 for memory and 15 for tasks")

// wire is one of them. Other goroutines place and arm it, the thread of Next looks.
type wire struct {
	scope           atomic.Uint32 // sample.Scope
	place           atomic.Pointer[place]
	limit, capacity atomic.Int64
	// seq is the sequence it is armed with, 0 for off; fired and claimed the last that did.
	seq, fired, claimed atomic.Uint64
	threshold           threshold

	// The rest belongs to the thread of Next: what it knows of at, and when it looks again.
	at         *place
	armed      uint64 // the sequence that it looked for last
	event, due bool
	nextNs     uint64
	distance   int64
	forks      uint64 // when it was read last
	inactive   int64
	inactiveNs uint64 // 0: not known
}

// place is where a wire is: its cgroup's counters.
type place struct {
	path    string
	id      uint64
	figures *cgroupfs.Figures
}

func (r *wire) memory() bool { return isMemory(sample.Scope(r.scope.Load())) }

func isMemory(s sample.Scope) bool {
	return s == sample.ScopeNodeMemory || s == sample.ScopeCgroupMemory
}

// watched returns the sequence to look for; false when there is none.
func (r *wire) watched() (uint64, bool) {
	seq := r.seq.Load()
	return seq, seq != 0 && r.fired.Load() < seq && r.place.Load() != nil
}

// AddWire reserves a wire of the half that the scope belongs to and returns its number. The
// wire is off until ArmWire. AddWire, ClearWires and those of a drill are not for several
// goroutines at once.
func (w *Watcher) AddWire(scope sample.Scope) (int, error) {
	used, base, most := &w.used[1], memoryWires, taskWires-1
	if isMemory(scope) {
		used, base, most = &w.used[0], 0, memoryWires-1
	}
	if *used >= most {
		return 0, ErrTooManyWires
	}
	index := base + *used
	*used++
	w.wires[index].scope.Store(uint32(scope))
	return index, nil
}

// ClearWires takes all wires but a drill's away, for others to be added.
func (w *Watcher) ClearWires() error {
	for i := range w.wires {
		if i != drillMemoryWire && i != drillTaskWire {
			w.DisarmWire(i)
		}
	}
	w.used = [2]int{}
	return nil
}

// AddDrillWire places and arms the wire that is kept for drills of such a scope, and returns
// its number and sequence.
func (w *Watcher) AddDrillWire(set Wire) (index int, seq uint64, err error) {
	index = drillTaskWire
	if isMemory(set.Scope) {
		index = drillMemoryWire
	}
	w.wires[index].scope.Store(uint32(set.Scope))
	if err := w.SetWire(index, set); err != nil {
		return index, 0, err
	}
	return index, w.ArmWire(index), nil
}

// RemoveDrillWire takes the wires of a drill away.
func (w *Watcher) RemoveDrillWire() error {
	w.DisarmWire(drillMemoryWire)
	w.DisarmWire(drillTaskWire)
	return nil
}

// SetWire moves a wire without arming it again: a sequence that has fired stays fired. It
// opens the cgroup where that is another one, and switches the wire off when it can't:
// cgroupfs.ErrGone. For one goroutine at a time.
func (w *Watcher) SetWire(index int, set Wire) error {
	r := &w.wires[index]
	if old := r.place.Load(); old == nil || old.id != set.CgroupID || old.path != set.Cgroup {
		next, err := w.openPlace(&set)
		if old != nil || err != nil {
			w.DisarmWire(index) // while its identity changes
		}
		r.place.Store(next) // nil watches nothing, armed or not
		w.retire(old)
		if err != nil {
			return fmt.Errorf("watch %s: %w", orRoot(set.Cgroup), err)
		}
	}
	r.limit.Store(set.Limit)
	r.capacity.Store(set.Capacity)
	return nil
}

// openPlace opens a wire's cgroup; for the node that is the root, of which only v1 has a
// usage.
func (w *Watcher) openPlace(set *Wire) (*place, error) {
	if isOfCgroup := set.Scope == sample.ScopeCgroupMemory || set.Scope == sample.ScopeCgroupTasks; isOfCgroup && (set.Cgroup == "" || set.CgroupID == 0) {
		return nil, cgroupfs.ErrGone // that would be the root's figures
	}
	c, err := w.fs.Open(orRoot(set.Cgroup))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	id := c.PidsID()
	if isMemory(set.Scope) {
		id = c.MemoryID()
	}
	if set.CgroupID != 0 && set.CgroupID != id {
		return nil, cgroupfs.ErrGone
	}
	figures, err := c.Figures()
	if err != nil {
		return nil, err
	}
	return &place{path: set.Cgroup, id: set.CgroupID, figures: figures}, nil
}

// ArmWire lets a wire fire once more and returns the new sequence, one that was never armed,
// fired or claimed. It is compared at once, not only at the next movement.
func (w *Watcher) ArmWire(index int) uint64 {
	r := &w.wires[index]
	seq := max(r.seq.Load(), r.fired.Load(), r.claimed.Load()) + 1
	r.seq.Store(seq)
	w.wake()
	return seq
}

// DisarmWire switches a wire off.
func (w *Watcher) DisarmWire(index int) { w.wires[index].seq.Store(0) }

// WireSeq returns the sequence a wire is armed with (0: off) and the last one that fired.
func (w *Watcher) WireSeq(index int) (seq, fired uint64) {
	r := &w.wires[index]
	return r.seq.Load(), r.fired.Load()
}

// Claim makes the caller the one that acts on a sequence of a wire. False: somebody has
// acted on it already, or on a later one.
func (w *Watcher) Claim(index int, seq uint64) bool {
	claimed := &w.wires[index].claimed
	for {
		old := claimed.Load()
		if old >= seq {
			return false
		}
		if claimed.CompareAndSwap(old, seq) {
			return true
		}
	}
}

// Release gives a claim back when the caller stands down before it signalled.
func (w *Watcher) Release(index int, seq uint64) {
	w.wires[index].claimed.CompareAndSwap(seq, seq-1)
}
