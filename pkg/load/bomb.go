package load

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bomb is all that forkForever touches, allocated before the first fork.
type bomb struct {
	c          *counters
	tasks      int64
	deadlineNs int64
	now        unix.Timespec
	nap        unix.Timespec
}

// explode does not return. A child is a copy of this thread alone, without the runtime's
// others: it must take no signal, and nothing here may call into the scheduler.
func explode(c *counters, o order) {
	b := &bomb{
		c: c, tasks: int64(o.Spec.Tasks), deadlineNs: o.DeadlineNs,
		nap: unix.NsecToTimespec(1e6), // long enough for hundreds to wait without starving the node
	}
	debug.SetGCPercent(-1) // a collection would wait for this thread for ever
	runtime.LockOSThread()
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil); err != nil {
		fmt.Fprintln(os.Stderr, "block signals:", err)
		os.Exit(1)
	}
	b.forkForever()
}

// forkForever runs in the first process and, from the middle of fork, in each child: that
// is why killing a parent stops nothing. It calls raw system calls and the assembly of
// sync/atomic only; a child that enters the scheduler hangs.
//
//go:nosplit
//go:norace
func (b *bomb) forkForever() {
	for {
		syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&b.now)), 0)
		if int64(b.now.Sec)*1e9+int64(b.now.Nsec) >= b.deadlineNs {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		if !b.fork() {
			syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&b.nap)), 0, 0)
		}
	}
}

// forkFlags make every process of the bomb a child of the keeper, which reaps: zombies
// of parents that never wait would fill pids.max and end the forking.
const forkFlags = uintptr(syscall.SIGCHLD) | unix.CLONE_PARENT

// fork returns in parent and child. False: the cap, pids.max (EAGAIN) or memory (ENOMEM)
// does not allow another process now. A process killed after the first addition, before
// its child exists, leaves alive too high: the bomb grows smaller, never larger than tasks.
//
//go:nosplit
//go:norace
func (b *bomb) fork() bool {
	if atomic.AddInt64(&b.c.alive, 1) > b.tasks {
		atomic.AddInt64(&b.c.alive, -1)
		return false
	}
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, forkFlags, 0, 0, 0, 0, 0)
	if errno != 0 {
		atomic.AddInt64(&b.c.alive, -1)
		return false
	}
	if pid != 0 {
		atomic.AddInt64(&b.c.done, 1)
	}
	return true
}
