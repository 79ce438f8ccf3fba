package agent

import (
	"runtime"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Far from the wire no hook keeps the tables fresh: they say that the hog is empty, and the
// idle unit beside it full.
func TestHogSinceTheLastWalkIsTheVictim(t *testing.T) {
	b := newBed(t)
	b.conf.MarginBytes = 1 << 20
	idle := b.sleeper("idle", 60<<20)
	b.create("hog")
	hog := b.run("hog", load.Spec{Kind: load.Hog, Bytes: 350 << 20, Held: true})
	a := b.open(map[string]string{"allocatableMemory.available": "200Mi"}, nil)
	b.look(a)
	must(t, hog.Go())
	b.await("the hog to fill", func() bool {
		n, err := hog.Progress()
		must(t, err)
		return n >= 350<<20
	})
	b.turns(a, "an eviction", func() bool { return a.open[0].used })
	if !idle.Alive() || a.open[0].victim.Name != "hog" {
		t.Errorf("%s was evicted; the idle unit lives: %v", a.open[0].victim.Name, idle.Alive())
	}
}

// Zombies that a former agent's kill left count as tasks, and nobody dies for them.
func TestNobodyDiesForZombiesOfAFormerKill(t *testing.T) {
	b := newBed(t)
	idle := b.sleeper("idle", 8<<20)
	b.create("bomb")
	bomb := b.run("bomb", load.Spec{Kind: load.Bomb, Tasks: 250, NoReap: time.Minute, Held: true})
	conf := map[string]string{"allocatablePID.available": "250"}
	b.conf.EvictionHard = conf
	first, _, err := open(t.Context(), Options{Config: b.conf})
	must(t, err)
	runtime.LockOSThread()        // never unlocked: the thread ends with the test
	raise(first.log, hotPriority) // or the bomb takes the one CPU of a VM
	must(t, bomb.Go())
	b.turns(first, "the bomb to die", func() bool { return first.open[0].timeline.Dead != 0 })
	tasks := first.held(&first.open[0]).Tasks
	must(t, first.close())
	if tasks < 110 {
		t.Fatalf("%d zombies are left: this test sees nothing", tasks)
	}
	next := b.open(map[string]string{"allocatablePID.available": "300"}, nil) // met by 100 tasks
	for range 50 {
		must(t, next.turn(sample.Now()))
	}
	if !idle.Alive() || len(b.outcomes("idle")) != 0 || b.hasKill("idle") {
		t.Error("the idle unit died for the bomb's zombies")
	}
	_ = bomb.Stop()
}

func (b *bed) hasKill(unit string) bool {
	for _, l := range b.lines(record.KindKill) {
		if l.Victim != nil && l.Victim.Name == unit {
			return true
		}
	}
	return false
}

// The number that BPF knows somebody by is somebody else's in another PID namespace.
func TestWhoCrossedIsNobodyInAPIDNamespaceOfItsOwn(t *testing.T) {
	b := newBed(t)
	b.sleeper("unit", 8<<20)
	a := b.open(far, nil)
	b.look(a)
	targets := a.scene.units[0].targets
	crossed := sample.Sample{CSSID: targets[0].memoryCSS, CgroupID: targets[0].id.MemoryID, TGID: 4711, By: sample.ObserverAlloc, Ns: sample.Now()}
	if c := a.culpritOf(&crossed, targets); c.PID != 4711 || a.apart {
		t.Fatalf("the culprit is %d, apart: %v; this test sees nothing", c.PID, a.apart)
	}
	a.apart = true
	if c := a.culpritOf(&crossed, targets); c.PID != 0 {
		t.Errorf("the culprit is %d", c.PID)
	}
}
