package actuator

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Outcome is what became of a unit after its first SIGKILL.
type Outcome struct {
	// SignalledAllNs is CLOCK_MONOTONIC of the last SIGKILL that hit a process, 0 when
	// the first one hit all. DeadNs is when nothing but zombies was left, 0: not yet.
	SignalledAllNs, DeadNs uint64
	// Processes is how many were signalled one by one; with cgroup.kill those that were
	// seen before they ended.
	Processes int
	// Err is what failed in the last sweep of a unit that did not die in time.
	Err error
}

const (
	// firstPause is between two sweeps; each next one is twice as long up to lastPause:
	// what lives on after many SIGKILLs waits for something slow.
	firstPause = 100 * time.Microsecond
	lastPause  = 5 * time.Millisecond
)

// Finish kills what is left of a struck unit, and frees its memory from outside, until
// nothing but zombies is left or the deadline has passed. Where there is no cgroup.kill it
// sweeps: the condemned word kills whoever forks meanwhile, so each sweep finds fewer. It
// does not freeze: what a killer froze and died before thawing would stay frozen for good.
// A unit that somebody else froze (v1) is thawed, or its SIGKILL would wait. For a job of
// the crew.
func (h *Handle) Finish(crew *Crew, now func() uint64, deadline time.Duration) (out Outcome) {
	defer h.busy.Add(-1)
	seen := map[int]bool{}
	end := now() + uint64(deadline)
	for wait := firstPause; ; wait = min(2*wait, lastPause) {
		populated, err := h.populated()
		if err == nil && !populated {
			h.dead.Store(true)
			out.DeadNs, out.Err = now(), nil
			return out
		}
		if now() > end {
			out.Err = errors.Join(out.Err, err)
			return out
		}
		// What fails in one sweep, of a unit that changes under it, is tried in the next.
		thawErr := h.thaw()
		fresh, sweepErr := h.sweepNew(crew, seen)
		if errors.Is(sweepErr, ErrGone) {
			sweepErr = nil
		}
		out.Err = errors.Join(thawErr, sweepErr)
		if fresh > 0 {
			out.SignalledAllNs = now()
			out.Processes += fresh
			wait = firstPause
		}
		pause(wait)
	}
}

func (h *Handle) populated() (bool, error) {
	for _, t := range h.targets {
		p, err := t.Populated()
		if errors.Is(err, cgroupfs.ErrGone) {
			continue
		}
		if p || err != nil {
			return p, err
		}
	}
	return false, nil
}

func (h *Handle) thaw() error {
	var errs []error
	for _, t := range h.targets {
		if err := t.Thaw(); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweepNew signals everybody and returns how many were not seen before.
func (h *Handle) sweepNew(crew *Crew, seen map[int]bool) (fresh int, err error) {
	_, err = h.sweep(unix.SIGKILL, maxSweep, func(leads []lead) {
		for _, l := range leads {
			if !seen[l.pid] {
				seen[l.pid] = true
				fresh++
			}
		}
		mrelease(crew, leads)
	})
	return fresh, err
}

const (
	// maxReleased is how many processes get help with freeing: the largest ones of a unit
	// are few, and a bomb's thousands free themselves.
	maxReleased = 32
	// maxWeighed bounds the search for the largest: weighing one takes 10 µs.
	maxWeighed = 256
)

// mrelease frees the memory of dying processes from outside (process_mrelease, 5.15), the
// largest first and in parallel: under load 1 GiB is back in 65 instead of 235 ms, as the
// dying wait for a CPU by their own class. Legal on a dying process only, so always after
// SIGKILL; an error means it frees itself.
func mrelease(crew *Crew, leads []lead) {
	leads = largest(leads[:min(len(leads), maxWeighed)], maxReleased)
	crew.each(len(leads), func(i int) {
		_, _, _ = unix.Syscall(unix.SYS_PROCESS_MRELEASE, uintptr(leads[i].fd), 0, 0)
	})
}

// largest returns up to most processes, by what they have resident.
func largest(leads []lead, most int) []lead {
	if len(leads) < 2 {
		return leads
	}
	resident := make(map[int]int64, len(leads))
	for _, l := range leads {
		resident[l.pid] = residentPages(l.pid)
	}
	leads = slices.Clone(leads)
	slices.SortFunc(leads, func(a, b lead) int { return cmp.Compare(resident[b.pid], resident[a.pid]) })
	return leads[:min(len(leads), most)]
}

// residentPages is 0 for a process that has let go of its memory, or is gone.
func residentPages(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), " ")
	text, _, _ := strings.Cut(rest, " ")
	pages, _ := strconv.ParseInt(text, 10, 64)
	return pages
}
