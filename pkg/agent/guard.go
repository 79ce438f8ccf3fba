package agent

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// guardEvery is between two looks of the guard.
	guardEvery = 200 * time.Millisecond
	// evenFor is how long all threads are alike then: who holds the other one up needs less than
	// a microsecond.
	evenFor = 2 * time.Millisecond
)

// hasOneCPU: with a second one, the kernel moves a real-time thread that is preempted there.
func hasOneCPU() bool { return runtime.NumCPU() == 1 }

// guard ends a standstill of the hot thread, or of the one that stands in for the kernel's timer.
// Coming back from a system call it spins while another thread of Go's runtime takes its P away and
// has marked its goroutine for that (setBlockOnExitSyscall in runtime/proc.go, Go 1.26). One of a
// lower real-time priority on the same CPU would never run again: the kernel's throttle stops
// real-time threads all at once. It lets ordinary ones run for 50 ms of each second, which in a
// fork bomb are hundreds: minutes. The guard, which has slept, is among the first of them. It sees
// that such a thread uses its CPU and ends no turn, and makes all threads alike for a moment.
func (a *Agent) guard(ctx context.Context, hot int) {
	look := time.NewTicker(guardEvery)
	defer look.Stop()
	was := a.progress(hot)
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		is := a.progress(hot)
		if is[0].standsStill(was[0]) || is[1].standsStill(was[1]) {
			err := evenly(func() { time.Sleep(evenFor) })
			a.log.Warn().Err(err).Msg("a real-time thread stood still; let the others run")
		}
		was = is
	}
}

// progress is of a thread: how many turns it has ended, and what it has used of its CPUs.
type progress struct {
	turns uint64
	used  time.Duration
}

func (p progress) standsStill(before progress) bool {
	return p.turns == before.turns && p.used-before.used > guardEvery/2
}

// progress is that of the hot thread, and of the one that stands in for the kernel's timer, if
// there is one.
func (a *Agent) progress(hot int) [2]progress {
	p := [2]progress{{a.turns.Load(), cpuTime(hot)}}
	if k, ok := a.kernel.(ticking); ok {
		if tid, looks := k.Ticker(); tid != 0 {
			p[1] = progress{looks, cpuTime(tid)}
		}
	}
	return p
}

// ticking is a kernel whose timer may be a thread: its number, or 0, and how often it has looked.
type ticking interface {
	Ticker() (tid int, looks uint64)
}

// cpuTime is what a thread of this process has used of its CPUs; 0 when it is gone.
func cpuTime(tid int) time.Duration {
	const ofThread, scheduled = 4, 2 // CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED, include/linux/posix-timers_types.h
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^tid<<3|ofThread|scheduled), &used); err != nil {
		return 0
	}
	return time.Duration(used.Nano())
}
