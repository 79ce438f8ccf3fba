package decide

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// The kubelet's labels of the three limits of local storage (pkg/kubelet/eviction).
const (
	CheckEmptyDir  = "emptydirfs.limit"
	CheckPod       = "ephemeralpodfs.limit"
	CheckContainer = "ephemeralcontainerfs.limit"
)

// Offender is a unit above a limit of its own, whatever the node has left.
type Offender struct {
	// Index is the unit's in the workloads that were asked about.
	Index int
	// Check is the limit's label.
	Check string
	// Name is the emptyDir's or the container's, empty where the limit is the pod's.
	Name    string
	Message string
	// UsedBytes is what is held against LimitBytes.
	UsedBytes, LimitBytes int64
}

// LocalStorage lists the units above a limit of local storage, in the order given. The
// first limit that is exceeded counts: that of an emptyDir, of the pod, of a container.
// All of them are evicted, with a grace period of 1, and without a DisruptionTarget
// condition. Usages are as old as their figures. Units that are spared, or without
// statistics, are not listed.
func LocalStorage(s *Settings, ws []workload.Workload) []Offender {
	if !s.LocalStorageIsolation {
		return nil
	}
	var found []Offender
	for i := range ws {
		w := &ws[i]
		if spared(w) != "" || !w.HasStats() {
			continue
		}
		for _, exceeds := range []func(*workload.Workload) (Offender, bool){emptyDirLimit, podLimit, s.containerLimit} {
			if o, does := exceeds(w); does {
				o.Index = i
				found = append(found, o)
				break
			}
		}
	}
	return found
}

// HasLimit reports whether a unit can be above a limit of local storage.
func HasLimit(w *workload.Workload) bool {
	return w.EphemeralStorageLimitBytes != nil ||
		slices.ContainsFunc(w.Volumes, func(v workload.Volume) bool { return v.SizeLimitBytes > 0 }) ||
		slices.ContainsFunc(w.Containers, func(c workload.Container) bool { return c.EphemeralStorageLimitBytes != 0 })
}

// emptyDirLimit holds for memory-backed volumes, too.
func emptyDirLimit(w *workload.Workload) (Offender, bool) {
	for i := range w.Volumes {
		if v := &w.Volumes[i]; v.SizeLimitBytes > 0 && v.UsedBytes > v.SizeLimitBytes {
			message := fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, binary(v.SizeLimitBytes))
			return Offender{Check: CheckEmptyDir, Name: v.Name, Message: message, UsedBytes: v.UsedBytes, LimitBytes: v.SizeLimitBytes}, true
		}
	}
	return Offender{}, false
}

func podLimit(w *workload.Workload) (Offender, bool) {
	limit, used := w.EphemeralStorageLimitBytes, ephemeralTotal(w.Usage.Disk)
	if limit == nil || used <= *limit {
		return Offender{}, false
	}
	message := fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", binary(*limit))
	return Offender{Check: CheckPod, Message: message, UsedBytes: used, LimitBytes: *limit}, true
}

// ephemeralTotal is the pod's total; where only the parts are known, their sum.
func ephemeralTotal(d *workload.DiskUsage) int64 {
	switch {
	case d == nil:
		return 0
	case d.UsedBytes != workload.NoData:
		return d.UsedBytes
	}
	return add(add(known(d.Rootfs.Bytes), add(known(d.Logs.Bytes), d.LogsElsewhere.Bytes)), known(d.LocalVolumes.Bytes))
}

// containerLimit counts the writable layer only where it lies on nodefs.
func (s *Settings) containerLimit(w *workload.Workload) (Offender, bool) {
	for i := range w.Containers {
		c := &w.Containers[i]
		used := known(c.LogsBytes)
		if !s.Layout.DedicatedImageFs {
			used = add(used, known(c.RootfsBytes))
		}
		if limit := c.EphemeralStorageLimitBytes; limit != 0 && used > limit {
			message := "Container " + c.Name + " exceeded its local ephemeral storage limit " + strconv.Quote(binary(limit)) + ". "
			return Offender{Check: CheckContainer, Name: c.Name, Message: message, UsedBytes: used, LimitBytes: limit}, true
		}
	}
	return Offender{}, false
}

// known takes a figure that is missing beside others for zero, as the kubelet does: a limit
// is exceeded by what is known.
func known(v int64) int64 {
	if v == workload.NoData {
		return 0
	}
	return v
}
