// Package signal turns kernel counters into the kubelet's eviction signals.
package signal

import (
	"errors"
	"time"
)

// Signal is the kubelet's name of an eviction signal (pkg/kubelet/eviction/api).
type Signal string

const (
	// MemoryAvailable is MemTotal less the hugetlb pools and the node's working set, in
	// bytes: anonymous and file pages that are not on the inactive file list count as used,
	// kernel memory does not (cgroup v2 semantics since runc 1.1.9).
	MemoryAvailable Signal = "memory.available"
	// AllocatableMemoryAvailable is the memory limit of the pods' root cgroup less its
	// working set, in bytes.
	AllocatableMemoryAvailable Signal = "allocatableMemory.available"
	// PIDAvailable is how many more tasks the node can create: the smaller of
	// kernel.pid_max and kernel.threads-max, minus the tasks that exist. Tasks are
	// threads, not processes.
	PIDAvailable Signal = "pid.available"
	// AllocatablePIDAvailable is the pids limit of the pods' root cgroup less its tasks.
	// Our own: the kubelet has no such signal (kubernetes#89807 asks for it).
	AllocatablePIDAvailable Signal = "allocatablePID.available"
)

// Memory reports whether the signal counts bytes of memory.
func (s Signal) Memory() bool { return s == MemoryAvailable || s == AllocatableMemoryAvailable }

// Allocatable reports whether the signal belongs to a root cgroup rather than to the node.
func (s Signal) Allocatable() bool {
	return s == AllocatableMemoryAvailable || s == AllocatablePIDAvailable
}

// Quantity is an amount in the unit of its signal, or a share of the signal's capacity.
type Quantity struct {
	// Value is bytes or tasks; used when Percent is 0.
	Value int64
	// Percent is a fraction of capacity (0.1 for "10%"), float32 as in the kubelet, whose
	// rounding we match.
	Percent float32
	// Text is the quantity as it was written, for messages and the journal.
	Text string
}

// Of returns the amount for a capacity, truncated as the kubelet does:
// int64(float64(capacity) * float64(percent)).
func (q Quantity) Of(capacity int64) int64 {
	if q.Percent == 0 {
		return q.Value
	}
	return int64(float64(capacity) * float64(q.Percent))
}

// Threshold says when a signal asks for an eviction: when less than Value is available.
type Threshold struct {
	Signal Signal
	Value  Quantity
	// GracePeriod is how long the signal stays past Value before the threshold
	// is met. Zero makes it hard, as in the kubelet's evictionHard.
	GracePeriod time.Duration
	// MinReclaim is how far above Value the signal must come before an eviction is over.
	MinReclaim Quantity
}

// Hard reports whether the threshold has no grace period.
func (t Threshold) Hard() bool { return t.GracePeriod == 0 }

// Observation is a signal's value at one moment.
type Observation struct {
	Signal Signal
	// Root is the cgroup path an allocatable signal belongs to; empty for node signals.
	Root string
	// Available is signed: below zero when the usage is over the limit.
	Available int64
	Capacity  int64
	// Ns is CLOCK_MONOTONIC of the reading.
	Ns uint64
}

// ErrNoData means that a signal can't be told now: unreadable, stale or implausible.
// It is neither zero nor a reason to act.
var ErrNoData = errors.New("no data")
