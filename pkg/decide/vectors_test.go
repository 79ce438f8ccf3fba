package decide_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

var (
	singleFs    = signal.Layout{}
	dedicatedFs = signal.Layout{DedicatedImageFs: true}
	splitFs     = signal.Layout{DedicatedImageFs: true, SplitImageFs: true}
)

// procs makes a unit of as many processes as tasks.
func procs(name string, priority int32, n int64) workload.Workload {
	w := pid(name, priority, n)
	w.Usage.Processes = n
	return w
}

// noStats is a unit of which nothing is known.
func noStats(name string, priority int32, request int64) workload.Workload {
	w := mem(name, priority, request, workload.NoData)
	w.Usage = workload.NoUsage
	return w
}

// disk makes a unit of bytes and a request of ephemeral storage.
func disk(name string, priority int32, request, rootfs, logs, localVolumes int64) workload.Workload {
	w := noStats(name, priority, 0)
	w.EphemeralStorageRequestBytes = request
	d := workload.NoDiskUsage
	d.Rootfs.Bytes, d.Logs.Bytes, d.LocalVolumes.Bytes = rootfs, logs, localVolumes
	w.Usage.Disk = &d
	return w
}

// inodes makes a unit of inodes, in logs, and a request of ephemeral storage in bytes.
func inodes(name string, priority int32, request, n int64) workload.Workload {
	w := disk(name, priority, request, workload.NoData, workload.NoData, workload.NoData)
	w.Usage.Disk.Rootfs.Inodes, w.Usage.Disk.Logs.Inodes, w.Usage.Disk.LocalVolumes.Inodes = 0, n, 0
	return w
}

var (
	v16 = []workload.Workload{disk("a", 0, 100, 30, 10, 0), disk("b", 0, 0, 5, 5, 20), disk("c", 0, 100, 200, 0, 0)}
	v19 = []workload.Workload{disk("a", 0, 100, 30, 10, 0), disk("b", 0, 0, 5, 5, 20), disk("c", -3, 100, 200, 0, 0)}
)

// vector is a ranking: uids, first victim first, "-" before one that is not evictable.
type vector struct {
	signal signal.Signal
	layout signal.Layout
	ws     []workload.Workload
	// compat is the kubelet's order, dflt ours; nil where they are the same.
	compat, dflt []string
}

// The ranking vectors, with the kubelet's answer and, where it differs on purpose, ours.
var vectors = map[string]vector{
	"V1: QoS emerges from requests": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("guar", 0, 1000, 950), mem("burst-under", 0, 500, 400), mem("burst-over", 0, 100, 300), mem("be", 0, 0, 250)},
		compat: []string{"be", "burst-over", "guar", "burst-under"},
	},
	"V2: over the request outranks priority": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("lo-under", -10, 500, 499), mem("hi-over", 1000, 100, 101)},
		compat: []string{"hi-over", "lo-under"},
	},
	"V3: priority outranks the amount": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("hi-huge", 100, 0, 9000), mem("lo-tiny", 0, 0, 10)},
		compat: []string{"lo-tiny", "hi-huge"},
	},
	"V4: the amount is usage less request": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("big", 0, 4000, 4100), mem("small", 0, 10, 400)},
		compat: []string{"small", "big"},
	},
	"V5: usage equal to the request is not over": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("eq", 0, 300, 300), mem("over1", 9, 299, 300)},
		compat: []string{"over1", "eq"},
	},
	"V6: nobody over: priority, then least headroom": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("a", 0, 1000, 100), mem("b", 0, 1000, 900), mem("c", 5, 1000, 999)},
		compat: []string{"b", "a", "c"},
	},
	"V7: without statistics first in the kubelet, never by default": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{noStats("nostats", 1000000, 100), mem("over", 0, 0, 5000)},
		compat: []string{"nostats", "over"},
		dflt:   []string{"over", "-nostats"},
	},
	"V8: two without statistics: priority decides": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{noStats("ns-hi", 10, 0), noStats("ns-lo", 1, 0), mem("over", 0, 0, 5000)},
		compat: []string{"ns-lo", "ns-hi", "over"},
		dflt:   []string{"over", "-ns-lo", "-ns-hi"},
	},
	"V9: negative priority before none before positive": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("p7", 7, 0, 50), mem("nil", 0, 0, 50), mem("neg", -5, 0, 50)},
		compat: []string{"neg", "nil", "p7"},
	},
	"V10: an init container's request counts": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("with-init", 0, 800, 700), mem("plain", 0, 200, 250)},
		compat: []string{"plain", "with-init"},
	},
	"V11: overhead is part of a request": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("kata", 0, 400, 380), mem("kata-be", 0, 0, 90)},
		compat: []string{"kata-be", "kata"},
	},
	"V12: a request of the pod's own replaces the containers'": {
		signal: signal.MemoryAvailable,
		ws: []workload.Workload{
			with(mem("podlevel", 0, 600, 500), func(w *workload.Workload) { w.PodLevelRequest = true }), mem("cont", 0, 450, 460),
		},
		compat: []string{"cont", "podlevel"},
	},
	"V13: all three keys": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("A", 0, 100, 150), mem("B", 0, 100, 400), mem("C", 10, 0, 9999), mem("D", -1, 500, 100), mem("E", 0, 500, 480)},
		compat: []string{"B", "A", "C", "D", "E"},
	},
	"V14: priority, then number": {
		signal: signal.PIDAvailable,
		ws:     []workload.Workload{procs("x", 0, 50), procs("y", 0, 4000), procs("z", -1, 3), procs("w", 9, 30000)},
		compat: []string{"z", "y", "x", "w"},
	},
	"V14 of threads: the kubelet counts processes, we count tasks": {
		signal: signal.PIDAvailable,
		ws: []workload.Workload{
			with(procs("threads", 0, 30000), func(w *workload.Workload) { w.Usage.Processes = 1 }), procs("processes", 0, 50),
		},
		compat: []string{"processes", "threads"},
		dflt:   []string{"threads", "processes"},
	},
	"V15: missing statistics matter inside one priority": {
		signal: signal.PIDAvailable,
		ws:     []workload.Workload{noStats("ns-hi", 10, 0), procs("lo", 0, 5), noStats("ns-lo", 0, 0)},
		compat: []string{"ns-lo", "lo", "ns-hi"},
		dflt:   []string{"lo", "-ns-lo", "-ns-hi"},
	},
	"V16: one filesystem: everything counts": {
		signal: signal.NodeFsAvailable, ws: v16,
		compat: []string{"c", "b", "a"},
	},
	"V17: nodefs beside a dedicated imagefs: no writable layers": {
		signal: signal.NodeFsAvailable, layout: dedicatedFs, ws: v16,
		compat: []string{"b", "a", "c"},
		dflt:   []string{"b", "a", "-c"}, // which holds nothing there
	},
	"V18: a dedicated imagefs: writable layers alone": {
		signal: signal.ImageFsAvailable, layout: dedicatedFs, ws: v16,
		compat: []string{"c", "b", "a"},
	},
	"V19: a split imagefs: nothing counts, so priority and the smallest request": {
		signal: signal.ImageFsAvailable, layout: splitFs, ws: v19,
		compat: []string{"c", "b", "a"},
		dflt:   []string{"-c", "-b", "-a"}, // nobody holds images
	},
	"V20: inodes less bytes in the kubelet, inodes alone by default": {
		signal: signal.NodeFsInodesFree,
		ws:     []workload.Workload{inodes("many-with-req", 0, 1<<30, 500000), inodes("few-no-req", 0, 0, 20), inodes("zero", 0, 0, 0)},
		compat: []string{"few-no-req", "many-with-req", "zero"},
		dflt:   []string{"many-with-req", "few-no-req", "-zero"},
	},
	"V21: inodes: priority is still second": {
		signal: signal.NodeFsInodesFree,
		ws:     []workload.Workload{inodes("hi", 100, 0, 999999), inodes("lo", 0, 0, 1)},
		compat: []string{"lo", "hi"},
	},
	"V22: a critical pod is ranked first and passed over": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("app", 5, 1000, 10), mem("crit", workload.CriticalPriority, 0, 900)},
		compat: []string{"-crit", "app"},
	},
	"V23: a static pod over its request is passed over": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{with(mem("st", 0, 0, 900), func(w *workload.Workload) { w.Static = true }), mem("n", 0, 9, 1)},
		compat: []string{"-st", "n"},
	},
}

// What the vectors leave open.
var moreVectors = map[string]vector{
	"allocatable memory ranks as memory": {
		signal: signal.AllocatableMemoryAvailable,
		ws:     []workload.Workload{mem("under", -1, 10, 9), mem("over", 9, 10, 11)},
		compat: []string{"over", "under"},
	},
	"a mirror pod is passed over": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{with(mem("m", 0, 0, 900), func(w *workload.Workload) { w.Mirror = true }), mem("n", 0, 9, 1)},
		compat: []string{"-m", "n"},
	},
	"one below critical is evicted": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("almost", workload.CriticalPriority-1, 0, 900), mem("n", 0, 9, 1)},
		compat: []string{"almost", "n"},
	},
	"ties go by uid": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("c", 0, 0, 5), mem("B", 0, 0, 5), mem("a", 0, 0, 5)},
		compat: []string{"B", "a", "c"},
	},
	"ties without statistics go by uid": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{noStats("b", 0, 5), noStats("a", 0, 500)},
		compat: []string{"a", "b"},
		dflt:   []string{"-a", "-b"},
	},
	"one missing figure beside others is zero to the kubelet": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{procs("unmeasured", -9, 5), mem("over", 0, 0, 1), mem("under", 0, 5, 1)},
		compat: []string{"over", "unmeasured", "under"},
		dflt:   []string{"over", "under", "-unmeasured"},
	},
	"no number of processes beside others is zero to the kubelet": {
		signal: signal.PIDAvailable,
		ws:     []workload.Workload{mem("unmeasured", 0, 0, 5), procs("one", 0, 1)},
		compat: []string{"one", "unmeasured"},
		dflt:   []string{"one", "-unmeasured"},
	},
	"one missing part of the disk is zero to the kubelet": {
		signal: signal.NodeFsAvailable,
		ws:     []workload.Workload{disk("no-logs", 0, 0, 5, workload.NoData, 5), disk("known", 0, 0, 1, 1, 1)},
		compat: []string{"no-logs", "known"},
		dflt:   []string{"known", "-no-logs"},
	},
	"a missing part that does not count is not missed": {
		signal: signal.ImageFsAvailable, layout: dedicatedFs,
		ws:     []workload.Workload{disk("no-logs", 0, 0, 5, workload.NoData, workload.NoData), disk("known", 0, 0, 1, 1, 1)},
		compat: []string{"no-logs", "known"},
	},
	"no disk figures at all, beside others": {
		signal: signal.NodeFsAvailable,
		ws:     []workload.Workload{mem("unmeasured", -1, 0, 5), disk("known", 0, 0, 1, 1, 1)},
		compat: []string{"known", "unmeasured"},
		dflt:   []string{"known", "-unmeasured"},
	},
	"no storage request of a pod with requests of its own, to the kubelet": {
		signal: signal.NodeFsAvailable,
		ws: []workload.Workload{
			with(disk("own", 0, 100, 50, 0, 0), func(w *workload.Workload) { w.PodLevelRequest = true }), disk("other", 0, 0, 10, 0, 0),
		},
		compat: []string{"own", "other"},
		dflt:   []string{"other", "own"},
	},
	"storage use equal to the request is not over": {
		signal: signal.NodeFsAvailable,
		ws:     []workload.Workload{disk("eq", -1, 3, 1, 1, 1), disk("over", 0, 2, 1, 1, 1)},
		compat: []string{"over", "eq"},
	},
	"marks: never holds in both, first by default": {
		signal: signal.MemoryAvailable,
		ws: []workload.Workload{
			with(mem("first", 9, 500, 1), func(w *workload.Workload) { w.Evict = "first" }),
			with(mem("never", 0, 0, 99), func(w *workload.Workload) { w.Evict = "never" }), mem("hog", 0, 0, 9),
		},
		compat: []string{"-never", "hog", "first"},
		dflt:   []string{"first", "-never", "hog"},
	},
	"marked first for pids": {
		signal: signal.PIDAvailable,
		ws:     []workload.Workload{with(procs("first", 9, 1), func(w *workload.Workload) { w.Evict = "first" }), procs("bomb", 0, 999)},
		compat: []string{"bomb", "first"},
		dflt:   []string{"first", "bomb"},
	},
	"the protected are passed over in both": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{with(mem("agent", 0, 0, 99), func(w *workload.Workload) { w.Protected = "the agent itself" }), mem("hog", 0, 0, 9)},
		compat: []string{"-agent", "hog"},
	},
	"who holds nothing is killed by the kubelet alone": {
		signal: signal.MemoryAvailable,
		ws:     []workload.Workload{mem("idle", 0, 0, 0)},
		compat: []string{"idle"},
		dflt:   []string{"-idle"},
	},
}

func TestRankVectors(t *testing.T)     { checkVectors(t, vectors) }
func TestRankMoreVectors(t *testing.T) { checkVectors(t, moreVectors) }

func checkVectors(t *testing.T, vs map[string]vector) {
	for name, v := range vs {
		if v.dflt == nil {
			v.dflt = v.compat
		}
		for compat, want := range map[bool][]string{true: v.compat, false: v.dflt} {
			t.Run(name+mode(compat), func(t *testing.T) {
				s := settings(bound(v.signal, "", 100, 0))
				s.Layout, s.Compat = v.layout, compat
				checkRank(t, s, v.ws, want)
			})
		}
	}
}

// Which parts of a unit's disk count for a signal: 1 is the writable layers, 10 the logs,
// 100 the local volumes.
func TestWhatCountsOnEachFilesystem(t *testing.T) {
	tests := map[string]struct {
		layout                       signal.Layout
		nodeFs, imageFs, containerFs int64
	}{
		"one filesystem":              {singleFs, 111, 111, 111},
		"a dedicated imagefs":         {dedicatedFs, 110, 1, 1},
		"a split imagefs":             {splitFs, 111, 0, 111},
		"split and not dedicated: no": {signal.Layout{SplitImageFs: true}, 111, 111, 111},
	}
	w := noStats("u", 0, 0)
	w.Usage.Disk = &workload.DiskUsage{
		Rootfs: workload.FsUsage{Bytes: 1, Inodes: 2}, Logs: workload.FsUsage{Bytes: 10, Inodes: 20},
		LocalVolumes: workload.FsUsage{Bytes: 100, Inodes: 200}, UsedBytes: 9999,
	}
	for name, tc := range tests {
		for _, compat := range []bool{true, false} {
			t.Run(name+mode(compat), func(t *testing.T) {
				s := &decide.Settings{Layout: tc.layout, Compat: compat}
				got := map[signal.Signal]int64{}
				for _, name := range signal.Names() {
					if name.Disk() {
						got[name] = s.Use(&decide.Bound{Threshold: signal.Threshold{Signal: name}}, &w)
					}
				}
				want := map[signal.Signal]int64{
					signal.NodeFsAvailable: tc.nodeFs, signal.NodeFsInodesFree: 2 * tc.nodeFs,
					signal.ImageFsAvailable: tc.imageFs, signal.ImageFsInodesFree: 2 * tc.imageFs,
					signal.ContainerFsAvailable: tc.containerFs, signal.ContainerFsInodesFree: 2 * tc.containerFs,
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("counted (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// Usages whose sum leaves 64 bits stay the largest, or the smallest.
func TestUsageDoesNotWrapAround(t *testing.T) {
	s := settings(nodeMemory)
	checkRank(t, s, []workload.Workload{mem("absurd", 0, 1<<63-1, -7), mem("small", 0, 9, 1)}, []string{"small", "-absurd"})
	s = settings(bound(signal.NodeFsAvailable, "", 100, 0))
	checkRank(t, s, []workload.Workload{disk("negative", 0, 0, -1<<62, -1<<62, -1<<62), disk("small", 0, 0, 1, 1, 1)}, []string{"small", "-negative"})
	checkRank(t, s, []workload.Workload{disk("small", 0, 0, 1, 1, 1), disk("absurd", 0, 0, 1<<62, 1<<62, 1<<62)}, []string{"absurd", "small"})
}

// A signal that is no signal of ours ranks by priority and kills nobody.
func TestSignalWithoutResource(t *testing.T) {
	s := settings(bound("yak.available", "", 100, 0))
	checkRank(t, s, []workload.Workload{full("/b", 1), with(full("/a", 1), func(w *workload.Workload) { w.Priority = 1 })}, []string{"-/b/b", "-/a/a"})
}
