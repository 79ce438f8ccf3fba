package loader

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Controller names one of the two tables.
type Controller uint64

const (
	Memory Controller = iota
	Pids
)

// tornReads is how often a row is read again while a CPU writes it: a write is under a
// microsecond.
const tornReads = 64

// Row returns the row of a css id as the kernel last read it; false when it is not of the
// cgroup that the caller means: gone, or its id given to another.
func (l *Loader) Row(c Controller, cssID uint32, cgroupID uint64) (sample.Cgroup, bool) {
	table := l.table(c)
	if int(cssID) >= table.n || cgroupID == 0 {
		return sample.Cgroup{}, false
	}
	row, ok := l.read(c, cssID, table.at(int(cssID)))
	return row, ok && row.CgroupID == cgroupID
}

// Usage is what Row says of usage and inactive file, for who asks of thousands.
func (l *Loader) Usage(c Controller, cssID uint32, cgroupID uint64) (usage, inactiveFile int64, ok bool) {
	table, unit := &l.memory, l.page
	if c == Pids {
		table, unit = &l.pids, 1
	}
	if int(cssID) >= table.n || cgroupID == 0 {
		return 0, 0, false
	}
	r := table.at(int(cssID))
	before := atomic.LoadUint64(&r.Seq)
	id := atomic.LoadUint64(&r.CgroupId)
	usage, inactiveFile = atomic.LoadInt64(&r.Usage)*unit, atomic.LoadInt64(&r.InactiveFile)*unit
	if before&1 != 0 || before != atomic.LoadUint64(&r.Seq) { // a CPU writes it
		row, ok := l.Row(c, cssID, cgroupID)
		return row.Usage, row.InactiveFileBytes, ok
	}
	return usage, inactiveFile, id == cgroupID
}

// Above says whose row a css id is, and which one is its parent's; false where that is not
// known. Rows of cgroups that were removed may form a circle.
func (l *Loader) Above(c Controller, cssID uint32) (cgroupID uint64, parent uint32, ok bool) {
	table := l.table(c)
	if cssID == 0 || int(cssID) >= table.n {
		return 0, 0, false
	}
	row, ok := l.read(c, cssID, table.at(int(cssID)))
	return row.CgroupID, row.Parent, ok
}

// At says where a cgroup's rows stand: 0 where that is not known, or in a hierarchy in
// which it does not exist.
type At struct {
	MemoryID, PidsID   uint64
	MemoryCSS, PidsCSS uint32
}

// Refresh reads a cgroup's rows, those of another one, which may be nobody's, and the node's
// counters now, in one system call of about 7 µs. For the hot thread. False of a row of the
// first one: it is not known, or the cgroup is gone.
func (l *Loader) Refresh(at, beside At) (memory, pids bool) { return l.refreshRun.refresh(at, beside) }

// RefreshRows is Refresh of one cgroup for helper goroutines.
func (l *Loader) RefreshRows(at At) (memory, pids bool) {
	l.walkMu.Lock()
	defer l.walkMu.Unlock()
	return l.helpRun.refresh(at, At{})
}

func (r testRun) refresh(at, beside At) (memory, pids bool) {
	*r.args = [...]uint64{
		uint64(at.MemoryCSS), at.MemoryID, uint64(at.PidsCSS), at.PidsID,
		uint64(beside.MemoryCSS), beside.MemoryID, uint64(beside.PidsCSS), beside.PidsID,
	}
	fresh, err := r.run()
	return err == nil && fresh&(1<<Memory) != 0, err == nil && fresh&(1<<Pids) != 0
}

// Walk refreshes every row of both tables and returns how many memory cgroups there are.
// About half a microsecond a row, in runs of 0.15 ms; for helper goroutines.
func (l *Loader) Walk() (int, error) {
	l.walkMu.Lock()
	defer l.walkMu.Unlock()
	return walk(l.walkRun, helpWalker)
}

// WalkNow is Walk for the hot thread, which waits for nobody else's.
func (l *Loader) WalkNow() error {
	_, err := walk(l.hotWalkRun, hotWalker)
	return err
}

// Who walks has a cursor in the kernel (bpf/table.h).
const (
	helpWalker = iota
	hotWalker
)

// mostRuns is several times what a full table takes.
const mostRuns = 1024

func walk(run testRun, walker uint64) (memory int, err error) {
	for _, c := range [...]Controller{Memory, Pids} {
		run.args[0], run.args[1], run.args[2] = uint64(c), walker, 1
		for range mostRuns { // a list that changes under us has an end
			ret, err := run.run()
			if err != nil {
				return 0, fmt.Errorf("walk the cgroups: %w", err)
			}
			if c == Memory {
				memory += int(ret >> 16)
			}
			if ret&0xffff == 0 {
				break
			}
			run.args[2] = 0
		}
	}
	return memory, nil
}

// Index appends all rows that were ever filled, for a lookup from cgroup id to css id.
func (l *Loader) Index(c Controller, dst []sample.Cgroup) []sample.Cgroup {
	table := l.table(c)
	for i := range l.used(c) {
		if atomic.LoadUint64(&table.at(i).CgroupId) == 0 {
			continue // never used
		}
		if row, ok := l.read(c, uint32(i), table.at(i)); ok {
			dst = append(dst, row)
		}
	}
	return dst
}

// used is how many rows of a table can be filled. Those behind it are not even touched:
// they would count as resident memory.
func (l *Loader) used(c Controller) int {
	var used [2]uint32
	if err := l.objs.RowsUsed.Get(&used); err != nil {
		return l.table(c).n
	}
	return min(int(used[c]), l.table(c).n)
}

// Find returns the css id of a cgroup, 0 when its row was never filled. A cgroup that was
// removed keeps its row: where an id stands in two, the younger one counts.
func (l *Loader) Find(c Controller, cgroupID uint64) (cssID uint32) {
	table, newest := l.table(c), uint64(0)
	for i := range l.used(c) {
		if atomic.LoadUint64(&table.at(i).CgroupId) != cgroupID {
			continue
		}
		if row, ok := l.read(c, uint32(i), table.at(i)); ok && row.CgroupID == cgroupID && row.Ns >= newest {
			cssID, newest = row.CSSID, row.Ns
		}
	}
	return cssID
}

// Rows is how many css ids a table has room for.
func (l *Loader) Rows() int { return l.memory.n }

func (l *Loader) table(c Controller) mapping[gen.EvictCgroupRow] {
	if c == Memory {
		return l.memory
	}
	return l.pids
}

// read takes a row that no CPU wrote meanwhile.
func (l *Loader) read(c Controller, cssID uint32, r *gen.EvictCgroupRow) (sample.Cgroup, bool) {
	unit := int64(1)
	if c == Memory {
		unit = l.page
	}
	for try := range tornReads {
		before := atomic.LoadUint64(&r.Seq)
		row := sample.Cgroup{
			CgroupID:          atomic.LoadUint64(&r.CgroupId),
			CSSID:             cssID,
			Parent:            atomic.LoadUint32(&r.Parent),
			Usage:             atomic.LoadInt64(&r.Usage) * unit,
			InactiveFileBytes: atomic.LoadInt64(&r.InactiveFile) * unit,
			Ns:                atomic.LoadUint64(&r.UpdatedNs),
		}
		if before&1 == 0 && before == atomic.LoadUint64(&r.Seq) {
			return row, true
		}
		if try > tornReads/2 {
			_ = unix.Nanosleep(&writersTurn, nil) // it may have been preempted, by us
		}
	}
	return sample.Cgroup{}, false
}
