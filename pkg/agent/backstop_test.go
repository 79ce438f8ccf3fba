package agent

import (
	"path"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// leak makes a unit that holds 64 MiB and waits to take 400 more.
func (b *bed) leak(unit string) *load.Load {
	b.t.Helper()
	b.create(unit)
	return b.run(unit, load.Spec{Kind: load.Hog, Hold: 64 << 20, Bytes: 400 << 20, Held: true})
}

// stalled makes an agent whose kernel may kill, and which does nothing from then on but for
// the turns that the test makes.
func (b *bed) stalled() *Agent {
	b.t.Helper()
	b.conf.Backstop = config.Backstop{Enabled: true, Grace: 0}
	a := b.open(map[string]string{"allocatableMemory.available": "200Mi"}, nil)
	needsBackstop(b.t, a)
	b.look(a) // attaches the hook
	b.turns(a, "the licence", a.kernel.Licensed)
	return a
}

// needsBackstop leaves a test out where the kernel can't kill in the agent's place. pkg/loader
// has the test that this is so on old kernels alone.
func needsBackstop(t *testing.T, a *Agent) {
	t.Helper()
	if a.kernel.Reach() == loader.ReachNone {
		t.Skip("needs 5.15, bpf_timer")
	}
}

// heldAtTheKill is what a leak holds when the kernel kills it, at least: it was named with 64 MiB.
const heldAtTheKill = bedMemory - (200 << 20) - (32 << 20)

func TestKillByTheBackstopBecomesAnEvictionOfOurs(t *testing.T) {
	b := newBed(t)
	bystander := b.sleeper("bystander", 16<<20)
	hog := b.leak("hog")
	a := b.stalled()
	left, _ := a.memory.Left(&a.settings, sample.Now())
	must(t, hog.Go())
	if !hog.Wait(time.Minute) {
		t.Fatal("nobody kills the hog")
	}
	must(t, a.scout.round(true)) // it wakes first, and looks at what is left
	b.turns(a, "the eviction's end", func() bool { return len(b.outcomes("hog")) == 1 })
	b.eachEvictionOnce(1)
	for _, kind := range []record.Kind{record.KindKill, record.KindEviction} {
		l := b.lines(kind)[0]
		if l.By != record.ByBackstop || l.Tier != a.memoryTier() || len(l.Ranked) != 2 || l.Ranked[0].Name != "hog" || l.Ranked[0].UsageBytes == nil {
			t.Errorf("%s: %+v", kind, l)
		}
	}
	for _, l := range b.lines("") {
		if l.Victim != nil && (*l.Victim.UsageBytes < heldAtTheKill || *l.Ranked[0].UsageBytes != *l.Victim.UsageBytes) {
			t.Errorf("%s: the victim held %d bytes, ranked by %d, want at least %d", l.Kind, *l.Victim.UsageBytes, *l.Ranked[0].UsageBytes, heldAtTheKill)
		}
	}
	if freed := *b.lines(record.KindEviction)[0].FreedBytes; freed < heldAtTheKill {
		t.Errorf("freed %d bytes, want at least %d", freed, heldAtTheKill)
	}
	if got, _ := a.memory.Left(&a.settings, sample.Now()); got != left-1 {
		t.Errorf("%d kills left of the budget, want %d", got, left-1)
	}
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
	b.turns(a, "the next licence", a.kernel.Licensed)
}

// What the kernel struck is gone, and what has its name by the time the agent is back is
// somebody else.
func TestUnitMadeAgainIsNotFinishedForTheBackstop(t *testing.T) {
	b := newBed(t)
	hog := b.leak("hog")
	a := b.stalled()
	must(t, hog.Go())
	if !hog.Wait(time.Minute) {
		t.Fatal("nobody kills the hog")
	}
	_ = hog.Stop()
	must(t, b.fs.Remove(path.Join(b.root, "hog")))
	next := b.sleeper("hog", 8<<20)
	b.turns(a, "the eviction's end", func() bool { return len(b.outcomes("hog")) == 1 })
	time.Sleep(100 * time.Millisecond)
	if !next.Alive() {
		t.Error("the unit that was made again died")
	}
	if l := b.lines(record.KindEviction)[0]; l.By != record.ByBackstop || l.Outcome != record.OutcomeKilled {
		t.Errorf("%+v", l)
	}
}

func TestKernelHasNoLicence(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*bed)
		before func(*bed, *Agent)
	}{
		"in shadow mode":       {func(b *bed) { b.conf.Mode = config.ModeShadow }, nil},
		"switched off":         {func(b *bed) { b.conf.Backstop.Enabled = false }, nil},
		"nobody may be killed": {func(b *bed) { b.conf.Protect = []string{b.root + "/*"} }, nil},
		"the budget is spent":  {func(b *bed) { b.conf.Budget.KillsPerMinute = 0 }, nil},
		"the agent ends":       {nil, func(_ *bed, a *Agent) { a.leave() }},
		"a threshold is met": {nil, func(b *bed, a *Agent) {
			b.sleeper("more", 64<<20)
			b.turns(a, "the kill", func() bool { return a.following() })
		}},
		"a unit can't be opened": {nil, func(b *bed, a *Agent) {
			a.scout.current().incomplete = true
			must(b.t, a.turn(sample.Now()))
		}},
		"shadow mode comes by a reload": {nil, func(b *bed, a *Agent) {
			next := *b.conf
			next.Mode = config.ModeShadow
			p, err := a.plan(b.t.Context(), &next)
			must(b.t, err)
			p.stop = func() {}
			a.pending.Store(p)
			must(b.t, a.turn(sample.Now()))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.sleeper("unit", 16<<20)
			b.conf.Backstop = config.Backstop{Enabled: true, Grace: config.MaxGrace}
			if tc.change != nil {
				tc.change(b)
			}
			a := b.open(met, nil)
			if tc.before != nil {
				needsBackstop(t, a)
				b.turns(a, "the licence", a.kernel.Licensed)
				tc.before(b, a)
			} else {
				for range 3 {
					b.look(a)
				}
			}
			if a.kernel.Licensed() {
				t.Error("the kernel may kill")
			}
		})
	}
}

// What somebody gives back while the agent looks is not to hide what a unit takes that is made
// afterwards: an innocent would be nominated, and hit, for it.
func TestWhatIsGivenBackInAPassHidesNobody(t *testing.T) {
	b := newBed(t)
	b.conf.Protect = []string{path.Join(b.root, "going")} // like one that is dying it is no rival
	b.create("bystander")
	bystander := b.run("bystander", load.Spec{Kind: load.Hog, Hold: 64 << 20, Bytes: 64 << 20, Rate: 1 << 20}) // who allocates can be hit
	going := b.sleeper("going", 200<<20)
	a := b.stalled()
	if !a.withdraw() {
		t.Fatal("the kernel acts, though nothing is short")
	}
	a.backstop.namedNs = 0 // names anew
	d := a.pass(nil, sample.Now())
	must(t, going.Stop())
	a.nominate(&d)
	if n := &a.backstop.nominees[0]; !a.kernel.Licensed() || !n.named || n.victim.UID != path.Join(b.root, "bystander") {
		t.Fatalf("licensed: %v, nominee %q, want the bystander", a.kernel.Licensed(), n.victim.UID)
	}
	b.create("fresh")
	fresh := b.run("fresh", load.Spec{Kind: load.Hog, Bytes: 300 << 20})
	b.await("the fill", func() bool {
		n, err := fresh.Progress()
		must(t, err)
		_, stoodDown := a.kernel.(*hooked).BackstopSignals()
		return !bystander.Alive() || n >= 300<<20 && stoodDown > 0
	})
	if !bystander.Alive() {
		t.Error("the bystander was hit for what another took")
	}
}
