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
	// PodLevelRequest: the request is the pod's own (spec.resources, Kubernetes 1.34), and
	// not the sum of its containers'.
	PodLevelRequest bool
	// EphemeralStorageRequestBytes is the sum over the containers, 0 where none asks.
	EphemeralStorageRequestBytes int64
	// EphemeralStorageLimitBytes is the sum of the containers' limits; nil where none has
	// one, and a limit of 0 is a limit.
	EphemeralStorageLimitBytes *int64
	// TerminationGracePeriodSeconds is the pod's own; NoData when not known.
	TerminationGracePeriodSeconds int64
	Usage                         Usage
	// Containers are app, init and sidecar containers, in the order of their statistics.
	Containers []Container
	// Volumes are the emptyDirs.
	Volumes []Volume
}

// Usage is what a unit holds. A figure that is not known is NoData.
type Usage struct {
	// MemoryBytes is the page counter; WorkingSetBytes is that less inactive file, never negative.
	MemoryBytes     int64
	WorkingSetBytes int64
	// Tasks counts threads and unreaped zombies (pids.current), Processes the entries of
	// cgroup.procs, which is what the kubelet ranks by.
	Tasks     int64
	Processes int64
	// Disk is nil when nothing is known of it.
	Disk *DiskUsage
	// Unmeasured is what the parts of Disk that are not known may hold at most, together:
	// math.MaxInt64 where that can't be told, nil where nobody asked.
	Unmeasured *FsUsage
}

// DiskUsage is what a unit holds on the node's filesystems.
type DiskUsage struct {
	// Rootfs is the containers' writable layers, Logs their log files, LocalVolumes the
	// volumes on the node's disk (emptyDir of medium "", configMap, gitRepo).
	Rootfs, Logs, LocalVolumes FsUsage
	// LogsElsewhere is the log files that lie on another filesystem than nodefs and are none of
	// Logs, as far as they are known: never NoData.
	LogsElsewhere FsUsage
	// UsedBytes is the pod's total, with its log directory and etc-hosts file.
	UsedBytes int64
}

// FsUsage is bytes and inodes of one part; NoData for what is not known.
type FsUsage struct{ Bytes, Inodes int64 }

// Container is what the limits and the messages of an eviction need to know of one.
type Container struct {
	Name string
	// ID is the runtime's, which is in the name of the cgroup; empty where it has not run yet.
	ID string
	// WorkingSetBytes, RootfsBytes and LogsBytes are NoData when not known.
	WorkingSetBytes, RootfsBytes, LogsBytes          int64
	MemoryRequestBytes, EphemeralStorageRequestBytes int64
	// EphemeralStorageLimitBytes is 0 where there is none, or where it is not enforced.
	EphemeralStorageLimitBytes int64
}

// Volume is an emptyDir.
type Volume struct {
	Name string
	// Medium is "" on disk, "Memory" on tmpfs.
	Medium string
	// UsedBytes is NoData when not known, SizeLimitBytes 0 where there is no limit.
	UsedBytes, SizeLimitBytes int64
}

// NoData is the value of a figure that is not known. It is never zero usage.
const NoData = math.MinInt64

// NoUsage is a Usage of which nothing is known.
var NoUsage = Usage{MemoryBytes: NoData, WorkingSetBytes: NoData, Tasks: NoData, Processes: NoData}

// NoDiskUsage is a DiskUsage of which nothing is known.
var NoDiskUsage = DiskUsage{
	Rootfs: FsUsage{NoData, NoData}, Logs: FsUsage{NoData, NoData}, LocalVolumes: FsUsage{NoData, NoData},
	UsedBytes: NoData,
}

// HasStats reports whether any figure of the unit is known. The kubelet's summary has no
// entry for a pod of which none is.
func (w *Workload) HasStats() bool {
	u := &w.Usage
	if u.WorkingSetBytes != NoData || u.Tasks != NoData || u.Processes != NoData {
		return true
	}
	if d := u.Disk; d != nil && *d != NoDiskUsage {
		return true
	}
	for i := range w.Containers {
		if c := &w.Containers[i]; c.WorkingSetBytes != NoData || c.RootfsBytes != NoData || c.LogsBytes != NoData {
			return true
		}
	}
	for i := range w.Volumes {
		if w.Volumes[i].UsedBytes != NoData {
			return true
		}
	}
	return false
}

// Critical reports whether the kubelet would refuse to evict the unit: static, mirror or
// of system-critical priority.
func (w *Workload) Critical() bool {
	return w.Static || w.Mirror || w.Priority >= CriticalPriority
}
