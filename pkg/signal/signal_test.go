package signal_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// The kubelet parses a percentage as a 32-bit float, and so rounds it.
func TestQuantityOf(t *testing.T) {
	tests := []struct {
		percent        float32 // as written, divided by 100 in float32
		capacity, want int64
	}{
		{10, 107374182400, 10737418400},
		{15, 107374182400, 16106128000},
		{5, 6553600, 327680},
		{29, 100, 28},
		{7, 100, 7},
		{10, 32768, 3276},
		{33.3, 1000, 333},
		{57, 100, 56},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprintf("%v%% of %d", tc.percent, tc.capacity), func(t *testing.T) {
			q := signal.Quantity{Value: 5, Percent: tc.percent / 100}
			if got := q.Of(tc.capacity); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
	if got := (signal.Quantity{Value: 5}).Of(1000); got != 5 {
		t.Errorf("an amount of 5 is %d", got)
	}
}

func TestSignalKinds(t *testing.T) {
	tests := []struct {
		signal              signal.Signal
		memory, allocatable bool
	}{
		{signal.MemoryAvailable, true, false},
		{signal.AllocatableMemoryAvailable, true, true},
		{signal.PIDAvailable, false, false},
		{signal.AllocatablePIDAvailable, false, true},
		{signal.NodeFsAvailable, false, false},
	}
	for _, tc := range tests {
		t.Run(string(tc.signal), func(t *testing.T) {
			if got := tc.signal.Memory(); got != tc.memory {
				t.Errorf("Memory %v, want %v", got, tc.memory)
			}
			if got := tc.signal.Allocatable(); got != tc.allocatable {
				t.Errorf("Allocatable %v, want %v", got, tc.allocatable)
			}
		})
	}
}

func TestHard(t *testing.T) {
	if !(signal.Threshold{}).Hard() || (signal.Threshold{GracePeriod: time.Nanosecond}).Hard() {
		t.Error("hard is a grace period of 0, and nothing else")
	}
}
