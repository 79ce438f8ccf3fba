package agent

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
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

// victims are the last lines of a former agent's victims of disks, by cgroup.
type victims map[string]*record.Line

// note takes a line of somebody who was killed, or was asked to end.
func (v victims) note(l *record.Line) {
	if l.Victim == nil || l.Kind != record.KindKill && l.Kind != record.KindEviction || !boundOf(l).Signal.Disk() {
		return
	}
	if l.Outcome != record.OutcomeRefused && l.Outcome != record.OutcomeShadow {
		v[l.Victim.Cgroup] = l
	}
}

// boundOf is what an eviction counts for.
func boundOf(l *record.Line) decide.Bound {
	switch l.Signal {
	case decide.CheckEmptyDir, decide.CheckPod, decide.CheckContainer:
		return limitBound
	}
	return decide.Bound{Threshold: signal.Threshold{Signal: signal.Signal(l.Signal)}}
}

// inherit has what a former agent's victims left on disks count as if this one had killed them:
// the newest of those that don't run, for as long as their files can be expected to be there. What
// is no pod may have run since: of long ago it counts where it did not bring the signal back.
// Times of another boot are of the future, or old; by chance they hold a disk up for cleanUp.
func (a *Agent) inherit(from victims, nowNs uint64) {
	table := a.scout.fresh(nowNs)
	lines := slices.SortedFunc(maps.Values(from), func(x, y *record.Line) int {
		return cmp.Compare(lastOf(y, nowNs), lastOf(x, nowNs))
	})
	n := 0
	for _, l := range lines {
		e := &a.open[n]
		e.comeInto(l, nowNs)
		last := lastOf(l, nowNs)
		isMeasured := e.isLeft() && last <= nowNs && e.timeline.Recovered == 0 && table != nil && table.Entry(e.victim.UID) != nil
		if !isMeasured && nowNs-last >= uint64(cleanUp) || a.runs(e.victim.Cgroup) {
			e.used = false
			continue
		}
		a.aim(e, l)
		if n++; n == len(a.open) {
			break
		}
	}
}

// lastOf is the last that is known of a victim: its death, or what was done to it.
func lastOf(l *record.Line, nowNs uint64) uint64 {
	var t record.Timeline
	if l.Timeline != nil {
		t = *l.Timeline
	}
	wall := min(nowNs, uint64(max(0, time.Since(l.Time.Time)))) // of an intent, which knows no other
	return cmp.Or(t.Dead, max(t.Signalled, t.Asked), nowNs-wall)
}

// comeInto makes an eviction of a former one's line: closed, and kept for what it holds.
func (e *eviction) comeInto(l *record.Line, nowNs uint64) {
	*e = eviction{
		used: true, recorded: true, id: l.ID, bound: boundOf(l), wire: noWire, intent: -1, condemned: -1,
		disk: diskHold{held: math.MaxInt64}, endedNs: nowNs,
	}
	if l.Timeline != nil {
		e.timeline = *l.Timeline
	}
	if t := &e.timeline; t.Dead != 0 {
		e.endedNs = min(t.Dead, nowNs)
	}
	e.timeline.Dead, e.timeline.Signalled = e.endedNs, cmp.Or(e.timeline.Signalled, e.endedNs)
	v := l.Victim
	e.victim.UID, e.victim.Name, e.victim.Namespace = v.UID, v.Name, v.Namespace
	e.victim.Cgroup = v.Cgroup
}

// aim says when the signal is back that a former agent's eviction was for; of a limit it never is.
func (a *Agent) aim(e *eviction, l *record.Line) {
	e.decision.TargetAvailable = math.MaxInt64
	for i := range a.settings.Bounds {
		if b := &a.settings.Bounds[i]; l.Threshold != nil && l.Observed != nil && string(b.Signal) == l.Signal && b.Hard() == l.Threshold.Hard {
			e.bound = *b
			e.decision.TargetAvailable = b.Value.Of(l.Observed.Capacity) + max(0, b.MinReclaim.Of(l.Observed.Capacity))
		}
	}
}

func (a *Agent) runs(cgroup string) bool {
	u, err := a.reader.Unit(cgroup)
	return err == nil && u.Runs
}

// isLeft: it is no pod, whose files the kubelet removes. They lie there until somebody cleans its
// directories.
func (e *eviction) isLeft() bool { return e.victim.UID == e.victim.Cgroup }

// heldDisk is what the victim holds of the filesystem it was killed for, by figures that were
// read after its end. Until there are some it may be all that is missing: a writer has filled
// more than what it was killed by says. When its files can be expected to be gone, or the
// signal is back, it is what figures say, and nothing where they say nothing; when both are so,
// nothing at all. No time is over for what lies there until somebody cleans it: once figures told
// of it, that counts until they tell of less, or the signal is back and they tell nothing.
func (a *Agent) heldDisk(e *eviction) int64 {
	if !e.bound.Signal.Disk() {
		return 0
	}
	h := &e.disk
	if t := a.scout.figures.Load(); e.endedNs != 0 && t != nil && t != h.by {
		h.by = t
		a.weigh(e, t.Entry(e.victim.UID))
	}
	isOver := e.endedNs != 0 && sample.Now()-e.endedNs > uint64(cleanUp) && (!e.isLeft() || h.toldNs == 0)
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

// leftAfter is how long a disk may be short by what a dead unit that is no pod left on it before
// somebody has to know: its own end may clean up.
const leftAfter = 10 * time.Second

// noteLeft keeps in mind, and says once, whose directories somebody has to clean, where nobody
// else is killed while they hold what is missing.
func (a *Agent) noteLeft(d *decide.Decision) {
	switch {
	case !a.isDiskShort(d):
		a.left = ""
	case d.Bound < 0 || !a.settings.Bounds[d.Bound].Signal.Disk():
	case d.Verdict == decide.Evict:
		a.left = ""
	case d.Reason == decide.ReasonCredit:
		was := a.left
		if a.left = a.leftBy(); a.left != "" && a.left != was {
			s := a.settings.Bounds[d.Bound].Signal
			a.log.Error().Str("signal", string(s)).Str("cgroup", a.left).Msg(reasonLeft)
			a.degraded(alarm{signal: s, reason: a.leftReason()})
		}
	}
}

const reasonLeft = "threshold met; a dead unit left what is missing, and nobody else is killed: clean its directories"

func (a *Agent) leftReason() string { return reasonLeft + ": " + a.left }

// leftBy is the dead unit, no pod, that holds most of a disk.
func (a *Agent) leftBy() (cgroup string) {
	var most int64
	for i := range a.open {
		e := &a.open[i]
		if !e.underWay() || e.revived || !e.isLeft() || e.endedNs == 0 || sample.Now()-e.endedNs < uint64(leftAfter) {
			continue
		}
		if held := a.heldDisk(e); held > most {
			most, cgroup = held, e.victim.Cgroup
		}
	}
	return cgroup
}
