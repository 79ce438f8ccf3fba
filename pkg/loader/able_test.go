package loader

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eachTimer runs a test with the kernel's timer, where there is one, and with the thread
// that stands in for it on kernels before 5.15.
func eachTimer(t *testing.T, test func(*testing.T, Options)) {
	t.Helper()
	t.Run("the kernel's, if it can", func(t *testing.T) { test(t, Options{}) })
	t.Run("a thread's", func(t *testing.T) { test(t, Options{able: &able{}}) })
}

// openWithBackstop leaves a test out where the kernel can't kill in the agent's place.
func openWithBackstop(t *testing.T) *Loader {
	t.Helper()
	l := open(t, Options{})
	if l.Reach() == ReachNone {
		t.Skip("needs 5.15, bpf_timer")
	}
	return l
}

// What the kernel has is found by trying, and is never less than its version says.
func TestNewKernelsAreUsedToTheFull(t *testing.T) {
	l := open(t, Options{})
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("parse %q: %v", release, err)
	}
	least := ReachNone
	switch version := major*100 + minor; {
	case version >= 613:
		least = ReachAll
	case version >= 515:
		least = ReachSelf
	}
	if l.Reach() < least {
		t.Errorf("reach %d on %s, want %d", l.Reach(), release, least)
	}
}

// Without timers nobody acts for the agent, whatever it asks for.
func TestNobodyIsKilledInTheAgentsPlaceWithoutTimers(t *testing.T) {
	l, x := open(t, Options{able: &able{}}), newTarget(t, "nominee")
	if l.Reach() != ReachNone {
		t.Errorf("reach %d", l.Reach())
	}
	wire, _ := armTaskWire(t, l)
	l.nominateOrFail(t, wire, x.nominee(l))
	provoke(t, l, 0)
	deadline := time.Now().Add(soon)
	for len(drain(t, l)) == 0 { // it is crossed, and reported
		if time.Now().After(deadline) {
			t.Fatal("nobody saw the crossing")
		}
		time.Sleep(time.Millisecond)
	}
	if x.dead(meantime) {
		t.Error("killed")
	}
	if _, ok := l.TakeNote(); ok {
		t.Error("a kill to take note of")
	}
}

// The thread gets its priority before it looks, and looks as often as it is due.
func TestTickerRaisesItsThread(t *testing.T) {
	raised := make(chan int, 1)
	l := open(t, Options{able: &able{}, RaiseTicker: func() { raised <- unix.Gettid() }})
	select {
	case tid := <-raised:
		if tid == unix.Gettid() {
			t.Error("the caller's thread was raised")
		}
	case <-time.After(soon):
		t.Fatal("nobody was raised")
	}
	looked := l.node.at(0).Ticks
	deadline := time.Now().Add(soon)
	for l.node.at(0).Ticks < looked+3 {
		if time.Now().After(deadline) {
			t.Fatalf("%d looks", l.node.at(0).Ticks-looked)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
