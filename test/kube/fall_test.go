package kube

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench/sigtrace"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// fall is what became of what pods may still allocate, as an onlooker sees it who looks every
// third of a millisecond. Times are CLOCK_MONOTONIC.
type fall struct {
	// Crossed is when there was less than the threshold, Dead when the load was. Where no look
	// caught that, since the agent had signalled before the next, it is when least was left.
	Crossed, Dead time.Duration
	// Signalled is when somebody sent the load its first SIGTERM or SIGKILL, by the kernel's trace.
	Signalled time.Duration
	// OvershootBytes is how far below the threshold it fell.
	OvershootBytes int64
}

const lookEvery = 300 * time.Microsecond

// Watch looks from now on until the pod's first container is dead. The function that it
// returns waits for that.
func (p *pod) Watch(thresholdBytes int64) (wait func() fall) {
	p.t.Helper()
	pids := p.Processes(p.first)
	if len(pids) != 1 {
		p.t.Fatalf("%d processes of the load, want one", len(pids))
	}
	tasks, err := sigtrace.TasksOf(pids[0])
	must(p.t, err)
	load, err := unix.PidfdOpen(pids[0], 0)
	must(p.t, err)
	signals, err := sigtrace.Open(p.t.TempDir())
	must(p.t, err)
	done := make(chan fall, 1)
	go func() {
		defer func() { _ = unix.Close(load) }()
		done <- watch(p.t, load, podsMemory-thresholdBytes)
	}()
	return func() fall {
		p.t.Helper()
		select {
		case f := <-done:
			first, ok, err := signals.First(tasks)
			must(p.t, err)
			must(p.t, signals.Close())
			if !ok {
				p.t.Fatalf("nobody has signalled the load of pod %s", p.Name)
			}
			f.Signalled = time.Duration(first)
			return f
		case <-time.After(2 * patience):
			p.t.Fatalf("the load of pod %s lives", p.Name)
			return fall{}
		}
	}
}

func watch(t testing.TB, load int, mayUse int64) (f fall) {
	all, err := cgroups(t).OpenToRead(podsCgroup)
	if err != nil {
		t.Error(err)
		return f
	}
	defer func() { _ = all.Close() }()
	caught, most := false, int64(0)
	for tick := time.NewTicker(lookEvery); ; <-tick.C {
		used, err := all.MemoryCurrentBytes()
		if err == nil && used > mayUse { // only then is it worth the second file
			var inactive int64
			inactive, err = all.InactiveFileBytes()
			used -= inactive
		}
		if err != nil {
			t.Error(err)
			return f
		}
		now := time.Duration(sample.Now())
		if !caught && used > most {
			most, f.Crossed = used, now
		}
		if used > mayUse {
			caught = true
			f.OvershootBytes = max(f.OvershootBytes, used-mayUse)
		}
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(load), Events: unix.POLLIN}}, 0); n > 0 {
			f.Dead = now
			return f
		}
	}
}
