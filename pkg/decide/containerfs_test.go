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

func derived(b decide.Bound) decide.Bound {
	b.Derived = true
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
			if diff := cmp.Diff(want, decide.WithContainerFs(in, tc.layout)); diff != "" {
				t.Errorf("bounds (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.in, in); diff != "" {
				t.Errorf("its argument was changed (-want +got):\n%s", diff)
			}
		})
	}
}

// The kubelet goes through its first pass with the list it had before it derived anything.
func TestDerivedBoundInTheFirstPass(t *testing.T) {
	nodeFs := bound(signal.NodeFsAvailable, "", 100, 0)
	given := bound(signal.ContainerFsAvailable, "", 100, 0)
	tests := map[string]struct {
		compat        bool
		bound         decide.Bound
		first, second bool
	}{
		"derived, compat":  {true, derived(given), false, true},
		"derived, default": {false, derived(given), true, true},
		"given, compat":    {true, given, true, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := settings(nodeFs, tc.bound)
			s.Compat = tc.compat
			s.TransitionPeriod = time.Minute
			var m decide.Memory
			in := &decide.Input{NowNs: now, Observations: []signal.Observation{observe(tc.bound, 1)}}
			first := decide.Decide(s, &m, in)
			m.Next(s, in, &first)
			in.NowNs++
			second := decide.Decide(s, &m, in)
			got := []bool{first.Met[1], first.Conditions.DiskPressure, second.Met[1], second.Conditions.DiskPressure}
			if diff := cmp.Diff([]bool{tc.first, tc.first, tc.second, tc.second}, got); diff != "" {
				t.Errorf("met and DiskPressure in the first and second pass (-want +got):\n%s", diff)
			}
		})
	}
}

// The re-check after node-level reclaim has the derived bounds even in the first pass.
func TestDerivedBoundAfterReclaimInTheFirstPass(t *testing.T) {
	nodeFs := bound(signal.NodeFsAvailable, "", 100, 0)
	copied := derived(bound(signal.ContainerFsAvailable, "", 100, 0))
	s := settings(nodeFs, copied)
	s.Compat = true
	d := decide.Decide(s, &decide.Memory{}, &decide.Input{
		NowNs: now, Workloads: []workload.Workload{full("/u", 10)}, Reclaimed: both,
		Observations: []signal.Observation{observe(nodeFs, 1), observe(copied, 1)},
		AfterReclaim: []signal.Observation{observe(nodeFs, 500), observe(copied, 1)},
	})
	if d.Verdict != decide.Evict {
		t.Errorf("%v %q, want an eviction: containerfs is still short", d.Verdict, d.Reason)
	}
}
