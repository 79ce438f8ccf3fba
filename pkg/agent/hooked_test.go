package agent

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// detach has the kernel let go of this process's link to a tracepoint, behind the agent's back.
func detach(t *testing.T, tracepoint string) {
	t.Helper()
	letGo(t, "tp_name:\t"+tracepoint+"\n")
}

// letGo makes the descriptor that holds a link another file's.
func letGo(t *testing.T, fdinfo string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(null)
	for _, e := range fds {
		info, err := os.ReadFile(filepath.Join("/proc/self/fdinfo", e.Name()))
		if err != nil || !strings.Contains(string(info), fdinfo) {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		must(t, errors.Join(err, unix.Dup3(null, fd, unix.O_CLOEXEC)))
		return
	}
	t.Fatalf("no link of %q is held", fdinfo)
}

// near has the allocation hook attached from the start on.
func (b *bed) near(thresholds map[string]string) (*Agent, *hooked) {
	b.t.Helper()
	b.conf.MarginBytes, b.tier = bedMemory, record.TierAlloc
	a := b.open(thresholds, nil)
	must(b.t, a.scout.round(false))
	if !a.kernel.Armed() {
		b.t.Fatal("the allocation hook is not attached: this test sees nothing")
	}
	return a, a.kernel.(*hooked)
}

// degraded are the lines of a signal's tier.
func (b *bed) degraded(a *Agent, s signal.Signal) (found []record.Line) {
	b.t.Helper()
	a.confess()
	b.written(a)
	for _, l := range b.lines(record.KindDegraded) {
		if l.Signal == string(s) && l.Tier != "" {
			found = append(found, l)
		}
	}
	return found
}

// evictBy has a load evicted, woken as the agent is, and returns the tier that saw it.
func (b *bed) evictBy(a *Agent, unit string, s load.Spec) string {
	b.t.Helper()
	b.create(unit)
	s.Held = true
	l := b.run(unit, s)
	must(b.t, a.scout.round(true))
	must(b.t, a.turn(sample.Now()))
	must(b.t, l.Go())
	b.await("the eviction of "+unit, func() bool {
		a.poller.wait(a.patience())
		must(b.t, a.turn(sample.Now()))
		return len(b.outcomes(unit)) == 1
	})
	if got := b.outcomes(unit)[0]; got != record.OutcomeKilled {
		b.t.Errorf("%s: %s", unit, got)
	}
	for _, line := range b.lines(record.KindEviction) {
		if line.Victim != nil && line.Victim.Cgroup == path.Join(b.root, unit) {
			return line.Tier
		}
	}
	return ""
}

func TestALostHookIsReplacedAndComesBack(t *testing.T) {
	for _, tc := range []struct {
		name, tracepoint string
		signal           signal.Signal
		hook             string
		spec             load.Spec
		other            half
		otherHook        string
	}{
		{
			"allocation", "mm_page_alloc", signal.AllocatableMemoryAvailable, record.TierAlloc,
			load.Spec{Kind: load.Hog, Bytes: 400 << 20}, tasksHalf, record.TierTask,
		},
		{
			"fork", "task_newtask", signal.AllocatablePIDAvailable, record.TierTask,
			load.Spec{Kind: load.Bomb, Tasks: 350}, memoryHalf, record.TierAlloc,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t)
			bystander := b.sleeper("bystander", 64<<20)
			a, k := b.near(map[string]string{"allocatableMemory.available": "200Mi", "allocatablePID.available": "200"})
			if lines := b.degraded(a, tc.signal); len(lines) != 0 || a.tierFor(tc.signal) != tc.hook {
				t.Fatalf("tier %s, degraded lines %+v, before anything is lost", a.tierFor(tc.signal), lines)
			}
			detach(t, tc.tracepoint)
			must(t, a.scout.round(false))
			lesser := a.tierFor(tc.signal)
			lines := b.degraded(a, tc.signal)
			if !isReading(lesser) || len(lines) != 1 || lines[0].Tier != lesser || !strings.Contains(lines[0].Reason, tc.tracepoint) {
				t.Fatalf("tier %s, degraded lines %+v, want a lesser one and the reason", lesser, lines)
			}
			if got, why := k.Tier(tc.other.scope()); got != tc.otherHook || why != nil {
				t.Errorf("%s by %s (%v): that hook is not lost", tc.other, got, why)
			}
			if got := b.evictBy(a, "first", tc.spec); !isReading(got) {
				t.Errorf("the first is seen by %s", got)
			}
			if tc.tracepoint == "mm_page_alloc" && a.kernel.Armed() {
				t.Error("the hook is attached while it rests")
			}

			k.rests[halfOf(scopeOf(tc.signal))].until = time.Time{} // it is over
			must(t, a.scout.round(false))
			lines = b.degraded(a, tc.signal)
			if a.tierFor(tc.signal) != tc.hook || len(lines) != 2 || lines[1].Tier != tc.hook || k.standIn.Load() != nil {
				t.Fatalf("tier %s, degraded lines %+v, want the hook back and nobody in its place", a.tierFor(tc.signal), lines)
			}
			seen := []string{}
			for _, unit := range []string{"second", "third", "fourth"} { // a clock may be faster once
				got := b.evictBy(a, unit, tc.spec)
				if seen = append(seen, got); got == tc.hook {
					break
				}
			}
			if seen[len(seen)-1] != tc.hook {
				t.Errorf("seen by %v, want %s again", seen, tc.hook)
			}
			if !bystander.Alive() {
				t.Error("the bystander died")
			}
		})
	}
}

// Where nothing can stand in, BPF's timer looks on.
func TestALostHookThatNothingReplaces(t *testing.T) {
	b := newBed(t)
	bystander := b.sleeper("bystander", 64<<20)
	a, k := b.near(map[string]string{"allocatableMemory.available": "200Mi"})
	k.open = func() (*reader, error) { return nil, errors.New("no epoll") }
	detach(t, "mm_page_alloc")
	must(t, a.scout.round(false))
	lines := b.degraded(a, signal.AllocatableMemoryAvailable)
	if len(lines) != 1 || lines[0].Tier != record.TierPoll || !strings.Contains(lines[0].Reason, "no epoll") {
		t.Errorf("degraded lines %+v", lines)
	}
	if got := b.evictBy(a, "hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20}); got != record.TierPoll || !bystander.Alive() {
		t.Errorf("seen by %s; the bystander lives: %v", got, bystander.Alive())
	}
}

// Records that find no room are crossings that nobody was woken for.
func TestAnOverflowOfTheRingBufferLosesBothHooks(t *testing.T) {
	b := newBed(t)
	b.conf.Mode = config.ModeShadow
	b.sleeper("big", 64<<20)
	a := b.open(met, nil)
	k, best := a.kernel.(*hooked), a.memoryTier()
	wire := a.wires.number[0]
	for end := time.Now().Add(time.Minute); k.Node().LostCrossings == 0; {
		k.ArmWire(wire)
		must(t, k.Tick())
		if time.Now().After(end) {
			t.Fatal("the ring buffer has room for everything: this test sees nothing")
		}
	}
	must(t, a.scout.round(false))
	lines := b.degraded(a, signal.AllocatableMemoryAvailable)
	if len(lines) != 1 || !isReading(lines[0].Tier) || !strings.Contains(lines[0].Reason, errOverflow.Error()) {
		t.Errorf("degraded lines %+v", lines)
	}
	if tier, _ := k.Tier(sample.ScopeNodeTasks); !isReading(tier) {
		t.Errorf("tasks by %s, through the same ring buffer", tier)
	}
	must(t, a.turn(sample.Now()))
	for h := range halves {
		k.rests[h].until = time.Time{}
	}
	must(t, a.scout.round(false))
	if got := a.tierFor(signal.AllocatableMemoryAvailable); got != best {
		t.Errorf("tier %s after the rest, want %s again", got, best)
	}
	if !k.rests[memoryHalf].until.IsZero() || k.standIn.Load() != nil {
		t.Error("it was lost again, or the stand-in is still there")
	}
}

func TestEachRestIsLonger(t *testing.T) {
	var r rest
	at := time.Unix(1000, 0)
	r.begin(at)
	first := r.pause
	at = r.until.Add(time.Second)
	if r.begin(at); first != leastRest || r.pause != 2*first {
		t.Errorf("%v, then %v", first, r.pause)
	}
	for range 20 {
		r.begin(r.until)
	}
	if r.pause != mostRest {
		t.Errorf("%v in the end, want %v", r.pause, mostRest)
	}
	if r.begin(r.until.Add(mostRest + time.Second)); r.pause != leastRest {
		t.Errorf("%v after a long time without a loss", r.pause)
	}
}
