package agent

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// niceOfThreads are the nice values of this process's threads.
func niceOfThreads(t *testing.T) map[int]bool {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	must(t, err)
	found := map[int]bool{}
	for _, e := range threads {
		tid, err := strconv.Atoi(e.Name())
		must(t, err)
		if raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil { // or the thread has ended
			found[20-raw] = true
		}
	}
	return found
}

func TestAStartHurriesAndIsCalmAfterwards(t *testing.T) {
	before := niceOfThreads(t)
	calm := hurry()
	for range 30 { // new threads too
		go time.Sleep(time.Millisecond)
	}
	if during := niceOfThreads(t); len(during) != 1 || !during[-20] {
		t.Errorf("nice values %v while it opens, want -20", during)
	}
	must(t, calm())
	if after := niceOfThreads(t); len(before) == 1 && (len(after) != 1 || after[-20]) {
		t.Errorf("nice values %v afterwards, %v before", after, before)
	}
}

// Where the kernel has no timer, the thread that stands in for it starts in the middle of that.
func TestWhoRaisesItselfDuringAStartStaysRaised(t *testing.T) {
	begin, raised, end, ended := make(chan struct{}), make(chan int), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked
		raised <- unix.Gettid()
		<-begin
		if class, err := Raise(tickerPriority); class != ClassFIFO {
			t.Errorf("class %s: %v", class, err)
		}
		raised <- unix.Gettid()
		<-end
	}()
	defer func() { close(end); <-ended }()
	<-raised // it is there before
	calm := hurry()
	close(begin)
	tid := <-raised
	must(t, calm())
	if got, err := unix.SchedGetAttr(tid, 0); err != nil || got.Policy != unix.SCHED_FIFO || got.Priority != tickerPriority {
		t.Errorf("afterwards %+v, %v, want what it gave itself", got, err)
	}
}

// A thread that comes back from the kernel waits, spinning, for the collector to be through with
// its stack: it must not do so above the threads that collect.
func TestNoThreadIsRealTimeWhileGarbageIsCollected(t *testing.T) {
	raised, end, ended := make(chan int), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked
		if class, err := Raise(crewPriority); class != ClassFIFO {
			t.Errorf("class %s: %v", class, err)
		}
		raised <- unix.Gettid()
		<-end
	}()
	tid := <-raised
	defer func() { close(end); <-ended }()
	var during, after *unix.SchedAttr
	var errs [2]error
	must(t, evenly(func() { during, errs[0] = unix.SchedGetAttr(tid, 0) }))
	after, errs[1] = unix.SchedGetAttr(tid, 0)
	must(t, errors.Join(errs[:]...))
	if during.Policy != unix.SCHED_NORMAL || during.Nice != -20 {
		t.Errorf("meanwhile %+v, want nice -20 as all others", during)
	}
	if after.Policy != unix.SCHED_FIFO || after.Priority != crewPriority || after.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
		t.Errorf("afterwards %+v, want what it had", after)
	}
}
