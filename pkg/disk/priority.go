package disk

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const threadClock = unix.CLOCK_THREAD_CPUTIME_ID

// niceness is that of all threads of the process.
const niceness = 10

// Humble takes the process out of any real-time class that it inherited and makes it nice.
func Humble() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list own threads: %w", err)
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: niceness}
	for _, t := range threads { // those made later inherit it
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("leave the scheduling class: %w", err)
		}
	}
	return nil
}

// ioRank is the I/O priority of the visiting thread (include/uapi/linux/ioprio.h).
type ioRank int

const (
	ioNone ioRank = 0
	// ioIdle gets the disk when nobody else wants it: far from every mark.
	ioIdle ioRank = 3 << 13
	// ioLeast is the last of the best-effort class: near a mark, where who fills the disk
	// would keep an idle reader from ever finding that out.
	ioLeast ioRank = 2<<13 | 7
)

// set sets the calling thread's I/O priority, if it is another, and returns what is set.
// Where the kernel refuses it stays: the scheduler's share is the smaller half of the brake.
func (r ioRank) set(near bool) ioRank {
	want := ioIdle
	if near {
		want = ioLeast
	}
	if want != r {
		const thisThread = 0
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, 1 /* IOPRIO_WHO_PROCESS */, thisThread, uintptr(want))
	}
	return want
}
