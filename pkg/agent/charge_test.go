package agent

import (
	"runtime"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// openCharged makes an agent that is told by the charge hook, near its wires. pkg/loader has
// the test that a kernel without it really refuses.
func (b *bed) openCharged(thresholds map[string]string, onStage func(stage)) *Agent {
	b.t.Helper()
	b.conf.MarginBytes = 1 << 40
	a := b.open(thresholds, onStage)
	if refused := a.kernel.(*hooked).ChargeRefused(); refused != nil {
		b.t.Skipf("needs %s: %v", loader.TierCharge, refused)
	}
	b.look(a)
	if !a.wires.near.Load() || a.kernel.Armed() {
		b.t.Fatalf("near %v, want so; the allocation hook is attached: %v, want it off", a.wires.near.Load(), a.kernel.Armed())
	}
	return a
}

func TestHogIsEvictedByTheChargeHookAlone(t *testing.T) {
	b := newBed(t)
	bystander := b.sleeper("bystander", 16<<20)
	b.create("hog")
	hog := b.run("hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20, Held: true})
	var a *Agent
	var armed bool
	a = b.openCharged(map[string]string{"allocatableMemory.available": "400Mi"}, func(s stage) {
		armed = armed || s == stageStruck && a.kernel.Armed()
	})
	must(t, hog.Go())
	for len(b.lines(record.KindKill)) == 0 {
		a.poller.wait(farTick)
		must(t, a.turn(sample.Now()))
	}
	b.turns(a, "the eviction's end", func() bool { return len(b.outcomes("hog")) == 1 })
	l := b.lines(record.KindEviction)[0]
	if l.Tier != record.TierCharge || l.Outcome != record.OutcomeKilled || armed {
		t.Errorf("%s by %s; the allocation hook was attached: %v", l.Outcome, l.Tier, armed)
	}
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
	if !a.kernel.Armed() {
		t.Error("the allocation hook did not help with the kill")
	}
	b.await("the hook to go, near as the wire is", func() bool {
		must(t, a.scout.round(false))
		return !a.kernel.Armed() && a.wires.near.Load()
	})
}

// Tasks in the root are charged to nobody, and this test is one.
func TestTheHookComesForWhatNobodyIsChargedFor(t *testing.T) {
	b := newBed(t)
	a := b.openCharged(map[string]string{"memory.available": "1Mi"}, nil)
	held := make([]byte, 512<<20)
	for i := 0; i < len(held) && !a.kernel.Armed(); i += 4096 {
		held[i] = 1
		if i%(4<<20) == 0 {
			must(t, a.turn(sample.Now()))
			must(t, a.scout.round(false))
		}
	}
	if !a.kernel.Armed() {
		t.Error("512 MiB later it is not attached")
	}
	runtime.KeepAlive(held)
	b.await("the hook to go", func() bool {
		time.Sleep(10 * time.Millisecond)
		must(t, a.scout.round(false))
		return !a.kernel.Armed()
	})
}

func TestALostChargeHookIsReplacedByTheAllocationHookAndComesBack(t *testing.T) {
	b := newBed(t)
	const of = signal.AllocatableMemoryAvailable
	a := b.openCharged(map[string]string{string(of): "200Mi"}, nil)
	k := a.kernel.(*hooked)
	letGo(t, "attach_type:\t24\n") // BPF_TRACE_FENTRY
	must(t, a.scout.round(false))
	if lines := b.degraded(a, of); len(lines) != 1 || lines[0].Tier != record.TierAlloc || a.memoryTier() != record.TierAlloc {
		t.Fatalf("tier %s, degraded lines %+v", a.memoryTier(), lines)
	}
	b.await("the allocation hook", func() bool {
		must(t, a.scout.round(false))
		return a.kernel.Armed()
	})
	if got := b.evictBy(a, "hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20}); got != record.TierAlloc {
		t.Errorf("seen by %s", got)
	}
	k.charge.until = time.Time{} // the rest is over
	must(t, a.scout.round(false))
	if lines := b.degraded(a, of); len(lines) != 2 || lines[1].Tier != record.TierCharge || a.memoryTier() != record.TierCharge {
		t.Errorf("tier %s, degraded lines %+v", a.memoryTier(), lines)
	}
}
