package decide_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func derived(b decide.Bound) decide.Bound { return in(b, decide.LaterPasses) }

func in(b decide.Bound, p decide.Passes) decide.Bound {
	b.Passes = p
	return b
}

func TestWithContainerFs(t *testing.T) {
	var (
		nodeFs      = bound(signal.NodeFsAvailable, "", 10, 1)
		nodeInodes  = bound(signal.NodeFsInodesFree, "", 11, 2)
		imageFs     = bound(signal.ImageFsAvailable, "", 12, 3)
		imageInodes = bound(signal.ImageFsInodesFree, "", 13, 4)
		given       = bound(signal.ContainerFsAvailable, "", 99, 99)
		givenInodes = bound(signal.ContainerFsInodesFree, "", 98, 98)
		ofNode      = bound(signal.ContainerFsAvailable, "", 10, 1)
		ofNodeIno   = bound(signal.ContainerFsInodesFree, "", 11, 2)
		ofImage     = bound(signal.ContainerFsAvailable, "", 12, 3)
		ofImageIno  = bound(signal.ContainerFsInodesFree, "", 13, 4)
	)
	minute := func(b decide.Bound) decide.Bound { return grace(b, time.Minute) }
	tests := map[string]struct {
		layout    signal.Layout
		in, added []decide.Bound
		// want is the whole list where it is not in with added behind it.
		want []decide.Bound
	}{
		"one filesystem: those of nodefs": {
			in:    []decide.Bound{nodeFs, imageFs, nodeInodes, imageInodes},
			added: []decide.Bound{derived(ofNode), derived(ofNodeIno)},
		},
		"a dedicated imagefs: those of imagefs": {
			layout: dedicatedFs, in: []decide.Bound{nodeFs, imageFs, nodeInodes, imageInodes},
			added: []decide.Bound{derived(ofImage), derived(ofImageIno)},
		},
		"a split imagefs: those of nodefs": {
			layout: splitFs, in: []decide.Bound{nodeFs, imageFs, nodeInodes, imageInodes},
			added: []decide.Bound{derived(ofNode), derived(ofNodeIno)},
		},
		"split and not dedicated: none": {
			layout: signal.Layout{SplitImageFs: true}, in: []decide.Bound{nodeFs, given},
		},
		"soft ones keep their grace period": {
			in: []decide.Bound{nodeFs, minute(nodeFs)}, added: []decide.Bound{derived(ofNode), derived(minute(ofNode))},
		},
		"what was asked for is overwritten in its place": {
			in:   []decide.Bound{given, nodeFs, minute(given), minute(nodeFs), givenInodes, nodeInodes},
			want: []decide.Bound{ofNode, nodeFs, minute(ofNode), minute(nodeFs), ofNodeIno, nodeInodes},
		},
		"what was asked for is dropped where there is nothing to copy": {
			in: []decide.Bound{imageFs, given, minute(given), givenInodes}, want: []decide.Bound{imageFs},
		},
		"nothing to copy and nothing given": {in: []decide.Bound{nodeMemory, imageFs}},
		"hard and soft of no grace period: the last is copied": {
			in: []decide.Bound{nodeFs, bound(signal.NodeFsAvailable, "", 77, 7)}, added: []decide.Bound{derived(bound(signal.ContainerFsAvailable, "", 77, 7))},
		},
		"two given: the last is overwritten": {
			in: []decide.Bound{given, bound(signal.ContainerFsAvailable, "", 97, 97), nodeFs}, want: []decide.Bound{given, ofNode, nodeFs},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			want := tc.want
			if want == nil {
				want = append(slices.Clone(tc.in), tc.added...)
			}
			in := slices.Clone(tc.in)
			if diff := cmp.Diff(want, decide.WithContainerFs(&decide.Settings{Bounds: in}, tc.layout)); diff != "" {
				t.Errorf("bounds (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.in, in); diff != "" {
				t.Errorf("its argument was changed (-want +got):\n%s", diff)
			}
		})
	}
}

// The kubelet's first pass has taken its list before containerfs's thresholds were derived,
// and the list moves when it grows out of its room.
func TestWhatTheFirstPassSees(t *testing.T) {
	var (
		nodeFs      = bound(signal.NodeFsAvailable, "", 10, 0)
		nodeInodes  = bound(signal.NodeFsInodesFree, "", 10, 0)
		given       = bound(signal.ContainerFsAvailable, "", 99, 0)
		givenInodes = bound(signal.ContainerFsInodesFree, "", 99, 0)
		copied      = bound(signal.ContainerFsAvailable, "", 10, 0)
		copiedIno   = bound(signal.ContainerFsInodesFree, "", 10, 0)
	)
	tests := map[string]struct {
		room     int
		in, want []decide.Bound
	}{
		"given bytes are overwritten before anything grows": {
			in: []decide.Bound{given, nodeFs}, want: []decide.Bound{copied, nodeFs},
		},
		"given inodes are overwritten too late: the list has grown for the bytes": {
			in:   []decide.Bound{givenInodes, nodeInodes},
			want: []decide.Bound{in(givenInodes, decide.FirstPass), nodeInodes, derived(copiedIno)},
		},
		"room for one does for the hard bytes, not for the soft ones": {
			room: 1, in: []decide.Bound{givenInodes, nodeInodes},
			want: []decide.Bound{in(givenInodes, decide.FirstPass), nodeInodes, derived(copiedIno)},
		},
		"room for two does": {
			room: 2, in: []decide.Bound{givenInodes, nodeInodes}, want: []decide.Bound{copiedIno, nodeInodes},
		},
		"what is given takes no room": {
			room: 1, in: []decide.Bound{given, givenInodes, nodeInodes, nodeFs}, want: []decide.Bound{copied, copiedIno, nodeInodes, nodeFs},
		},
		"nothing to copy: what was given is seen once": {
			in: []decide.Bound{givenInodes, nodeFs}, want: []decide.Bound{in(givenInodes, decide.FirstPass), nodeFs, derived(copied)},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &decide.Settings{Compat: true, Room: tc.room, Bounds: tc.in}
			if diff := cmp.Diff(tc.want, decide.WithContainerFs(s, singleFs)); diff != "" {
				t.Errorf("bounds (-want +got):\n%s", diff)
			}
		})
	}
}

// A bound in its passes: containerfs.available < 100, minimum reclaim 50, DiskPressure with it.
func TestBoundInItsPasses(t *testing.T) {
	given := bound(signal.ContainerFsAvailable, "", 100, 50)
	tests := map[string]struct {
		compat    bool
		bound     decide.Bound
		available []int64
		want      []bool
	}{
		"any pass":                                    {true, given, []int64{1, 1, 1}, []bool{true, true, true}},
		"later passes":                                {true, derived(given), []int64{1, 1, 1}, []bool{false, true, true}},
		"later passes, by default: any":               {false, derived(given), []int64{1, 1, 1}, []bool{true, true, true}},
		"later passes, not held by the first":         {true, derived(given), []int64{1, 120, 1}, []bool{false, false, true}},
		"the first pass, not met again":               {true, in(given, decide.FirstPass), []int64{150, 1, 1}, []bool{false, false, false}},
		"the first pass, held by its minimum reclaim": {true, in(given, decide.FirstPass), []int64{1, 149, 1, 150, 1}, []bool{true, true, true, false, false}},
		"the first pass, soft: not due, not held":     {true, in(soft(given), decide.FirstPass), []int64{1, 1, 1}, []bool{true, false, false}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := settings(tc.bound)
			s.Compat, s.TransitionPeriod = tc.compat, 1
			var m decide.Memory
			for i, available := range tc.available {
				in := &decide.Input{NowNs: now + uint64(i), Observations: []signal.Observation{observe(tc.bound, available)}}
				in.Observations[0].Ns = in.NowNs
				d := decide.Decide(s, &m, in)
				if d.Met[0] != tc.want[i] || d.Conditions.DiskPressure != tc.want[i] {
					t.Errorf("pass %d: met %v, DiskPressure %v, want %v", i, d.Met[0], d.Conditions.DiskPressure, tc.want[i])
				}
				m.Next(s, in, &d)
			}
		})
	}
}

// The re-check after node-level reclaim has the derived bounds even in the first pass, and
// not those that they overwrote.
func TestDerivedBoundAfterReclaimInTheFirstPass(t *testing.T) {
	nodeFs := bound(signal.NodeFsAvailable, "", 100, 0)
	copied := derived(bound(signal.ContainerFsAvailable, "", 100, 0))
	s := settings(nodeFs, copied, in(bound(signal.ContainerFsAvailable, "", 900, 0), decide.FirstPass))
	s.Compat = true
	for available, want := range map[int64]decide.Verdict{99: decide.Evict, 100: decide.Wait} {
		d := decide.Decide(s, &decide.Memory{}, &decide.Input{
			NowNs: now, Workloads: []workload.Workload{full("/u", 10)}, Reclaimed: both,
			Observations: []signal.Observation{observe(nodeFs, 1), observe(copied, 1)},
			AfterReclaim: []signal.Observation{observe(nodeFs, 500), observe(copied, available)},
		})
		if d.Verdict != want {
			t.Errorf("containerfs at %d: %v %q, want %v", available, d.Verdict, d.Reason, want)
		}
	}
}
