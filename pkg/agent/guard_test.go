package agent

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// realTime runs f on a thread of its own with this priority, on the first CPU that this process
// may use; the channel closes when f has ended.
func realTime(t *testing.T, priority uint32, f func()) (tid int, ended chan struct{}) {
	t.Helper()
	var all, first unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &all))
	for cpu := 0; first.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			first.Set(cpu)
		}
	}
	begun := make(chan int)
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked
		if err := unix.SchedSetaffinity(0, &first); err != nil {
			t.Error(err)
		}
		if class, err := Raise(priority); class != ClassFIFO {
			t.Errorf("class %s: %v", class, err)
		}
		begun <- unix.Gettid()
		f()
	}()
	return <-begun, ended
}

// tickerOf is a kernel whose timer is a thread that never looks.
type tickerOf struct {
	kernel
	tid int
}

func (k tickerOf) Ticker() (tid int, looks uint64) { return k.tid, 0 }

// What such a thread does when it waits for a thread of the crew on the only CPU.
func TestWhoSpinsForALowerPriorityIsSetAside(t *testing.T) {
	for name, tc := range map[string]struct {
		priority uint32
		guard    func(ctx context.Context, tid int)
	}{
		"the hot thread": {hotPriority, func(ctx context.Context, tid int) {
			(&Agent{log: zerolog.Nop()}).guard(ctx, tid)
		}},
		"the thread that stands in for the kernel's timer": {tickerPriority, func(ctx context.Context, tid int) {
			(&Agent{log: zerolog.Nop(), kernel: tickerOf{tid: tid}}).guard(ctx, unix.Getpid())
		}},
	} {
		t.Run(name, func(t *testing.T) { spinForALower(t, tc.priority, tc.guard) })
	}
}

func spinForALower(t *testing.T, priority uint32, guard func(ctx context.Context, tid int)) {
	const mostSpins = 60_000_000                     // half a minute, on an emulated CPU two
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))  // as the agent has; the one that spins keeps one
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would wait for the end of that
	var spins, released atomic.Bool
	_, lowerEnded := realTime(t, crewPriority, func() {
		for !spins.Load() {
			pauseFor(time.Millisecond)
		}
		pauseFor(10 * time.Millisecond) // comes back while the other one spins
		released.Store(true)
	})
	leave := make(chan struct{})
	higher, higherEnded := realTime(t, priority, func() {
		// In a loop of its own the runtime preempts nobody.
		urgent := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGURG - 1)}}
		must(t, unix.PthreadSigmask(unix.SIG_BLOCK, &urgent, nil))
		spins.Store(true)
		for range mostSpins {
			if released.Load() {
				break
			}
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		if !released.Load() {
			t.Error("the thread of a lower priority never ran")
		}
		<-leave // when it has its class back
	})
	ctx, cancel := context.WithCancel(context.Background())
	guarded := make(chan struct{})
	go func() { defer close(guarded); guard(ctx, higher) }()
	<-lowerEnded
	for attr := new(unix.SchedAttr); attr.Policy != unix.SCHED_FIFO; pauseFor(time.Millisecond) {
		var err error
		attr, err = unix.SchedGetAttr(higher, 0)
		must(t, err)
	}
	close(leave)
	<-higherEnded
	cancel()
	<-guarded
}

func pauseFor(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&ts, nil)
}
