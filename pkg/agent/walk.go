package agent

import (
	"sync/atomic"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// walks are those of the kernel's lists of cgroups, which refresh all rows: half a
// microsecond a row.
type walks struct {
	at   time.Time
	took time.Duration
	// isDue: there is somebody without a row.
	isDue atomic.Bool
}

const (
	// Far from the wires walks may take half a thousandth of a CPU, or come every ten seconds; a
	// pass that needs fresh rows there walks itself. Near them, where the hook keeps the rows
	// of whoever allocates fresh, a fiftieth.
	farWalkShare, farWalkLeast, farWalkMost    = 2000, time.Second, 10 * time.Second
	nearWalkShare, nearWalkLeast, nearWalkMost = 50, 100 * time.Millisecond, time.Second
	// youngWalk is how soon a new unit gets its rows. Should it cross a wire before, the
	// record says where they are.
	youngWalk = 50 * time.Millisecond
	// quickWalk is what a walk may take that comes as soon as there is a new unit, without BPF.
	quickWalk = 5 * time.Millisecond
)

func (w *walks) pause(near bool) time.Duration {
	switch {
	case w.isDue.Load():
		return youngWalk
	case near:
		return min(max(w.took*nearWalkShare, nearWalkLeast), nearWalkMost)
	}
	return min(max(w.took*farWalkShare, farWalkLeast), farWalkMost)
}

// walk refreshes the rows when that is due or must be, and finds those of new units.
func (s *scout) walk(must bool) error {
	w := &s.walks
	if !must && time.Since(w.at) < w.pause(s.wires.near.Load()) {
		return nil
	}
	begun, beganNs := time.Now(), sample.Now()
	if _, err := s.kernel.Walk(); err != nil {
		return err
	}
	w.at, w.took = time.Now(), time.Since(begun)
	s.compare(beganNs)
	if w.isDue.Swap(false) {
		s.place()
	}
	return nil
}

// compare has those read again whose number of tasks is not what it was, or who got their
// first page, and whose rows were left out by a walk since beganNs: their cgroups are gone,
// or have got other rows.
func (s *scout) compare(beganNs uint64) {
	k := &s.known
	stale := k.turn[:0]
	for _, u := range k.units {
		memory, pids := s.isFresh(loader.Memory, u.rows.memoryCSS, u.ID.MemoryID, beganNs), s.isFresh(loader.Pids, u.rows.pidsCSS, u.ID.PidsID, beganNs)
		if !memory || !pids {
			stale = append(stale, u)
		}
		if s.tasks(u) != u.tasks || u.wasVoid && !s.isVoid(u) {
			k.ask(u)
		}
	}
	k.turn = stale
	if len(stale) > minSweep+len(k.units)/8 {
		return // a walk ends early when the cgroup goes that it has come to
	}
	for _, u := range stale {
		n := newUnit(u.Unit)
		n.grip = u.grip
		k.put(n)
		k.ask(n)
		s.walks.isDue.Store(true)
	}
}

func (s *scout) isFresh(c loader.Controller, css uint32, id, sinceNs uint64) bool {
	if css == 0 {
		return true // it never had one
	}
	row, ok := s.kernel.Row(c, css, id)
	return ok && row.Ns >= sinceNs
}

func (s *scout) tasks(u *unit) int64 {
	if row, ok := s.kernel.Row(loader.Pids, u.rows.pidsCSS, u.rows.id.PidsID); ok {
		return row.Usage
	}
	return workload.NoData
}

// fewUnplaced is up to how many units each is searched for by itself.
const fewUnplaced = 8

// place finds the rows of the units that have none.
func (s *scout) place() {
	var missing []*unit
	for _, u := range s.known.units {
		if !u.isPlaced() {
			missing = append(missing, u)
		}
	}
	find := s.kernel.Find
	if len(missing) > fewUnplaced {
		ids := [2]map[uint64]uint32{s.cssIDs(loader.Memory), s.cssIDs(loader.Pids)}
		find = func(c loader.Controller, id uint64) uint32 { return ids[c][id] }
	}
	for _, u := range missing {
		if n := u.placed(findRows(find)); n != u {
			n.tasks = s.tasks(n)
			s.known.put(n)
		}
	}
}

// cssIDs maps cgroup ids to rows. Where an id stands in two rows, the cgroup was removed
// and the younger row counts.
func (s *scout) cssIDs(c loader.Controller) map[uint64]uint32 {
	s.index = s.kernel.Index(c, s.index[:0])
	ids := make(map[uint64]uint32, len(s.index))
	newest := make(map[uint64]uint64, len(s.index))
	for _, row := range s.index {
		if row.Ns >= newest[row.CgroupID] {
			ids[row.CgroupID], newest[row.CgroupID] = row.CSSID, row.Ns
		}
	}
	return ids
}
