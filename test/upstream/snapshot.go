package main

import (
	"encoding/json"
	"time"
)

// Snapshot is DESIGN.md 3.3. A nil pointer is an absent part: no data.
type Snapshot struct {
	Time         time.Time     `json:"-"`
	TimeText     string        `json:"time"`
	Layout       *Layout       `json:"layout,omitempty"`
	Signals      Signals       `json:"signals"`
	Workloads    []Workload    `json:"workloads"`
	AfterReclaim *AfterReclaim `json:"afterReclaim,omitempty"`
}

// timeFormat is RFC 3339 with all nanoseconds.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

func (s *Snapshot) UnmarshalJSON(data []byte) error {
	type plain Snapshot
	if err := decodeStrict(data, (*plain)(s)); err != nil {
		return err
	}
	var err error
	s.Time, err = time.Parse(time.RFC3339Nano, s.TimeText)
	return err
}

type Layout struct {
	DedicatedImageFs bool `json:"dedicatedImageFs"`
	SplitImageFs     bool `json:"splitImageFs"`
}

type AfterReclaim struct {
	Signals Signals `json:"signals"`
}

// Signals maps a signal's name to its observation.
type Signals map[string]Observation

// Observation holds the bytes or, for inodes and pids, the bare pair.
type Observation struct {
	AvailableBytes *int64     `json:"availableBytes,omitempty"`
	CapacityBytes  *int64     `json:"capacityBytes,omitempty"`
	Available      *int64     `json:"available,omitempty"`
	Capacity       *int64     `json:"capacity,omitempty"`
	Time           *time.Time `json:"time,omitempty"`
}

// MarshalJSON writes the time with all nanoseconds.
func (o Observation) MarshalJSON() ([]byte, error) {
	type plain Observation
	out := struct {
		plain
		Time string `json:"time,omitempty"`
	}{plain: plain(o)}
	if o.Time != nil {
		out.Time = o.Time.Format(timeFormat)
	}
	return json.Marshal(out)
}

type Workload struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Cgroup    string `json:"cgroup"`
	QOSClass  string `json:"qosClass"`
	Priority  *int32 `json:"priority,omitempty"`
	Static    bool   `json:"static"`
	Mirror    bool   `json:"mirror"`

	TerminationGracePeriodSeconds *int64 `json:"terminationGracePeriodSeconds,omitempty"`

	Memory           *Memory           `json:"memory,omitempty"`
	EphemeralStorage *EphemeralStorage `json:"ephemeralStorage,omitempty"`
	Inodes           *Inodes           `json:"inodes,omitempty"`

	Processes *int64 `json:"processes,omitempty"`
	Tasks     *int64 `json:"tasks,omitempty"`

	Volumes    []Volume    `json:"volumes"`
	Containers []Container `json:"containers"`
}

type Memory struct {
	WorkingSetBytes      *int64 `json:"workingSetBytes,omitempty"`
	RequestBytes         *int64 `json:"requestBytes,omitempty"`
	PodLevelRequestBytes *int64 `json:"podLevelRequestBytes,omitempty"`
}

type EphemeralStorage struct {
	RootfsBytes       *int64 `json:"rootfsBytes,omitempty"`
	LogsBytes         *int64 `json:"logsBytes,omitempty"`
	LocalVolumesBytes *int64 `json:"localVolumesBytes,omitempty"`
	UsedBytes         *int64 `json:"usedBytes,omitempty"`
	RequestBytes      *int64 `json:"requestBytes,omitempty"`
	LimitBytes        *int64 `json:"limitBytes,omitempty"`
}

type Inodes struct {
	Rootfs       *int64 `json:"rootfs,omitempty"`
	Logs         *int64 `json:"logs,omitempty"`
	LocalVolumes *int64 `json:"localVolumes,omitempty"`
}

type Volume struct {
	Name           string `json:"name"`
	Medium         string `json:"medium"`
	UsedBytes      *int64 `json:"usedBytes,omitempty"`
	SizeLimitBytes *int64 `json:"sizeLimitBytes,omitempty"`
}

type Container struct {
	Name                         string `json:"name"`
	MemoryWorkingSetBytes        *int64 `json:"memoryWorkingSetBytes,omitempty"`
	MemoryRequestBytes           *int64 `json:"memoryRequestBytes,omitempty"`
	LogsBytes                    *int64 `json:"logsBytes,omitempty"`
	RootfsBytes                  *int64 `json:"rootfsBytes,omitempty"`
	EphemeralStorageRequestBytes *int64 `json:"ephemeralStorageRequestBytes,omitempty"`
	EphemeralStorageLimitBytes   *int64 `json:"ephemeralStorageLimitBytes,omitempty"`
}

// val is the figure, or 0 for one that is absent.
func val(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}
