package sample_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

func TestNowIsTheKernelsMonotonicClock(t *testing.T) {
	before := monotonic(t)
	at := sample.Now()
	after := monotonic(t)
	if at < before || at > after {
		t.Errorf("%d, want %d to %d", at, before, after)
	}
}

func monotonic(t *testing.T) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}
