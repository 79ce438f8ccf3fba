package agent

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// maxSoft is how many soft evictions may be under way: their grace periods must not take
// the places of hard ones.
const maxSoft = maxOpen / 2

// minGrace is the kubelet's: a grace period of 0 would be no question at all.
const minGrace = time.Second

// ask starts a soft eviction: SIGTERM, the grace, SIGKILL, on a track of its own. The line
// is the kill line: whoever starts containers again must know from now on.
func (a *Agent) ask(e *eviction) error {
	h, err := e.unit.open(a.fs)
	if err != nil {
		return err
	}
	a.resume(e)
	e.handle, e.timeline.Asked = h, sample.Now()
	a.viewed = time.Time{}
	if !e.isAgain() {
		a.memory.Killed(e.timeline.Asked)
	}
	a.spendReclaim(e)
	a.weighContainers(e)
	grace := max(minGrace, time.Duration(a.settings.GracePeriodSeconds(&e.bound, e.victim.TerminationGracePeriodSeconds))*time.Second)
	go func() {
		out := h.End(a.crew, sample.Now, grace, finishDeadline, func() { e.killedNs.Store(sample.Now()) })
		e.finished.Store(&out)
		a.wake()
	}()
	a.noted(e)
	return nil
}

// softIsFull reports whether a soft eviction has to wait for another.
func (a *Agent) softIsFull(b *decide.Bound) bool {
	n := 0
	for i := range a.open {
		if e := &a.open[i]; e.used && !e.recorded && !e.bound.Hard() {
			n++
		}
	}
	return !b.Hard() && n >= maxSoft
}
