package agent

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
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

// guard ends a standstill of a real-time thread. Coming back from a system call it spins while
// another thread of Go's runtime takes its P away and has marked its goroutine for that
// (setBlockOnExitSyscall in runtime/proc.go, Go 1.26). One of a lower real-time priority, or of
// none, on the same CPU would never run again: the kernel's throttle stops real-time threads all at
// once. It lets ordinary ones run for 50 ms of each second, which in a fork bomb are hundreds:
// minutes. The guard, which has slept, is among the first of them. It sees that such a thread uses
// its CPU and never sleeps, and makes all threads alike for a moment.
func guard(ctx context.Context, log zerolog.Logger) {
	look := time.NewTicker(guardEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if tid := realTime.standingStill(); tid != 0 {
			err := evenly(func() { defer time.Sleep(evenFor); giveWay(tid) })
			log.Warn().Err(err).Int("tid", tid).Msg("a real-time thread stood still; let the others run")
		}
	}
}

// giveWay puts a thread behind all others of this process while they are alike. Before EEVDF (6.6)
// who has run less goes on, and sched_yield is heard only between those that are about level: at
// nice -20 one that is a millisecond behind stays there for 87 of its own.
func giveWay(tid int) {
	if attr, err := unix.SchedGetAttr(tid, 0); err == nil {
		last := ordinary(attr)
		last.Nice = 19
		_ = unix.SchedSetAttr(tid, last, 0) // or it has ended
	}
}

// realTime are the threads of this process that are.
var realTime guarded

// guarded are threads that the guard has an eye on. A look makes no garbage.
type guarded struct {
	mu      sync.Mutex
	threads []thread
	text    [4096]byte
}

// thread has the open file /proc/self/task/TID/status.
type thread struct {
	tid, status int
	was         progress
}

// progress is of a thread: how often it has slept, and what it has used of its CPUs. Who spins in
// sched_yield(2) has not slept: the kernel counts that as if it were preempted.
type progress struct {
	sleeps uint64
	used   time.Duration
}

func (p progress) standsStill(before progress) bool {
	return p.sleeps == before.sleeps && p.used-before.used > guardEvery/2
}

// add has the calling thread guarded, which keeps its goroutine to its end.
func (g *guarded) add() error {
	tid := unix.Gettid()
	status, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/status", tid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the status of a thread: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.threads = append(g.threads, thread{tid: tid, status: status})
	g.look() // those that have ended go
	return nil
}

// standingStill is one that has stood still since the last call, or 0.
func (g *guarded) standingStill() (tid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.look()
}

func (g *guarded) look() (stands int) {
	kept := g.threads[:0]
	for _, t := range g.threads {
		is, err := g.progress(t)
		if err != nil { // it has ended
			_ = unix.Close(t.status)
			continue
		}
		if is.standsStill(t.was) {
			stands = t.tid
		}
		t.was = is
		kept = append(kept, t)
	}
	g.threads = kept
	return stands
}

func (g *guarded) progress(t thread) (p progress, err error) {
	if p.used, err = cpuTime(t.tid); err != nil || p.used == t.was.used {
		return t.was, err // it sleeps on
	}
	n, err := unix.Pread(t.status, g.text[:], 0)
	if err != nil {
		return p, err
	}
	p.sleeps, err = sleepsOf(g.text[:n])
	return p, err
}

// sleepsOf reads how often a thread has slept.
//
//	voluntary_ctxt_switches:	150
func sleepsOf(status []byte) (uint64, error) {
	_, rest, found := bytes.Cut(status, []byte("\nvoluntary_ctxt_switches:\t"))
	digits, _, ended := bytes.Cut(rest, []byte("\n"))
	if !found || !ended {
		return 0, fmt.Errorf("a thread's status has no voluntary_ctxt_switches")
	}
	return strconv.ParseUint(string(digits), 10, 64) // which keeps no string: there is no garbage
}

// cpuTime is what a thread of this process has used of its CPUs.
func cpuTime(tid int) (time.Duration, error) {
	const ofThread, scheduled = 4, 2 // CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED, include/linux/posix-timers_types.h
	var used unix.Timespec
	err := unix.ClockGettime(int32(^tid<<3|ofThread|scheduled), &used)
	return time.Duration(used.Nano()), err
}
