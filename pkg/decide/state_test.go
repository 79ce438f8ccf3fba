package decide_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// absent is a pass without a reading.
	absent = math.MinInt64
	// fresh is a reading of the moment of the pass.
	fresh = -1
)

// step is one pass over one bound of memory.available.
type step struct {
	at        int // seconds
	available int64
	// stamp is the second of the reading; fresh, or 0 for a reading without a time.
	stamp               int
	act, met, condition bool
	why                 string
}

// play runs the passes of a scene. Decide evicts whenever it acts: there is one unit.
func play(t *testing.T, s *decide.Settings, scene []step) {
	t.Helper()
	var m decide.Memory
	for _, step := range scene {
		in := &decide.Input{
			NowNs:     start + uint64(step.at)*second,
			Workloads: []workload.Workload{unit("/u", 10)},
		}
		if step.available != absent {
			o := signal.Observation{Signal: s.Bounds[0].Signal, Available: step.available, Capacity: 1000}
			switch step.stamp {
			case fresh:
				o.Ns = in.NowNs
			case 0:
			default:
				o.Ns = start + uint64(step.stamp)*second
			}
			in.Observations = []signal.Observation{o}
		}
		d := decide.Decide(s, &m, in)
		if got := d.Verdict == decide.Evict; got != step.act {
			t.Errorf("t=%d: acted %v (%q), want %v: %s", step.at, got, d.Reason, step.act, step.why)
		}
		if d.Met[0] != step.met || d.Conditions.MemoryPressure != step.condition {
			t.Errorf("t=%d: met %v and MemoryPressure %v, want %v and %v: %s",
				step.at, d.Met[0], d.Conditions.MemoryPressure, step.met, step.condition, step.why)
		}
		m.Next(s, in, &d)
	}
}

// start is the time of t=0.
const start = 1_000_000 * second

// The kubelet's table: memory.available < 100, minimum reclaim 50, transition period 300 s,
// a soft threshold with a grace period of 30 s.
func TestStateTable(t *testing.T) {
	const yes, no = true, false
	tests := map[string]struct {
		bound decide.Bound
		scene []step
	}{
		"hard": {nodeMemory, []step{
			{0, 100, fresh, no, no, no, "equality is not met"},
			{10, 99, fresh, yes, yes, yes, "below the threshold"},
			{20, 120, fresh, yes, yes, yes, "120 < 100 + 50"},
			{30, 150, fresh, no, no, yes, "150 is not below 150, and within the transition period"},
			{319, 500, fresh, no, no, yes, "last seen at 20, 299 s ago"},
			{320, 500, fresh, no, no, no, "300 s is not less than 300 s"},
		}},
		"soft": {soft(nodeMemory), []step{
			{0, 90, fresh, no, yes, yes, "the condition comes before the grace period is over"},
			{29, 90, fresh, no, yes, yes, "29 s of 30"},
			{30, 90, fresh, yes, yes, yes, "the grace period is over"},
			{40, 149, fresh, yes, yes, yes, "held by the minimum reclaim once it was due"},
			{50, 150, fresh, no, no, yes, "let go"},
			{60, 99, fresh, no, yes, yes, "a new grace period"},
		}},
		"soft, let go in between": {soft(nodeMemory), []step{
			{0, 90, fresh, no, yes, yes, "met"},
			{10, 110, fresh, no, no, yes, "no minimum reclaim before it was due"},
			{20, 90, fresh, no, yes, yes, "met again"},
			{49, 90, fresh, no, yes, yes, "29 s since 20"},
			{50, 90, fresh, yes, yes, yes, "30 s since 20"},
		}},
		"soft of a grace period of zero is hard": {grace(nodeMemory, 0), []step{
			{0, 99, fresh, yes, yes, yes, "at once"},
		}},
		"a negative grace period is none": {grace(nodeMemory, -time.Second), []step{
			{0, 99, fresh, yes, yes, yes, "at once"},
		}},
		"stale readings": {nodeMemory, []step{
			{0, 10, 1, yes, yes, yes, "the first reading is never stale"},
			{10, 10, 1, no, yes, yes, "the same reading; the condition is published all the same"},
			{20, 10, -2, no, yes, yes, "an older one"},
			{30, 10, 2, yes, yes, yes, "a newer one"},
			{40, 10, 0, yes, yes, yes, "without a time"},
			{50, 10, 1, yes, yes, yes, "any time is newer than none"},
			{60, 10, 1, no, yes, yes, "the same again"},
			{70, absent, fresh, no, no, yes, "no reading: not met"},
			{80, 10, 1, yes, yes, yes, "only the last pass counts: its old stamp is no longer stale"},
		}},
		"a hard signal absent for one pass lets go": {nodeMemory, []step{
			{0, 99, fresh, yes, yes, yes, "met"},
			{10, 120, fresh, yes, yes, yes, "held"},
			{20, absent, fresh, no, no, yes, "no reading"},
			{30, 120, fresh, no, no, yes, "no longer held"},
		}},
		"a soft signal absent for one pass starts its grace period anew": {soft(nodeMemory), []step{
			{0, 90, fresh, no, yes, yes, "met"},
			{20, absent, fresh, no, no, yes, "no reading"},
			{30, 90, fresh, no, yes, yes, "30 s since the first, 0 s since the break"},
			{59, 90, fresh, no, yes, yes, "29 s"},
			{60, 90, fresh, yes, yes, yes, "30 s"},
		}},
		"the clock goes back in a grace period": {soft(nodeMemory), []step{
			{100, 90, fresh, no, yes, yes, "met"},
			{50, 90, 0, no, yes, yes, "no time has passed"},
			{129, 90, 0, no, yes, yes, "29 s"},
			{130, 90, 0, yes, yes, yes, "30 s"},
		}},
	}
	for name, tc := range tests {
		for _, compat := range []bool{true, false} {
			t.Run(name+mode(compat), func(t *testing.T) {
				s := settings(tc.bound)
				s.Compat, s.TransitionPeriod = compat, 300*time.Second
				play(t, s, tc.scene)
			})
		}
	}
}

func mode(compat bool) string {
	if compat {
		return ", compat"
	}
	return ", default"
}

func TestTransitionPeriod(t *testing.T) {
	scene := func(after1, after10 bool) []step {
		return []step{
			{0, 99, fresh, true, true, after1, ""},
			{1, 500, fresh, false, false, after1, "one second later"},
			{10, 500, fresh, false, false, after10, "ten seconds later"},
		}
	}
	tests := map[string]struct {
		period          time.Duration
		after1, after10 bool
	}{
		"ten seconds end before the tenth": {10 * time.Second, true, false},
		"a little more lasts":              {10*time.Second + 1, true, true},
		"zero publishes nothing":           {0, false, false},
		"a negative one publishes nothing": {-time.Hour, false, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := settings(nodeMemory)
			s.TransitionPeriod = tc.period
			play(t, s, scene(tc.after1, tc.after10))
		})
	}
}

func TestConditionOfEachSignal(t *testing.T) {
	memory := decide.Conditions{MemoryPressure: true}
	disk := decide.Conditions{DiskPressure: true}
	pids := decide.Conditions{PIDPressure: true}
	want := map[signal.Signal]decide.Conditions{
		signal.MemoryAvailable: memory, signal.AllocatableMemoryAvailable: memory,
		signal.PIDAvailable: pids, signal.AllocatablePIDAvailable: pids,
		signal.NodeFsAvailable: disk, signal.NodeFsInodesFree: disk,
		signal.ImageFsAvailable: disk, signal.ImageFsInodesFree: disk,
		signal.ContainerFsAvailable: disk, signal.ContainerFsInodesFree: disk,
	}
	for _, name := range signal.Names() {
		t.Run(string(name), func(t *testing.T) {
			s := settings(bound(name, "", 100, 0))
			s.TransitionPeriod = time.Minute
			d := decide.Decide(s, &decide.Memory{}, &decide.Input{NowNs: now, Observations: []signal.Observation{observe(s.Bounds[0], 1)}})
			if diff := cmp.Diff(want[name], d.Conditions); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
		})
	}
}

// New settings number the bounds anew; a condition is about the node, and stays.
func TestConditionsOutliveNewSettings(t *testing.T) {
	s := settings(nodeMemory)
	s.TransitionPeriod = time.Minute
	var m decide.Memory
	in := &decide.Input{NowNs: now, Observations: []signal.Observation{observe(nodeMemory, 1)}}
	d := decide.Decide(s, &m, in)
	m.Next(s, in, &d)
	m.Release()
	if d := decide.Decide(s, &m, &decide.Input{NowNs: now + second}); !d.Conditions.MemoryPressure {
		t.Error("the condition is gone with the settings")
	}
}

// Which bound is acted on where several are due; the unit holds everything.
func TestWhichBoundIsActedOn(t *testing.T) {
	nodeFs, imageFs := bound(signal.NodeFsAvailable, "", 100, 0), bound(signal.ImageFsAvailable, "", 100, 0)
	inodes := bound(signal.NodeFsInodesFree, "", 100, 0)
	allocatable := bound(signal.AllocatableMemoryAvailable, "", 100, 0)
	pids := bound(signal.PIDAvailable, "", 100, 0)
	tests := map[string]struct {
		bounds          []decide.Bound
		compat, dflt    decide.Bound
		nobodyForMemory bool
	}{
		"memory before disks":                       {bounds: []decide.Bound{nodeFs, nodeMemory}, compat: nodeMemory, dflt: nodeMemory},
		"node memory before allocatable":            {bounds: []decide.Bound{allocatable, nodeMemory}, compat: nodeMemory, dflt: nodeMemory},
		"hard before soft of one signal":            {bounds: []decide.Bound{soft(nodeMemory), nodeMemory}, compat: nodeMemory, dflt: nodeMemory},
		"hard allocatable before soft node memory":  {bounds: []decide.Bound{soft(nodeMemory), allocatable}, compat: allocatable, dflt: allocatable},
		"soft memory and a hard disk":               {bounds: []decide.Bound{nodeFs, soft(nodeMemory)}, compat: soft(nodeMemory), dflt: nodeFs},
		"pids before disks":                         {bounds: []decide.Bound{nodeFs, pids}, compat: pids, dflt: pids},
		"soft pids and a hard disk":                 {bounds: []decide.Bound{soft(pids), nodeFs}, compat: nodeFs, dflt: nodeFs},
		"nodefs before imagefs":                     {bounds: []decide.Bound{imageFs, nodeFs}, compat: nodeFs, dflt: nodeFs},
		"bytes before inodes":                       {bounds: []decide.Bound{inodes, imageFs}, compat: imageFs, dflt: imageFs},
		"nobody for memory: compat ends, we go on":  {bounds: []decide.Bound{nodeMemory, pids}, compat: nodeMemory, dflt: pids, nobodyForMemory: true},
		"a larger value of one signal comes before": {bounds: []decide.Bound{bound(signal.PIDAvailable, "", 50, 0), pids}, compat: pids, dflt: pids},
	}
	for name, tc := range tests {
		for _, compat := range []bool{true, false} {
			t.Run(name+mode(compat), func(t *testing.T) {
				s := settings(tc.bounds...)
				s.Compat = compat
				decide.SortBounds(s.Bounds, compat)
				want := tc.dflt
				if compat {
					want = tc.compat
				}
				d := decideDue(s, tc.nobodyForMemory)
				if d.Bound < 0 {
					t.Fatal("acted on none")
				}
				if diff := cmp.Diff(want, s.Bounds[d.Bound]); diff != "" {
					t.Errorf("acted on (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// decideDue decides when all bounds have been due for long, and node-level reclaim was in
// vain.
func decideDue(s *decide.Settings, nobodyForMemory bool) decide.Decision {
	w := full("/u", 10)
	if nobodyForMemory {
		w.Usage.WorkingSetBytes = workload.NoData
		if s.Compat {
			w.Priority = workload.CriticalPriority
		}
	}
	in := &decide.Input{NowNs: now, Workloads: []workload.Workload{w}}
	for _, b := range s.Bounds {
		in.Observations = append(in.Observations, observe(b, 1))
	}
	in.Reclaimed, in.AfterReclaim = both, in.Observations
	var m decide.Memory
	d := decide.Decide(s, &m, in)
	m.Next(s, in, &d)
	in.NowNs += 60 * second
	for i := range in.Observations {
		in.Observations[i].Ns = in.NowNs
	}
	return decide.Decide(s, &m, in)
}

// full holds as much of everything.
func full(cgroup string, use int64) workload.Workload {
	w := unit(cgroup, use)
	w.Usage.Processes = use
	each := workload.FsUsage{Bytes: use, Inodes: use}
	w.Usage.Disk = &workload.DiskUsage{Rootfs: each, Logs: each, LocalVolumes: each, UsedBytes: 3 * use}
	return w
}

// Stale bounds are not in the queue: the next one is acted on, in compat too.
func TestStaleBoundGivesWay(t *testing.T) {
	pids := bound(signal.PIDAvailable, "", 100, 0)
	for _, compat := range []bool{true, false} {
		s := settings(nodeMemory, pids)
		s.Compat = compat
		var m decide.Memory
		in := &decide.Input{
			NowNs: now, Workloads: []workload.Workload{full("/u", 10)},
			Observations: []signal.Observation{observe(nodeMemory, 1), observe(pids, 1)},
		}
		d := decide.Decide(s, &m, in)
		m.Next(s, in, &d)
		in.NowNs += second
		in.Observations[1].Ns = in.NowNs
		if d := decide.Decide(s, &m, in); d.Bound != 1 || !d.Met[0] || !d.Due[0] {
			t.Errorf("compat %v: acted on %d, met %v, want pids acted on while memory is met", compat, d.Bound, d.Met[0])
		}
	}
}

func TestGracePeriodSeconds(t *testing.T) {
	tests := map[string]struct {
		hard           bool
		own, max, want int64
	}{
		"hard":                             {true, 30, 60, 1},
		"hard of a pod that wants none":    {true, 0, 60, 1},
		"soft, the pod's own is shorter":   {false, 30, 60, 30},
		"soft, the maximum is shorter":     {false, 30, 10, 10},
		"soft, the maximum is zero":        {false, 30, 0, 0},
		"soft, the maximum is negative":    {false, 30, -7, -7},
		"soft, the pod's own is zero":      {false, 0, 60, 0},
		"soft, the pod's own is negative":  {false, -1, 60, -1},
		"soft, the pod's own is not known": {false, workload.NoData, 60, 60},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := soft(nodeMemory)
			if tc.hard {
				b = nodeMemory
			}
			s := &decide.Settings{MaxPodGracePeriodSeconds: tc.max}
			if got := s.GracePeriodSeconds(&b, tc.own); got != tc.want {
				t.Errorf("%d s, want %d", got, tc.want)
			}
		})
	}
}

// The percentages of the kubelet's float32, each on its edge.
func TestPercentTable(t *testing.T) {
	for _, tc := range []struct {
		percent        float32
		capacity, want int64
	}{
		{10, 107374182400, 10737418400}, {15, 107374182400, 16106128000}, {5, 6553600, 327680},
		{29, 100, 28}, {7, 100, 7}, {10, 32768, 3276}, {33.3, 1000, 333}, {57, 100, 56},
	} {
		b := share(nodeMemory, tc.percent/100)
		b.MinReclaim = signal.Quantity{}
		for available, met := range map[int64]bool{tc.want: false, tc.want - 1: true} {
			d := decide.Decide(settings(b), &decide.Memory{}, &decide.Input{
				NowNs:        now,
				Observations: []signal.Observation{{Signal: b.Signal, Available: available, Capacity: tc.capacity}},
			})
			if d.Met[0] != met {
				t.Errorf("%v%% of %d, %d available: met %v, want %v", tc.percent, tc.capacity, available, d.Met[0], met)
			}
		}
	}
}
