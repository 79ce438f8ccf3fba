package decide_test

import (
	"math"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Beside a unit that holds 100 there is one whose writable layer is not known.
func TestNobodyDiesInThePlaceOfAnUnmeasuredUnit(t *testing.T) {
	const none = workload.NoData
	unmeasured := func(bytes, inodes int64) func(*workload.Workload) {
		return func(w *workload.Workload) { w.Usage.Unmeasured = &workload.FsUsage{Bytes: bytes, Inodes: inodes} }
	}
	logs := func(bytes int64) workload.Workload { return disk("unknown", 0, 0, none, bytes, 0) }
	nodeFs := bound(signal.NodeFsAvailable, "", 100, 0)
	tests := map[string]struct {
		unknown workload.Workload
		// by is the threshold, nodefs.available where it is not given.
		by     decide.Bound
		layout signal.Layout
		// refused without compat; with it nobody is, as in the kubelet.
		refused bool
	}{
		"nobody asked what it can have filled":              {unknown: logs(0)},
		"it can have filled anything":                       {unknown: with(logs(0), unmeasured(math.MaxInt64, 0)), refused: true},
		"nothing at all is known of it":                     {unknown: with(noStats("unknown", 0, 0), unmeasured(math.MaxInt64, 0)), refused: true},
		"it has written nothing":                            {unknown: with(logs(0), unmeasured(0, math.MaxInt64))},
		"it has written less than the other holds":          {unknown: with(logs(0), unmeasured(99, 0))},
		"it has written more":                               {unknown: with(logs(0), unmeasured(101, 0)), refused: true},
		"what is known of it counts as well":                {unknown: with(logs(60), unmeasured(41, 0)), refused: true},
		"it has written nothing, and is known to hold more": {unknown: with(logs(101), unmeasured(0, 0)), refused: true},
		"it would come later, by its priority": {
			unknown: with(logs(0), func(w *workload.Workload) { unmeasured(math.MaxInt64, 0)(w); w.Priority = 1 }),
		},
		"it is below what it asked for all the same": {
			unknown: with(logs(0), func(w *workload.Workload) { unmeasured(500, 0)(w); w.EphemeralStorageRequestBytes = 500 }),
		},
		"it is spared": {
			unknown: with(logs(0), func(w *workload.Workload) { unmeasured(math.MaxInt64, 0)(w); w.Protected = "no process" }),
		},
		"nobody is in it any more": {
			unknown: with(logs(0), func(w *workload.Workload) { unmeasured(math.MaxInt64, 0)(w); w.Usage.Tasks = 0 }),
		},
		"inodes are short, and it made none": {
			unknown: with(logs(0), unmeasured(math.MaxInt64, 0)), by: bound(signal.NodeFsInodesFree, "", 100, 0),
		},
		"inodes are short, and it can have made any": {
			unknown: with(logs(0), unmeasured(0, math.MaxInt64)), by: bound(signal.NodeFsInodesFree, "", 100, 0), refused: true,
		},
		"what is not known lies elsewhere": {unknown: with(logs(0), unmeasured(math.MaxInt64, 0)), layout: dedicatedFs},
		"memory is short":                  {unknown: with(logs(0), unmeasured(math.MaxInt64, 0)), by: nodeMemory},
	}
	for name, tc := range tests {
		for _, compat := range []bool{true, false} {
			t.Run(name+mode(compat), func(t *testing.T) {
				if tc.by.Signal == "" {
					tc.by = nodeFs
				}
				s := settings(tc.by)
				s.Layout, s.Compat = tc.layout, compat
				holder := full("/holder", 0)
				holder.Usage.WorkingSetBytes = 100
				holder.Usage.Disk.Logs = workload.FsUsage{Bytes: 100, Inodes: 100}
				in := &decide.Input{
					NowNs: now, Workloads: []workload.Workload{holder, tc.unknown}, Reclaimed: both,
					Observations: []signal.Observation{observe(tc.by, 1)}, AfterReclaim: []signal.Observation{observe(tc.by, 1)},
				}
				d := decide.Decide(s, &decide.Memory{}, in)
				switch {
				case compat && d.Verdict != decide.Evict, !compat && !tc.refused && (d.Verdict != decide.Evict || d.Victim != 0):
					t.Errorf("%v %q of %d, want an eviction", d.Verdict, d.Reason, d.Victim)
				case !compat && tc.refused && (d.Verdict != decide.Refuse || d.Reason != decide.ReasonUnmeasured || d.Victim != -1 || d.Unmeasured != 1):
					t.Errorf("%v %q of %d, about %d; want a refusal about 1", d.Verdict, d.Reason, d.Victim, d.Unmeasured)
				}
				if !tc.refused {
					return
				}
				in.Dying = []decide.Dying{{UID: tc.unknown.UID, Cgroup: tc.unknown.Cgroup, Signal: tc.by.Signal, KilledNs: 1}}
				if d := decide.Decide(s, &decide.Memory{}, in); d.Verdict != decide.Evict || d.Victim != 0 {
					t.Errorf("%v %q, want an eviction: the unknown one is dead", d.Verdict, d.Reason)
				}
			})
		}
	}
}
