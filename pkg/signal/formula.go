package signal

import (
	"fmt"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// unlimited is where a cgroup's limit stops being one: the kubelet's own bound. (v1
// writes 2^63 less a page for "no limit", v2 "max".)
const unlimited = 1 << 62

// MemoryAvailableOf is memory.available in bytes: MemTotal less the hugetlb pools and less
// the working set, which is anonymous pages plus file pages less the inactive ones. Never
// negative: where pools and working set, read apart, exceed MemTotal, nothing is available
// and the capacity is the working set, as in the kubelet since 1.37. The error wraps
// ErrNoData and names the figure that can't be true. A working set above MemTotal is such
// a figure.
func MemoryAvailableOf(n sample.Node) (Observation, error) {
	const s = MemoryAvailable
	switch {
	case n.MemTotalBytes <= 0:
		return implausible(s, "MemTotal", n.MemTotalBytes)
	case n.HugepagesBytes < 0 || n.HugepagesBytes > n.MemTotalBytes:
		return implausible(s, "huge pages", n.HugepagesBytes)
	case n.AnonBytes < 0 || n.AnonBytes > n.MemTotalBytes:
		return implausible(s, "anonymous pages", n.AnonBytes)
	case n.FileBytes < 0 || n.FileBytes > n.MemTotalBytes:
		return implausible(s, "file pages", n.FileBytes)
	case n.InactiveFileBytes < 0 || n.InactiveFileBytes > n.FileBytes:
		return implausible(s, "inactive file pages", n.InactiveFileBytes)
	}
	unused := n.MemTotalBytes - n.AnonBytes - n.FileBytes + n.InactiveFileBytes
	workingSet := n.MemTotalBytes - unused
	if unused < 0 {
		return implausible(s, "working set", workingSet)
	}
	available := max(0, unused-n.HugepagesBytes)
	return Observation{Signal: s, Available: available, Capacity: available + workingSet, Ns: n.Ns}, nil
}

// MemoryCapacityOf is what percentages of memory.available are taken of: MemTotal less the
// hugetlb pools, in bytes. It is also the total that makes anon - file + inactive, compared
// in the kernel, come out as MemoryAvailableOf: hand it to the kernel side in place of
// MemTotal.
func MemoryCapacityOf(n sample.Node) int64 { return n.MemTotalBytes - n.HugepagesBytes }

// PIDAvailableOf is pid.available in tasks. It is negative when the limit was lowered
// below the tasks that exist. The error wraps ErrNoData and names the figure.
func PIDAvailableOf(n sample.Node) (Observation, error) {
	const s = PIDAvailable
	switch {
	case n.TasksMax <= 0:
		return implausible(s, "largest number of tasks", n.TasksMax)
	case n.Tasks <= 0: // whoever reads is a task
		return implausible(s, "tasks", n.Tasks)
	}
	return Observation{Signal: s, Available: n.TasksMax - n.Tasks, Capacity: n.TasksMax, Ns: n.Ns}, nil
}

// AllocatableMemoryOf is allocatableMemory.available of a root cgroup in bytes: its limit
// less its working set, negative when that is larger. The error wraps ErrNoData, also for
// a cgroup without a limit, which has nothing to run out of.
func AllocatableMemoryOf(root string, limitBytes, usageBytes, inactiveFileBytes int64, ns uint64) (Observation, error) {
	const s = AllocatableMemoryAvailable
	switch {
	case usageBytes < 0:
		return implausible(s, "usage", usageBytes)
	case inactiveFileBytes < 0:
		return implausible(s, "inactive file", inactiveFileBytes)
	}
	return allocatable(s, root, limitBytes, WorkingSetBytes(usageBytes, inactiveFileBytes), ns)
}

// AllocatablePIDOf is allocatablePID.available of a root cgroup in tasks: its limit less
// its tasks. An empty cgroup is plausible. Errors are as in AllocatableMemoryOf.
func AllocatablePIDOf(root string, limit, tasks int64, ns uint64) (Observation, error) {
	if tasks < 0 {
		return implausible(AllocatablePIDAvailable, "tasks", tasks)
	}
	return allocatable(AllocatablePIDAvailable, root, limit, tasks, ns)
}

func allocatable(s Signal, root string, limit, used int64, ns uint64) (Observation, error) {
	switch {
	case limit <= 0:
		return implausible(s, "limit", limit)
	case limit > unlimited:
		return Observation{}, fmt.Errorf("%s: %s has no limit: %w", s, root, ErrNoData)
	}
	return Observation{Signal: s, Root: root, Available: limit - used, Capacity: limit, Ns: ns}, nil
}

// WorkingSetBytes is usage less inactive file, never negative: the two are read apart, and
// the second is an estimate.
func WorkingSetBytes(usage, inactive int64) int64 { return max(0, usage-inactive) }

func implausible(s Signal, what string, value int64) (Observation, error) {
	return Observation{}, fmt.Errorf("%s: implausible %s: %d: %w", s, what, value, ErrNoData)
}
