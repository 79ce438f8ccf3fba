//go:build amd64

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
)

// workArg has this program work, and print what each work took.
const workArg = "work"

const (
	faultRounds = 9
	faultBytes  = 16 << 20
	forkRounds  = 41
	// forks of a round: the hook looks at one of so many.
	forks = 16
	// rest is after each fork, for what the kernel frees behind RCU: in a row of forks it comes
	// into others, and makes them differ by a tenth. An idle CPU skips it.
	rest = 25 * time.Millisecond
)

// work prints the instructions of each work, as JSON.
func work() error {
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if err := blockSignals(); err != nil {
		return err
	}
	if err := beFirst(); err != nil {
		return err
	}
	fault, err := perFault()
	if err != nil {
		return fmt.Errorf("%s: %w", count.Fault, err)
	}
	fork, err := perFork()
	if err != nil {
		return fmt.Errorf("%s: %w", count.Fork, err)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{count.Fault: fault, count.Fork: fork})
}

// blockSignals: the runtime interrupts a thread that does not call the scheduler, and a child
// of forkAll must take no signal.
func blockSignals() error {
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	return unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil)
}

// beFirst has no other task interrupt this one, nor it a child of its own that ends: which of
// the two runs first would be a matter of what they ran before.
func beFirst() error {
	fifo := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &fifo, 0); err != nil {
		return fmt.Errorf("sched_setattr: %w", err)
	}
	return nil
}

func perFault() (float64, error) {
	var took [1][]int // a round is one event
	for range faultRounds {
		ns, err := timed(touch)
		if err != nil {
			return 0, err
		}
		took[0] = append(took[0], ns)
	}
	return usual(took[:]) / float64(faultBytes/os.Getpagesize()), nil
}

func perFork() (float64, error) {
	nap := unix.NsecToTimespec(int64(rest))
	var took [forks][]int
	for range forkRounds {
		for i := range took {
			if err := unix.Nanosleep(&nap, nil); err != nil {
				return 0, err
			}
			ns, err := timed(fork)
			if err != nil {
				return 0, err
			}
			took[i] = append(took[i], ns)
		}
	}
	return usual(took[:]), nil
}

// usual is the mean of a round's events, of each of which the lower sixth of all rounds
// counts: timers come into some, and nearly half of the forks find a slab empty.
func usual(took [][]int) float64 {
	var sum int
	for _, rounds := range took {
		slices.Sort(rounds)
		sum += rounds[len(rounds)/6]
	}
	return float64(sum) / float64(len(took))
}

// timed returns the nanoseconds that the work took.
func timed(work func() error) (int, error) {
	var before, after unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &before)
	if err == nil {
		err = work()
	}
	if err == nil {
		err = unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
	}
	return int(after.Nano() - before.Nano()), err
}

// touch maps memory, writes to each page of it and unmaps it.
func touch() error {
	mem, err := unix.Mmap(-1, 0, faultBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // EINVAL without huge pages
	for off := 0; off < faultBytes; off += os.Getpagesize() {
		mem[off] = 1
	}
	return unix.Munmap(mem)
}

// fork makes a process that ends at once, and waits for it.
func fork() error {
	pid := vfork()
	if pid < 0 {
		return syscall.Errno(-pid)
	}
	_, err := unix.Wait4(pid, nil, 0, nil)
	return err
}

// vfork makes a process that shares this one's memory and exits before it touches any of it,
// and returns its pid or an errno below zero.
func vfork() int
