package fallback

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/test/uncached"
)

func TestAHogCrossesOnce(t *testing.T) {
	tiers(t, sample.ScopeCgroupMemory, func(t *testing.T, b *bed) {
		hog := b.start(load.Spec{Kind: load.Hog, Bytes: 64 << 20, Rate: 200 << 20})
		b.memory.Limit = b.available(b.memory) - 16<<20
		wire, seq := b.place(b.memory)
		b.settle()
		before := sample.Now()
		must(t, hog.Go())
		s := b.await()
		if s.Kind != sample.KindCrossing || s.Wire != wire || s.Seq != seq || s.Ns < before || s.Ns > sample.Now() {
			t.Errorf("got %+v, want a crossing of wire %d, sequence %d", s, wire, seq)
		}
		if s.Available >= s.LimitValue || s.LimitValue != b.memory.Limit {
			t.Errorf("available %d, limit %d: nothing is crossed, or another wire", s.Available, s.LimitValue)
		}
		if s.CgroupID != 0 || s.CSSID != 0 || s.TGID != 0 {
			t.Errorf("got %+v: nobody knows who it was", s)
		}
		if armed, fired := b.WireSeq(wire); armed != seq || fired != seq {
			t.Errorf("armed %d, fired %d, want both %d", armed, fired, seq)
		}
		b.settle() // it goes on filling
		if next := b.ArmWire(wire); next <= seq {
			t.Errorf("armed again with %d, after %d", next, seq)
		}
		if again := b.await(); again.Seq <= seq {
			t.Errorf("got sequence %d, armed again after %d", again.Seq, seq)
		}
		must(t, hog.Stop())
		b.ArmWire(wire)
		b.settle()
	})
}

func TestForksCrossOnce(t *testing.T) {
	tiers(t, sample.ScopeCgroupTasks, func(t *testing.T, b *bed) {
		f := b.member()
		b.tasks.Limit = b.available(b.tasks) - 200
		wire, seq := b.place(b.tasks)
		f.fork(200) // to the wire, not across
		b.settle()
		f.fork(1)
		s := b.await()
		if s.Wire != wire || s.Seq != seq || s.Available != b.tasks.Limit-1 || s.LimitValue != b.tasks.Limit {
			t.Errorf("got %+v, want wire %d crossed by one task", s, wire)
		}
		b.settle()
		f.fork(-1)
		b.ArmWire(wire)
		b.settle()
	})
}

func TestTheKernelCalls(t *testing.T) {
	const rounds = 20
	for _, tc := range []struct {
		name  string
		scope sample.Scope
		cross func(*bed) sample.Observer
	}{
		{"memory", sample.ScopeCgroupMemory, func(b *bed) sample.Observer {
			hog := b.start(load.Spec{Kind: load.Hog, Bytes: 64 << 20, Rate: 400 << 20})
			b.memory.Limit = b.available(b.memory) - 32<<20
			b.place(b.memory)
			b.settle() // meanwhile the threshold is set
			must(b, hog.Go())
			s := b.await()
			must(b, hog.Stop())
			return s.By
		}},
		{"tasks", sample.ScopeCgroupTasks, func(b *bed) sample.Observer {
			f := b.member()
			b.tasks.Limit = b.available(b.tasks) - 20
			b.place(b.tasks)
			b.settle()
			f.fork(21)
			s := b.await()
			f.fork(-1)
			return s.By
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tiers(t, tc.scope, func(t *testing.T, b *bed) {
				tier, _ := b.Tier(tc.scope)
				called := 0
				for range rounds {
					by := tc.cross(b)
					if by == sample.ObserverEvent {
						called++
					} else if by != sample.ObserverPoll {
						t.Fatalf("seen by %d", by)
					}
					must(t, b.ClearWires())
				}
				// A reading that was due may be there first, not every time.
				if want := tier == Event; called > 0 != want {
					t.Errorf("%d of %d crossings by an event, in the tier %s", called, rounds, tier)
				}
			})
		})
	}
}

// TestInactiveFileIsAvailable: page cache that the kernel can drop at once crosses nothing,
// though usage passes what the kernel was to call at.
func TestInactiveFileIsAvailable(t *testing.T) {
	tiers(t, sample.ScopeCgroupMemory, func(t *testing.T, b *bed) {
		const size = 32 << 20
		dir := uncached.Dir(t)
		w := b.member()
		b.memory.Limit = b.available(b.memory) - size/2
		wire, _ := b.place(b.memory)
		b.settle()
		w.do(task{File: filepath.Join(dir, "file"), Size: size})
		if now := b.available(b.memory); now < b.memory.Limit {
			t.Fatalf("%d available below the limit of %d: the pages are not inactive", now, b.memory.Limit)
		}
		b.settle()
		if armed, fired := b.WireSeq(wire); fired >= armed {
			t.Error("it fired")
		}
	})
}

func TestNodeWires(t *testing.T) {
	for _, scope := range []sample.Scope{sample.ScopeNodeMemory, sample.ScopeNodeTasks} {
		tiers(t, scope, func(t *testing.T, b *bed) {
			node, err := b.Look()
			must(t, err)
			available, far := node.TasksMax-node.Tasks, int64(1000)
			if scope == sample.ScopeNodeMemory {
				available, far = node.MemTotalBytes-node.AnonBytes-node.FileBytes+node.InactiveFileBytes, 1<<30
			}
			if available <= far || node.Tasks <= 0 || node.AnonBytes <= 0 {
				t.Fatalf("implausible: %+v", node)
			}
			wire, seq := b.place(Wire{Scope: scope, Limit: available - far})
			b.settle()
			must(t, b.SetWire(wire, Wire{Scope: scope, Limit: available + far}))
			must(t, b.Tick())
			if s := b.await(); s.Wire != wire || s.Seq != seq {
				t.Errorf("got %+v, want wire %d, sequence %d", s, wire, seq)
			}
			if last := b.Node(); last.MemTotalBytes != node.MemTotalBytes || last.Ns < node.Ns {
				t.Errorf("the last node is %+v, after %+v", last, node)
			}
		})
	}
}

func TestAWireThatIsOffIsSilent(t *testing.T) {
	b := newBed(t, Event)
	b.tasks.Limit = pidsMax + 1 // crossed whatever happens
	wire, _ := b.place(b.tasks)
	b.DisarmWire(wire)
	b.settle()
	b.ArmWire(wire)
	b.await()
	must(t, b.ClearWires())
	b.settle()
	for range taskWires - 1 {
		_, err := b.AddWire(sample.ScopeNodeTasks)
		must(t, err)
	}
	if _, err := b.AddWire(sample.ScopeCgroupTasks); !errors.Is(err, ErrTooManyWires) {
		t.Errorf("got %v, want ErrTooManyWires", err)
	}
	if memory, err := b.AddWire(sample.ScopeNodeMemory); err != nil || memory != 0 {
		t.Errorf("got wire %d, %v, want the first of memory", memory, err)
	}
}

func TestACgroupThatIsGoneOrAnother(t *testing.T) {
	b := newBed(t, Event)
	wire, _ := b.place(b.tasks)
	other := b.tasks
	other.CgroupID++
	if err := b.SetWire(wire, other); !errors.Is(err, cgroupfs.ErrGone) {
		t.Errorf("got %v for another cgroup of that path, want ErrGone", err)
	}
	if seq, _ := b.WireSeq(wire); seq != 0 {
		t.Errorf("armed with %d, and nobody knows where", seq)
	}
	b.tasks.Limit = pidsMax + 1
	b.ArmWire(wire)
	b.settle() // whoever arms it all the same
	must(t, b.SetWire(wire, b.tasks))
	must(t, b.fs.Remove(b.path))
	must(t, b.SetWire(wire, b.tasks)) // removed, and the caller does not know yet
	b.ArmWire(wire)
	b.settle()
}

func TestASequenceIsClaimedOnce(t *testing.T) {
	b := newBed(t, Poll)
	wire, seq := b.place(b.tasks)
	if !b.Claim(wire, seq) {
		t.Fatal("nobody has claimed it")
	}
	if b.Claim(wire, seq) {
		t.Error("claimed twice")
	}
	b.Release(wire, seq)
	if !b.Claim(wire, seq) {
		t.Error("it was given back")
	}
	if next := b.ArmWire(wire); next <= seq || !b.Claim(wire, next) || b.Claim(wire, seq) {
		t.Error("a later sequence is another one, and an earlier one is past")
	}
}

func TestALookAllocatesNothing(t *testing.T) {
	tiers(t, sample.ScopeCgroupTasks, func(t *testing.T, b *bed) {
		for _, set := range []Wire{b.memory, b.tasks, {Scope: sample.ScopeNodeMemory, Limit: 1}, {Scope: sample.ScopeNodeTasks, Limit: 1}} {
			b.place(set)
		}
		b.settle()
		var s sample.Sample
		if n := testing.AllocsPerRun(100, func() {
			_ = b.Tick()
			_, _ = b.Next(&s)
		}); n != 0 {
			t.Errorf("%.1f allocations a look", n)
		}
	})
}

// TestAStormIsBounded: however fast it forks, we are not woken more often than every
// holdMin, and where there is room left far less.
func TestAStormIsBounded(t *testing.T) {
	tiers(t, sample.ScopeCgroupTasks, func(t *testing.T, b *bed) {
		bomb := b.start(load.Spec{Kind: load.Bomb, Tasks: 800})
		b.tasks.Limit = b.available(b.tasks) - 1500
		b.place(b.tasks)
		b.settle()
		must(t, bomb.Go())
		began := time.Now()
		b.wakes = 0
		for forks := int64(0); forks < 700; forks, _ = bomb.Progress() {
			if _, ok := b.look(time.Second); ok {
				t.Fatal("800 tasks crossed a wire 1500 away")
			}
		}
		if most := int(time.Since(began)/holdMin) + 10; b.wakes > most {
			t.Errorf("woken %d times in %v, want at most %d", b.wakes, time.Since(began), most)
		}
	})
}

// TestLostForksAreNoLoss: when the socket overflows the counter is read all the same, and for
// a while the wires are polled.
func TestLostForksAreNoLoss(t *testing.T) {
	b := newBed(t, Event)
	if _, why := b.Tier(sample.ScopeCgroupTasks); why != nil {
		if noProcEvents() {
			t.Skip(why)
		}
		t.Fatal(why)
	}
	hear := func(bytes int) {
		must(t, unix.SetsockoptInt(b.connector.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes))
	}
	hear(1) // the least
	b.connector.leastRest = time.Hour
	f := b.member()
	b.tasks.Limit = b.available(b.tasks) - 100
	wire, _ := b.place(b.tasks)
	b.settle()
	f.fork(101)
	// By the few that found room it would not have been time to look.
	if s := b.await(); s.Wire != wire || s.Available != b.tasks.Limit-1 {
		t.Errorf("got %+v", s)
	}
	if b.connector.lost == 0 {
		t.Error("a hundred forks found room in the smallest buffer")
	}
	b.settle()
	if tier, why := b.Tier(sample.ScopeCgroupTasks); tier != Poll || !errors.Is(why, errOverflow) {
		t.Errorf("tier %s (%v) after an overflow", tier, why)
	}
	f.fork(-1)
	b.ArmWire(wire)
	b.settle()
	f.fork(101)
	if s := b.await(); s.By != sample.ObserverPoll {
		t.Errorf("got %+v while the connector rests", s)
	}
	b.connector.restNs = sample.Now() - 1 // it is over
	hear(connectorBuffer)                 // others fork too
	f.fork(-1)
	b.ArmWire(wire)
	b.settle()
	if tier, why := b.Tier(sample.ScopeCgroupTasks); tier != Event || !b.connector.listening {
		t.Errorf("tier %s (%v), listening: %v, after its rest", tier, why, b.connector.listening)
	}
	hear(1)
	f.fork(101)
	b.await()
	if b.connector.pause != mostRest {
		t.Errorf("it rests for %v, want longer than the first time", b.connector.pause)
	}
	f.fork(-1)
}

// A drill's wire is its own: what is placed and cleared beside it leaves it alone.
func TestADrillsWireStays(t *testing.T) {
	b := newBed(t, Poll)
	b.tasks.Limit = b.available(b.tasks) - 10
	wire, seq, err := b.AddDrillWire(b.tasks)
	must(t, err)
	for range taskWires - 1 {
		_, err := b.AddWire(sample.ScopeCgroupTasks)
		must(t, err)
	}
	if _, err := b.AddWire(sample.ScopeCgroupTasks); !errors.Is(err, ErrTooManyWires) {
		t.Errorf("got %v for the wire that is kept", err)
	}
	must(t, b.ClearWires())
	f := b.member()
	f.fork(11)
	if s := b.await(); s.Wire != wire || s.Seq != seq {
		t.Errorf("got %+v, want wire %d, sequence %d", s, wire, seq)
	}
	f.fork(-1)
	b.ArmWire(wire)
	must(t, b.RemoveDrillWire())
	f.fork(11)
	b.settle()
	f.fork(-1)
}

func TestForksAreCountedNearAWireAlone(t *testing.T) {
	b := newBed(t, Event)
	if _, why := b.Tier(sample.ScopeCgroupTasks); why != nil {
		if noProcEvents() {
			t.Skip(why)
		}
		t.Fatal(why)
	}
	b.Watcher.forks.perSecond = 1000 // near is 50 tasks
	b.tasks.Limit = b.available(b.tasks) - 500
	wire, _ := b.place(b.tasks)
	b.settle()
	if b.connector.listening {
		t.Error("listens though every wire is far")
	}
	b.tasks.Limit += 480
	must(t, b.SetWire(wire, b.tasks))
	must(t, b.Tick())
	b.settle()
	if !b.connector.listening {
		t.Error("does not listen near a wire")
	}
	b.DisarmWire(wire)
	must(t, b.Tick())
	b.settle()
	if b.connector.listening {
		t.Error("listens though no wire is armed")
	}
}
