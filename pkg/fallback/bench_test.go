package fallback

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// BenchmarkCrossing is the time from a crossing to its Sample, on a thread of SCHED_FIFO as
// the agent's: go test -run - -bench Crossing -benchtime 100x ./pkg/fallback.
//
// The hog fills 4 KiB pages as fast as it can. The kernel charges up to 64 pages ahead, and
// page tables; the time is from when the hog had touched that much less than the distance,
// so what is printed is the most that it can have been. Of tasks, one is made too many; the
// time is from the begin of that system call.
func BenchmarkCrossing(b *testing.B) {
	for _, tier := range []Tier{Poll, Event} {
		b.Run("memory/"+string(tier), func(b *testing.B) { benchmark(b, tier, (*bed).crossMemory) })
		b.Run("tasks/"+string(tier), func(b *testing.B) { benchmark(b, tier, (*bed).crossTasks) })
	}
}

func benchmark(b *testing.B, tier Tier, cross func(*bed) (time.Duration, sample.Sample)) {
	bed := newBed(b, tier)
	beRealTime(b)
	var took []time.Duration
	var past []int64
	called := 0
	for range b.N {
		d, s := cross(bed)
		took, past = append(took, d), append(past, s.LimitValue-s.Available)
		if s.By == sample.ObserverEvent {
			called++
		}
		must(b, bed.ClearWires())
	}
	slices.Sort(took)
	slices.Sort(past)
	half, most := len(took)/2, len(took)*99/100
	b.Logf("%d rounds, %d called by the kernel: crossing to Sample p50 %v, p99 %v; beyond the wire p50 %d, p99 %d",
		len(took), called, took[half], took[most], past[half], past[most])
}

// beRealTime gives this thread SCHED_FIFO, and nothing that it forks.
func beRealTime(b *testing.B) {
	const resetOnFork = 1 // SCHED_FLAG_RESET_ON_FORK
	runtime.LockOSThread()
	own, err := unix.SchedGetAttr(0, 0)
	must(b, err)
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Flags: resetOnFork, Priority: 50}, 0); err != nil {
		b.Logf("without SCHED_FIFO: %v", err)
	}
	b.Cleanup(func() {
		_ = unix.SchedSetAttr(0, own, 0)
		runtime.UnlockOSThread()
	})
}

func (b *bed) crossMemory() (time.Duration, sample.Sample) {
	hog := b.start(load.Spec{Kind: load.Hog, Bytes: 96 << 20})
	const distance = 48 << 20
	b.memory.Limit = b.available(b.memory) - distance
	b.place(b.memory)
	b.settle() // meanwhile the kernel is asked to call
	must(b, hog.Go())
	s := b.await()
	must(b, hog.Stop())
	const ahead = 256<<10 + distance/512
	return since(s, uint64(hog.Marks()[(distance-ahead)/load.MarkBytes])), s
}

func (b *bed) crossTasks() (time.Duration, sample.Sample) {
	if b.one == nil {
		b.one = b.member()
	}
	b.tasks.Limit = b.available(b.tasks)
	b.place(b.tasks)
	b.settle()
	forked := make(chan uint64, 1)
	go func() { forked <- b.one.fork(1) }()
	s := b.await()
	took := since(s, <-forked)
	b.one.fork(-1)
	return took, s
}

// since is how long after a crossing it was seen.
func since(s sample.Sample, crossed uint64) time.Duration {
	return time.Duration(max(0, int64(s.Ns)-int64(crossed)))
}
