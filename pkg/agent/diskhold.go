package agent

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// diskHold is what a victim holds of the disk that it was killed for.
type diskHold struct {
	// held counts. It falls when the filesystem was read later than that was told.
	held int64
	// told is what the last figures say that were read after the victim's end, toldNs when the
	// first were written that said so.
	told   int64
	toldNs uint64
	// by are the figures that were looked at last; known: they tell of the victim.
	by    *workload.DiskTable
	known bool
}

// freedWithin is how long what was removed takes to be available: XFS frees the blocks of a
// removed file in the background, and the name of a tree may be gone before its files are.
const freedWithin = 500 * time.Millisecond

// tell takes over a figure of after the victim's end.
func (h *diskHold) tell(held int64, writtenNs uint64) {
	if h.toldNs == 0 || held != h.told {
		h.told, h.toldNs = held, writtenNs
	}
	h.held, h.known = max(h.held, held), true
}

// at is what is held of a filesystem as it was read at readNs.
func (h *diskHold) at(readNs uint64) int64 {
	if h.toldNs != 0 && readNs >= h.toldNs+uint64(freedWithin) {
		h.held = h.told
	}
	return h.held
}

// heldDisk is what the victim holds of the filesystem it was killed for, by figures that were
// read after its end. Until there are some it may be all that is missing: a writer has filled
// more than what it was killed by says. When its files can be expected to be gone, or the
// signal is back, it is what figures say, and nothing where they say nothing; when both are so,
// nothing at all.
func (a *Agent) heldDisk(e *eviction) int64 {
	if !e.bound.Signal.Disk() {
		return 0
	}
	h := &e.disk
	if t := a.scout.figures.Load(); e.endedNs != 0 && t != nil && t != h.by {
		h.by = t
		a.weigh(e, t.Entry(e.victim.UID))
	}
	isOver := e.endedNs != 0 && sample.Now()-e.endedNs > uint64(cleanUp)
	isBack := e.timeline.Recovered != 0
	switch o := a.observed(&e.bound); {
	case isOver && isBack, (isOver || isBack) && !h.known:
		return 0
	case isBack:
		return h.told
	case o != nil:
		return h.at(o.Ns)
	}
	return h.held
}

// weigh takes over what an ended victim's files take, if they were measured since. A figure
// that is missing is not zero here, whatever it is in a ranking.
func (a *Agent) weigh(e *eviction, measured *workload.DiskEntry) {
	e.disk.known = false
	if measured == nil {
		return // its cgroup is gone, its files may be there
	}
	strict, nowNs, w := a.settings, sample.Now(), e.victim
	strict.Compat = false
	w.Usage.Disk = measured.Usage(nowNs, time.Duration(nowNs-e.endedNs))
	if held := strict.Use(&e.bound, &w); held != workload.NoData {
		e.disk.tell(held, e.disk.by.WrittenNs)
	}
}
