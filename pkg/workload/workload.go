package workload

import "math"

// QOSClass is the Kubernetes QoS class, from the cgroup path.
type QOSClass string

const (
	QOSGuaranteed QOSClass = "Guaranteed"
	QOSBurstable  QOSClass = "Burstable"
	QOSBestEffort QOSClass = "BestEffort"
)

// CriticalPriority is the kubelet's system-critical priority (scheduling.SystemCriticalPriority).
const CriticalPriority = 2_000_000_000

// Identity is a unit's identity for as long as it lives. A directory removed and made
// again has other ids, so nothing that was decided about the old one can hit the new one.
// On cgroup v1 ids are unique only within a hierarchy; on v2 the two are equal.
type Identity struct {
	// MemoryID is the inode of the directory in the memory hierarchy, 0 where it has none.
	MemoryID uint64
	// PidsID is the inode of the directory in the pids hierarchy, 0 where it has none.
	PidsID uint64
}

// Workload is one unit that could be evicted: a pod where the cgroup names are the
// kubelet's, a direct child of a root elsewhere.
type Workload struct {
	// UID is the pod's uid, or the cgroup path of a unit that is no pod.
	UID       string
	Namespace string
	Name      string
	// Cgroup is the path below the hierarchy's mount, with a leading slash.
	Cgroup string
	ID     Identity
	// QOSClass is from the path, never from the table. Empty for a unit that is no pod.
	QOSClass QOSClass
	Priority int32
	Static   bool
	Mirror   bool
	// Evict is the table's mark: "allow" (or empty), "never", "first".
	Evict string
	// Protected says why the unit is never a victim ("critical priority", "protect: glob ...",
	// "the agent itself"); empty when it may be evicted.
	Protected string
	// MemoryRequestBytes is exact from the table, else inferred from oom_score_adj, else 0.
	MemoryRequestBytes int64
	// TerminationGracePeriodSeconds is the pod's own; -1 when not known.
	TerminationGracePeriodSeconds int64

	// Usage is filled by the agent from the kernel's table just before a decision.
	Usage Usage
}

// Usage is what a unit uses, as of one reading. NoData marks an absent figure.
type Usage struct {
	// MemoryBytes is the page counter; WorkingSetBytes is that less inactive file, never negative.
	MemoryBytes     int64
	WorkingSetBytes int64
	// Tasks counts threads and unreaped zombies (pids.current).
	Tasks int64
}

// NoData is the value of a figure that is not known. It is never zero usage.
const NoData = math.MinInt64

// NoUsage is a Usage of which nothing is known.
var NoUsage = Usage{MemoryBytes: NoData, WorkingSetBytes: NoData, Tasks: NoData}

// Critical reports whether the kubelet would refuse to evict the unit: static, mirror or
// of system-critical priority.
func (w *Workload) Critical() bool {
	return w.Static || w.Mirror || w.Priority >= CriticalPriority
}
