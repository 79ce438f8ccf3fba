package fallback

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Table is what cgroups use, read from their files: in place of the one that BPF fills. Its
// readers may be any goroutine; a reading costs two small files a cgroup, and a third, dear
// one where that is old.
type Table struct {
	fs     *cgroupfs.FS
	mu     sync.Mutex // of Track
	byPath map[string]*usages
	rows   atomic.Pointer[[]*usages] // by number; 0 is nobody
}

// usages are the figures of one cgroup.
type usages struct {
	number           uint32
	memoryID, pidsID uint64
	// usage and tasks are noFigure where there is none.
	usage, inactive, tasks atomic.Int64
	ns, inactiveNs         atomic.Uint64

	mu      sync.Mutex // of a reading
	figures *cgroupfs.Figures
}

// noFigure is what no counter says.
const noFigure = -1

// inactiveOld is how old an inactive file may be that only ranks; what is about to be killed
// is read again.
const inactiveOld = time.Second

// NewTable is empty.
func NewTable(fs *cgroupfs.FS) *Table {
	t := &Table{fs: fs, byPath: map[string]*usages{}}
	t.rows.Store(&[]*usages{nil})
	return t
}

// Cgroup is one to be tracked: the path below the mounts and, where the caller knows them, the
// inodes that it has in the two hierarchies.
type Cgroup struct {
	Path             string
	MemoryID, PidsID uint64
}

// is reports whether a row is that cgroup's, without a look at the files.
func (c *Cgroup) is(u *usages) bool {
	return u != nil && c.MemoryID|c.PidsID != 0 && c.MemoryID == u.memoryID && c.PidsID == u.pidsID
}

// Track makes these cgroups, and no others, the table's. One that is gone is left out; one
// that was made again under its name is another row.
func (t *Table) Track(cgroups []Cgroup) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := append([]*usages(nil), *t.rows.Load()...)
	var errs []error
	kept := make(map[string]*usages, len(cgroups))
	for i := range cgroups {
		path := cgroups[i].Path
		if kept[path] != nil {
			continue
		}
		if old := t.byPath[path]; cgroups[i].is(old) {
			kept[path] = old
			continue
		}
		u, err := t.open(path, t.byPath[path])
		if errors.Is(err, cgroupfs.ErrGone) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read the usage of %s: %w", path, err))
			continue
		}
		kept[path] = u
	}
	for path, old := range t.byPath {
		if kept[path] != old {
			rows[old.number] = nil
			defer old.close() // when no reader finds it any more
		}
	}
	free := uint32(1)
	for _, u := range kept {
		if u.number != 0 {
			continue
		}
		for free < uint32(len(rows)) && rows[free] != nil {
			free++
		}
		if free == uint32(len(rows)) {
			rows = append(rows, nil)
		}
		u.number, rows[free] = free, u
	}
	t.byPath = kept
	t.rows.Store(&rows)
	return errors.Join(errs...)
}

// open returns the row of a path: the old one while it is the same cgroup's.
func (t *Table) open(path string, old *usages) (*usages, error) {
	c, err := t.fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if old != nil && old.memoryID == c.MemoryID() && old.pidsID == c.PidsID() {
		return old, nil
	}
	figures, err := c.Figures()
	if err != nil {
		return nil, err
	}
	u := &usages{memoryID: c.MemoryID(), pidsID: c.PidsID(), figures: figures}
	u.usage.Store(noFigure) // until it is read
	u.tasks.Store(noFigure)
	return u, nil
}

// Close forgets all of them.
func (t *Table) Close() { _ = t.Track(nil) } // no path, no error

// Walk reads every row again and returns how many there are.
func (t *Table) Walk(s *cgroupfs.Scratch) int {
	n := 0
	for _, u := range *t.rows.Load() {
		if u != nil {
			n++
			u.read(s, sample.Now(), inactiveOld)
		}
	}
	return n
}

// Refresh reads one row now, its inactive file too. For one goroutine. False when the cgroup
// is gone.
func (t *Table) Refresh(number uint32, s *cgroupfs.Scratch) bool {
	u := t.at(number)
	return u != nil && u.read(s, sample.Now(), 0)
}

// Memory is the memory row of that number; false when it is not of the cgroup that the
// caller means, or has no figure.
func (t *Table) Memory(number uint32, cgroupID uint64) (sample.Cgroup, bool) {
	u := t.at(number)
	if u == nil || cgroupID == 0 || u.memoryID != cgroupID || u.usage.Load() == noFigure {
		return sample.Cgroup{}, false
	}
	return u.memory(), true
}

// Tasks is Memory for the pids controller.
func (t *Table) Tasks(number uint32, cgroupID uint64) (sample.Cgroup, bool) {
	u := t.at(number)
	if u == nil || cgroupID == 0 || u.pidsID != cgroupID || u.tasks.Load() == noFigure {
		return sample.Cgroup{}, false
	}
	return u.pids(), true
}

// Find returns the number of the row of a cgroup, by either id, 0 for none.
func (t *Table) Find(memoryID, pidsID uint64) (number uint32) {
	for _, u := range *t.rows.Load() {
		if u != nil && (memoryID == 0 || u.memoryID == memoryID) && (pidsID == 0 || u.pidsID == pidsID) {
			return u.number
		}
	}
	return 0
}

// EachMemory and EachTasks visit all rows that have such a figure.
func (t *Table) EachMemory(visit func(sample.Cgroup)) {
	for _, u := range *t.rows.Load() {
		if u != nil && u.usage.Load() != noFigure {
			visit(u.memory())
		}
	}
}

// EachTasks is EachMemory for the pids controller.
func (t *Table) EachTasks(visit func(sample.Cgroup)) {
	for _, u := range *t.rows.Load() {
		if u != nil && u.tasks.Load() != noFigure {
			visit(u.pids())
		}
	}
}

func (t *Table) at(number uint32) *usages {
	if rows := *t.rows.Load(); number < uint32(len(rows)) {
		return rows[number]
	}
	return nil
}

func (u *usages) memory() sample.Cgroup {
	return sample.Cgroup{
		CgroupID: u.memoryID, CSSID: u.number, Usage: u.usage.Load(),
		InactiveFileBytes: u.inactive.Load(), Ns: u.ns.Load(),
	}
}

func (u *usages) pids() sample.Cgroup {
	return sample.Cgroup{CgroupID: u.pidsID, CSSID: u.number, Usage: u.tasks.Load(), Ns: u.ns.Load()}
}

// read takes the counters, and the inactive file where that is old. False: gone.
func (u *usages) read(s *cgroupfs.Scratch, ns uint64, old time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	usage, usageErr := u.figures.MemoryCurrentBytes()
	tasks, tasksErr := u.figures.PidsCurrent()
	u.usage.Store(orNoFigure(usage, usageErr))
	u.tasks.Store(orNoFigure(tasks, tasksErr))
	if ns-u.inactiveNs.Load() > uint64(old) {
		inactive, err := u.figures.InactiveFileBytes(s)
		if err != nil {
			inactive = 0 // all of its usage counts then
		}
		u.inactive.Store(inactive)
		u.inactiveNs.Store(ns)
	}
	u.ns.Store(ns)
	return usageErr == nil || tasksErr == nil
}

func (u *usages) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.figures.Close()
}

func orNoFigure(v int64, err error) int64 {
	if err != nil {
		return noFigure
	}
	return v
}
