package bench

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench/sigtrace"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
)

// The yardstick that is the same for all tools. The crossing is the moment at which the hog
// had filled, by its own marks, what lay between the last reading before it began and the
// wire; the signal is the first SIGTERM or SIGKILL to it that the kernel traced; dead is when
// its pidfd says so; the overshoot is what it filled after the crossing.

// pageTables is what filling one byte charges for page tables, or for the index of a file in
// shared memory: a page for 512 pages.
const pageTables = 1.0 / 512

// burnt is a hog's round as seen from outside.
type burnt struct {
	curve  fillCurve
	died   bool
	diedNs int64
	// signalNs is 0 when no signal was seen.
	signalNs int64
	// backNs is when the memory was back, 0 where nobody looked.
	backNs int64
}

// burn lets the victim go and waits until it is dead, at most for patience. Where there is a
// watch it also waits for the memory.
func (s *stand) burn(victim *load.Load, patience time.Duration, w *memoryWatch) (b burnt, err error) {
	if err := s.trace.Clear(); err != nil {
		return b, err
	}
	tids, err := sigtrace.TasksOf(victim.PID())
	if err != nil {
		return b, err
	}
	if err := victim.Go(); err != nil {
		return b, err
	}
	if w != nil {
		if b.backNs, err = w.await(patience); err != nil {
			return b, err
		}
	}
	b.died = victim.Wait(patience)
	b.diedNs = monotonicNs()
	b.curve = fillCurve{marks: victim.Marks(), most: s.options.Scenario.amounts().hog}
	b.curve.bytes, _ = victim.Progress()
	ns, ok, err := s.trace.First(tids)
	if ok {
		b.signalNs = ns
	}
	return b, err
}

// figures are nil when the hog was not signalled or never crossed.
func (b *burnt) figures(crossedNs, crossedBytes int64) *Figures {
	if !b.died || b.signalNs == 0 || crossedNs == 0 {
		return nil
	}
	signalled, dead, overshoot := b.signalNs-crossedNs, b.diedNs-crossedNs, max(0, b.curve.bytes-crossedBytes)
	f := &Figures{CrossedToSignalledNs: &signalled, CrossedToDeadNs: &dead, OvershootBytes: &overshoot}
	if b.backNs > 0 {
		back := b.backNs - b.signalNs
		f.SignalledToBackNs = &back
	}
	return f
}

// filledAt is how much a hog has filled when a signal has gone down by distance.
func filledAt(distance int64, countsPageTables bool) int64 {
	if countsPageTables {
		return int64(float64(distance) / (1 + pageTables))
	}
	return distance
}
