package disk

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// farShare is how much of one CPU the process may use while every threshold is far:
	// below 2 % on average with 200 pods. nearShare is for when one is near, and a figure
	// of now decides who is evicted.
	farShare, nearShare = 0.015, 0.2
	// savedTime is how much CPU time may be saved up for when a threshold comes near: what
	// a million files take.
	savedTime = 4 * time.Second
	// mostDebt is the most that is owed: what the agent waits for is done without a rest.
	mostDebt = time.Second
	// crumb is what a rest is to earn at least, and how much work is done between two settlements:
	// each wake-up costs the scheduler's and the Go runtime's work beside ours.
	crumb = time.Millisecond
)

// budget is the CPU time that is left: a bucket that time fills and work empties. Its clocks
// are given by the caller.
type budget struct {
	left      time.Duration
	at, spent time.Duration // on the two clocks, at the last settlement
	isOpen    bool
}

// newBudget has the savings for the first figures of all.
func newBudget() budget { return budget{left: savedTime} }

// settle fills the bucket for the time that has gone by and takes out the CPU time that was
// used, and returns how long to sleep before work goes on: 0 while something is left. Far
// from every threshold the savings are not touched.
func (b *budget) settle(now, cpu time.Duration, near bool) time.Duration {
	share, floor := farShare, savedTime/2
	if near {
		share, floor = nearShare, 0
	}
	if b.isOpen {
		b.left = max(min(b.left+time.Duration(float64(now-b.at)*share), savedTime)-(cpu-b.spent), -mostDebt)
	}
	b.at, b.spent, b.isOpen = now, cpu, true
	if b.left >= floor {
		return 0
	}
	return time.Duration(float64(max(floor-b.left, crumb)) / share)
}

// clock reads one of the kernel's clocks.
func clock(id int32) time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(id, &ts) // can't fail for these
	return time.Duration(ts.Nano())
}

// epoch is when the process began, on both clocks: time.Since reads the kernel's CLOCK_MONOTONIC from
// the vDSO, clock_gettime by way of x/sys is a system call.
var epoch = struct {
	monotonic time.Duration
	at        time.Time
}{clock(unix.CLOCK_MONOTONIC), time.Now()}

func monotonic() time.Duration { return epoch.monotonic + time.Since(epoch.at) }

// cpuTime is what the whole process has used: collections and what is not walking count.
func cpuTime() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }
