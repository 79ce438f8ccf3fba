package loader

import (
	"fmt"
	"runtime"
	"sync/atomic"

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

// Climb visits the ids of a cgroup and of its ancestors, as far as their rows are known,
// until visit returns false.
func (l *Loader) Climb(c Controller, cssID uint32, visit func(cgroupID uint64) bool) {
	table := l.table(c)
	for range maxDepth {
		if cssID == 0 || int(cssID) >= table.n {
			return
		}
		row, ok := l.read(c, cssID, table.at(int(cssID)))
		if !ok || !visit(row.CgroupID) {
			return
		}
		cssID = row.Parent
	}
}

// maxDepth bounds a climb, should rows of cgroups that were removed form a circle.
const maxDepth = 32

// Refresh reads one row's counters now. For the hot thread. False when the cgroup is gone.
func (l *Loader) Refresh(c Controller, cssID uint32, cgroupID uint64) bool {
	l.refreshRun.args[0], l.refreshRun.args[1], l.refreshRun.args[2] = uint64(c), uint64(cssID), cgroupID
	ret, err := l.refreshRun.run()
	return err == nil && ret == 1
}

// Walk refreshes every row of both tables and returns how many memory cgroups there are.
// About a microsecond a cgroup; for a helper goroutine.
func (l *Loader) Walk() (int, error) {
	l.walkMu.Lock()
	defer l.walkMu.Unlock()
	rows, err := l.walkRun.run()
	if err != nil {
		return 0, fmt.Errorf("walk the cgroups: %w", err)
	}
	return int(rows), nil
}

// Index appends all rows that were ever filled, for a lookup from cgroup id to css id.
func (l *Loader) Index(c Controller, dst []sample.Cgroup) []sample.Cgroup {
	table := l.table(c)
	for i := range table.n {
		if atomic.LoadUint64(&table.at(i).CgroupId) == 0 {
			continue // never used
		}
		if row, ok := l.read(c, uint32(i), table.at(i)); ok {
			dst = append(dst, row)
		}
	}
	return dst
}

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
			runtime.Gosched() // the writer may have been preempted
		}
	}
	return sample.Cgroup{}, false
}
