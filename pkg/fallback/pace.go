package fallback

import (
	"runtime"
	"time"
)

// pace says how soon a counter is read again: before the distance to the wire can be used
// up, wherever the fill starts. What crosses is so seen within min of it, and within the
// lateness of the wake-up.
type pace struct {
	// perSecond bounds how fast the counter can fall: bytes or tasks.
	perSecond int64
	// min and max bound the time between two readings.
	min, max time.Duration
}

const (
	// pollMin is one reading a millisecond at the wire: 2 % of a CPU for /proc/meminfo.
	pollMin = time.Millisecond
	pollMax = time.Second
	// watchedMin is enough near a wire where the kernel says when to look. It covers what
	// that does not tell: file pages that become active, limits, tasks that move in.
	watchedMin = 10 * time.Millisecond
	// lateness is how late a thread of a real-time class may wake without the promise of a
	// pace being broken.
	lateness = time.Millisecond

	// fillPerCPU is what one CPU can fill at most in a second (measured with huge pages and
	// MADV_POPULATE_WRITE), forksPerCPU how many tasks it can make.
	fillPerCPU  = 11_000_000_000
	forksPerCPU = 20_000
)

func newPace(perSecond, perCPU int64) pace {
	if perSecond <= 0 {
		perSecond = perCPU * int64(runtime.NumCPU())
	}
	return pace{perSecond: perSecond, min: pollMin, max: pollMax}
}

// watched is the pace where the kernel says when to look.
func (p pace) watched() pace {
	p.min = watchedMin
	return p
}

// next is clamp((distance - margin) / perSecond, min, max), where the margin is what can be
// filled during the lateness of the wake-up.
func (p pace) next(distance int64) time.Duration {
	after := time.Duration(float64(distance)/float64(p.perSecond)*float64(time.Second)) - lateness
	if float64(distance) >= float64(p.perSecond)*(p.max+lateness).Seconds() {
		after = p.max // also where the product would overflow
	}
	return min(max(after, p.min), p.max)
}

// within is the distance that is used up in that time.
func (p pace) within(d time.Duration) int64 {
	return int64(min(float64(p.perSecond)*d.Seconds(), 1<<62))
}
