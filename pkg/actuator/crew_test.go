package actuator

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newCrew(t *testing.T, threads int) *Crew {
	t.Helper()
	c, err := NewCrew(threads, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCrewDoesEachJobOnce(t *testing.T) {
	for name, crew := range map[string]*Crew{"threads": newCrew(t, 3), "no crew": nil} {
		t.Run(name, func(t *testing.T) {
			defer crew.Close()
			var times [100]atomic.Int32
			var all sync.WaitGroup
			for i := range times {
				all.Add(1)
				crew.Do(func() { times[i].Add(1); all.Done() })
			}
			all.Wait()
			for i := range times {
				if n := times[i].Load(); n != 1 {
					t.Errorf("job %d was done %d times", i, n)
				}
			}
		})
	}
}

func TestCrewEachDoesNotWaitForThreadsThatAreBusy(t *testing.T) {
	c := newCrew(t, 1)
	defer c.Close()
	busy, leave := make(chan struct{}), make(chan struct{})
	c.Do(func() { close(busy); <-leave })
	<-busy
	var done atomic.Int32
	c.each(50, func(int) { done.Add(1) })
	if n := done.Load(); n != 50 {
		t.Errorf("%d of 50 jobs done", n)
	}
	close(leave)
}

func TestCrewThreadsAreLockedAndEndWithClose(t *testing.T) {
	var ended sync.WaitGroup
	const threads = 4
	tids := make(chan int, threads)
	c, err := NewCrew(threads, func() { tids <- unix.Gettid() })
	if err != nil {
		t.Fatal(err)
	}
	mine := map[int]bool{}
	for range threads {
		mine[<-tids] = true
	}
	for range 3 * threads {
		ended.Add(1)
		c.Do(func() {
			defer ended.Done()
			runtime.Gosched()
			if !mine[unix.Gettid()] {
				t.Error("a job ran on a thread that is none of the crew")
			}
		})
	}
	ended.Wait()
	c.Close()
	for tid := range mine { // a hang is the failure
		for unix.Tgkill(unix.Getpid(), tid, 0) == nil {
			time.Sleep(time.Millisecond)
		}
	}
}
