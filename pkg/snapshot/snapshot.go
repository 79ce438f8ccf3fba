// Package snapshot is the outside of pkg/decide: one JSON line becomes observations and
// workloads, a ranking or a decision becomes one JSON line. So the code that evicts on a
// live node can be asked about any node and any moment.
package snapshot

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Snapshot is what one line says about a node at one moment.
type Snapshot struct {
	// Time is the zero time where the line has none.
	Time   time.Time
	Layout signal.Layout
	// Observations have the Ns of Ns(their time), 0 where they have none.
	Observations []signal.Observation
	Workloads    []workload.Workload
	// AfterReclaim are the signals after node-level reclaim; nil where it freed nothing.
	AfterReclaim []signal.Observation
}

// Ns is a wall time on the clock of pkg/decide: nanoseconds that count upwards from 1677,
// never 0 but for the zero time, which means none.
func Ns(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano()) + 1<<63
}

// The years that Ns can tell apart.
var (
	earliest = time.Unix(0, -1<<63+1)
	latest   = time.Unix(0, 1<<63-1)
)

// formatTime writes all nine digits of the nanoseconds, in UTC.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }
