package decide_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// sorted is in the order of urgency, each bound ahead of the next for one reason.
var sorted = []decide.Bound{
	share(bound(signal.MemoryAvailable, "", 0, 0), 0.2),
	share(bound(signal.MemoryAvailable, "", 0, 0), 0.1),
	bound(signal.MemoryAvailable, "", 100, 5),
	bound(signal.MemoryAvailable, "", 100, 0),
	text(bound(signal.MemoryAvailable, "", 50, 0), "50"),
	text(bound(signal.MemoryAvailable, "", 50, 0), "0.05k"),
	bound(signal.AllocatableMemoryAvailable, "/b", 900, 0),
	bound(signal.AllocatableMemoryAvailable, "/a", 800, 0),
	bound(signal.AllocatableMemoryAvailable, "/b", 800, 0),
	bound(signal.PIDAvailable, "", 9000, 0),
	bound(signal.AllocatablePIDAvailable, "/a", 9001, 0),
	bound(signal.NodeFsAvailable, "", 9002, 0),
	bound("yak.available", "", 9003, 0),
	bound("zebra.available", "", 9004, 0),
	grace(bound(signal.MemoryAvailable, "", 9004, 0), 30*time.Second),
	grace(bound(signal.MemoryAvailable, "", 9004, 0), 60*time.Second),
	grace(bound(signal.PIDAvailable, "", 9005, 0), time.Second),
}

func share(b decide.Bound, percent float32) decide.Bound {
	b.Value.Percent = percent
	return b
}

func text(b decide.Bound, written string) decide.Bound {
	b.Value.Text = written
	return b
}

func grace(b decide.Bound, d time.Duration) decide.Bound {
	b.GracePeriod = d
	return b
}

func TestSortBoundsWhateverTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		got := rapid.Permutation(sorted).Draw(t, "bounds")
		decide.SortBounds(got, false)
		if diff := cmp.Diff(sorted, got); diff != "" {
			t.Fatalf("order (-want +got):\n%s", diff)
		}
	})
}
