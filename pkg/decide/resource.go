package decide

import (
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// resource is what a victim gives back: of disk one for each filesystem and unit.
type resource uint8

const (
	other resource = iota
	memory
	tasks
	nodeFsBytes
	nodeFsInodes
	imageFsBytes
	imageFsInodes
)

// resourceOf says what a signal is about. The three filesystems are at most two: the
// writable layers lie with the images or on nodefs, and without a dedicated filesystem for
// images all are nodefs.
func (s *Settings) resourceOf(sig signal.Signal) resource {
	image, split := s.Layout.DedicatedImageFs, s.Layout.SplitImageFs
	switch sig {
	case signal.MemoryAvailable, signal.AllocatableMemoryAvailable:
		return memory
	case signal.PIDAvailable, signal.AllocatablePIDAvailable:
		return tasks
	case signal.NodeFsAvailable:
		return nodeFsBytes
	case signal.NodeFsInodesFree:
		return nodeFsInodes
	case signal.ImageFsAvailable:
		return either(image, imageFsBytes, nodeFsBytes)
	case signal.ImageFsInodesFree:
		return either(image, imageFsInodes, nodeFsInodes)
	case signal.ContainerFsAvailable:
		return either(image && !split, imageFsBytes, nodeFsBytes)
	case signal.ContainerFsInodesFree:
		return either(image && !split, imageFsInodes, nodeFsInodes)
	}
	return other
}

func either(yes bool, x, y resource) resource {
	if yes {
		return x
	}
	return y
}

func (r resource) inodes() bool { return r == nodeFsInodes || r == imageFsInodes }

func (r resource) nodeFs() bool { return r == nodeFsBytes || r == nodeFsInodes }

func (r resource) disk() bool { return r >= nodeFsBytes }

// name is the kubelet's name of the resource, for messages and events.
func (r resource) name() string {
	switch {
	case r == memory:
		return "memory"
	case r == tasks:
		return "pids"
	case r.inodes():
		return "inodes"
	}
	return "ephemeral-storage"
}

// Use is what a unit holds of what a bound's signal counts; NoData when that is not known.
func (s *Settings) Use(b *Bound, w *workload.Workload) int64 {
	return s.use(s.resourceOf(b.Signal), w)
}

// use is what a unit holds of a resource: bytes of working set, tasks, bytes or inodes on a
// filesystem; NoData when that is not known. The kubelet counts processes instead of tasks,
// and takes one missing figure among others for zero.
func (s *Settings) use(r resource, w *workload.Workload) int64 {
	use := int64(workload.NoData)
	switch {
	case r == memory:
		use = w.Usage.WorkingSetBytes
	case r == tasks && s.Compat:
		use = w.Usage.Processes
	case r == tasks:
		use = w.Usage.Tasks
	case r.disk():
		use = s.diskUse(r, w.Usage.Disk)
	}
	if use == workload.NoData && s.Compat && w.HasStats() {
		return 0
	}
	return use
}

// parts are what the kubelet counts as a pod's usage of a filesystem
// (buildSignalToRankFunc in pkg/kubelet/eviction).
type parts struct{ rootfs, logs, logsElsewhere, localVolumes bool }

// parts: logs and volumes lie on nodefs, writable layers there or with the images. On a
// split image filesystem no pod holds anything. Logs that lie elsewhere count for nodefs in the
// kubelet alone: they free nothing there.
func (s *Settings) parts(r resource) parts {
	if r.nodeFs() {
		return parts{rootfs: !s.Layout.DedicatedImageFs || s.Layout.SplitImageFs, logs: true, logsElsewhere: s.Compat, localVolumes: true}
	}
	return parts{rootfs: !s.Layout.SplitImageFs}
}

func (s *Settings) diskUse(r resource, d *workload.DiskUsage) int64 {
	sum, whole := s.diskParts(r, d)
	if !whole && (d == nil || !s.Compat) {
		return workload.NoData
	}
	return sum
}

// mayHold is what a unit whose usage is not known holds of a resource at most; 0 where nobody
// has asked what it can have filled, and of one that nobody is in: it fills nothing.
func (s *Settings) mayHold(r resource, w *workload.Workload) int64 {
	if !r.disk() || w.Usage.Unmeasured == nil || w.Usage.Tasks == 0 {
		return 0
	}
	more := w.Usage.Unmeasured.Bytes
	if r.inodes() {
		more = w.Usage.Unmeasured.Inodes
	}
	sum, _ := s.diskParts(r, w.Usage.Disk)
	return add(sum, more)
}

// diskParts adds up the parts that count and are known; whole: all are.
func (s *Settings) diskParts(r resource, d *workload.DiskUsage) (sum int64, whole bool) {
	if d == nil {
		return 0, false
	}
	p := s.parts(r)
	whole = true
	for _, part := range [...]struct {
		counts bool
		usage  workload.FsUsage
	}{{p.rootfs, d.Rootfs}, {p.logs, d.Logs}, {p.logsElsewhere, d.LogsElsewhere}, {p.localVolumes, d.LocalVolumes}} {
		held := part.usage.Bytes
		if r.inodes() {
			held = part.usage.Inodes
		}
		switch {
		case !part.counts:
		case held != workload.NoData:
			sum = add(sum, held)
		default:
			whole = false
		}
	}
	return sum, whole
}

// request is what a unit asked for of a resource, in the same unit. The kubelet reads no
// ephemeral-storage request of a pod that has requests of its own.
func (s *Settings) request(r resource, w *workload.Workload) int64 {
	switch {
	case r == memory:
		return w.MemoryRequestBytes
	case r == tasks, s.Compat && w.PodLevelRequest, !s.Compat && r.inodes():
		return 0
	}
	return w.EphemeralStorageRequestBytes
}
