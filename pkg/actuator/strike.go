package actuator

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Strike sends the first SIGKILL: by cgroup.kill (5.14) to everything at once, else to the
// processes that Prepare holds, else to culprit, the process that was seen allocating or
// forking in the unit (0: none was), if it still is in the unit. A unit so young that none
// is held is the one case in which the hot path reads text: one file for the culprit, and
// without one the lists of processes (0.6 ms for a bomb of 200). It returns how many
// processes were signalled (-1: all, by the kernel, which does not tell whether there was
// anybody), and ErrGone when the unit was removed or, without cgroup.kill, empty.
func (h *Handle) Strike(culprit int) (int, error) {
	h.busy.Add(1)
	h.dead.Store(false)
	n, err := h.strike(culprit)
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

func (h *Handle) strike(culprit int) (int, error) {
	if h.kernelKills() {
		return h.killByKernel()
	}
	if n := h.signalLeads(); n > 0 {
		return n, nil
	}
	if h.signalCulprit(culprit) {
		return 1, nil
	}
	return h.sweep(unix.SIGKILL, maxLeads, nil) // Finish has the rest: 200 pidfds take 2 ms
}

// signalCulprit opens the process before it looks where it is: if the pidfd can still be
// signalled afterwards, the look was at that process and at no later one of its number.
func (h *Handle) signalCulprit(pid int) bool {
	if pid <= 0 {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	for _, t := range h.targets {
		if in, err := t.Holds(pid); err == nil && in {
			return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
		}
	}
	return false
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

// signalLeads hits the processes that were in the unit when Prepare looked, 50 ms ago while
// a wire is near: a process that has been moved elsewhere since is hit all the same. Only
// text says where a process is, and 16 such files are half a millisecond.
func (h *Handle) signalLeads() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.leads {
		if unix.PidfdSendSignal(l.fd, unix.SIGKILL, nil, 0) == nil {
			n++
		}
	}
	return n
}

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
