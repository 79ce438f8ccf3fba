package decide_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

var (
	nothing = decide.NodeReclaim{}
	figures = decide.NodeReclaim{Figures: true}
	dead    = decide.NodeReclaim{Containers: true, Figures: true}
	images  = decide.NodeReclaim{Images: true, Figures: true}
	both    = decide.NodeReclaim{Containers: true, Images: true, Figures: true}
)

func TestNodeReclaimOfEachLayout(t *testing.T) {
	tests := map[string]struct {
		layout                       signal.Layout
		nodeFs, imageFs, containerFs decide.NodeReclaim
	}{
		"one filesystem":      {singleFs, both, both, both},
		"a dedicated imagefs": {dedicatedFs, figures, both, both},
		"a split imagefs":     {splitFs, dead, images, dead},
	}
	for name, tc := range tests {
		for _, compat := range []bool{true, false} {
			t.Run(name+mode(compat), func(t *testing.T) {
				for _, of := range []struct {
					name signal.Signal
					want decide.NodeReclaim
				}{
					{signal.MemoryAvailable, nothing}, {signal.AllocatableMemoryAvailable, nothing},
					{signal.PIDAvailable, nothing}, {signal.AllocatablePIDAvailable, nothing},
					{signal.NodeFsAvailable, tc.nodeFs}, {signal.NodeFsInodesFree, tc.nodeFs},
					{signal.ImageFsAvailable, tc.imageFs}, {signal.ImageFsInodesFree, tc.imageFs},
					{signal.ContainerFsAvailable, tc.containerFs}, {signal.ContainerFsInodesFree, tc.containerFs},
				} {
					s := settings(bound(of.name, "", 100, 0))
					s.Layout, s.Compat = tc.layout, compat
					d := decide.Decide(s, &decide.Memory{}, &decide.Input{
						NowNs: now, Workloads: []workload.Workload{full("/u", 10)},
						Observations: []signal.Observation{observe(s.Bounds[0], 1)},
					})
					if d.Reclaim != of.want || (d.Verdict == decide.Reclaim) != (of.want != nothing) {
						t.Errorf("%s: %v of %+v, want %+v", of.name, d.Verdict, d.Reclaim, of.want)
					}
					if d.Bound != 0 || (d.Victim >= 0) != (d.Verdict == decide.Evict) {
						t.Errorf("%s: bound %d, victim %d of verdict %v", of.name, d.Bound, d.Victim, d.Verdict)
					}
				}
			})
		}
	}
}

// nodefs.available < 100 with a minimum reclaim of 50 was acted on, with other bounds
// beside it; what is available after node-level reclaim decides whether a pod dies.
func TestIsReclaimEnough(t *testing.T) {
	nodeFs := bound(signal.NodeFsAvailable, "", 100, 50)
	copied := bound(signal.ContainerFsAvailable, "", 100, 50)
	inodes := bound(signal.NodeFsInodesFree, "", 100, 0)
	imageFs := bound(signal.ImageFsAvailable, "", 100, 0)
	tests := map[string]struct {
		beside       decide.Bound
		layout       signal.Layout
		after        map[signal.Signal]int64
		compat, dflt bool
	}{
		"back above threshold and minimum reclaim":    {after: map[signal.Signal]int64{nodeFs.Signal: 150}, compat: true, dflt: true},
		"short of the minimum reclaim":                {after: map[signal.Signal]int64{nodeFs.Signal: 149}},
		"not even above the threshold":                {after: map[signal.Signal]int64{nodeFs.Signal: 99}},
		"no reading any more":                         {after: nil, compat: true, dflt: true},
		"the same filesystem by another signal":       {beside: copied, after: map[signal.Signal]int64{nodeFs.Signal: 150, copied.Signal: 149}},
		"memory is short":                             {beside: nodeMemory, after: map[signal.Signal]int64{nodeFs.Signal: 150, nodeMemory.Signal: 99}, dflt: true},
		"memory is short of its minimum reclaim":      {beside: nodeMemory, after: map[signal.Signal]int64{nodeFs.Signal: 150, nodeMemory.Signal: 149}, dflt: true},
		"a soft bound inside its grace period counts": {beside: soft(nodeMemory), after: map[signal.Signal]int64{nodeFs.Signal: 150, nodeMemory.Signal: 99}, dflt: true},
		"a soft bound of the same filesystem counts":  {beside: soft(bound(signal.NodeFsAvailable, "", 200, 0)), after: map[signal.Signal]int64{nodeFs.Signal: 199}},
		"inodes are short":                            {beside: inodes, after: map[signal.Signal]int64{nodeFs.Signal: 150, inodes.Signal: 99}, dflt: true},
		"another filesystem is full": {
			beside: imageFs, layout: splitFs, after: map[signal.Signal]int64{nodeFs.Signal: 150, imageFs.Signal: 99}, dflt: true,
		},
	}
	for name, tc := range tests {
		for compat, want := range map[bool]bool{true: tc.compat, false: tc.dflt} {
			t.Run(name+mode(compat), func(t *testing.T) {
				s := settings(nodeFs)
				if tc.beside.Signal != "" {
					s.Bounds = append(s.Bounds, tc.beside)
				}
				s.Layout, s.Compat = tc.layout, compat
				in := &decide.Input{
					NowNs: now, Workloads: []workload.Workload{full("/u", 10)}, Reclaimed: both,
					Observations: []signal.Observation{observe(nodeFs, 1)},
				}
				for name, available := range tc.after {
					in.AfterReclaim = append(in.AfterReclaim, signal.Observation{Signal: name, Available: available, Capacity: 1000})
				}
				d := decide.Decide(s, &decide.Memory{}, in)
				enough := d.Verdict == decide.Wait && d.Reason == decide.ReasonReclaimed
				if enough != want || !enough && d.Verdict != decide.Evict {
					t.Errorf("%v %q, want enough %v, else an eviction", d.Verdict, d.Reason, want)
				}
			})
		}
	}
}

// Of a split image filesystem nodefs wants dead containers gone and imagefs unused images;
// who did the one has not done the other.
func TestEachFilesystemGetsItsReclaim(t *testing.T) {
	s := settings(bound(signal.NodeFsAvailable, "", 100, 0), bound(signal.ImageFsAvailable, "", 100, 0))
	s.Layout = splitFs
	in := &decide.Input{NowNs: now, Workloads: []workload.Workload{full("/u", 10)}}
	for _, b := range s.Bounds {
		in.Observations = append(in.Observations, observe(b, 1))
	}
	if d := decide.Decide(s, &decide.Memory{}, in); d.Verdict != decide.Reclaim || d.Reclaim != dead {
		t.Fatalf("%v of %+v first, want the reclaim of containers", d.Verdict, d.Reclaim)
	}
	in.Reclaimed, in.AfterReclaim = dead, []signal.Observation{observe(s.Bounds[0], 500), observe(s.Bounds[1], 1)}
	if d := decide.Decide(s, &decide.Memory{}, in); d.Verdict != decide.Reclaim || d.Reclaim != images || d.Bound != 1 {
		t.Fatalf("%v of %+v then, want the reclaim of images", d.Verdict, d.Reclaim)
	}
	in.Reclaimed = both
	if d := decide.Decide(s, &decide.Memory{}, in); d.Verdict != decide.Refuse || d.Reason != decide.ReasonNoCandidate {
		t.Fatalf("%v %q at last, want a refusal: nobody holds images", d.Verdict, d.Reason)
	}
}

// While somebody frees images, or nobody knows who fills the disk, what is due for memory is
// done, be it of less urgency.
func TestADiskThatWaitsHoldsUpNobodyElse(t *testing.T) {
	nodeFs, memory := bound(signal.NodeFsAvailable, "", 100, 0), soft(nodeMemory)
	memory.GracePeriod = 1
	const unknown decide.Reason = "nobody knows who fills it"
	for name, tc := range map[string]struct {
		change  func(*decide.Input)
		verdict decide.Verdict
		reason  decide.Reason
	}{
		"reclaim is under way":          {func(in *decide.Input) { in.Reclaiming = true }, decide.Wait, decide.ReasonReclaiming},
		"it is under way and half done": {func(in *decide.Input) { in.Reclaiming, in.Reclaimed = true, dead }, decide.Wait, decide.ReasonReclaiming},
		"all of it is done": {func(in *decide.Input) {
			in.Reclaiming, in.Reclaimed, in.AfterReclaim = true, both, in.Observations
		}, decide.Evict, decide.ReasonMet},
		"nobody may be evicted for a disk": {func(in *decide.Input) { in.Disk = decide.Hold{Verdict: decide.Refuse, Reason: unknown} }, decide.Refuse, unknown},
		"that goes before reclaim": {func(in *decide.Input) {
			in.Reclaiming, in.Disk = true, decide.Hold{Verdict: decide.Refuse, Reason: unknown}
		}, decide.Refuse, unknown},
		"others go first": {func(in *decide.Input) {
			in.Reclaimed, in.Disk = both, decide.Hold{Verdict: decide.Wait, Reason: decide.ReasonLimits}
		}, decide.Wait, decide.ReasonLimits},
	} {
		s := settings(nodeFs, memory)
		in := &decide.Input{NowNs: now, Workloads: []workload.Workload{full("/u", 10)}, Observations: []signal.Observation{observe(nodeFs, 1)}}
		tc.change(in)
		if d := decide.Decide(s, &decide.Memory{}, in); d.Verdict != tc.verdict || d.Reason != tc.reason || d.Bound != 0 || !d.Met[0] {
			t.Errorf("%s: %v %q of bound %d, want %v %q", name, d.Verdict, d.Reason, d.Bound, tc.verdict, tc.reason)
		}
		in.Observations = append(in.Observations, observe(memory, 1))
		var m decide.Memory
		first := decide.Decide(s, &m, in)
		m.Next(s, in, &first)
		in.NowNs++
		for i := range in.Observations {
			in.Observations[i].Ns = in.NowNs
		}
		if d := decide.Decide(s, &m, in); tc.verdict != decide.Evict && (d.Verdict != decide.Evict || d.Bound != 1) {
			t.Errorf("%s: %v %q of bound %d, want the eviction for memory", name, d.Verdict, d.Reason, d.Bound)
		}
	}
}

// What a dead victim left may be in its containers: they are freed while it is waited for,
// and nobody follows.
func TestReclaimGoesOnWhileAVictimsFilesAreWaitedFor(t *testing.T) {
	s := settings(bound(signal.NodeFsAvailable, "", 100, 0))
	in := decide.Input{
		NowNs: now, Workloads: []workload.Workload{full("/u", 10), full("/v", 10)},
		Observations: []signal.Observation{observe(s.Bounds[0], 1)},
		Dying:        []decide.Dying{{UID: "/u", Cgroup: "/u", Signal: signal.NodeFsAvailable, KilledNs: now - 1, HeldDisk: 1000}},
	}
	for _, step := range []struct {
		done     decide.NodeReclaim
		underWay bool
		want     decide.Verdict
	}{
		{nothing, false, decide.Reclaim}, {nothing, true, decide.Wait}, {both, false, decide.Wait},
	} {
		in.Reclaimed, in.Reclaiming, in.AfterReclaim = step.done, step.underWay, in.Observations
		if d := decide.Decide(s, &decide.Memory{}, &in); d.Verdict != step.want {
			t.Errorf("done %+v, under way %t: %v, want %v", step.done, step.underWay, d.Verdict, step.want)
		}
	}
}

// With images elsewhere nothing can be freed for nodefs, and whom to evict need not be known
// while a dead victim's files are all that is missing.
func TestNoFiguresAreAskedForWhileAVictimsFilesAreWaitedFor(t *testing.T) {
	s := settings(bound(signal.NodeFsAvailable, "", 100, 0))
	s.Layout = dedicatedFs
	in := decide.Input{
		NowNs: now, Workloads: []workload.Workload{full("/u", 10), full("/v", 10)},
		Observations: []signal.Observation{observe(s.Bounds[0], 1)},
		Dying:        []decide.Dying{{UID: "/u", Cgroup: "/u", Signal: signal.NodeFsAvailable, KilledNs: now - 1, HeldDisk: 1000}},
	}
	if d := decide.Decide(s, &decide.Memory{}, &in); d.Verdict != decide.Wait || d.Reason != decide.ReasonCredit {
		t.Errorf("%v (%s), want to wait for the victim's files", d.Verdict, d.Reason)
	}
	in.Dying = nil
	if d := decide.Decide(s, &decide.Memory{}, &in); d.Verdict != decide.Reclaim {
		t.Errorf("without a victim %v, want new figures", d.Verdict)
	}
}

// On one filesystem the signals of all three are about the same bytes: a victim that dies
// for one holds up and credits the others.
func TestOneFilesystemIsOneResource(t *testing.T) {
	tests := map[string]struct {
		layout      signal.Layout
		killedFor   signal.Signal
		bound       signal.Signal
		sameVictims bool
	}{
		"single: imagefs is nodefs":                  {singleFs, signal.NodeFsAvailable, signal.ImageFsAvailable, true},
		"single: containerfs is nodefs":              {singleFs, signal.ContainerFsAvailable, signal.NodeFsAvailable, true},
		"single: inodes too":                         {singleFs, signal.NodeFsInodesFree, signal.ContainerFsInodesFree, true},
		"single: bytes are no inodes":                {singleFs, signal.NodeFsAvailable, signal.NodeFsInodesFree, false},
		"dedicated: containerfs is imagefs":          {dedicatedFs, signal.ImageFsInodesFree, signal.ContainerFsInodesFree, true},
		"dedicated: imagefs is not nodefs":           {dedicatedFs, signal.NodeFsAvailable, signal.ImageFsAvailable, false},
		"split: containerfs is nodefs":               {splitFs, signal.NodeFsInodesFree, signal.ContainerFsInodesFree, true},
		"split: imagefs is not containerfs":          {splitFs, signal.ImageFsAvailable, signal.ContainerFsAvailable, false},
		"memory of the node is memory of a root":     {singleFs, signal.AllocatableMemoryAvailable, signal.MemoryAvailable, true},
		"tasks of a root are tasks of the node":      {singleFs, signal.PIDAvailable, signal.AllocatablePIDAvailable, true},
		"disks are not memory":                       {singleFs, signal.NodeFsAvailable, signal.MemoryAvailable, false},
		"what is no signal of ours is no disk bytes": {singleFs, "yak.available", signal.NodeFsAvailable, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := settings(bound(tc.bound, "", 100, 0))
			s.Layout = tc.layout
			victim := decide.Dying{UID: "old", Cgroup: "/old", Signal: tc.killedFor, KilledNs: now, Populated: true, HeldDisk: 99}
			if r := tc.bound; r.Memory() {
				victim.HeldBytes, victim.HeldDisk = 99, 0
			} else if !r.Disk() {
				victim.HeldTasks, victim.HeldDisk = 99, 0
			}
			if !tc.sameVictims {
				victim.HeldBytes, victim.HeldTasks = 0, 0
			}
			low := []signal.Observation{observe(s.Bounds[0], 1)}
			in := &decide.Input{
				NowNs: now, Observations: low, Workloads: []workload.Workload{full("/u", 10)},
				Dying: []decide.Dying{victim}, Reclaimed: both, AfterReclaim: low,
			}
			reason := func() decide.Reason {
				d := decide.Decide(s, &decide.Memory{}, in)
				if d.Verdict == decide.Evict || d.Verdict == decide.Refuse {
					return ""
				}
				return d.Reason
			}
			running := reason()
			in.Dying[0].Populated = false
			got := []decide.Reason{running, reason()}
			want := []decide.Reason{"", ""}
			if tc.sameVictims {
				want = []decide.Reason{decide.ReasonDying, decide.ReasonCredit}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("while it runs, when it is dead (-want +got):\n%s", diff)
			}
		})
	}
}

// A unit that a soft eviction asked to end: it holds up and credits soft bounds for as long
// as it takes, and a hard one may kill it.
func TestSoftNeverDelaysHard(t *testing.T) {
	hog, small := unit("/hog", 500), unit("/small", 5)
	ending := also(dying("/hog", 500), func(v *decide.Dying) { v.Terminating = true })
	late := also(ending, func(v *decide.Dying) { v.KilledNs = 0 })
	tests := map[string]struct {
		bound  decide.Bound
		dying  decide.Dying
		want   decide.Verdict
		reason decide.Reason
		victim string
	}{
		"a hard bound kills it":                      {nodeMemory, ending, decide.Evict, decide.ReasonMet, "/hog"},
		"a soft bound waits for it":                  {soft(nodeMemory), ending, decide.Wait, decide.ReasonDying, ""},
		"a soft bound waits however long it takes":   {soft(nodeMemory), late, decide.Wait, decide.ReasonDying, ""},
		"a soft bound waits for one that was killed": {soft(nodeMemory), dying("/hog", 0), decide.Wait, decide.ReasonDying, ""},
		"a hard bound waits for one that was killed": {nodeMemory, dying("/hog", 0), decide.Wait, decide.ReasonDying, ""},
		"a soft bound credits one that ends": {
			soft(nodeMemory), also(ending, func(v *decide.Dying) { v.Populated = false }), decide.Wait, decide.ReasonCredit, "",
		},
		"a soft bound takes the next once it is gone, and nothing is held": {
			soft(nodeMemory), also(ending, func(v *decide.Dying) { v.Populated, v.HeldBytes = false, 0 }), decide.Evict, decide.ReasonMet, "/small",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := settings(tc.bound)
			var m decide.Memory
			in := &decide.Input{NowNs: now - 60*second, Observations: []signal.Observation{observe(tc.bound, 90)}}
			in.Observations[0].Ns = 0
			d := decide.Decide(s, &m, in)
			m.Next(s, in, &d)
			in.NowNs, in.Workloads, in.Dying = now, []workload.Workload{hog, small}, []decide.Dying{tc.dying}
			d = decide.Decide(s, &m, in)
			if d.Verdict != tc.want || d.Reason != tc.reason || d.Victim != indexOf(in.Workloads, tc.victim) {
				t.Errorf("%v %q of %d, want %v %q of %q", d.Verdict, d.Reason, d.Victim, tc.want, tc.reason, tc.victim)
			}
		})
	}
}
