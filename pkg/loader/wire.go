package loader

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/ebpf-evict/ebpf-evict/gen"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// memoryWires and taskWires are how many wires each hook scans (bpf/sample.h).
const (
	memoryWires  = 16
	taskWires    = 16
	maxCondemned = 2
	maxIntents   = 8
)

// Wire is a value that the kernel watches for us.
type Wire struct {
	Scope sample.Scope
	// Limit is crossed when less than this is available: bytes or tasks.
	Limit int64
	// Capacity is the cgroup's own limit (cgroup scopes): bytes or tasks.
	Capacity int64
	// InactiveFileBytes of the cgroup, from a fresh memory.stat (ScopeCgroupMemory).
	InactiveFileBytes int64
	// CgroupID and CSSID name the cgroup (cgroup scopes). Cgroup is its path, for who watches
	// without BPF; the loader has no use for it.
	CgroupID uint64
	CSSID    uint32
	Cgroup   string
}

// ErrTooManyWires means that one half of the wires is full.
var ErrTooManyWires = errors.New("too many wires: 15 for memory and 15 for tasks")

// WiresOfHalf is how many numbers each half has: those of memory come first.
const WiresOfHalf = memoryWires

// The last wire of each half is kept for a drill (bpf/sample.h).
const (
	drillMemoryWire = memoryWires - 1
	drillTaskWire   = memoryWires + taskWires - 1
)

// wireCounts are how many wires are in use, and whether those of a drill are; by half,
// memory first.
type wireCounts struct {
	used  [2]uint32
	drill [2]bool
}

// isMemory reports whether a scope belongs to the half that the allocation hook scans.
func isMemory(s sample.Scope) bool {
	return s == sample.ScopeNodeMemory || s == sample.ScopeCgroupMemory
}

// unitOf is what the kernel counts for a wire: pages in bytes, or tasks.
func (l *Loader) unitOf(wire int) int64 {
	if wire < memoryWires {
		return l.page
	}
	return 1
}

// tellCounts has the hooks scan what is in use, and no more.
func (l *Loader) tellCounts() error {
	c := &l.counts
	memory, tasks := c.used[0], c.used[1]
	if c.drill[0] {
		memory = memoryWires
	}
	if c.drill[1] {
		tasks = taskWires
	}
	return errors.Join(l.objs.MemoryWires.Set(memory), l.objs.TaskWires.Set(tasks))
}

// AddWire reserves a wire of the half that the scope belongs to and returns its number. The
// wire is off until ArmWire. AddWire, ClearWires and those of a drill are not for several
// goroutines at once.
func (l *Loader) AddWire(scope sample.Scope) (int, error) {
	half, base, most := 1, memoryWires, taskWires-1
	if isMemory(scope) {
		half, base, most = 0, 0, memoryWires-1
	}
	used := &l.counts.used[half]
	if int(*used) >= most {
		return 0, ErrTooManyWires
	}
	index := base + int(*used)
	l.wires.at(index).Scope = uint32(scope)
	*used++
	return index, l.tellCounts()
}

// ClearWires takes all wires but a drill's away, for others to be added. A record of a
// former wire that comes late is no more than a reason to look.
func (l *Loader) ClearWires() error {
	for i := range memoryWires + taskWires {
		if i != drillMemoryWire && i != drillTaskWire {
			l.DisarmWire(i)
		}
	}
	l.counts.used = [2]uint32{}
	return l.tellCounts()
}

// AddDrillWire places and arms the wire that is kept for drills of such a scope, and
// returns its number and sequence. What CPUs may still allocate or fork before they look is
// forgotten, so that a wire only a few tasks away is not passed unseen. The timer reports its
// crossing only when no hook has for 2 s.
func (l *Loader) AddDrillWire(w Wire) (index int, seq uint64, err error) {
	half := 1
	index = drillTaskWire
	if isMemory(w.Scope) {
		half, index = 0, drillMemoryWire
	}
	l.wires.at(index).Scope = uint32(w.Scope)
	l.SetWire(index, w)
	l.counts.drill[half] = true
	if err := l.tellCounts(); err != nil {
		return index, 0, err
	}
	atomic.StoreUint64(&l.wires.at(index).YieldedNs, 0) // of the drill before
	seq = l.ArmWire(index)
	return index, seq, l.forgetCredit()
}

// RemoveDrillWire takes the wires of a drill away.
func (l *Loader) RemoveDrillWire() error {
	l.DisarmWire(drillMemoryWire)
	l.DisarmWire(drillTaskWire)
	l.counts.drill = [2]bool{}
	return l.tellCounts()
}

// IsDrillWire reports whether a wire is kept for drills: its crossings are nobody's but a
// canary's.
func IsDrillWire(index int) bool { return index == drillMemoryWire || index == drillTaskWire }

// forgetCredit has every CPU look at its next allocation and fork.
func (l *Loader) forgetCredit() error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count possible CPUs: %w", err)
	}
	if err := l.objs.Credits.Put(uint32(0), make([]gen.EvictCredit, cpus)); err != nil {
		return fmt.Errorf("forget the credits: %w", err)
	}
	return nil
}

// SetWire moves a wire without arming it again: a sequence that has fired stays fired.
func (l *Loader) SetWire(index int, w Wire) {
	unit := l.unitOf(index)
	k := l.wires.at(index)
	if k.CgroupId != w.CgroupID || k.CssId != w.CSSID {
		atomic.StoreUint64(&k.Seq, 0) // off while its identity changes
	}
	k.CssId, k.CgroupId = w.CSSID, w.CgroupID
	// Rounded up: half a page below the limit is below the limit.
	atomic.StoreInt64(&k.Limit, (w.Limit+unit-1)/unit)
	atomic.StoreInt64(&k.Capacity, w.Capacity/unit)
	atomic.StoreInt64(&k.InactiveFile, w.InactiveFileBytes/unit)
}

// ArmWire lets a wire fire once more and returns the new sequence, one that was never
// armed, fired or claimed. The sequence is written last; the kernel compares at the next
// check, not only at the next movement.
func (l *Loader) ArmWire(index int) uint64 {
	k := l.wires.at(index)
	seq := max(atomic.LoadUint64(&k.Seq), atomic.LoadUint64(&k.Fired), atomic.LoadUint64(&k.Claim)>>2) + 1
	atomic.StoreUint64(&k.Seq, seq)
	return seq
}

// DisarmWire switches a wire off.
func (l *Loader) DisarmWire(index int) { atomic.StoreUint64(&l.wires.at(index).Seq, 0) }

// WireSeq returns the sequence a wire is armed with (0: off) and the last one that fired.
func (l *Loader) WireSeq(index int) (seq, fired uint64) {
	k := l.wires.at(index)
	return atomic.LoadUint64(&k.Seq), atomic.LoadUint64(&k.Fired)
}

// Who acts on a sequence of a wire: enum claim_owner of bpf/sample.h.
const (
	claimAgent = 1
	claimOwner = 3 // the bits that name the owner
)

// Claim makes this process the one that acts on a sequence of a wire. False: somebody has
// acted on it already, or on a later one, and there is nothing left to do.
func (l *Loader) Claim(index int, seq uint64) bool {
	word := &l.wires.at(index).Claim
	for {
		old := atomic.LoadUint64(word)
		if old>>2 > seq || old>>2 == seq && old&claimOwner != 0 {
			return false
		}
		if atomic.CompareAndSwapUint64(word, old, seq<<2|claimAgent) {
			return true
		}
	}
}

// Release gives a claim back when the agent stands down before it signalled.
func (l *Loader) Release(index int, seq uint64) {
	atomic.CompareAndSwapUint64(&l.wires.at(index).Claim, seq<<2|claimAgent, seq<<2)
}

// Condemn names a cgroup whose tasks get SIGKILL when they allocate or fork. It returns a
// slot for Pardon, -1 when all are taken or the cgroup is the root of a hierarchy: that is
// everybody. For the hot thread.
func (l *Loader) Condemn(memoryID, pidsID uint64) int {
	if memoryID == rootID || pidsID == rootID {
		return -1
	}
	for i := range l.condemned {
		c := &l.condemned[i]
		if atomic.LoadUint64(&c.MemoryId) == 0 && atomic.LoadUint64(&c.PidsId) == 0 {
			atomic.StoreUint64(&c.PidsId, pidsID)
			atomic.StoreUint64(&c.MemoryId, memoryID)
			return i
		}
	}
	return -1
}

// rootID is the id of each hierarchy's root (fs/kernfs/dir.c: the first one of its idr).
const rootID = 1

// Pardon takes a slot of Condemn back, at the latest when the cgroup is gone.
func (l *Loader) Pardon(slot int) {
	if slot < 0 {
		return
	}
	atomic.StoreUint64(&l.condemned[slot].MemoryId, 0)
	atomic.StoreUint64(&l.condemned[slot].PidsId, 0)
}
