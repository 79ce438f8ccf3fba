package agent

import (
	"math"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// A filesystem shows what was removed up to freedWithin later. Whatever is removed, told and
// looked at when: what it does not show as free counts as the victim's; and once nothing more
// is removed, that is what counts.
func TestWhatIsNotFreedYetCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, nowNs := diskHold{held: math.MaxInt64}, uint64(time.Minute)
		type removal struct {
			ns   uint64
			left int64
		}
		left := []removal{{0, 1000}}
		leftAt := func(ns uint64) int64 {
			i := len(left) - 1
			for left[i].ns > ns {
				i--
			}
			return left[i].left
		}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			nowNs += uint64(rapid.Int64Range(1, int64(2*freedWithin)).Draw(t, "pause"))
			switch rapid.SampledFrom([]string{"remove", "tell", "look"}).Draw(t, "what") {
			case "remove":
				left = append(left, removal{nowNs, leftAt(nowNs) - rapid.Int64Range(0, leftAt(nowNs)).Draw(t, "bytes")})
			case "tell":
				h.tell(leftAt(nowNs), nowNs)
			case "look":
				lag := uint64(rapid.Int64Range(0, int64(freedWithin)).Draw(t, "lag"))
				if got, shown := h.at(nowNs), leftAt(nowNs-lag); got < shown {
					t.Fatalf("%d count, and the filesystem shows %d as used", got, shown)
				}
			}
		}
		h.tell(leftAt(nowNs), nowNs)
		if got := h.at(nowNs + uint64(freedWithin)); got != leftAt(nowNs) {
			t.Fatalf("%d count at the end, want the %d that are left", got, leftAt(nowNs))
		}
	})
}

// size makes the file that takes most of the disk so large.
func (b *diskBed) size(bytes int64) {
	b.t.Helper()
	must(b.t, os.WriteFile(b.image(), make([]byte, bytes), 0o600))
}

// lives wants a unit to live through some time of rounds.
func (b *diskBed) lives(a *Agent, unit interface{ Alive() bool }, why string) {
	b.t.Helper()
	for end := time.Now().Add(time.Second); time.Now().Before(end) && unit.Alive(); time.Sleep(time.Millisecond) {
		b.round(a)
	}
	if !unit.Alive() {
		b.t.Fatalf("another died in the victim's place: %s\n%s", why, b.journal())
	}
}

// What XFS preallocated for a writer comes back with its death, and the signal with it: for a
// moment, while the writer's files lie there.
func TestAVictimCountsWhenTheSignalWasBackForAMoment(t *testing.T) {
	b := newDiskBed(t)
	first, second := b.sleeper("first", 1<<20), b.sleeper("second", 1<<20)
	b.fill()
	b.holds("first", 6<<20)
	b.holds("second", 2<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.rounds(a, "the first to die", func() bool { return !first.Alive() && a.open[0].timeline.Dead != 0 })
	b.holds("first", 5<<20)
	b.size(30 << 20)
	b.rounds(a, "the signal to be back", func() bool { return len(b.outcomes("first")) == 1 })
	b.size(33 << 20)
	b.lives(a, second, "less is missing than its files take")
	b.holds("first", 0)
	b.rounds(a, "the second to die", func() bool { return !second.Alive() })
}

// One that was above a limit of its own gives its files back, too.
func TestAVictimOfALimitCounts(t *testing.T) {
	b := newDiskBed(t)
	b.limits(10<<20, "one")
	one, two := b.sleeper("one", 1<<20), b.sleeper("two", 1<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	must(t, a.scout.round(true))
	b.holds("one", 20<<20)
	b.holds("two", 2<<20)
	b.rounds(a, "the one to die", func() bool { return !one.Alive() && len(b.outcomes("one")) == 1 })
	b.fill()
	b.lives(a, two, "its files were not measured since")
	b.holds("one", 1<<20)
	b.rounds(a, "the other to die", func() bool { return !two.Alive() })
}

// The kubelet takes a figure that is missing for zero; that of a victim is not.
func TestAVictimCountsUnderCompatToo(t *testing.T) {
	b := newDiskBed(t)
	b.conf.Compat = config.CompatKubelet
	first, second := b.sleeper("first", 1<<20), b.sleeper("second", 1<<20)
	b.fill()
	b.holds("first", 3<<20)
	b.holds("second", 2<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.rounds(a, "the first to die", func() bool { return !first.Alive() && a.open[0].timeline.Dead != 0 })
	b.lives(a, second, "what was read before its death tells nothing")
	if n := len(b.lines(record.KindKill)); n != 1 {
		t.Errorf("%d kills", n)
	}
}

// One that can't be ended, or was gone before it was asked to, does not keep the disk from
// others for good.
func TestAVictimWithoutADeathCountsForAWhile(t *testing.T) {
	b := newDiskBed(t)
	a := b.open(lowDisk, nil)
	e := &eviction{
		used: true, condemned: -1, disk: diskHold{held: math.MaxInt64}, bound: decide.Bound{Threshold: signal.Threshold{Signal: signal.NodeFsAvailable}},
	}
	e.timeline.Asked = sample.Now()
	e.finished.Store(&actuator.Outcome{Err: actuator.ErrGone})
	if got := a.heldDisk(e); got != math.MaxInt64 {
		t.Errorf("before the end is known it holds %d", got)
	}
	a.settle(e)
	if got := a.heldDisk(e); got != math.MaxInt64 || e.endedNs == 0 {
		t.Fatalf("ended at %d, and before it was measured it holds %d", e.endedNs, got)
	}
	e.endedNs -= uint64(cleanUp) + 1
	if got := a.heldDisk(e); got != 0 {
		t.Errorf("after the time for cleaning up it holds %d", got)
	}
}
