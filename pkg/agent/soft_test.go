package agent

import (
	"path"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// soft makes the bed's root softly short of memory from 64 MiB on, at once.
func (b *bed) soft(value string, grace time.Duration, maxPodGraceSeconds int32) {
	b.conf.EvictionSoft = map[string]string{"allocatableMemory.available": value}
	b.conf.EvictionSoftGracePeriod = map[string]string{"allocatableMemory.available": grace.String()}
	b.conf.EvictionMaxPodGracePeriod = maxPodGraceSeconds
}

// deaf makes a unit that holds some memory and does not end by SIGTERM.
func (b *bed) deaf(unit string, holdBytes int64) *load.Load {
	b.t.Helper()
	b.create(unit)
	l := b.run(unit, load.Spec{Kind: load.Sleeper, Hold: holdBytes, IgnoreTerm: true})
	b.await("the memory of "+unit, func() bool {
		n, err := l.Progress()
		must(b.t, err)
		return n >= holdBytes
	})
	return l
}

func TestSoftVictimEndsByItself(t *testing.T) {
	b := newBed(t)
	b.soft("470Mi", time.Millisecond, 600)
	polite := b.sleeper("polite", 64<<20)
	a := b.open(map[string]string{}, nil)
	b.turns(a, "the eviction to be closed", func() bool { return a.open[0].recorded })
	b.written(a)
	if polite.Alive() {
		t.Error("it lives")
	}
	kill, closed := b.line(record.KindKill, "polite"), b.line(record.KindEviction, "polite")
	if kill.Timeline.Asked == 0 || kill.Timeline.Signalled != 0 || kill.Threshold.Hard || kill.Message == "" {
		t.Errorf("kill line %+v of %+v, want one of SIGTERM", kill.Timeline, kill.Threshold)
	}
	tl := closed.Timeline
	if closed.Outcome != record.OutcomeKilled || tl.Signalled != 0 || tl.Dead < tl.Asked {
		t.Errorf("closed as %s (%s), %+v, want ended without SIGKILL", closed.Outcome, closed.Reason, tl)
	}
}

func TestSoftVictimThatDoesNotHearIsKilledAfterItsGrace(t *testing.T) {
	b := newBed(t)
	const patience = 300 * time.Millisecond
	b.soft("470Mi", patience, 1)
	deaf := b.deaf("deaf", 64<<20)
	a := b.open(map[string]string{}, nil)
	b.turns(a, "the eviction to be closed", func() bool { return a.open[0].recorded })
	b.written(a)
	if deaf.Alive() {
		t.Error("it lives")
	}
	tl := b.line(record.KindEviction, "deaf").Timeline
	if tl.Signalled < tl.Asked+uint64(time.Second) || tl.Dead < tl.Signalled {
		t.Errorf("%+v, want SIGKILL a second after SIGTERM", tl)
	}
	if tl.Asked < tl.Crossed+uint64(patience) {
		t.Errorf("%+v, want SIGTERM after the threshold's grace period of %s", tl, patience)
	}
}

// Soft thresholds wait for their grace period, and start anew when the signal is back.
func TestSoftThresholdWaitsForItsGracePeriod(t *testing.T) {
	b := newBed(t)
	b.soft("470Mi", time.Hour, 600)
	big := b.sleeper("big", 64<<20)
	a := b.open(map[string]string{}, nil)
	for range 20 {
		must(t, a.turn(sample.Now()))
	}
	if !big.Alive() || a.open[0].used {
		t.Error("evicted within the grace period of the threshold")
	}
	if !a.conditions.MemoryPressure {
		t.Error("no pressure, though the threshold is met: the condition comes before the grace period is over")
	}
}

// What has ten minutes to end holds up nobody's SIGKILL, not even its own.
func TestSoftNeverDelaysHard(t *testing.T) {
	b := newBed(t)
	b.soft("470Mi", time.Millisecond, 600)
	first := b.deaf("first", 64<<20)
	a := b.open(map[string]string{"allocatableMemory.available": "300Mi"}, nil)
	b.turns(a, "the first to be asked", func() bool { return a.open[0].used && a.open[0].timeline.Asked != 0 })
	second := b.sleeper("second", 200<<20)
	b.look(a)
	b.turns(a, "the second to die", func() bool { return !second.Alive() })
	if !first.Alive() {
		t.Error("the first died with it")
	}
	more := b.run("first", load.Spec{Kind: load.Sleeper, Hold: 200 << 20, IgnoreTerm: true})
	b.look(a)
	b.turns(a, "the first to die", func() bool { return !first.Alive() && !more.Alive() })
	b.turns(a, "its two evictions to be closed", func() bool { return b.closed(a, "first") == 2 })
}

// line returns the line of a kind about a unit.
func (b *bed) line(kind record.Kind, unit string) record.Line {
	b.t.Helper()
	for _, l := range b.lines(kind) {
		if l.Victim != nil && l.Victim.Cgroup == path.Join(b.root, unit) {
			return l
		}
	}
	b.t.Fatalf("no %s line about %s in\n%s", kind, unit, b.journal())
	return record.Line{}
}

// closed counts the closed evictions of a unit.
func (b *bed) closed(a *Agent, unit string) (n int) {
	for i := range a.open {
		if e := &a.open[i]; e.recorded && e.victim.Cgroup == path.Join(b.root, unit) {
			n++
		}
	}
	return n
}
