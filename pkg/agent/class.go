package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Class is how the kernel schedules a thread.
type Class string

const (
	// ClassFIFO is SCHED_FIFO.
	ClassFIFO Class = "SCHED_FIFO"
	// ClassSlice is nice -20 with a slice of its own, the shortest there is (6.12): it is
	// served before whoever runs with the default.
	ClassSlice Class = "nice -20, slice 0.1 ms"
	// ClassNice is nice -20.
	ClassNice Class = "nice -20"
	// ClassNone is what the thread had.
	ClassNone Class = "normal"
)

// shortestSlice is the least that sched_setattr(2) takes (kernel/sched/syscalls.c).
const shortestSlice = 100 * time.Microsecond

// Raise gives the calling, locked thread the best class that is permitted. The error says
// what was refused. What the thread forks starts as a normal process.
func Raise(priority uint32) (Class, error) {
	fifo := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: priority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	err := unix.SchedSetAttr(0, &fifo, 0)
	if err == nil {
		return ClassFIFO, nil
	}
	err = fmt.Errorf("%s: %w", ClassFIFO, err)
	slice := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: -20, Runtime: uint64(shortestSlice.Nanoseconds()),
		Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}
	if sliceErr := unix.SchedSetAttr(0, &slice, 0); sliceErr != nil {
		return ClassNone, errors.Join(err, fmt.Errorf("%s: %w", ClassNice, sliceErr))
	}
	// Before 6.12 the runtime is ignored, and reads back as 0.
	if got, getErr := unix.SchedGetAttr(0, 0); getErr == nil && got.Runtime == slice.Runtime {
		return ClassSlice, err
	}
	return ClassNice, err
}

// classes is held by whoever changes the class of other threads, until they have theirs back.
var classes sync.Mutex

// ordinary is the best class that is not real-time.
func ordinary(attr *unix.SchedAttr) *unix.SchedAttr {
	return &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: -20, Flags: attr.Flags}
}

// hurry gives all threads of this process the same class, nice -20, and calm what each had; its
// error is that one does not get it. A start in the middle of a fork bomb is one of hundreds of
// tasks that want the CPU: on a kernel without cgroup.kill, whose victim goes on trying to fork,
// one took 165 s.
func hurry() (calm func() error) {
	classes.Lock() // up to calm
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return func() error { classes.Unlock(); return err }
	}
	usual := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: own.Nice} // 0 of a real-time thread
	had := map[int]unix.SchedAttr{}
	eachThread(func(tid int, attr *unix.SchedAttr) {
		if _, done := had[tid]; !done && unix.SchedSetAttr(tid, ordinary(attr), 0) == nil {
			had[tid] = *attr
		}
	})
	return func() (refused error) {
		defer classes.Unlock()
		eachThread(func(tid int, attr *unix.SchedAttr) {
			before, known := had[tid]
			if !known {
				before = usual // it is new, and has its maker's
			}
			if attr.Policy != unix.SCHED_NORMAL {
				return // it has raised itself meanwhile
			}
			if err := unix.SchedSetAttr(tid, &before, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				refused = fmt.Errorf("a thread keeps nice -20: %w", err)
			}
		})
		return refused
	}
}

// eachThread calls f for each thread of this process with how it is scheduled; twice for most
// of them, as the second round finds those that came in the first.
func eachThread(f func(tid int, attr *unix.SchedAttr)) {
	for range 2 {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			if attr, err := unix.SchedGetAttr(tid, 0); err == nil {
				f(tid, attr)
			}
		}
	}
}
