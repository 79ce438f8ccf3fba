package actuator

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Crew are threads that do what follows a first SIGKILL: kill the rest, free memory. A
// goroutine would not do while the CPUs are busy: it waits for a thread of the runtime that
// waits for a CPU. A thread of the crew sleeps in the kernel, which wakes it by its own
// class. A nil Crew works on goroutines.
type Crew struct {
	jobs chan func()
	// event wakes one thread for each job (eventfd(2), EFD_SEMAPHORE).
	event   int
	threads atomic.Int32
	closed  atomic.Bool
}

// NewCrew starts threads, each of which first calls prepare, to give itself a scheduling
// class.
func NewCrew(threads int, prepare func()) (*Crew, error) {
	event, err := unix.Eventfd(0, unix.EFD_SEMAPHORE|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	c := &Crew{jobs: make(chan func(), 16*threads), event: event}
	c.threads.Store(int32(threads))
	for range threads {
		go func() {
			runtime.LockOSThread() // never unlocked: its class ends with the thread
			prepare()
			c.work()
			if c.threads.Add(-1) == 0 {
				_ = unix.Close(c.event)
			}
		}()
	}
	return c, nil
}

func (c *Crew) work() {
	var word [8]byte
	for {
		if _, err := unix.Read(c.event, word[:]); err == unix.EINTR {
			continue
		}
		select {
		case job := <-c.jobs:
			job()
		default:
			if c.closed.Load() {
				return
			}
		}
	}
}

// Do has a thread do a job, a goroutine when the queue is full. It does not wait.
func (c *Crew) Do(job func()) {
	if c == nil {
		go job()
		return
	}
	select {
	case c.jobs <- job:
		c.wake(1)
	default:
		go job()
	}
}

// each does job(0) to job(n-1), the caller's thread among those that work, and returns when
// all are done. It waits for no thread that is busy with something else.
func (c *Crew) each(n int, job func(i int)) {
	var (
		next atomic.Int64
		done sync.WaitGroup
	)
	done.Add(n)
	work := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			job(i)
			done.Done()
		}
	}
	for range min(n, runtime.NumCPU()) - 1 {
		c.Do(work)
	}
	work()
	done.Wait()
}

// wake adds to the event as many times as threads are to return from their read.
func (c *Crew) wake(threads int) {
	word := [8]byte{byte(threads)} // little endian; never above 254
	_, _ = unix.Write(c.event, word[:])
}

// Close lets each thread end when nothing is queued; it does not wait for one that helps a
// victim to die. Not while anybody may call Do.
func (c *Crew) Close() {
	if c == nil {
		return
	}
	c.closed.Store(true)
	c.wake(int(c.threads.Load()))
}

// pause sleeps in the kernel: time.Sleep needs a thread of the runtime to wake the sleeper.
func pause(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&ts, nil)
}
