package agent

import (
	"runtime"
	"runtime/metrics"
)

const (
	// slackFar and slackNear are how much garbage may pile up before it is collected. Near a
	// wire a collection is a risk: it stops the hot thread twice for some 50 µs, and longer
	// where the thread that collects is kept from its CPU. Rounds leave some 10 KiB, so it
	// comes every few minutes. Memory is locked: what the heap has grown to once it keeps.
	slackFar  = 2 << 20
	slackNear = 4 << 20
)

// collector runs the garbage collector in the scout's goroutine; it does not run by itself.
type collector struct {
	live   uint64
	sample [1]metrics.Sample
}

func (c *collector) heap() uint64 {
	c.sample[0].Name = "/memory/classes/heap/objects:bytes"
	metrics.Read(c.sample[:]) // stops nobody, other than runtime.ReadMemStats
	return c.sample[0].Value.Uint64()
}

// tidy collects when there is enough garbage for it. An error is that a thread has not got its
// class back.
func (c *collector) tidy(near bool) error {
	slack := uint64(slackFar)
	if near {
		slack = slackNear
	}
	if c.heap() < c.live+slack {
		return nil
	}
	var err error
	if hasOneCPU() {
		err = evenly(runtime.GC)
	} else {
		runtime.GC()
	}
	c.live = c.heap()
	return err
}

// evenly does work with all threads of this process alike. While the collector reads the stack
// of a goroutine that is in a system call, who comes back from that call asks again and again
// for it to end (casgstatus of Go's runtime, runtime/proc.go). A real-time thread that does so
// keeps the one that reads from its CPU, and the kernel's throttle helps nobody who is real-time
// himself and has the address space's lock: on one CPU the agent stood still for good.
func evenly(work func()) error {
	calm := hurry()
	work()
	return calm()
}
