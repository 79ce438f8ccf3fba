package decide

import (
	"fmt"
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
	Check   string
	Message string
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
		for _, exceeds := range []func(*workload.Workload) (string, string){emptyDirLimit, podLimit, s.containerLimit} {
			if check, message := exceeds(w); check != "" {
				found = append(found, Offender{i, check, message})
				break
			}
		}
	}
	return found
}

// emptyDirLimit holds for memory-backed volumes, too.
func emptyDirLimit(w *workload.Workload) (check, message string) {
	for i := range w.Volumes {
		if v := &w.Volumes[i]; v.SizeLimitBytes > 0 && v.UsedBytes > v.SizeLimitBytes {
			return CheckEmptyDir, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, binary(v.SizeLimitBytes))
		}
	}
	return "", ""
}

func podLimit(w *workload.Workload) (check, message string) {
	limit := w.EphemeralStorageLimitBytes
	if limit == nil || ephemeralTotal(w.Usage.Disk) <= *limit {
		return "", ""
	}
	return CheckPod, fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", binary(*limit))
}

// ephemeralTotal is the pod's total; where only the parts are known, their sum.
func ephemeralTotal(d *workload.DiskUsage) int64 {
	switch {
	case d == nil:
		return 0
	case d.UsedBytes != workload.NoData:
		return d.UsedBytes
	}
	return add(add(known(d.Rootfs.Bytes), known(d.Logs.Bytes)), known(d.LocalVolumes.Bytes))
}

// containerLimit counts the writable layer only where it lies on nodefs.
func (s *Settings) containerLimit(w *workload.Workload) (check, message string) {
	for i := range w.Containers {
		c := &w.Containers[i]
		used := known(c.LogsBytes)
		if !s.Layout.DedicatedImageFs {
			used = add(used, known(c.RootfsBytes))
		}
		if limit := c.EphemeralStorageLimitBytes; limit != 0 && used > limit {
			return CheckContainer, "Container " + c.Name + " exceeded its local ephemeral storage limit " + strconv.Quote(binary(limit)) + ". "
		}
	}
	return "", ""
}

// known takes a figure that is missing beside others for zero, as the kubelet does: a limit
// is exceeded by what is known.
func known(v int64) int64 {
	if v == workload.NoData {
		return 0
	}
	return v
}
