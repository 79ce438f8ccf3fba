package agent

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// maxComebacks is how many evicted pods are watched for; the oldest makes room.
	maxComebacks = 32
	// comebackFirst is between a kill and the next one of the same pod that no pressure asks
	// for, comebackMost the longest that this becomes by doubling. A kubelet starts a container
	// again after one or two seconds, and then after 10 s, twice as long each time.
	comebackFirst = time.Second
	comebackMost  = time.Minute
	// comebackFor is how long the companion can be expected to try (overwrittenMost in pkg/kube).
	comebackFor = 10 * time.Minute
)

// comeback is an evicted pod whose containers a kubelet may start again until it learns of the
// eviction: what runs in it until then is killed again, and all of that is one eviction. Whether
// the record has landed, the workload table tells: its writer lists a pod until the pod has
// failed and nothing of it runs. Without a table nobody records anything, and a pod that was
// started again is one as any other.
type comeback struct {
	used     bool
	uid      string
	id       workload.Identity
	eviction record.ID
	decision decide.Decision
	bound    decide.Bound
	limit    *offence
	// unit is what was struck last, killedNs when, deadNs when it was dead, 0: it is not.
	unit            *unit
	killedNs        uint64
	deadNs          uint64
	firstNs         uint64
	attempts        int
	processesKilled int
	// line is the closing line of the first kill, nil until it is closed. Never changed.
	line *record.Line
}

// comebackOf is that of a pod which the table still lists, nil when this is its first kill. A
// pod of the same name is another one, with a uid and a cgroup of its own.
func (a *Agent) comebackOf(w *workload.Workload) *comeback {
	if !isListedPod(w) {
		return nil
	}
	for i := range a.comebacks {
		if c := &a.comebacks[i]; c.used && c.id == w.ID && c.uid == w.UID && sample.Now()-c.firstNs < uint64(comebackFor) {
			return c
		}
	}
	return nil
}

// isListedPod: its name is in the table alone.
func isListedPod(w *workload.Workload) bool { return w.UID != w.Cgroup && w.Namespace != "" }

// resume makes a kill of a pod that came back one of its eviction's.
func (a *Agent) resume(e *eviction) {
	if c := a.comebackOf(&e.victim); c != nil {
		e.id, e.attempt = c.eviction, c.attempts+1
		e.intended.ID = e.id
	}
}

// isAgain: the pod was killed before, and what was said then still holds.
func (e *eviction) isAgain() bool { return e.attempt > 1 }

// expect has a killed pod watched for, until it is on record. Where there was no table at the
// kill, one that comes later lists the pod because it runs, and not until it is on record.
func (a *Agent) expect(e *eviction) {
	if e.victim.UID == e.victim.Cgroup || !a.scout.hasTable.Load() {
		return
	}
	c := a.comebackBy(e.id)
	if c == nil {
		if e.isAgain() {
			return // it has made room since
		}
		c = a.roomFor(e.victim.ID)
		*c = comeback{
			used: true, uid: e.victim.UID, id: e.victim.ID, eviction: e.id, decision: e.decision, bound: e.bound,
			limit: e.limit, firstNs: sample.Now(),
		}
	}
	if e.isAgain() {
		a.closeFormer(e)
	}
	c.unit, c.killedNs, c.deadNs, c.attempts = e.unit, sample.Now(), 0, max(1, e.attempt)
}

func (a *Agent) comebackBy(id record.ID) *comeback {
	for i := range a.comebacks {
		if c := &a.comebacks[i]; c.used && c.eviction == id {
			return c
		}
	}
	return nil
}

// roomFor is the place of the pod's former eviction, a free one, or that of the oldest.
func (a *Agent) roomFor(id workload.Identity) *comeback {
	room := &a.comebacks[0]
	for i := range a.comebacks {
		c := &a.comebacks[i]
		if c.used && c.id == id {
			return c
		}
		if room.used && (!c.used || c.firstNs < room.firstNs) {
			room = c
		}
	}
	return room
}

// closeFormer closes the pod's former kill, should that wait for the signal.
func (a *Agent) closeFormer(e *eviction) {
	for i := range a.open {
		if o := &a.open[i]; o != e && o.used && !o.recorded && o.ended != nil && o.id == e.id {
			a.closeEviction(o)
		}
	}
}

// closedAs is the closing line of an eviction of which l tells the last kill: of a pod that came
// back the line of the first, with what became of it since. Nil: there is nothing to add to.
func (a *Agent) closedAs(e *eviction, l *record.Line) *record.Line {
	c := a.comebackBy(e.id)
	switch {
	case c == nil && e.isAgain():
		return nil
	case c == nil:
		return l
	}
	c.processesKilled += l.ProcessesKilled
	if !e.isAgain() || c.line == nil {
		c.line = l
		return l
	}
	last := *c.line
	last.Attempts, last.ProcessesKilled = e.attempt, c.processesKilled
	last.Outcome, last.Reason = l.Outcome, "came back before it was on record; "+l.Reason
	return &last
}

// killComebacks kills the containers again of evicted pods that are not on record yet. Other
// kills are not held up by that, and it counts for no budget: that is of evictions.
func (a *Agent) killComebacks(d *decide.Decision, wokeNs uint64) {
	if a.shadow || a.leaving || d.Verdict == decide.Evict {
		return
	}
	for i := range a.comebacks {
		if c := &a.comebacks[i]; c.used && !a.killComeback(c, wokeNs) {
			return
		}
	}
}

// killComeback kills one that is due. False: there is no room.
func (a *Agent) killComeback(c *comeback, wokeNs uint64) bool {
	if c.deadNs == 0 || wokeNs < c.killedNs+uint64(c.patience()) {
		return true
	}
	i := a.scene.unit(c.id)
	if i < 0 || a.comebackOf(&a.scene.workloads[i]) != c || !runsSince(a.scene.units[i], c.unit, c.deadNs) {
		return true
	}
	a.scene.look(a.kernel, i)
	if a.scene.workloads[i].Protected != "" {
		return true
	}
	if !a.withdraw() {
		return false
	}
	e := a.slot()
	if e == nil {
		return false
	}
	a.beginAgain(e, c, i, wokeNs)
	a.kill(e, nil)
	return true
}

// patience is how long after the last kill the next one is due.
func (c *comeback) patience() time.Duration {
	return min(comebackMost, comebackFirst<<min(c.attempts-1, 10))
}

// beginAgain is begin, of a pod at index i of the scene that came back.
func (a *Agent) beginAgain(e *eviction, c *comeback, i int, wokeNs uint64) {
	*e = eviction{
		used: true, id: c.eviction, killer: record.ByAgent, by: sample.ObserverTimer, unasked: true,
		decision: c.decision, bound: c.bound, limit: c.limit, wire: noWire,
		victim: a.scene.workloads[i], unit: a.scene.units[i], targets: a.scene.units[i].targets,
		intent: -1, condemned: -1, wall: time.Now(), lowest: c.decision.Observed.Available,
	}
	e.decision.Victim = i
	e.decision.Observed = signal.Observation{
		Signal: c.decision.Observed.Signal, Available: c.decision.Observed.Available, Capacity: c.decision.Observed.Capacity, Ns: wokeNs,
	}
	e.timeline.Crossed, e.timeline.Woke, e.timeline.Decided = wokeNs, wokeNs, sample.Now()
	a.intend(e)
}
