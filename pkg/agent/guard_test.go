package agent

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// raised runs f on a thread of its own with this priority, on the first CPU that this process
// may use; the channel closes when f has ended.
func raised(t *testing.T, priority uint32, f func()) (tid int, ended chan struct{}) {
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
		if !raise(zerolog.New(zerolog.NewTestWriter(t)), priority) {
			t.Error("it is not real-time")
		}
		begun <- unix.Gettid()
		f()
	}()
	return <-begun, ended
}

// What a thread does when it waits for one of a lower priority on the only CPU.
func TestWhoSpinsForALowerPriorityIsSetAside(t *testing.T) {
	for name, tc := range map[string]struct{ spins, waits uint32 }{
		"the hot thread, for the crew's":                                   {hotPriority, crewPriority},
		"the thread that stands in for the kernel's timer, for the crew's": {tickerPriority, crewPriority},
		"a thread of the crew, for the scout's":                            {crewPriority, scoutPriority},
		"the scout's thread, for one below all":                            {scoutPriority, 1},
	} {
		t.Run(name, func(t *testing.T) { spinForALower(t, tc.spins, tc.waits) })
	}
}

func spinForALower(t *testing.T, spinning, waiting uint32) {
	const mostSpins = 60_000_000                     // half a minute, on an emulated CPU two
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))  // as the agent has; the one that spins keeps one
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would wait for the end of that
	var spins, released atomic.Bool
	_, lowerEnded := raised(t, waiting, func() {
		for !spins.Load() {
			pauseFor(time.Millisecond)
		}
		pauseFor(10 * time.Millisecond) // comes back while the other one spins
		released.Store(true)
	})
	leave := make(chan struct{})
	higher, higherEnded := raised(t, spinning, func() {
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
	go func() { defer close(guarded); guard(ctx, zerolog.Nop()) }()
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

func usedBy(t *testing.T, tid int) time.Duration {
	used, err := cpuTime(tid)
	if err != nil {
		t.Error(err)
	}
	return used
}

// One that sleeps now and then lets the others run, however busy it is.
func TestWhoSleepsDoesNotStandStill(t *testing.T) {
	stop := make(chan struct{})
	tid, ended := raised(t, 1, func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for start := usedBy(t, unix.Gettid()); usedBy(t, unix.Gettid())-start < 5*time.Millisecond; {
				_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			}
			pauseFor(time.Millisecond) // less may be over before it begins
		}
	})
	realTime.standingStill()
	for start := usedBy(t, tid); usedBy(t, tid)-start < guardEvery; {
		time.Sleep(time.Millisecond)
	}
	if got := realTime.standingStill(); got == tid {
		t.Error("it stands still")
	}
	close(stop)
	<-ended
}

func TestThreadsThatEndAreNotGuardedAnyMore(t *testing.T) {
	tid, ended := raised(t, 1, func() {})
	<-ended
	isGuarded := func() bool {
		realTime.standingStill()
		return slices.ContainsFunc(realTime.threads, func(g thread) bool { return g.tid == tid })
	}
	for isGuarded() { // its thread ends behind its goroutine
		pauseFor(time.Millisecond)
	}
}

func TestALookMakesNoGarbage(t *testing.T) {
	leave := make(chan struct{})
	_, ended := raised(t, 1, func() { <-leave })
	if n := testing.AllocsPerRun(100, func() { realTime.standingStill() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	close(leave)
	<-ended
}
