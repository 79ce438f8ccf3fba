package agent

import (
	"os"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// view is the state file's content as of the last pass, but for the ranking, which takes
// time.
func (a *Agent) view() *record.State {
	s := &record.State{
		Time: record.Time{Time: time.Now()}, Mode: a.mode, PID: os.Getpid(),
		Workloads: len(a.scene.workloads), RingLost: a.kernel.Node().LostSamples,
		Conditions: a.conditions, Drill: a.drills.state.Load(),
	}
	s.Budget.MinuteLeft, s.Budget.HourLeft = a.memory.Left(&a.settings, sample.Now())
	s.Disk = a.viewDisk()
	for i := range a.open {
		if e := &a.open[i]; e.underWay() && !e.recorded {
			s.Evictions = append(s.Evictions, record.OpenEviction{ID: e.id, Timeline: e.timeline})
		}
	}
	for i := range a.input.Observations {
		s.Signals = append(s.Signals, a.viewSignal(&a.input.Observations[i]))
	}
	return s
}

// viewDisk is nil where nothing is about a disk.
func (a *Agent) viewDisk() *record.DiskState {
	if !a.scout.wantsFigures() {
		return nil
	}
	v, nowNs := &record.DiskState{Reclaiming: a.reclaim.isUnderWay(), Reclaim: a.reclaim.last}, sample.Now()
	t := a.scout.fresh(nowNs)
	if t == nil {
		v.Error = string(reasonNoFigures)
		if text := a.scout.figuresErr.Load(); text != nil && *text != "" {
			v.Error += ": " + *text
		}
		return v
	}
	switch {
	case a.reclaim.hung:
		v.Error = string(reasonHung)
	case a.unmeasured != nil:
		v.Error = a.refusal(decide.ReasonUnmeasured)
	case a.left != "":
		v.Error = a.leftReason()
	}
	age, oldest := (workload.Reading{ReadNs: t.WrittenNs}).Age(nowNs).Seconds(), time.Duration(0)
	v.AgeSeconds = &age
	for i := range t.Workloads {
		if of, ok := t.Workloads[i].OldestAge(nowNs); ok && of <= figuresAge {
			v.Workloads++
			oldest = max(oldest, of)
		}
	}
	if v.Workloads > 0 {
		seconds := oldest.Seconds()
		v.OldestSeconds = &seconds
	}
	return v
}

func (a *Agent) viewSignal(o *signal.Observation) record.SignalState {
	v := record.SignalState{Signal: string(o.Signal)}
	available, capacity := o.Available, o.Capacity
	if scope := scopeOf(o.Signal); scope != sample.ScopeOff {
		if _, why := a.kernel.Tier(scope); why != nil {
			v.TierReason = why.Error()
		}
	}
	switch v.Tier = a.tierFor(o.Signal); v.Tier {
	case record.TierAlloc:
		v.Armed = a.kernel.Armed()
	case record.TierCharge, record.TierTask:
		v.Armed = true
	}
	if o.Signal.Bytes() {
		v.AvailableBytes, v.CapacityBytes = &available, &capacity
	} else {
		v.Available, v.Capacity = &available, &capacity
	}
	first := -1
	for i := range a.settings.Bounds {
		b := &a.settings.Bounds[i]
		if b.Signal != o.Signal || b.Root != o.Root {
			continue
		}
		if first < 0 {
			first = i
		}
		value := b.Value.Of(capacity)
		t := record.ThresholdState{Hard: b.Hard(), Met: available < value}
		distance := available - value
		if o.Signal.Bytes() {
			t.ValueBytes, v.DistanceBytes = &value, nearer(v.DistanceBytes, distance)
		} else {
			t.Value, v.Distance = &value, nearer(v.Distance, distance)
		}
		v.Thresholds = append(v.Thresholds, t)
	}
	a.viewFill(&v, o, &a.fills[first])
	return v
}

// viewFill says how fast the signal falls. The kernel's own reports of a root's memory are
// finer than readings a second apart.
func (a *Agent) viewFill(v *record.SignalState, o *signal.Observation, f *fill) {
	f.add(o.Ns, o.Capacity-o.Available)
	perSecond, ok := f.rate(o.Ns)
	if r := a.scene.from.root(o.Root); r != nil && o.Signal == signal.AllocatableMemoryAvailable {
		if finer, fresh := r.fill.rate(o.Ns); fresh {
			perSecond, ok = finer, true
		}
	}
	if !ok {
		return
	}
	v.FillPerSecond = &perSecond
	distance := v.Distance
	if o.Signal.Bytes() {
		distance = v.DistanceBytes
	}
	if distance != nil && perSecond > 0 {
		seconds := float64(max(0, *distance)) / perSecond
		v.SecondsToThreshold = &seconds
	}
}

func nearer(old *int64, distance int64) *int64 {
	if old != nil && *old <= distance {
		return old
	}
	return &distance
}

// idle does what has time: the state file once a second.
func (a *Agent) idle() {
	if time.Since(a.viewed) < time.Second {
		return
	}
	a.viewed = time.Now()
	a.alive()
	a.confess()
	state := a.view()
	go a.writeState(state, a.settings)
}

func (a *Agent) writeState(s *record.State, settings decide.Settings) {
	if !a.stateMu.TryLock() {
		return // the disk is slow; the next one will do
	}
	defer a.stateMu.Unlock()
	s.Ranking = a.scout.ranking(&settings)
	if err := record.WriteState(a.state, s); err != nil {
		a.log.Warn().Err(err).Msg("state file not written")
	}
}
