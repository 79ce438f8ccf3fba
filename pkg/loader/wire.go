package loader

import (
	"errors"
	"fmt"
	"sync/atomic"

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
	// CgroupID and CSSID name the cgroup (cgroup scopes).
	CgroupID uint64
	CSSID    uint32
}

// ErrTooManyWires means that one half of the wires is full.
var ErrTooManyWires = errors.New("too many wires: 16 for memory and 16 for tasks")

// AddWire reserves a wire of the half that the scope belongs to and returns its number. The
// wire is off until ArmWire.
func (l *Loader) AddWire(scope sample.Scope) (int, error) {
	memory := scope == sample.ScopeNodeMemory || scope == sample.ScopeCgroupMemory
	variable, base, most := l.objs.TaskWires, memoryWires, taskWires
	if memory {
		variable, base, most = l.objs.MemoryWires, 0, memoryWires
	}
	var used uint32
	if err := variable.Get(&used); err != nil {
		return 0, fmt.Errorf("read the number of wires: %w", err)
	}
	if int(used) >= most {
		return 0, ErrTooManyWires
	}
	index := base + int(used)
	l.wires.at(index).Scope = uint32(scope)
	return index, variable.Set(used + 1)
}

// ClearWires takes all wires away, for others to be added. A record of a former wire that
// comes late is no more than a reason to look.
func (l *Loader) ClearWires() error {
	for i := range memoryWires + taskWires {
		l.DisarmWire(i)
	}
	return errors.Join(l.objs.MemoryWires.Set(uint32(0)), l.objs.TaskWires.Set(uint32(0)))
}

// SetWire moves a wire without arming it again: a sequence that has fired stays fired.
func (l *Loader) SetWire(index int, w Wire) {
	unit := int64(1)
	if w.Scope == sample.ScopeNodeMemory || w.Scope == sample.ScopeCgroupMemory {
		unit = l.page
	}
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
