package record

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// StateSchema is the schema of the state file.
const StateSchema = "ebpf-evict/state/v1"

// maxStateBytes is far above a state, which has some 10 KiB.
const maxStateBytes = 1 << 20

// State is what the agent knows now. One that is older than five seconds means that the
// agent is unwell.
type State struct {
	// Schema is set by WriteState.
	Schema  string        `json:"schema"`
	Time    Time          `json:"time"`
	Mode    string        `json:"mode"`
	PID     int           `json:"pid"`
	Signals []SignalState `json:"signals"`
	// Ranking are the first MaxRanked units, first victim first.
	Ranking []Ranked `json:"ranking"`
	// Workloads is how many units are known.
	Workloads  int               `json:"workloads"`
	Conditions decide.Conditions `json:"conditions"`
	Budget     BudgetState       `json:"budget"`
	Drill      *DrillState       `json:"drill,omitempty"`
	// Disk is absent where neither a threshold nor a unit's limit is about a disk.
	Disk *DiskState `json:"disk,omitempty"`
	// Evictions are those that are under way: the journal tells the rest when they are closed.
	Evictions []OpenEviction `json:"evictions,omitempty"`
	RingLost  uint64         `json:"ringLost"`
}

// OpenEviction is what has come of an eviction so far. A disk may be back half a minute after
// its victim's end.
type OpenEviction struct {
	ID       ID       `json:"id"`
	Timeline Timeline `json:"timelineNs"`
}

// DiskState is how the disk figures are doing.
type DiskState struct {
	// Error says why there are none, and nobody is evicted for a disk; empty when there are.
	Error string `json:"error,omitempty"`
	// AgeSeconds is since the figures were written, OldestSeconds since the oldest of the
	// figures that count was read. Absent without any.
	AgeSeconds    *float64 `json:"ageSeconds,omitempty"`
	OldestSeconds *float64 `json:"oldestSeconds,omitempty"`
	// Workloads is of how many units there are figures.
	Workloads int `json:"workloads"`
	// Reclaiming: node-level reclaim is under way. Reclaim is the last that ended.
	Reclaiming bool     `json:"reclaiming"`
	Reclaim    *Reclaim `json:"reclaim,omitempty"`
}

// SignalState is a signal against its thresholds. Amounts of signals in bytes are in the
// fields that end in Bytes, others in those without; nil is "no data".
type SignalState struct {
	Signal         string           `json:"signal"`
	AvailableBytes *int64           `json:"availableBytes,omitempty"`
	Available      *int64           `json:"available,omitempty"`
	CapacityBytes  *int64           `json:"capacityBytes,omitempty"`
	Capacity       *int64           `json:"capacity,omitempty"`
	Thresholds     []ThresholdState `json:"thresholds"`
	// Distance is available less the nearest threshold.
	DistanceBytes *int64 `json:"distanceBytes,omitempty"`
	Distance      *int64 `json:"distance,omitempty"`
	// FillPerSecond is how fast available falls, in its unit; SecondsToThreshold is nil
	// while it does not.
	FillPerSecond      *float64 `json:"fillPerSecond,omitempty"`
	SecondsToThreshold *float64 `json:"secondsToThreshold,omitempty"`
	Tier               string   `json:"tier"`
	// TierReason says why it is not a better one.
	TierReason string `json:"tierReason,omitempty"`
	Armed      bool   `json:"armed"`
}

// ThresholdState is a threshold of a signal, in the unit of the signal.
type ThresholdState struct {
	Hard       bool   `json:"hard"`
	ValueBytes *int64 `json:"valueBytes,omitempty"`
	Value      *int64 `json:"value,omitempty"`
	Met        bool   `json:"met"`
}

// BudgetState is how many kills are left.
type BudgetState struct {
	MinuteLeft int `json:"minuteLeft"`
	HourLeft   int `json:"hourLeft"`
}

// DrillState is the last drill; SignalledNs is from the crossing to SIGKILL.
type DrillState struct {
	Time        Time   `json:"time"`
	OK          bool   `json:"ok"`
	SignalledNs uint64 `json:"signalledNs"`
}

// WriteState replaces the state file (0644) by rename. It follows no symbolic link. One
// goroutine of one process may write a state file at a time.
func WriteState(path string, s *State) error {
	stamped := *s
	stamped.Schema = StateSchema
	data, err := json.Marshal(&stamped)
	if err == nil {
		err = workload.ReplaceFile(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// ReadState reads a state file. No file is fs.ErrNotExist.
func ReadState(path string) (State, error) {
	f, err := openRegular(path)
	if err != nil {
		return State{}, fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStateBytes))
	var s State
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && s.Schema != StateSchema {
		err = fmt.Errorf("schema %q, want %q", s.Schema, StateSchema)
	}
	if err != nil {
		return State{}, fmt.Errorf("read state %s: %w", path, err)
	}
	return s, nil
}
