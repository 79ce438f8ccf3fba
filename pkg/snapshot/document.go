package snapshot

import (
	"fmt"
	"slices"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// document is a snapshot as it is written.
type document struct {
	Time         string             `json:"time,omitempty"`
	Layout       layout             `json:"layout"`
	Signals      map[string]reading `json:"signals"`
	AfterReclaim *afterReclaim      `json:"afterReclaim,omitempty"`
	Workloads    []unit             `json:"workloads"`
}

type layout struct {
	DedicatedImageFs bool `json:"dedicatedImageFs"`
	SplitImageFs     bool `json:"splitImageFs"`
}

type afterReclaim struct {
	Signals map[string]reading `json:"signals"`
}

// reading has the first two figures for signals in bytes, the next two for all others.
type reading struct {
	AvailableBytes *int64 `json:"availableBytes,omitempty"`
	CapacityBytes  *int64 `json:"capacityBytes,omitempty"`
	Available      *int64 `json:"available,omitempty"`
	Capacity       *int64 `json:"capacity,omitempty"`
	Time           string `json:"time,omitempty"`
}

// unit is a workload as it is written. A pointer is nil where there is no data.
type unit struct {
	UID                           string            `json:"uid"`
	Namespace                     string            `json:"namespace,omitempty"`
	Name                          string            `json:"name,omitempty"`
	Cgroup                        string            `json:"cgroup,omitempty"`
	QOSClass                      workload.QOSClass `json:"qosClass,omitempty"`
	Priority                      int32             `json:"priority"`
	Static                        bool              `json:"static,omitempty"`
	Mirror                        bool              `json:"mirror,omitempty"`
	Evict                         string            `json:"evict,omitempty"`
	Protected                     string            `json:"protected,omitempty"`
	TerminationGracePeriodSeconds *int64            `json:"terminationGracePeriodSeconds,omitempty"`
	Memory                        unitMemory        `json:"memory"`
	EphemeralStorage              unitStorage       `json:"ephemeralStorage"`
	Inodes                        unitInodes        `json:"inodes"`
	Processes                     *int64            `json:"processes,omitempty"`
	Tasks                         *int64            `json:"tasks,omitempty"`
	Volumes                       []volume          `json:"volumes,omitempty"`
	Containers                    []container       `json:"containers,omitempty"`
}

type unitMemory struct {
	WorkingSetBytes      *int64 `json:"workingSetBytes,omitempty"`
	RequestBytes         int64  `json:"requestBytes"`
	PodLevelRequestBytes *int64 `json:"podLevelRequestBytes,omitempty"`
}

type unitStorage struct {
	RootfsBytes        *int64 `json:"rootfsBytes,omitempty"`
	LogsBytes          *int64 `json:"logsBytes,omitempty"`
	LogsElsewhereBytes int64  `json:"logsElsewhereBytes,omitempty"`
	LocalVolumesBytes  *int64 `json:"localVolumesBytes,omitempty"`
	UsedBytes          *int64 `json:"usedBytes,omitempty"`
	RequestBytes       int64  `json:"requestBytes,omitempty"`
	LimitBytes         *int64 `json:"limitBytes,omitempty"`
}

type unitInodes struct {
	Rootfs        *int64 `json:"rootfs,omitempty"`
	Logs          *int64 `json:"logs,omitempty"`
	LogsElsewhere int64  `json:"logsElsewhere,omitempty"`
	LocalVolumes  *int64 `json:"localVolumes,omitempty"`
}

type volume struct {
	Name           string `json:"name"`
	Medium         string `json:"medium"`
	UsedBytes      *int64 `json:"usedBytes,omitempty"`
	SizeLimitBytes int64  `json:"sizeLimitBytes,omitempty"`
}

type container struct {
	Name                         string `json:"name"`
	MemoryWorkingSetBytes        *int64 `json:"memoryWorkingSetBytes,omitempty"`
	MemoryRequestBytes           int64  `json:"memoryRequestBytes,omitempty"`
	LogsBytes                    *int64 `json:"logsBytes,omitempty"`
	RootfsBytes                  *int64 `json:"rootfsBytes,omitempty"`
	EphemeralStorageRequestBytes int64  `json:"ephemeralStorageRequestBytes,omitempty"`
	EphemeralStorageLimitBytes   int64  `json:"ephemeralStorageLimitBytes,omitempty"`
}

// workload checks a unit and brings it into the form that pkg/decide takes.
func (u *unit) workload(path string) (workload.Workload, error) {
	if err := u.check(path); err != nil {
		return workload.Workload{}, err
	}
	w := workload.Workload{
		UID: u.UID, Namespace: u.Namespace, Name: u.Name, Cgroup: u.Cgroup, QOSClass: u.QOSClass,
		Priority: u.Priority, Static: u.Static, Mirror: u.Mirror, Evict: u.Evict, Protected: u.Protected,
		MemoryRequestBytes:            u.Memory.RequestBytes,
		EphemeralStorageRequestBytes:  u.EphemeralStorage.RequestBytes,
		EphemeralStorageLimitBytes:    u.EphemeralStorage.LimitBytes,
		TerminationGracePeriodSeconds: figure(u.TerminationGracePeriodSeconds),
		Usage: workload.Usage{
			MemoryBytes:     workload.NoData,
			WorkingSetBytes: figure(u.Memory.WorkingSetBytes),
			Tasks:           figure(u.Tasks),
			Processes:       figure(u.Processes),
			Disk:            u.disk(),
		},
	}
	if r := u.Memory.PodLevelRequestBytes; r != nil {
		w.PodLevelRequest, w.MemoryRequestBytes = true, *r
	}
	for i := range u.Containers {
		c := &u.Containers[i]
		w.Containers = append(w.Containers, workload.Container{
			Name:            c.Name,
			WorkingSetBytes: figure(c.MemoryWorkingSetBytes), MemoryRequestBytes: c.MemoryRequestBytes,
			RootfsBytes: figure(c.RootfsBytes), LogsBytes: figure(c.LogsBytes),
			EphemeralStorageRequestBytes: c.EphemeralStorageRequestBytes,
			EphemeralStorageLimitBytes:   c.EphemeralStorageLimitBytes,
		})
	}
	for i := range u.Volumes {
		v := &u.Volumes[i]
		w.Volumes = append(w.Volumes, workload.Volume{
			Name: v.Name, Medium: v.Medium, UsedBytes: figure(v.UsedBytes), SizeLimitBytes: v.SizeLimitBytes,
		})
	}
	return w, nil
}

func (u *unit) disk() *workload.DiskUsage {
	s, n := &u.EphemeralStorage, &u.Inodes
	d := workload.DiskUsage{
		Rootfs:        workload.FsUsage{Bytes: figure(s.RootfsBytes), Inodes: figure(n.Rootfs)},
		Logs:          workload.FsUsage{Bytes: figure(s.LogsBytes), Inodes: figure(n.Logs)},
		LogsElsewhere: workload.FsUsage{Bytes: s.LogsElsewhereBytes, Inodes: n.LogsElsewhere},
		LocalVolumes:  workload.FsUsage{Bytes: figure(s.LocalVolumesBytes), Inodes: figure(n.LocalVolumes)},
		UsedBytes:     figure(s.UsedBytes),
	}
	if d == workload.NoDiskUsage {
		return nil
	}
	return &d
}

// figure turns an absent figure into "no data".
func figure(v *int64) int64 {
	if v == nil {
		return workload.NoData
	}
	return *v
}

func (u *unit) check(path string) error {
	switch {
	case u.UID == "":
		return wrong(path+".uid", "missing")
	case u.QOSClass != "" && !slices.Contains([]workload.QOSClass{workload.QOSGuaranteed, workload.QOSBurstable, workload.QOSBestEffort}, u.QOSClass):
		return wrong(path+".qosClass", "%q is none of Guaranteed, Burstable, BestEffort", string(u.QOSClass))
	case !slices.Contains([]string{"", "allow", "never", "first"}, u.Evict):
		return wrong(path+".evict", "%q is none of allow, never, first", u.Evict)
	}
	return firstNegative(path, u.figures())
}

type named struct {
	name  string
	value *int64
}

// figures are all amounts that can't be below zero. (A grace period can, and means at once.)
func (u *unit) figures() []named {
	s := &u.EphemeralStorage
	list := []named{
		{"memory.workingSetBytes", u.Memory.WorkingSetBytes}, {"memory.requestBytes", &u.Memory.RequestBytes},
		{"memory.podLevelRequestBytes", u.Memory.PodLevelRequestBytes},
		{"ephemeralStorage.rootfsBytes", s.RootfsBytes}, {"ephemeralStorage.logsBytes", s.LogsBytes},
		{"ephemeralStorage.logsElsewhereBytes", &s.LogsElsewhereBytes}, {"inodes.logsElsewhere", &u.Inodes.LogsElsewhere},
		{"ephemeralStorage.localVolumesBytes", s.LocalVolumesBytes}, {"ephemeralStorage.usedBytes", s.UsedBytes},
		{"ephemeralStorage.requestBytes", &s.RequestBytes}, {"ephemeralStorage.limitBytes", s.LimitBytes},
		{"inodes.rootfs", u.Inodes.Rootfs}, {"inodes.logs", u.Inodes.Logs}, {"inodes.localVolumes", u.Inodes.LocalVolumes},
		{"processes", u.Processes}, {"tasks", u.Tasks},
	}
	for i := range u.Volumes {
		v, at := &u.Volumes[i], fmt.Sprintf("volumes[%d].", i)
		list = append(list, named{at + "usedBytes", v.UsedBytes}, named{at + "sizeLimitBytes", &v.SizeLimitBytes})
	}
	for i := range u.Containers {
		c, at := &u.Containers[i], fmt.Sprintf("containers[%d].", i)
		list = append(list,
			named{at + "memoryWorkingSetBytes", c.MemoryWorkingSetBytes}, named{at + "memoryRequestBytes", &c.MemoryRequestBytes},
			named{at + "logsBytes", c.LogsBytes}, named{at + "rootfsBytes", c.RootfsBytes},
			named{at + "ephemeralStorageRequestBytes", &c.EphemeralStorageRequestBytes},
			named{at + "ephemeralStorageLimitBytes", &c.EphemeralStorageLimitBytes})
	}
	return list
}

func firstNegative(path string, list []named) error {
	for _, f := range list {
		if f.value != nil && *f.value < 0 {
			return wrong(path+"."+f.name, "%d is negative", *f.value)
		}
	}
	return nil
}
