package agent

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// A collection, or a fault for fresh memory while memory is what the node lacks, must not
// lie between the wake-up and SIGKILL.
func TestNothingIsAllocatedBetweenWakeUpAndSIGKILL(t *testing.T) {
	b := newBed(t)
	b.sleeper("bystander", 8<<20)
	var struck uint64
	mallocs := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.Mallocs
	}
	a := b.open(map[string]string{
		"allocatableMemory.available": "470Mi", "allocatablePID.available": "1", "memory.available": "1Mi", "pid.available": "1",
	}, func(s stage) {
		if s == stageStruck {
			struck = mallocs()
		}
	})
	for i := range 6 {
		unit := fmt.Sprintf("victim-%d", i)
		victim := b.sleeper(unit, 64<<20)
		must(t, a.scout.round(true))
		var before uint64
		if i%2 == 0 { // as the agent does: epoll, ring buffer, pass
			for a.poller.wait(farTick); struck == 0; {
				before = mallocs()
				must(t, a.turn(now()))
			}
		} else { // by the hook, from a cgroup that has to be found among the known ones
			s := b.crossing(a, unit, victim.PID())
			before = mallocs()
			a.pass(s, now())
		}
		if struck == 0 {
			t.Fatalf("round %d: nobody was struck", i)
		}
		if n := struck - before; n != 0 {
			t.Errorf("round %d: %d allocations", i, n)
		}
		struck = 0
		b.turns(a, "the eviction's end", func() bool { return !a.following() && len(b.lines(record.KindEviction)) == i+1 })
	}
}
