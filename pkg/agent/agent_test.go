package agent

import (
	"path"
	"slices"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// met is a threshold that 64 MiB in the bed's root are enough for.
var met = map[string]string{"allocatableMemory.available": "470Mi"}

func TestShadowSaysItOnceForEachTimeTheThresholdIsMet(t *testing.T) {
	b := newBed(t)
	b.conf.Mode = config.ModeShadow
	big := b.sleeper("big", 64<<20)
	a := b.open(met, nil)
	for range 20 {
		must(t, a.turn(sample.Now()))
	}
	b.written(a)
	if got := b.outcomes("big"); len(got) != 1 || got[0] != record.OutcomeShadow || !big.Alive() {
		t.Fatalf("outcomes %v, it lives: %v, want one shadow line", got, big.Alive())
	}
	must(t, big.Stop())
	b.turns(a, "the signal to recover", func() bool { return !a.shadowMet[0] })
	b.sleeper("next", 64<<20)
	b.look(a)
	b.look(a)
	b.written(a)
	if got := b.outcomes("next"); len(got) != 1 {
		t.Errorf("outcomes %v the second time, want one line", got)
	}
}

func TestWireFiresAgainOnlyWhenItsSignalIsBack(t *testing.T) {
	b := newBed(t)
	b.conf.Mode = config.ModeShadow
	big := b.sleeper("big", 64<<20)
	a := b.open(met, nil)
	wire := a.wires.number[0]
	b.turns(a, "the wire to fire", func() bool {
		seq, fired := a.kernel.WireSeq(wire)
		return fired >= seq
	})
	for range 20 {
		must(t, a.turn(sample.Now()))
	}
	if seq, fired := a.kernel.WireSeq(wire); fired < seq {
		t.Errorf("armed with %d while the threshold is met; fired %d", seq, fired)
	}
	must(t, big.Stop())
	b.turns(a, "the wire to be armed", func() bool {
		seq, fired := a.kernel.WireSeq(wire)
		return seq > fired
	})
}

// The kernel has data where we have none: it would fire, wake us and fire again.
func TestWireStaysAsItIsWithoutData(t *testing.T) {
	b := newBed(t)
	b.conf.Mode = config.ModeShadow
	b.sleeper("big", 64<<20)
	a := b.open(met, nil)
	wire := a.wires.number[0]
	b.turns(a, "the wire to fire", func() bool {
		seq, fired := a.kernel.WireSeq(wire)
		return fired >= seq
	})
	a.guards[0].Accept(signal.Observation{Signal: signal.AllocatableMemoryAvailable, Ns: sample.Now() + uint64(time.Hour)})
	armed := a.armedSeq(wire)
	for range 20 {
		must(t, a.turn(sample.Now()))
	}
	if got := a.armedSeq(wire); got != armed {
		t.Errorf("armed with %d, then with %d: the clock of the readings went back, so there were none", armed, got)
	}
}

// Attaching the hook may take 20 ms.
func TestALookInDoubtDoesNotAttachTheHook(t *testing.T) {
	b := newBed(t)
	b.conf.MarginBytes = 1 << 20
	b.tier = loader.TierAlloc
	a := b.open(map[string]string{"allocatableMemory.available": "1Mi"}, nil)
	a.scout.nearness.margin = bedMemory
	a.scout.refreshNow()
	if a.kernel.Armed() {
		t.Error("the hot thread attached it")
	}
	must(t, a.scout.round(false))
	if !a.kernel.Armed() {
		t.Error("the scout does not attach it: this test sees nothing")
	}
}

// An agent that dies after each kill, and is started again each time, must not kill on.
func TestBudgetOutlivesTheAgent(t *testing.T) {
	b := newBed(t)
	b.conf.Budget = config.Budget{KillsPerMinute: 2, KillsPerHour: 3}
	j, err := record.OpenJournal(b.conf.Journal, record.JournalOptions{})
	must(t, err)
	for _, age := range []time.Duration{2 * time.Hour, 2 * time.Hour, 2 * time.Hour, 10 * time.Minute, 5 * time.Second} {
		must(t, j.Append(&record.Line{Kind: record.KindKill, Time: record.Time{Time: time.Now().Add(-age)}}))
	}
	must(t, j.Close())
	b.sleeper("bystander", 8<<20)
	first := b.sleeper("first", 64<<20)
	a := b.open(met, nil)
	b.turns(a, "the one kill that is left", func() bool { return !first.Alive() && !a.following() })
	second := b.sleeper("second", 64<<20)
	b.look(a)
	b.written(a)
	if got := b.lines(record.KindEviction); len(got) != 2 || got[1].Reason != string(decide.ReasonBudget) || !second.Alive() {
		t.Errorf("the second lives: %v, want it spared by the budget:\n%s", second.Alive(), b.journal())
	}
}

func TestRefusalIsRecordedOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*config.Config, *bed)
		want    decide.Reason
	}{
		"budget spent": {func(c *config.Config, _ *bed) { c.Budget.KillsPerHour = 0 }, decide.ReasonBudget},
		"protected":    {func(c *config.Config, b *bed) { c.Protect = []string{b.root + "/*"} }, decide.ReasonNoCandidate},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			tc.prepare(b.conf, b)
			big := b.sleeper("big", 64<<20)
			a := b.open(met, nil)
			for range 20 {
				must(t, a.turn(sample.Now()))
			}
			b.written(a)
			lines := b.lines(record.KindEviction)
			if len(lines) != 1 || lines[0].Outcome != record.OutcomeRefused || lines[0].Reason != string(tc.want) || !big.Alive() {
				t.Errorf("it lives: %v, want one refusal %q:\n%s", big.Alive(), tc.want, b.journal())
			}
		})
	}
}

// A unit that is removed, and one made under its name, between the scan and the strike.
func TestUnitMadeAgainUnderTheSameNameIsNotKilled(t *testing.T) {
	b := newBed(t)
	old := b.sleeper("unit", 96<<20)
	hog := b.sleeper("hog", 64<<20)
	a := b.open(met, nil)
	must(t, old.Stop())
	must(t, b.fs.Remove(path.Join(b.root, "unit")))
	young := b.sleeper("unit", 8<<20)
	must(t, a.turn(sample.Now())) // with the scene of before
	b.written(a)
	// Gone, where the kernel has not given the old one's row to the new one yet.
	if got := b.outcomes("unit"); slices.Contains(got, record.OutcomeKilled) {
		t.Errorf("outcomes %v of the old unit", got)
	}
	if !hog.Wait(time.Minute) {
		t.Error("the hog lives: nobody was found in the old unit's place")
	}
	if !young.Alive() {
		t.Error("the new unit died for the old one's usage")
	}
}

func TestStrikeThatHitsNobodyGivesEverythingBack(t *testing.T) {
	b := newBed(t)
	unit := b.sleeper("unit", 64<<20)
	a := b.open(met, nil)
	a.scene.take(a.scout.current())
	must(t, unit.Stop())
	must(t, b.fs.Remove(path.Join(b.root, "unit")))
	if a.evict(&decide.Decision{Verdict: decide.Evict, Bound: 0, Victim: 0}, nil, sample.Now()) {
		t.Error("not asked to look for another victim")
	}
	b.written(a)
	if len(b.lines(record.KindKill)) != 0 || a.memory != (decide.Memory{}) {
		t.Errorf("a kill is counted or recorded:\n%s", b.journal())
	}
	nothingIsPrepared(t, a)
}

// nothingIsPrepared checks that intent, claim, condemned word and slot were given back.
func nothingIsPrepared(t *testing.T, a *Agent) {
	t.Helper()
	wire := a.wires.number[0]
	if !a.kernel.Claim(wire, a.armedSeq(wire)) {
		t.Error("the claim is not released")
	}
	const nobody = 1 << 62 // of no cgroup's id: whoever is condemned dies
	for range 2 {
		if slot := a.kernel.Condemn(nobody, nobody); slot < 0 {
			t.Error("a condemned word is not given back")
		} else {
			defer a.kernel.Pardon(slot)
		}
	}
	in := a.open[0].intended
	for i := range 8 {
		slot := a.kernel.StoreIntent(&in)
		if slot != i {
			t.Fatalf("intent in slot %d, want %d: one is not freed", slot, i)
		}
		defer a.kernel.FreeIntent(slot)
	}
	if a.following() {
		t.Error("an eviction is still open")
	}
}

// Two wires crossed by one allocation: the line tells of the one that was acted on.
func TestLineTellsOfTheCrossingActedOn(t *testing.T) {
	b := newBed(t)
	big := b.sleeper("big", 64<<20)
	a := b.open(map[string]string{"allocatableMemory.available": "470Mi", "memory.available": "1Mi"}, nil)
	acted := b.crossing(a, "big", big.PID())
	bound := slices.IndexFunc(a.settings.Bounds, func(b decide.Bound) bool { return b.Signal == signal.AllocatableMemoryAvailable })
	acted.Wire = a.wires.number[bound]
	acted.Seq = a.armedSeq(acted.Wire)
	other, late := acted, acted
	other.Wire, other.Ns = a.wires.number[1-bound], acted.Ns-1000
	late.Seq, late.Ns = acted.Seq-1, acted.Ns-2000
	a.pass(crossings{late, other, acted}, sample.Now())
	b.written(a)
	kills := b.lines(record.KindKill)
	if len(kills) != 1 || kills[0].Timeline.Crossed != acted.Ns || kills[0].Tier != record.TierAlloc {
		t.Errorf("want one kill, crossed at %d and seen by %s:\n%s%+v", acted.Ns, record.TierAlloc, b.journal(), kills)
	}
}

// A unit younger than the last scan that crosses the wire is found by its record.
func TestStrangerIsFoundAndIsTheVictim(t *testing.T) {
	b := newBed(t)
	idle := b.sleeper("idle", 8<<20)
	a := b.open(met, nil)
	young := b.sleeper("young", 64<<20)
	if a.scene.take(a.scout.current()); a.scene.unit(identity(b, "young")) >= 0 {
		t.Fatal("the scout knows the young unit: this test sees nothing")
	}
	a.pass(crossings{b.crossing(a, "young", young.PID())}, sample.Now())
	if !young.Wait(time.Minute) || !idle.Alive() {
		t.Errorf("alive: the young unit %v, the idle one %v", young.Alive(), idle.Alive())
	}
}

// A unit that was listed, and that no walk has come to yet, has no usage: it may be the
// largest, whoever sees the crossing.
func TestUnitWithoutRowsYetIsTheVictim(t *testing.T) {
	for name, byHook := range map[string]bool{"its crossing woke us": true, "the clock did": false} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			idle := b.sleeper("idle", 8<<20)
			a := b.open(met, nil)
			young := b.sleeper("young", 64<<20)
			a.scout.mu.Lock()
			must(t, a.scout.look(scanned))
			a.scout.published.Store(a.scout.known.roster(a.scout.roots, a.scout.current()))
			a.scout.mu.Unlock()
			a.scene.take(a.scout.current())
			if i := a.scene.unit(identity(b, "young")); i < 0 || a.scene.units[i].isPlaced() {
				t.Fatalf("the young unit is number %d and has rows: this test sees nothing", i)
			}
			var woke crossings
			if byHook {
				woke = crossings{b.crossing(a, "young", young.PID())}
			}
			a.pass(woke, sample.Now())
			if !young.Wait(time.Minute) || !idle.Alive() {
				t.Errorf("alive: the young unit %v, the idle one %v", young.Alive(), idle.Alive())
			}
		})
	}
}

func identity(b *bed, unit string) workload.Identity {
	b.t.Helper()
	c, err := b.fs.Open(path.Join(b.root, unit))
	must(b.t, err)
	defer c.Close()
	return workload.Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()}
}

const podA = "kubepods/pod00000000-0000-0000-0000-00000000000a"

// A container that was started after the scan, in a pod that the scan knew.
func TestNewContainerOfAKnownPodIsHit(t *testing.T) {
	b := newBed(t)
	b.create(podA)
	b.sleeper(podA+"/first", 8<<20)
	a := b.open(met, nil)
	second := b.sleeper(podA+"/second", 64<<20)
	a.pass(crossings{b.crossing(a, podA+"/second", second.PID())}, sample.Now())
	if !second.Wait(time.Minute) {
		t.Fatalf("the container that crossed the wire lives:\n%s", b.journal())
	}
}

// A pod's sandbox outlives its containers, and the kubelet starts them again: the pod is
// neither dying for ever nor spared.
func TestPodThatRunsAgainIsAVictimAgain(t *testing.T) {
	b := newBed(t)
	b.create(podA)
	b.sleeper(podA+"/sandbox", 1<<20)
	b.sleeper(podA+"/c1", 64<<20)
	innocent := b.sleeper("innocent", 16<<20)
	b.conf.Roots = []string{b.root + "/kubepods"}
	b.limit(b.root+"/kubepods", bedMemory, bedTasks)
	a := b.open(met, nil)
	pod := b.root + "/" + podA
	for round, container := range []string{"c1", "c2", "c3"} {
		if round > 0 {
			must(t, b.fs.Remove(path.Join(pod, []string{"c1", "c2"}[round-1])))
			b.sleeper(podA+"/"+container, 64<<20)
			must(t, a.scout.round(true))
		}
		b.turns(a, "the pod's eviction", func() bool { return len(b.outcomes(podA)) == round+1 })
		b.turns(a, "the eviction to be let go of", func() bool { return !a.open[0].used })
	}
	if got := b.outcomes(podA); !slices.Equal(got, []record.Outcome{record.OutcomeKilled, record.OutcomeKilled, record.OutcomeKilled}) {
		t.Errorf("outcomes %v", got)
	}
	if !innocent.Alive() {
		t.Error("the innocent died")
	}
}

// A killed cgroup that somebody uses again while the victim's zombies are still in it.
func TestRevivedUnitIsAVictimAgain(t *testing.T) {
	b := newBed(t)
	b.create("unit")
	b.run("unit", load.Spec{Kind: load.Sleeper, Hold: 64 << 20, NoReap: 5 * time.Minute})
	innocent := b.sleeper("innocent", 16<<20)
	a := b.open(met, nil)
	b.turns(a, "the first eviction", func() bool { return len(b.outcomes("unit")) == 1 })
	if !a.open[0].used {
		t.Fatal("no zombie is credited: this test sees nothing")
	}
	again := b.sleeperIn("unit", 64<<20)
	a.pass(crossings{b.crossing(a, "unit", again.PID())}, sample.Now()) // the scout has not looked since
	b.turns(a, "the second kill", func() bool { return !again.Alive() || !innocent.Alive() })
	if again.Alive() {
		t.Errorf("the innocent was killed in its place:\n%s", b.journal())
	}
}

// A cgroup without processes keeps its tmpfs pages: killing it would free nothing, for ever.
func TestUnitWithoutProcessesHoldsUpNothing(t *testing.T) {
	b := newBed(t)
	for _, unit := range []string{"left-1", "left-2", "left-3"} {
		b.leftover(unit, 40<<20)
	}
	hog := b.sleeper("hog", 24<<20)
	a := b.open(map[string]string{"allocatableMemory.available": "390Mi"}, nil)
	b.turns(a, "the hog's death", func() bool { return !hog.Alive() })
	b.written(a)
	for _, l := range b.lines(record.KindKill) {
		if l.Victim.Cgroup != b.root+"/hog" {
			t.Errorf("killed %s, which has no process", l.Victim.Cgroup)
		}
	}
}

// Victims that don't die, and zombies that nobody reaps, keep the credit, not the slot.
func TestClosedEvictionsMakeRoom(t *testing.T) {
	a := &Agent{}
	for i := range a.open {
		a.open[i].used, a.open[i].timeline.Signalled = true, 1
	}
	if e := a.slot(); e != nil {
		t.Error("a slot although all evictions are under way")
	}
	a.open[5].recorded = true
	if e := a.slot(); e != &a.open[5] {
		t.Error("the closed eviction makes no room")
	}
	a.open[2].used = false
	if e := a.slot(); e != &a.open[2] {
		t.Error("a free slot is not taken first")
	}
}

func TestJumpOfARootIsBelievedOnlyWhenItsFilesAgree(t *testing.T) {
	b := newBed(t)
	b.sleeper("unit", 32<<20)
	a := b.open(map[string]string{"allocatableMemory.available": "1Mi", "allocatablePID.available": "1"}, nil)
	must(t, a.turn(sample.Now()))
	for i := range a.settings.Bounds {
		o := *a.observed(&a.settings.Bounds[i])
		above := o
		above.Available, above.Ns = o.Available*2, o.Ns-1
		a.guards[i].Accept(above)
		if err := a.check(i, o); err != nil {
			t.Errorf("%s: a true fall is refused: %v", o.Signal, err)
		}
		a.guards[i].Accept(o)
		wrong := o
		wrong.Available, wrong.Ns = o.Available/2, o.Ns+1
		if err := a.check(i, wrong); err == nil {
			t.Errorf("%s: a fall that the files don't show is believed", o.Signal)
		}
	}
}

// Counters move in steps: two readings in a row differ by one of them at any time.
func TestAStepOfACounterIsNoJump(t *testing.T) {
	a := &Agent{settings: decide.Settings{Bounds: []decide.Bound{{Threshold: signal.Threshold{Signal: signal.MemoryAvailable}}}}, fillPerSecond: 1}
	a.setSlack()
	a.guards[0].Accept(signal.Observation{Signal: signal.MemoryAvailable, Available: 1 << 30, Ns: 1000})
	if err := a.check(0, signal.Observation{Signal: signal.MemoryAvailable, Available: 1<<30 - 2<<20, Ns: 2000}); err != nil {
		t.Errorf("a huge page within a microsecond: %v", err)
	}
}
