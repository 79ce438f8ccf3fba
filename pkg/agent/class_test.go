package agent

import (
	"os"
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
	calm()
	if after := niceOfThreads(t); len(before) == 1 && (len(after) != 1 || after[-20]) {
		t.Errorf("nice values %v afterwards, %v before", after, before)
	}
}
