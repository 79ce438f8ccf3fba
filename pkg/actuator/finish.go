package actuator

import (
	"errors"
	"runtime"
	"sync"
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
// A unit that somebody else froze (v1) is thawed, or its SIGKILL would wait. For a
// goroutine of its own.
func (h *Handle) Finish(now func() uint64, deadline time.Duration) (out Outcome) {
	defer h.busy.Add(-1)
	seen := map[int]bool{}
	end := now() + uint64(deadline)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
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
		fresh, sweepErr := h.sweepNew(seen)
		if errors.Is(sweepErr, ErrGone) {
			sweepErr = nil
		}
		out.Err = errors.Join(thawErr, sweepErr)
		if fresh > 0 {
			out.SignalledAllNs = now()
			out.Processes += fresh
			pause = firstPause
		}
		time.Sleep(pause)
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
func (h *Handle) sweepNew(seen map[int]bool) (fresh int, err error) {
	_, err = h.sweep(unix.SIGKILL, maxSweep, func(leads []lead) {
		for _, l := range leads {
			if !seen[l.pid] {
				seen[l.pid] = true
				fresh++
			}
		}
		mrelease(leads)
	})
	return fresh, err
}

// maxReleased is how many processes get help with freeing: the largest ones of a unit are
// few, and a bomb's thousands free themselves.
const maxReleased = 32

// mrelease frees the memory of dying processes from outside (process_mrelease, 5.15), in
// parallel: under load 1 GiB is back in 65 instead of 235 ms. Legal on a dying process
// only, so always after SIGKILL; an error means it frees itself.
func mrelease(leads []lead) {
	leads = leads[:min(len(leads), maxReleased)]
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for _, l := range leads {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wg.Done() }()
			_, _, _ = unix.Syscall(unix.SYS_PROCESS_MRELEASE, uintptr(l.fd), 0, 0)
		}()
	}
	wg.Wait()
}
