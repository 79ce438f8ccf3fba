package actuator

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// endTick is between two looks at a unit that was asked to end: its grace is in seconds.
const endTick = 20 * time.Millisecond

// End asks a unit to end, SIGTERM to each of its processes once, waits for it up to grace,
// and kills what is left as Strike and Finish do. killed is called right before SIGKILL,
// and not at all when the unit ends by itself. A unit that somebody else froze (v1) is
// thawed, so that it can hear. For a goroutine of its own: it reads text and it waits.
// ErrGone in the outcome means that nobody was there to be asked.
func (h *Handle) End(crew *Crew, now func() uint64, grace, deadline time.Duration, killed func()) (out Outcome) {
	h.busy.Add(1)
	h.struck.Store(true)
	defer h.busy.Add(-1)
	if err := h.thaw(); err != nil {
		out.Err = err
	}
	asked, err := h.sweep(unix.SIGTERM, maxSweep, nil)
	if err != nil {
		out.Err = errors.Join(out.Err, err)
		return out
	}
	for end := now() + uint64(max(0, grace)); now() < end; time.Sleep(endTick) {
		if populated, err := h.populated(); err == nil && !populated {
			h.dead.Store(true)
			return Outcome{DeadNs: now(), Processes: asked}
		}
	}
	killed()
	if _, err := h.Strike(Culprit{}); err != nil && !errors.Is(err, ErrGone) {
		out.Err = errors.Join(out.Err, err)
		return out
	} else if err != nil { // it ended at the last moment
		return Outcome{DeadNs: now(), Processes: asked}
	}
	out = h.Finish(crew, now, deadline)
	out.Processes = max(out.Processes, asked)
	return out
}
