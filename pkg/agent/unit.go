package agent

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// unit is a unit as it was read once, and where its counters stand. It is replaced, never
// changed: both threads hold it. Its usage is the number of its processes alone.
type unit struct {
	workload.Unit
	rows    rows
	targets []rows
	*grip
}

// grip is what outlives a new reading of the same unit with the same cgroups to kill.
type grip struct {
	// handle kills it: of the leading units it is open, of others nil until they are struck.
	handle atomic.Pointer[actuator.Handle]
	// revived: it was killed, and runs again. ranNs is when it was last seen running,
	// CLOCK_MONOTONIC, by the scout.
	revived atomic.Bool
	ranNs   atomic.Uint64
	// disk is what the disk process says, nil where it says nothing.
	disk atomic.Pointer[diskFigures]
	// figuresFrom is since when figures tell of who is in it now, CLOCK_MONOTONIC: since it was
	// seen first, or killed. limitSaid is the limit whose excess was recorded and not acted on.
	figuresFrom atomic.Uint64
	limitSaid   atomic.Pointer[string]

	// The rest is the scout's: when the unit was read first and last, in which round it led
	// last, and what the tables said it had when it was read.
	bornAt, readAt, ledAt time.Time
	tasks                 int64
	wasVoid               bool
	queued                bool
}

// diskFigures are what a unit holds on disk, as far as that is known, and may hold beside that.
type diskFigures struct {
	isKnown    bool
	usage      workload.DiskUsage
	unmeasured workload.FsUsage
}

// addDisk adds what is known to be held on disk.
func (g *grip) addDisk(u *workload.Usage) {
	u.Disk, u.Unmeasured = nil, nil
	if f := g.disk.Load(); f != nil {
		u.Unmeasured = &f.unmeasured
		if f.isKnown {
			u.Disk = &f.usage
		}
	}
}

// open returns the unit's handle, without its processes where nobody has prepared it.
func (u *unit) open(fs *cgroupfs.FS) (*actuator.Handle, error) {
	if h := u.handle.Load(); h != nil {
		return h, nil
	}
	h, err := actuator.OpenCold(fs, &u.Unit)
	if err != nil {
		return nil, err
	}
	if !u.handle.CompareAndSwap(nil, h) { // the other thread's is as good
		_ = h.Close()
		return u.handle.Load(), nil
	}
	return h, nil
}

// isHollow reports whether the last strike hit nobody, and no process was seen since.
func (u *unit) isHollow() bool {
	h := u.handle.Load()
	return h != nil && h.Empty()
}

// look reads from text whether a killed unit runs again.
func (u *unit) look() {
	if h := u.handle.Load(); h != nil {
		u.revived.Store(h.Revived())
	}
}

func newUnit(u workload.Unit) *unit {
	at := time.Now()
	n := &unit{Unit: u, rows: rows{id: u.ID}, grip: &grip{bornAt: at, readAt: at}}
	n.figuresFrom.Store(sample.Now())
	for _, id := range u.TargetIDs {
		n.targets = append(n.targets, rows{id: id})
	}
	return n
}

// again is the unit after another reading of the same cgroups.
func (u *unit) again(read workload.Unit) *unit {
	return &unit{Unit: read, rows: u.rows, targets: u.targets, grip: u.grip}
}

// placed is the unit with its rows found anew, itself where none is found.
func (u *unit) placed(find func(*rows) bool) *unit {
	n, found := u.copied(), false
	n.eachRows(func(r *rows) { found = find(r) || found })
	if !found {
		return u
	}
	return n
}

// copied is the unit with rows of its own, to be placed.
func (u *unit) copied() *unit {
	return &unit{Unit: u.Unit, rows: u.rows, grip: u.grip, targets: slices.Clone(u.targets)}
}

// eachRows visits the unit's rows and its targets', of a unit that nobody else has yet.
func (u *unit) eachRows(visit func(*rows)) {
	visit(&u.rows)
	for i := range u.targets {
		visit(&u.targets[i])
	}
}

// rows are where a cgroup's counters stand in the two tables: 0 where that is not known.
type rows struct {
	id                 workload.Identity
	memoryCSS, pidsCSS uint32
}

func at(id workload.Identity, memoryCSS, pidsCSS uint32) loader.At {
	return loader.At{MemoryID: id.MemoryID, PidsID: id.PidsID, MemoryCSS: memoryCSS, PidsCSS: pidsCSS}
}

func (r *rows) at() loader.At { return at(r.id, r.memoryCSS, r.pidsCSS) }

// isPlaced reports whether nothing is left to be found.
func (r *rows) isPlaced() bool {
	return (r.memoryCSS != 0 || r.id.MemoryID == 0) && (r.pidsCSS != 0 || r.id.PidsID == 0)
}

func (u *unit) isPlaced() bool {
	for i := range u.targets {
		if !u.targets[i].isPlaced() {
			return false
		}
	}
	return u.rows.isPlaced()
}

// roster is what the scout publishes: who could be evicted, and what they are measured
// against. It is never changed.
type roster struct {
	units []*unit
	roots []root
	// held are the indices of the units whose handles are open.
	held []int
	// room is for the hot thread, which allocates nothing.
	room *room
	// levels are where units can come and go.
	levels []level
	// incomplete: a unit that is there can't be read or opened, and may be the one to evict.
	incomplete bool
}

// level is a cgroup whose children are units, and how many there were.
type level struct {
	path     string
	children uint64
}

// room is space for a scene.
type room struct {
	units     []*unit
	workloads []workload.Workload
	rows      []rows
	empty     []bool
}

// maxGuests is how many units the hot thread may find before the scout does.
const maxGuests = 16

func newRoom(units int) *room {
	n := units + units/4 + 64
	return &room{make([]*unit, 0, n), make([]workload.Workload, 0, n), make([]rows, 0, n), make([]bool, 0, n)}
}

func (r *room) holds(units int) bool { return r != nil && cap(r.units) >= units+maxGuests }

// root is a cgroup below which units may be evicted.
type root struct {
	path               string
	id                 workload.Identity
	memoryCSS, pidsCSS uint32
	// memoryMax and pidsMax are its limits, inactiveFile its inactive file bytes from a
	// fresh memory.stat.
	memoryMax, pidsMax, inactiveFile int64
	// fill is how fast its memory grows, by what the hooks reported.
	fill fill
}

// limit is what an allocatable signal is measured against, cgroupfs.Unlimited for none.
func (r *root) limit(s signal.Signal) int64 {
	if s == signal.AllocatableMemoryAvailable {
		return r.memoryMax
	}
	return r.pidsMax
}

func (r *roster) root(path string) *root {
	for i := range r.roots {
		if r.roots[i].path == path {
			return &r.roots[i]
		}
	}
	return nil
}

// vanished: normal life, a cgroup that ended meanwhile.
func vanished(err error) bool {
	return errors.Is(err, cgroupfs.ErrGone) || errors.Is(err, actuator.ErrGone)
}

// findRows returns a search of the tables for what a cgroup's rows lack.
func findRows(find func(loader.Controller, uint64) uint32) func(*rows) bool {
	return func(r *rows) (found bool) {
		if r.memoryCSS == 0 && r.id.MemoryID != 0 {
			r.memoryCSS = find(loader.Memory, r.id.MemoryID)
			found = r.memoryCSS != 0
		}
		if r.pidsCSS == 0 && r.id.PidsID != 0 {
			r.pidsCSS = find(loader.Pids, r.id.PidsID)
			found = found || r.pidsCSS != 0
		}
		return found
	}
}
