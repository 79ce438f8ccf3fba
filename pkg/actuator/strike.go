package actuator

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Culprit is a process that the kernel saw allocating or forking in one of the unit's
// targets; the zero value is nobody.
type Culprit struct {
	PID int
	// Age is how long ago that was.
	Age time.Duration
}

// certainAge is how old a sight of a process may be for its pid to be nobody else's: the
// numbers come round after 32,768 tasks at least, and a core starts 50 in that time.
const certainAge = time.Millisecond

// Strike sends the first SIGKILL: to a culprit that was seen just now, and by cgroup.kill
// (5.14) to everything at once; without that to one of the processes that Prepare holds;
// StrikeOthers has the rest of those. A culprit that was seen long ago is hit only where
// none is held, and if one text file says that it still is in the unit; without one the
// lists of processes are read (0.6 ms for a bomb of 200). It returns how many processes were signalled (-1: all, by the
// kernel, which does not tell whether there was anybody), and ErrGone when the unit was
// removed or, without cgroup.kill, empty.
func (h *Handle) Strike(c Culprit) (int, error) {
	h.busy.Add(1)
	h.struck.Store(true)
	h.dead.Store(false)
	n, err := h.strike(c)
	if err != nil {
		h.empty.Store(errors.Is(err, ErrGone))
		h.busy.Add(-1)
	}
	return n, err
}

// Struck says that the unit got its SIGKILL from elsewhere after a Strike that hit nobody:
// Finish is to be called as after one that did.
func (h *Handle) Struck() {
	h.busy.Add(1)
	h.empty.Store(false)
}

func (h *Handle) strike(c Culprit) (int, error) {
	// A sleeping process of many threads, which are woken one by one, takes 0.1 ms to
	// signal, so the one that is known to run comes first; by its number, as cgroup.kill
	// waits for whoever makes or moves a cgroup somewhere (cgroup_mutex).
	hit := c.isCertain() && unix.Kill(c.PID, unix.SIGKILL) == nil
	if h.kernelKills() {
		if n, err := h.killByKernel(); err == nil || !hit {
			return n, err
		}
	}
	if hit || h.signalLead() || h.signalHeld(c.PID) {
		return 1, nil
	}
	return h.sweep(unix.SIGKILL, maxLeads, nil) // Finish has the rest: 200 pidfds take 2 ms
}

// isCertain: the process can be hit by its number, and a pidfd would make it no surer.
func (c Culprit) isCertain() bool { return c.PID > 0 && c.Age <= certainAge }

// signalHeld opens the process before it looks where it is: if the pidfd can still be
// signalled afterwards, the look was at that process and at no later one of its number.
func (h *Handle) signalHeld(pid int) bool {
	if pid <= 0 {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return h.holds(pid) && lead{pid, fd}.kill()
}

// holds reports whether a process is in one of the targets, by text.
func (h *Handle) holds(pid int) bool {
	return slices.ContainsFunc(h.targets, func(t *cgroupfs.Cgroup) bool {
		in, err := t.Holds(pid)
		return err == nil && in
	})
}

func (h *Handle) killByKernel() (int, error) {
	struck := false
	for _, t := range h.targets {
		switch err := t.Kill(); {
		case err == nil:
			struck = true
		case errors.Is(err, cgroupfs.ErrUnsupported): // a threaded cgroup
			return h.sweep(unix.SIGKILL, maxSweep, nil)
		case !errors.Is(err, cgroupfs.ErrGone):
			return 0, err
		}
	}
	if !struck {
		return 0, ErrGone
	}
	return -1, nil
}

// signalLead hits one of the processes that were in the unit when Prepare looked, 50 ms ago
// while a wire is near: a process that has been moved elsewhere since is hit all the same.
// Only text says where a process is, and 16 such files are half a millisecond.
func (h *Handle) signalLead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.leads, lead.kill)
}

// StrikeOthers sends SIGKILL to every process that Prepare holds, and returns how many that
// hit. Each takes up to 15 µs, which the first must not wait for.
func (h *Handle) StrikeOthers() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.leads {
		if l.kill() {
			n++
		}
	}
	return n
}

func (l lead) kill() bool { return unix.PidfdSendSignal(l.fd, unix.SIGKILL, nil, 0) == nil }

// sweep lists the unit's processes and signals up to most of them; reap, when given, sees
// their pidfds before they are closed.
func (h *Handle) sweep(sig unix.Signal, most int, reap func([]lead)) (int, error) {
	leads, err := h.openLeads(most)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, l := range leads {
		if unix.PidfdSendSignal(l.fd, sig, nil, 0) == nil {
			n++
		}
	}
	if reap != nil {
		reap(leads)
	}
	closeLeads(leads)
	if n == 0 {
		return 0, ErrGone
	}
	return n, nil
}

// maxSweep bounds the pidfds held at once, well below the limit of open files.
const maxSweep = 4096
