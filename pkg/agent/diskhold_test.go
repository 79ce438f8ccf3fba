package agent

import (
	"errors"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
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

// gone removes a dead unit's cgroup, as whoever made it does.
func (b *diskBed) gone(a *Agent, unit string) {
	b.t.Helper()
	must(b.t, b.fs.Remove(path.Join(b.root, unit)))
	must(b.t, a.scout.round(true))
}

// again is an agent that takes the place of another, which was killed or was asked to end.
func (b *diskBed) again(a *Agent) *Agent {
	b.t.Helper()
	b.written(a)
	b.watch, b.conf.State = watchFigures(b.conf.Disk), filepath.Join(b.t.TempDir(), "state.json")
	return b.open(lowDisk, nil)
}

// It makes no difference to others whether the agent was started anew while a victim's files are
// cleaned up.
func TestAVictimOfAFormerAgentCounts(t *testing.T) {
	for name, end := range map[string]func(*Agent){
		"killed":       func(*Agent) {},
		"asked to end": func(a *Agent) { a.leave() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newDiskBed(t)
			first, second := b.sleeper(podA+"/first", 1<<20), b.sleeper("second", 1<<20)
			podHolds := func(bytes int64) {
				b.holds(podA, bytes)
				b.units[podA]["uid"] = strings.TrimPrefix(path.Base(podA), "pod")
			}
			b.fill()
			podHolds(30 << 20)
			b.holds("second", 2<<20)
			b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
			a := b.open(lowDisk, nil)
			b.rounds(a, "the first to die", func() bool { return !first.Alive() && a.open[0].timeline.Dead != 0 })
			b.gone(a, podA)
			end(a)
			a = b.again(a)
			b.lives(a, second, "its files were not measured since")
			podHolds(30 << 20)
			b.lives(a, second, "its files are there")
			podHolds(1 << 20)
			b.rounds(a, "the second to die", func() bool { return !second.Alive() })
		})
	}
}

// What an agent of long ago killed, and what runs again, keeps nobody alive.
func TestAVictimOfLongAgoCountsNoMore(t *testing.T) {
	for name, since := range map[string]func(*diskBed, *record.Line){
		"long ago":     func(_ *diskBed, l *record.Line) { l.Timeline.Dead -= uint64(cleanUp) },
		"since a boot": func(_ *diskBed, l *record.Line) { l.Timeline.Dead += uint64(time.Hour) },
		"runs again":   func(b *diskBed, _ *record.Line) { b.sleeper(podA+"/again", 1<<20) },
		"of a service": func(b *diskBed, l *record.Line) {
			b.holds("service", 20<<20)
			l.Victim.UID, l.Victim.Cgroup = path.Join(b.root, "service"), path.Join(b.root, "service")
			l.Timeline.Dead -= uint64(time.Hour)
			l.Timeline.Recovered = l.Timeline.Dead
			b.write(sample.Now())
		},
		"for memory": func(_ *diskBed, l *record.Line) { l.Signal = "memory.available" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newDiskBed(t)
			nowNs := sample.Now()
			l := &record.Line{
				Kind: record.KindEviction, ID: record.MakeID(1, record.Entropy()), Signal: "nodefs.available", Outcome: record.OutcomeKilled,
				Victim:   &record.Victim{UID: strings.TrimPrefix(path.Base(podA), "pod"), Cgroup: path.Join(b.root, podA), QOSClass: "Burstable"},
				Timeline: &record.Timeline{Signalled: nowNs - uint64(time.Second), Dead: nowNs},
			}
			since(b, l)
			j, err := record.OpenJournal(b.conf.Journal, record.JournalOptions{})
			must(t, err)
			must(t, errors.Join(j.Append(l), j.Close()))
			second := b.sleeper("second", 1<<20)
			b.fill()
			b.holds("second", 2<<20)
			if name == "runs again" {
				b.holds(podA, 1<<20)
				b.units[podA]["uid"] = l.Victim.UID
			}
			b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
			a := b.open(lowDisk, nil)
			b.rounds(a, "the second to die", func() bool { return !second.Alive() })
		})
	}
}

// Nobody removes the files of a unit that is no pod but who has to do with it, whenever that is:
// for as long as they lie there they count, and it is said whose they are.
func TestWhatAServiceLeftCountsUntilItIsCleaned(t *testing.T) {
	for _, restarted := range []string{"", "after a restart"} {
		t.Run(restarted, func(t *testing.T) {
			b := newDiskBed(t)
			service, second := b.sleeper("service", 1<<20), b.sleeper("second", 1<<20)
			b.fill()
			b.holds("service", 20<<20)
			b.holds("second", 2<<20)
			b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
			a := b.open(lowDisk, nil)
			b.rounds(a, "the service to die", func() bool { return !service.Alive() && a.open[0].timeline.Dead != 0 })
			b.gone(a, "service")
			b.holds("service", 20<<20)
			b.round(a)
			if restarted != "" {
				a = b.again(a)
				b.round(a)
			}
			a.open[0].endedNs -= uint64(cleanUp) + 1
			b.lives(a, second, "nobody has cleaned its directories")
			b.holds("service", 20<<20)
			b.lives(a, second, "nor since")
			b.written(a)
			if n := b.alarms(path.Join(b.root, "service")); n != 1 {
				t.Errorf("%d alarms that name it", n)
			}
			if s := a.view().Disk; !strings.Contains(s.Error, path.Join(b.root, "service")) {
				t.Errorf("state %+v", s)
			}
			delete(b.units, "service") // the disk process was started anew
			b.lives(a, second, "what is not known is not gone")
			b.holds("service", 1<<20)
			b.rounds(a, "the second to die for what it holds itself", func() bool { return !second.Alive() })
		})
	}
}

// An agent that is started long after it knows what the disk process still measures.
func TestWhatAServiceLeftCountsAfterALongTime(t *testing.T) {
	b := newDiskBed(t)
	endNs := sample.Now() - min(sample.Now()/2, uint64(time.Hour)) // of this boot
	l := &record.Line{
		Kind: record.KindEviction, ID: record.MakeID(1, record.Entropy()), Signal: "nodefs.available", Outcome: record.OutcomeKilled,
		Victim:   &record.Victim{UID: path.Join(b.root, "service"), Cgroup: path.Join(b.root, "service")},
		Timeline: &record.Timeline{Signalled: endNs, Dead: endNs},
	}
	j, err := record.OpenJournal(b.conf.Journal, record.JournalOptions{})
	must(t, err)
	must(t, errors.Join(j.Append(l), j.Close()))
	second := b.sleeper("second", 1<<20)
	b.fill()
	b.holds("service", 20<<20)
	b.holds("second", 2<<20)
	b.write(sample.Now())
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.lives(a, second, "the files of the service are there")
	service := b.sleeper("service", 1<<20)
	must(t, a.scout.round(true))
	b.rounds(a, "the service to die anew", func() bool { b.holds("service", 20<<20); return !service.Alive() })
	if !second.Alive() {
		t.Error("another died in its place")
	}
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
