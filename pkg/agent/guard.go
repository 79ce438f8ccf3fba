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
	// asideFor is how long the hot thread is an ordinary one then: who holds it up needs less
	// than a microsecond.
	asideFor = 2 * time.Millisecond
)

// hasOneCPU: with a second one, the kernel moves a real-time thread that is preempted there.
func hasOneCPU() bool { return runtime.NumCPU() == 1 }

// guard ends a standstill of the hot thread. Coming back from a system call it spins while
// another thread of Go's runtime takes its P away and has marked its goroutine for that
// (setBlockOnExitSyscall in runtime/proc.go, Go 1.26). One of a lower real-time priority on the
// same CPU would never run again: the kernel's throttle stops real-time threads all at once. It
// lets ordinary ones run for 50 ms of each second, and the guard is one. It sees that the hot
// thread uses its CPU and ends no turn, and makes it an ordinary thread for a moment.
func (a *Agent) guard(ctx context.Context, hot int) {
	look := time.NewTicker(guardEvery)
	defer look.Stop()
	turns, used := a.turns.Load(), cpuTime(hot)
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		turnsNow, usedNow := a.turns.Load(), cpuTime(hot)
		if turnsNow == turns && usedNow-used > guardEvery/2 {
			a.log.Warn().Err(setAside(hot)).Msg("the hot thread stood still; let another one run")
		}
		turns, used = turnsNow, usedNow
	}
}

// setAside takes a real-time thread's class away for a moment.
func setAside(tid int) error {
	classes.Lock()
	defer classes.Unlock()
	had, err := unix.SchedGetAttr(tid, 0)
	if err != nil || had.Policy != unix.SCHED_FIFO {
		return err
	}
	if err := unix.SchedSetAttr(tid, ordinary(had), 0); err != nil {
		return err
	}
	time.Sleep(asideFor)
	return unix.SchedSetAttr(tid, had, 0)
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
