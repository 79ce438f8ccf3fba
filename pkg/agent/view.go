package agent

import (
	"os"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// view is the state file's content as of the last pass, but for the ranking, which takes
// time.
func (a *Agent) view() *record.State {
	s := &record.State{
		Time: record.Time{Time: time.Now()}, Mode: a.mode, PID: os.Getpid(),
		Workloads: len(a.scene.workloads), RingLost: a.kernel.Node().LostSamples,
		Conditions: map[string]bool{"MemoryPressure": false, "PIDPressure": false},
	}
	s.Budget.MinuteLeft, s.Budget.HourLeft = a.memory.Left(&a.settings, now())
	for i := range a.input.Observations {
		s.Signals = append(s.Signals, a.viewSignal(&a.input.Observations[i], s.Conditions))
	}
	return s
}

func (a *Agent) viewSignal(o *signal.Observation, conditions map[string]bool) record.SignalState {
	v := record.SignalState{Signal: string(o.Signal), Tier: tierTask}
	available, capacity := o.Available, o.Capacity
	if o.Signal.Memory() {
		v.Tier, v.Armed = tierAlloc, a.kernel.Armed()
		v.AvailableBytes, v.CapacityBytes = &available, &capacity
	} else {
		v.Armed = true
		v.Available, v.Capacity = &available, &capacity
	}
	for i := range a.settings.Bounds {
		b := &a.settings.Bounds[i]
		if b.Signal != o.Signal || b.Root != o.Root {
			continue
		}
		value := b.Value.Of(capacity)
		t := record.ThresholdState{Hard: b.Hard(), Met: available < value}
		distance := available - value
		if o.Signal.Memory() {
			t.ValueBytes, v.DistanceBytes = &value, nearer(v.DistanceBytes, distance)
			conditions["MemoryPressure"] = conditions["MemoryPressure"] || t.Met
		} else {
			t.Value, v.Distance = &value, nearer(v.Distance, distance)
			conditions["PIDPressure"] = conditions["PIDPressure"] || t.Met
		}
		v.Thresholds = append(v.Thresholds, t)
	}
	return v
}

func nearer(old *int64, distance int64) *int64 {
	if old != nil && *old <= distance {
		return old
	}
	return &distance
}
