package signal

import (
	"fmt"
	"time"
)

// ErrJump means that a signal fell faster than the machine can fill. It wraps ErrNoData:
// read again through the other source, and act when both agree.
var ErrJump = fmt.Errorf("fell faster than it can: %w", ErrNoData)

// Guard holds each reading of one signal against the last good one. The zero value is
// ready and lets the first reading pass. It belongs to one goroutine.
type Guard struct {
	// Slack is how far a reading may be off, in the unit of the signal. Memory counters
	// lack up to 125 pages x CPUs each (the kernel's unfolded per-CPU deltas); task
	// counters are exact. 0 is safe everywhere: a false alarm costs a second reading.
	Slack int64

	last Observation
	seen bool
}

// Check returns an error that wraps ErrNoData when the clock went back since the last
// accepted reading, or ErrJump when available fell by more than maxPerSecond allows for
// the time between. Only a fall is suspicious: an exit can free any amount at once. When
// the other source agrees with o, accept o whatever Check said, or one bad reading would
// shut out all later ones.
func (g *Guard) Check(o Observation, maxPerSecond int64) error {
	if !g.seen {
		return nil
	}
	if o.Ns < g.last.Ns {
		return fmt.Errorf("%s: the clock went back by %d ns: %w", o.Signal, g.last.Ns-o.Ns, ErrNoData)
	}
	// In floating point: bytes a second times nanoseconds does not fit into 64 bits.
	fell := float64(g.last.Available) - float64(o.Available)
	took := float64(o.Ns-g.last.Ns) / float64(time.Second)
	if fell > float64(maxPerSecond)*took+float64(g.Slack) {
		return fmt.Errorf("%s: from %d to %d in %d ns: %w",
			o.Signal, g.last.Available, o.Available, o.Ns-g.last.Ns, ErrJump)
	}
	return nil
}

// Accept makes o the reading that the next one is held against.
func (g *Guard) Accept(o Observation) { g.last, g.seen = o, true }

// Fresh returns an error that wraps ErrNoData when o is older than maxAge, or dated more
// than maxAge after nowNs. A little ahead is fresh: another thread may have read after
// the caller took its time.
func Fresh(o Observation, nowNs uint64, maxAge time.Duration) error {
	limit := uint64(max(0, maxAge))
	switch {
	case o.Ns > nowNs && o.Ns-nowNs > limit:
		return fmt.Errorf("%s: dated %d ns ahead: %w", o.Signal, o.Ns-nowNs, ErrNoData)
	case o.Ns < nowNs && nowNs-o.Ns > limit:
		return fmt.Errorf("%s: stale, %d ns old: %w", o.Signal, nowNs-o.Ns, ErrNoData)
	}
	return nil
}

// Agree reports whether two readings of one signal differ by at most tolerance, in the
// unit of the signal, in what is available and in capacity.
func Agree(a, b Observation, tolerance int64) bool {
	return a.Signal == b.Signal && a.Root == b.Root &&
		within(a.Available, b.Available, tolerance) && within(a.Capacity, b.Capacity, tolerance)
}

// within compares the difference unsigned, where it can't overflow.
func within(a, b, tolerance int64) bool {
	return uint64(max(a, b))-uint64(min(a, b)) <= uint64(max(0, tolerance))
}
