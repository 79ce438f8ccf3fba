package agent

import (
	"sync/atomic"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// reclaimAgain is when what was done counts no longer, though nobody was evicted since:
	// containers die and images go out of use meanwhile.
	reclaimAgain = time.Minute
	// reclaimDead is that while a dead victim's files are waited for: its containers can go
	// when the kubelet is done with the pod.
	reclaimDead = 2 * time.Second
	// lookAfter is how long a filesystem may take to be read again after a reclaim.
	lookAfter = 12 * time.Second
)

// reclaim is the node-level reclaim that was asked of the disk process last. It belongs to the
// hot thread.
type reclaim struct {
	path string
	// deadline is how long an answer is waited for. onlyFigures: nothing is to be freed, by the
	// configuration.
	deadline    time.Duration
	onlyFigures bool

	phase    reclaimPhase
	wanted   workload.ReclaimRequest
	bound    int // that asked
	decision decide.Decision
	askedNs  uint64
	// doneNs is when it was answered; what is available was to be read later than that.
	doneNs uint64
	// hung: the deadline is over, and the disk process has not written anything since.
	hung bool
	// containersNs and imagesNs are when that was freed last, figuresNs when figures were made
	// anew, 0: not for the eviction that is to be decided next.
	containersNs, imagesNs, figuresNs uint64
	// last is what the last one did that was to free something, nil before; it is never changed.
	last *record.Reclaim
	// lastError is what was last said to have failed.
	lastError string
	// unwritten is the id of a request that could not be written.
	unwritten atomic.Pointer[string]
}

type reclaimPhase int

const (
	reclaimIdle reclaimPhase = iota
	// reclaimAsked: there is no answer yet.
	reclaimAsked
	// reclaimAnswered: the filesystem has not been read since, or the units don't have the
	// figures that came with the answer.
	reclaimAnswered
	// reclaimLooked: it has, and the pass is to tell whether it was enough.
	reclaimLooked
)

// reset forgets what was asked and done: the bounds are others. Without time to free anything
// figures have that of the default.
func (r *reclaim) reset(deadline time.Duration) {
	r.deadline, r.onlyFigures, r.phase, r.hung = deadline, deadline == 0, reclaimIdle, false
	if r.onlyFigures {
		r.deadline = config.Default().ReclaimDeadline
	}
	r.spend()
}

// spend: what was freed is used up; the next eviction is preceded by another reclaim.
func (r *reclaim) spend() { r.containersNs, r.imagesNs, r.figuresNs = 0, 0, 0 }

// spendReclaim: a victim's containers are dead, and can be freed themselves.
func (a *Agent) spendReclaim(e *eviction) {
	if e.bound.Signal.Disk() {
		a.reclaim.spend()
	}
}

// done says what was freed for the next eviction, not longer ago than that.
func (r *reclaim) done(nowNs uint64, again time.Duration) decide.NodeReclaim {
	counts := func(ns uint64) bool { return ns != 0 && nowNs-ns < uint64(again) }
	return decide.NodeReclaim{Containers: counts(r.containersNs), Images: counts(r.imagesNs), Figures: counts(r.figuresNs)}
}

// isUnderWay: somebody is at it, or nobody has looked since.
func (r *reclaim) isUnderWay() bool { return r.phase == reclaimAsked || r.phase == reclaimAnswered }

// allReclaimed: nothing more can be done for the node's disks.
var allReclaimed = decide.NodeReclaim{Containers: true, Images: true, Figures: true}

// reclaimed is what decide has to know.
func (a *Agent) reclaimed(nowNs uint64) (done decide.NodeReclaim, underWay bool) {
	a.followReclaim(nowNs)
	again := reclaimAgain
	if a.waitsForFiles() {
		again = reclaimDead
	}
	return a.reclaim.done(nowNs, again), a.reclaim.isUnderWay()
}

// waitsForFiles: a victim is dead, and somebody may be at its files.
func (a *Agent) waitsForFiles() bool {
	for i := range a.open {
		if e := &a.open[i]; e.underWay() && e.timeline.Dead != 0 && sample.Now()-e.endedNs <= uint64(cleanUp) && a.heldDisk(e) > 0 {
			return true
		}
	}
	return false
}

// followReclaim takes the answer, and the first reading after it. That one may be there with
// the answer, and a later pass would find it stale.
func (a *Agent) followReclaim(nowNs uint64) {
	r := &a.reclaim
	if r.phase == reclaimAsked {
		a.awaitAnswer(nowNs)
	}
	if r.phase != reclaimAnswered {
		return
	}
	o := a.observed(&a.settings.Bounds[r.bound])
	if o != nil && o.Ns > r.doneNs && a.scout.applied.Load() == a.scout.figures.Load() || nowNs-r.doneNs > uint64(lookAfter) {
		r.phase, r.figuresNs = reclaimLooked, nowNs
		if r.decision.Reclaim.Containers {
			r.containersNs = nowNs
		}
		if r.decision.Reclaim.Images {
			r.imagesNs = nowNs
		}
	}
}

// awaitAnswer: no answer in time is one too, that nothing was freed, of a disk process that
// goes on writing. One that is gone, or hangs, is asked again when it is back.
func (a *Agent) awaitAnswer(nowNs uint64) {
	r, t := &a.reclaim, a.scout.fresh(nowNs)
	failed := r.unwritten.Load()
	switch {
	case t == nil, r.hung && t.WrittenNs > r.askedNs: // back from a stall its figures are of before that
		r.phase, r.hung = reclaimIdle, false
		a.scout.awaited.Store(false)
	case t.Reclaim != nil && t.Reclaim.ID == r.wanted.ID:
		a.answered(t.Reclaim.DoneNs, nowNs, record.Reclaim{
			Containers: t.Reclaim.Containers, Images: t.Reclaim.Images, FreedBytes: t.Reclaim.FreedBytes, FreedInodes: t.Reclaim.FreedInodes,
			Error: t.Reclaim.Error,
		})
	case failed != nil && *failed == r.wanted.ID:
		a.answered(nowNs, nowNs, record.Reclaim{Error: "the request could not be written"})
	case nowNs < r.wanted.DeadlineNs:
	case t.WrittenNs > r.askedNs:
		a.answered(nowNs, nowNs, record.Reclaim{Error: "not done within " + r.deadline.String()})
	case !r.hung:
		r.hung = true
		a.log.Error().Dur("waited_ms", time.Duration(nowNs-r.askedNs)).Msg("degraded: the disk process does not answer; thresholds of disks kill nobody")
		a.degraded(alarm{signal: a.settings.Bounds[r.bound].Signal, reason: string(reasonHung) + "; thresholds of disks kill nobody"})
	}
}

func (a *Agent) answered(doneNs, nowNs uint64, what record.Reclaim) {
	r := &a.reclaim
	r.phase, r.doneNs, r.hung = reclaimAnswered, min(doneNs, nowNs), false
	a.scout.awaited.Store(false)
	what.ID, _ = record.ParseID(r.wanted.ID) // it was made by record.MakeID
	what.Signal, what.TookNs = r.wanted.Signal, nowNs-r.askedNs
	done := "new look at disk figures"
	if r.frees() {
		r.last, done = &what, "node-level reclaim"
	}
	if what.Error != "" && r.lastError != what.Error {
		a.degraded(alarm{signal: a.settings.Bounds[r.bound].Signal, reason: done + " failed: " + what.Error})
	}
	r.lastError = what.Error
	said := a.log.Warn().Str("id", r.wanted.ID).Str("signal", what.Signal).Dur("took_ms", time.Duration(what.TookNs))
	if what.Error != "" {
		said.Str("error", what.Error)
	}
	if r.frees() {
		said.Int64("containers", what.Containers).Int64("images", what.Images)
	}
	said.Msg(done)
}

// frees: more than figures was asked for.
func (r *reclaim) frees() bool { return r.wanted.Containers || r.wanted.Images }

// maxWanted is what pkg/workload takes for more than any filesystem holds.
const maxWanted = 1 << 60

// mayFree: containers and images may go; else figures alone are asked for.
func (a *Agent) mayFree() bool { return !a.shadow && !a.reclaim.onlyFigures }

// askReclaim asks for what a decision wants done. Nothing waits for the file, and no bound of
// memory or tasks for the answer.
func (a *Agent) askReclaim(d *decide.Decision) {
	r, nowNs := &a.reclaim, sample.Now()
	r.phase, r.bound, r.decision, r.askedNs = reclaimAsked, d.Bound, *d, nowNs
	r.wanted = workload.ReclaimRequest{
		ID:     record.MakeID(uint64(time.Now().UnixMilli()), record.Entropy()).String(),
		Signal: string(a.settings.Bounds[d.Bound].Signal), Containers: d.Reclaim.Containers && a.mayFree(), Images: d.Reclaim.Images && a.mayFree(),
		DeadlineNs: nowNs + uint64(r.deadline), AvailableWanted: min(max(0, d.TargetAvailable), maxWanted),
	}
	a.scout.awaited.Store(true)
	go a.writeReclaim(r.path, r.wanted)
}

func (a *Agent) writeReclaim(path string, request workload.ReclaimRequest) {
	a.reclaimMu.Lock()
	defer a.reclaimMu.Unlock()
	if err := workload.WriteReclaim(path, &request); err != nil {
		a.log.Error().Err(err).Msg("node-level reclaim can't be asked for")
		a.reclaim.unwritten.Store(&request.ID)
		a.wake()
	}
}

// concludeReclaim records a reclaim that was enough: nobody was evicted, and somebody may ask
// where the images went. One that was not is in the line of what followed.
func (a *Agent) concludeReclaim(d *decide.Decision) {
	r := &a.reclaim
	if r.phase != reclaimLooked {
		return
	}
	r.phase = reclaimIdle
	b := &a.settings.Bounds[r.bound]
	o := a.observed(b)
	if d.Met[r.bound] || o == nil {
		return
	}
	defer r.spend()
	if !r.frees() {
		return
	}
	id, _ := record.ParseID(r.wanted.ID)
	line := &record.Line{
		Kind: record.KindReclaim, ID: id, Node: a.node, Mode: a.mode, Signal: string(b.Signal),
		Tier: a.tierFor(b.Signal), Threshold: thresholdLine(b, &r.decision),
		Observed: &record.Observed{Available: o.Available, Capacity: o.Capacity},
		Reclaim:  r.last, FreedBytes: r.last.FreedBytes, Outcome: record.OutcomeRecovered, Reason: string(decide.ReasonReclaimed), By: record.ByAgent,
	}
	a.recorder.send(line, nil)
}

// precededBy is the reclaim that was done before an eviction for a disk, nil: none was.
func (a *Agent) precededBy(b *decide.Bound, d *decide.Decision) *record.Reclaim {
	if !b.Signal.Disk() || a.reclaim.last == nil || !a.mayFree() || !d.Reclaim.Any() || !a.reclaim.done(sample.Now(), reclaimAgain).Any() {
		return nil
	}
	return a.reclaim.last
}
