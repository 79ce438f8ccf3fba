package snapshot

import (
	"encoding/json"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// MarshalJSON writes what Parse reads: a figure that is not known is left out.
func (s *Snapshot) MarshalJSON() ([]byte, error) {
	d := document{
		Layout: layout(s.Layout), Signals: readings(s.Observations, s.Time),
		Workloads: make([]unit, 0, len(s.Workloads)),
	}
	if !s.Time.IsZero() {
		d.Time = formatTime(s.Time)
	}
	if s.AfterReclaim != nil {
		d.AfterReclaim = &afterReclaim{readings(s.AfterReclaim, s.Time)}
	}
	for i := range s.Workloads {
		d.Workloads = append(d.Workloads, unitOf(&s.Workloads[i]))
	}
	return json.Marshal(d)
}

// readings are dated like the snapshot where they have a time at all.
func readings(obs []signal.Observation, at time.Time) map[string]reading {
	out := make(map[string]reading, len(obs))
	for _, o := range obs {
		var r reading
		if available, capacity := o.Available, o.Capacity; o.Signal.Bytes() {
			r.AvailableBytes, r.CapacityBytes = &available, &capacity
		} else {
			r.Available, r.Capacity = &available, &capacity
		}
		if o.Ns != 0 && !at.IsZero() {
			r.Time = formatTime(time.Unix(0, int64(o.Ns-1<<63)))
		}
		out[string(o.Signal)] = r
	}
	return out
}

func unitOf(w *workload.Workload) unit {
	u := unit{
		UID: w.UID, Namespace: w.Namespace, Name: w.Name, Cgroup: w.Cgroup, QOSClass: w.QOSClass,
		Priority: w.Priority, Static: w.Static, Mirror: w.Mirror, Evict: w.Evict, Protected: w.Protected,
		Memory: unitMemory{WorkingSetBytes: shown(w.Usage.WorkingSetBytes), RequestBytes: w.MemoryRequestBytes},
		EphemeralStorage: unitStorage{
			RequestBytes: w.EphemeralStorageRequestBytes, LimitBytes: w.EphemeralStorageLimitBytes,
		},
		Processes: shown(w.Usage.Processes), Tasks: shown(w.Usage.Tasks),
	}
	if w.PodLevelRequest {
		u.Memory.PodLevelRequestBytes = &w.MemoryRequestBytes
	}
	if w.TerminationGracePeriodSeconds >= 0 {
		u.TerminationGracePeriodSeconds = &w.TerminationGracePeriodSeconds
	}
	if d := w.Usage.Disk; d != nil {
		s := &u.EphemeralStorage
		s.RootfsBytes, s.LogsBytes, s.LocalVolumesBytes = shown(d.Rootfs.Bytes), shown(d.Logs.Bytes), shown(d.LocalVolumes.Bytes)
		s.LogsElsewhereBytes, s.UsedBytes = d.LogsElsewhere.Bytes, shown(d.UsedBytes)
		u.Inodes = unitInodes{shown(d.Rootfs.Inodes), shown(d.Logs.Inodes), d.LogsElsewhere.Inodes, shown(d.LocalVolumes.Inodes)}
	}
	for i := range w.Volumes {
		v := &w.Volumes[i]
		u.Volumes = append(u.Volumes, volume{v.Name, v.Medium, shown(v.UsedBytes), v.SizeLimitBytes})
	}
	for i := range w.Containers {
		c := &w.Containers[i]
		u.Containers = append(u.Containers, container{
			c.Name, shown(c.WorkingSetBytes), c.MemoryRequestBytes, shown(c.LogsBytes), shown(c.RootfsBytes),
			c.EphemeralStorageRequestBytes, c.EphemeralStorageLimitBytes,
		})
	}
	return u
}

// shown turns "no data" into an absent figure.
func shown(v int64) *int64 {
	if v == workload.NoData {
		return nil
	}
	return &v
}
