// Package load makes real load: processes that fill memory, fork without end, sleep, fault or
// spin. The demo, the tests, the drill and the benchmarks evict them.
//
// A load can't get away. Its keeper is PID 1 of a PID namespace of its own: when the
// keeper ends, the kernel ends everything in it, however fast it forks. The keeper ends
// on Stop, at the deadline and with the process that called Start. The load joins its
// limited cgroups before its first instruction and is not started if it can't; the
// keeper stays in the caller's, so that what kills the load's cgroup spares it.
//
//	Start ─► keeper (PID 1, reaps) ─► join: enters the cgroups, execs ─► the load
package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Command is the hidden name under which a program that starts loads is one itself.
const Command = "load"

const (
	// readyTimeout is for a machine whose CPUs are all busy; idle, a load is ready in 30 ms.
	readyTimeout = 30 * time.Second
	// stopTimeout is for tasks that can't die at once: in the middle of freeing gigabytes,
	// or frozen (a task that a v1 freezer holds dies when thawed).
	stopTimeout = 30 * time.Second
)

// Load is a running load. Its methods may be called by several goroutines.
type Load struct {
	keeper   *os.Process
	gone     <-chan struct{} // closed when the keeper, and so all of the load, is reaped
	lifeline *os.File        // the keeper ends when this is closed, by whatever means
	begin    *os.File        // a byte in it lets the load begin
	counters shared
	pid      int
	pidfd    *os.File
}

// Start runs `self args... <json>`, which must call Main with the last argument. It
// returns when the load is in its cgroups and ready; the load's Delay counts from then,
// or from Go if spec.Held. Needs CAP_SYS_ADMIN (a PID namespace) and kernel 5.4 (pidfd).
// Errors: ErrSpec, ErrUnlimited, or what kept the load from starting, in its own words.
// Nothing is left running after an error.
func Start(self string, args []string, spec Spec) (*Load, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	l, err := start(self, args, spec)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Kind, err)
	}
	if spec.Held {
		return l, nil
	}
	if err := l.Go(); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

func start(self string, args []string, spec Spec) (*Load, error) {
	arg, err := json.Marshal(order{Role: roleKeep, DeadlineNs: monotonicNs() + int64(spec.Deadline), Spec: spec})
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	marks := marksOf(&spec)
	ch, err := newChannels(marks)
	if err != nil {
		return nil, err
	}
	defer ch.close()

	cmd := exec.Command(self, append(args[:len(args):len(args)], string(arg))...)
	cmd.Stderr = os.Stderr // the last words of a crash
	cmd.ExtraFiles = ch.inherited()
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		Setpgid:    true, // a terminal's Ctrl-C is the caller's to handle
	}
	gone, err := launch(cmd)
	if err != nil {
		return nil, err
	}
	ch.closeInherited()
	l := &Load{keeper: cmd.Process, gone: gone, lifeline: ch.lifeline, begin: ch.begin}
	if err := l.meet(ch, marks); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	ch.keep()
	return l, nil
}

// launch starts cmd from a thread of its own that lives as long as cmd's process does:
// PDEATHSIG follows the thread that forked, not the process. The thread is SCHED_OTHER
// with nice 0 while it forks, and so is all that descends from it, whatever the caller's
// threads are.
func launch(cmd *exec.Cmd) (gone <-chan struct{}, err error) {
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		err := startOrdinary(cmd)
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed is how it is meant to end
			close(ended)
		}
	}()
	return ended, <-started
}

// startOrdinary gives the thread its own policy back: it may be the program's main thread.
func startOrdinary(cmd *exec.Cmd) error {
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("sched_getattr: %w", err)
	}
	ordinary := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if err := unix.SchedSetAttr(0, ordinary, 0); err != nil {
		return fmt.Errorf("set SCHED_OTHER: %w", err)
	}
	defer unix.SchedSetAttr(0, own, 0) // without the privilege for it, the thread stays ordinary
	return cmd.Start()
}

// meet waits for the load's word and takes hold of it. The load can't have ended well
// before that, as it waits for Go; so the pid is its own.
func (l *Load) meet(ch *channels, marks int) (err error) {
	if l.counters, err = mapCounters(int(ch.counters.Fd()), marks); err != nil {
		return err
	}
	runtime.AddCleanup(l, func(s shared) { s.unmap() }, l.counters)
	if l.pid, err = ch.await(readyTimeout); err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(l.pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", l.pid, err)
	}
	l.pidfd = os.NewFile(uintptr(fd), "pidfd") // closed when l is garbage
	return nil
}

// PID is the load's main process in the caller's PID namespace. It may be reused once
// the load is dead.
func (l *Load) PID() int { return l.pid }

// Alive says whether the main process runs. A bomb's children outlive it.
func (l *Load) Alive() bool { return !l.Wait(0) }

// Wait waits at most timeout for the main process to die, and says whether it did. A
// zombie is dead.
func (l *Load) Wait(timeout time.Duration) (died bool) {
	defer runtime.KeepAlive(l)
	end := time.Now().Add(timeout)
	for {
		fds := []unix.PollFd{{Fd: int32(l.pidfd.Fd()), Events: unix.POLLIN}}
		left := max(0, time.Until(end))
		n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// Go lets a held load begin. An error means that the load is gone.
func (l *Load) Go() error {
	if _, err := l.begin.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell the load to begin: %w", err)
	}
	return nil
}

// Progress is what the load has done so far: bytes touched by a hog or a sleeper, forks
// done by a bomb (but those whose parent was killed in the middle). It costs one memory
// read, and still answers after Stop.
func (l *Load) Progress() (int64, error) {
	defer runtime.KeepAlive(l)
	return atomic.LoadInt64(&l.counters.done), nil
}

// MarkBytes is how far apart a hog's marks are: 28 µs at the fastest 4 KiB fill measured.
const MarkBytes = 64 << 10

// Marks are the times, in nanoseconds of CLOCK_MONOTONIC, at which a hog had filled the
// first MarkBytes, the second, and so on. Like Progress they can be asked for after Stop.
func (l *Load) Marks() []int64 {
	defer runtime.KeepAlive(l)
	marks := make([]int64, 0, len(l.counters.marks))
	for i := range l.counters.marks {
		ns := atomic.LoadInt64(&l.counters.marks[i])
		if ns == 0 {
			break
		}
		marks = append(marks, ns)
	}
	return marks
}

// Stop kills the keeper, and with it the kernel kills all of the load, and waits until
// all of it is reaped. It may be called again. An error means that something does not
// die, as in a frozen cgroup; it will once it can.
func (l *Load) Stop() error {
	l.lifeline.Close()
	l.begin.Close()
	if err := l.keeper.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the keeper %d: %w", l.keeper.Pid, err)
	}
	select {
	case <-l.gone:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("keeper %d: not dead %v after SIGKILL", l.keeper.Pid, stopTimeout)
	}
}
