package agent

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// A collection, or a fault for fresh memory while memory is what the node lacks, must not
// lie between the wake-up and SIGKILL.
func TestNothingIsAllocatedBetweenWakeUpAndSIGKILL(t *testing.T) {
	profileEachAllocation(t)
	b := newBed(t)
	b.limit(b.root, bedMemory, cgroupfs.Unlimited) // no data of a signal costs nothing either
	b.sleeper("bystander", 8<<20)
	b.conf.Backstop = config.Backstop{Enabled: true, Grace: config.MaxGrace} // licensed, and no faster than the agent
	var before, struck map[string]int64
	a := b.open(map[string]string{
		"allocatableMemory.available": "470Mi", "allocatablePID.available": "1", "memory.available": "1Mi", "pid.available": "1",
	}, func(s stage) {
		if s == stageStruck {
			struck = allocationsOfPasses()
		}
	})
	for i := range 3 {
		unit := fmt.Sprintf("victim-%d", i)
		victim := b.sleeper(unit, 64<<20)
		must(t, a.scout.round(true))
		if i%2 == 0 { // as the agent does: epoll, ring buffer, pass
			for a.poller.wait(farTick); struck == nil; {
				before = allocationsOfPasses()
				must(t, a.turn(sample.Now()))
			}
		} else { // by the hook, from a cgroup that has to be found among the known ones
			s := crossings{b.crossing(a, unit, victim.PID())}
			before = allocationsOfPasses()
			a.pass(s, sample.Now())
		}
		if struck == nil {
			t.Fatalf("round %d: nobody was struck", i)
		}
		for stack, n := range struck {
			if n != before[stack] {
				t.Errorf("round %d: %d allocations at\n%s", i, n-before[stack], stack)
			}
		}
		struck = nil
		b.turns(a, "the eviction's end", func() bool { return !a.following() && len(b.lines(record.KindEviction)) == i+1 })
	}
	if len(allocationsOfPasses()) == 0 {
		t.Error("no allocation of any pass is seen, not even those that come after SIGKILL: this test sees nothing")
	}
}

// profileEachAllocation does so up to the test's end: an agent opens 15 times slower meanwhile.
func profileEachAllocation(t *testing.T) {
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	t.Cleanup(func() { runtime.MemProfileRate = rate })
}

// allocationsOfPasses counts, by stack, what turn and pass have allocated so far: other
// goroutines do what they like. It needs profileEachAllocation before.
func allocationsOfPasses() map[string]int64 {
	runtime.GC() // the profile is as of the last but one collection
	runtime.GC()
	n, _ := runtime.MemProfile(nil, true)
	records := make([]runtime.MemProfileRecord, n+1000)
	n, _ = runtime.MemProfile(records, true)
	found := map[string]int64{}
	for i := range records[:n] {
		stack, known := stacks[records[i].Stack0]
		if !known {
			stack = textOf(records[i].Stack())
			stacks[records[i].Stack0] = stack
		}
		if strings.Contains(stack, "(*Agent).pass\n") || strings.Contains(stack, "(*Agent).turn\n") {
			found[stack] += records[i].AllocObjects
		}
	}
	return found
}

// stacks are texts that were made already: there are thousands.
var stacks = map[[32]uintptr]string{}

// textOf is empty for what allocationsOfPasses itself allocates when it is called from a pass.
func textOf(stack []uintptr) string {
	var text strings.Builder
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, ".allocationsOfPasses") {
			return ""
		}
		fmt.Fprintf(&text, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return text.String()
		}
	}
}
