package agent

import (
	"errors"
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
	slice := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: -20, Runtime: uint64(shortestSlice.Nanoseconds()),
		Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}
	if sliceErr := unix.SchedSetAttr(0, &slice, 0); sliceErr != nil {
		return ClassNone, errors.Join(err, sliceErr)
	}
	// Before 6.12 the runtime is ignored, and reads back as 0.
	if got, getErr := unix.SchedGetAttr(0, 0); getErr == nil && got.Runtime == slice.Runtime {
		return ClassSlice, err
	}
	return ClassNice, err
}
