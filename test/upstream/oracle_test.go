package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// These tests are about this program's own part, the translation of snapshots into what the
// kubelet reads: they hold it against orders and times worked out by hand.

// p is a workload in one line: what the signal reads of it.
type p struct {
	uid      string
	priority int32
	request  int64
	use      int64 // -1: no stats
	rootfs   int64
	logs     int64
	volumes  int64
	static   bool
	podLevel int64
}

func (x p) workload(signal string) Workload {
	w := Workload{UID: x.uid, Name: x.uid, Priority: &x.priority, Static: x.static}
	w.Memory, w.EphemeralStorage, w.Inodes = &Memory{}, &EphemeralStorage{}, &Inodes{}
	switch {
	case strings.Contains(signal, "emory"):
		w.Memory = &Memory{RequestBytes: &x.request, WorkingSetBytes: &x.use}
		if x.podLevel > 0 {
			w.Memory.PodLevelRequestBytes = &x.podLevel
		}
	case signal == "pid.available":
		w.Processes = &x.use
	case strings.HasSuffix(signal, ".available"):
		w.EphemeralStorage = &EphemeralStorage{RequestBytes: &x.request, RootfsBytes: &x.rootfs, LogsBytes: &x.logs, LocalVolumesBytes: &x.volumes}
	default:
		w.EphemeralStorage.RequestBytes, w.Inodes.Rootfs = &x.request, &x.use
	}
	if x.use < 0 {
		w.Memory.WorkingSetBytes, w.Processes, w.Inodes = nil, nil, nil
	}
	return w
}

func TestRankOrders(t *testing.T) {
	disk := []p{
		{uid: "a", request: 100, rootfs: 30, logs: 10},
		{uid: "b", rootfs: 5, logs: 5, volumes: 20},
		{uid: "c", request: 100, rootfs: 200},
	}
	for name, c := range map[string]struct {
		signal string
		layout Layout
		pods   []p
		want   string
	}{
		"over request, then priority, then excess": {"memory.available", singleFs, []p{
			{uid: "a", request: 100, use: 150}, {uid: "b", request: 100, use: 400}, {uid: "c", priority: 10, use: 9999},
			{uid: "d", priority: -1, request: 500, use: 100}, {uid: "e", request: 500, use: 480}}, "b a c d e"},
		"equal to the request is not over it": {"memory.available", singleFs, []p{
			{uid: "eq", request: 300, use: 300}, {uid: "over", request: 299, use: 300}}, "over eq"},
		"without stats first": {"allocatableMemory.available", singleFs, []p{
			{uid: "over", use: 5000}, {uid: "none", priority: 1000000, request: 100, use: -1}}, "none over"},
		"pod-level request": {"memory.available", singleFs, []p{
			{uid: "pod", request: 600, podLevel: 600, use: 500}, {uid: "cont", request: 450, use: 460}}, "cont pod"},
		"static is not evictable": {"memory.available", singleFs, []p{
			{uid: "n", request: 9, use: 1}, {uid: "s", static: true, use: 900}}, "s! n"},
		"critical by priority": {"memory.available", singleFs, []p{
			{uid: "app", priority: 5, request: 1000, use: 10}, {uid: "crit", priority: 2000000000, use: 900}}, "crit! app"},
		"processes inside a priority": {"pid.available", singleFs, []p{
			{uid: "x", use: 50}, {uid: "y", use: 4000}, {uid: "z", priority: -1, use: 3}, {uid: "w", priority: 9, use: 30000}}, "z y x w"},
		"nodefs, single":   {"nodefs.available", singleFs, disk, "c b a"},
		"nodefs, imagefs":  {"nodefs.available", imageFs, disk, "b a c"},
		"imagefs, imagefs": {"imagefs.available", imageFs, disk, "c b a"},
		"imagefs, split": {"imagefs.available", splitFs, []p{
			disk[0], disk[1], {uid: "c", priority: -3, request: 100, rootfs: 200}}, "c b a"},
		"inodes less the request in bytes": {"nodefs.inodesFree", singleFs, []p{
			{uid: "many", request: 1 << 30, use: 500000}, {uid: "few", use: 20}, {uid: "zero"}}, "few many zero"},
		"full ties by uid": {"memory.available", singleFs, []p{
			{uid: "c", use: 5}, {uid: "a", use: 5}, {uid: "b", use: 5}}, "a b c"},
	} {
		t.Run(name, func(t *testing.T) {
			r := RankCase{Config: "compat: kubelet\n", Signal: c.signal, Snapshot: Snapshot{Layout: &c.layout}}
			for _, pod := range c.pods {
				r.Snapshot.Workloads = append(r.Snapshot.Workloads, pod.workload(c.signal))
			}
			if err := answerRank(&r); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, ranked := range r.Answer.Ranked {
				got = append(got, ranked.UID+map[bool]string{false: "!"}[ranked.Evictable])
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
		})
	}
}

// replayOf runs snapshots through a configuration and returns the first answers.
func replayOf(t *testing.T, config string, snapshots ...Snapshot) []Line {
	t.Helper()
	c := ReplayCase{Config: "compat: kubelet\n" + config, Snapshots: snapshots}
	for i := range c.Snapshots {
		c.Snapshots[i].TimeText = c.Snapshots[i].Time.Format(timeFormat)
	}
	if err := answerReplay(&c); err != nil {
		t.Fatal(err)
	}
	if c.Rejected != "" {
		t.Fatal(c.Rejected)
	}
	var lines []Line
	for _, a := range c.Answers {
		lines = append(lines, a[0])
	}
	return lines
}

func memoryAt(seconds int, available int64, workloads ...Workload) Snapshot {
	now := start.Add(time.Duration(seconds) * time.Second)
	o := observe("memory.available", available, 1000)
	o.Time = &now
	return Snapshot{Time: now, Signals: Signals{"memory.available": o}, Workloads: workloads}
}

func TestStatesOverTime(t *testing.T) {
	const transition = "evictionPressureTransitionPeriod: 300s\nenforceNodeAllocatable: [none]\n"
	hard := transition + "evictionHard: {memory.available: \"100\"}\nevictionMinimumReclaim: {memory.available: \"50\"}\n"
	soft := transition + "evictionHard: {}\nevictionSoft: {memory.available: \"100\"}\n" +
		"evictionSoftGracePeriod: {memory.available: 30s}\nevictionMinimumReclaim: {memory.available: \"50\"}\n"
	for name, c := range map[string]struct {
		config string
		steps  [][2]int // second, available
		want   string   // A: acted, C: condition, -: nothing
	}{
		"hard, held, transition": {hard, [][2]int{{0, 100}, {10, 99}, {20, 120}, {30, 150}, {319, 500}, {320, 500}}, "- AC AC C C -"},
		"soft, grace":            {soft, [][2]int{{0, 90}, {29, 90}, {30, 90}}, "C C AC"},
		"soft, timer restarted":  {soft, [][2]int{{0, 90}, {10, 110}, {20, 90}, {49, 90}, {50, 90}}, "C C C C AC"},
	} {
		t.Run(name, func(t *testing.T) {
			var snapshots []Snapshot
			for _, step := range c.steps {
				snapshots = append(snapshots, memoryAt(step[0], int64(step[1])))
			}
			var got []string
			for _, line := range replayOf(t, c.config, snapshots...) {
				s := map[bool]string{true: "A"}[line.Acted != nil] + map[bool]string{true: "C"}[line.Conditions["MemoryPressure"]]
				got = append(got, map[bool]string{true: "-", false: s}[s == ""])
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
		})
	}
}

func TestStaleStampIsNotActedOn(t *testing.T) {
	first, second := memoryAt(0, 10), memoryAt(10, 10)
	second.Signals = first.Signals
	lines := replayOf(t, "evictionHard: {memory.available: \"100\"}\n", first, second)
	if lines[0].Acted == nil || lines[1].Acted != nil || !lines[1].Conditions["MemoryPressure"] || len(lines[1].ThresholdsMet) != 1 {
		t.Errorf("got %+v", lines)
	}
}

func TestMessageAndGrace(t *testing.T) {
	w := p{uid: "b", use: 300 << 20, request: 100 << 20}.workload("memory.available")
	w.TerminationGracePeriodSeconds = ptr(int64(20))
	w.Containers = []Container{
		{Name: "app", MemoryWorkingSetBytes: ptr(int64(250 << 20)), MemoryRequestBytes: ptr(int64(100 << 20))},
		{Name: "quiet", MemoryWorkingSetBytes: ptr(int64(0))},
	}
	const soft = "evictionHard: {}\nevictionSoft: {memory.available: 50%}\nevictionSoftGracePeriod: {memory.available: 1s}\n" +
		"evictionMaxPodGracePeriod: 60\n"
	got := replayOf(t, soft, memoryAt(0, 400, w), memoryAt(1, 400, w))[1].Victims
	want := []Victim{{"b", 20, "Evicted", "The node was low on resource: memory. Threshold quantity: 500, available: 400. " +
		"Container app was using 250Mi, request is 100Mi, has larger consumption of memory. "}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestLocalStorageChecks(t *testing.T) {
	limited := func(uid string, used, limit int64) Workload {
		return Workload{UID: uid, EphemeralStorage: &EphemeralStorage{LogsBytes: &used, LimitBytes: ptr(int64(1000))},
			Containers: []Container{{Name: "app", LogsBytes: &used, EphemeralStorageLimitBytes: &limit}}}
	}
	volume := Workload{UID: "v", Volumes: []Volume{{Name: "shm", Medium: "Memory", UsedBytes: ptr(int64(11)), SizeLimitBytes: ptr(int64(10))}}}
	critical := limited("k", 1001, 1000)
	critical.Mirror = true
	got := replayOf(t, "evictionHard: {memory.available: \"100\"}\n",
		memoryAt(0, 10, limited("z", 1001, 1000), volume, critical, limited("c", 600, 500), limited("ok", 500, 500)))[0]
	var checks []string
	for _, l := range got.LocalStorage {
		checks = append(checks, fmt.Sprintf("%s %s %d", l.UID, l.Check, l.GracePeriodSeconds))
	}
	want := []string{"z ephemeralpodfs.limit 1", "v emptydirfs.limit 1", "c ephemeralcontainerfs.limit 1"}
	if !slices.Equal(checks, want) || got.Acted != nil || len(got.Ranked) != 0 || len(got.Victims) != 0 {
		t.Errorf("got %q, %+v", checks, got)
	}
}

func TestReclaimThatIsEnough(t *testing.T) {
	at := func(available int64) Signals {
		return Signals{"nodefs.available": observe("nodefs.available", available, 1000)}
	}
	w := p{uid: "a", rootfs: 5}.workload("nodefs.available")
	for name, c := range map[string]struct {
		after   int64
		victims int
	}{"back above threshold and minimum reclaim": {150, 0}, "above the threshold alone": {149, 1}} {
		t.Run(name, func(t *testing.T) {
			s := Snapshot{Time: start, Signals: at(10), Workloads: []Workload{w}, AfterReclaim: &AfterReclaim{at(c.after)}}
			got := replayOf(t, "evictionHard: {nodefs.available: \"100\"}\nevictionMinimumReclaim: {nodefs.available: \"50\"}\n", s)[0]
			if len(got.Victims) != c.victims || len(got.Ranked) != c.victims || !slices.Equal(got.NodeReclaim, []string{"containers", "images"}) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestContainersAndVolumesArePartOfTheWorkload(t *testing.T) {
	whole := func(uid string, bytes int64) Workload {
		return Workload{UID: uid, EphemeralStorage: &EphemeralStorage{RootfsBytes: &bytes}}
	}
	parts := Workload{
		UID:              "parts",
		EphemeralStorage: &EphemeralStorage{RootfsBytes: ptr(int64(50)), LogsBytes: ptr(int64(20)), LocalVolumesBytes: ptr(int64(30)), RequestBytes: ptr(int64(10))},
		Containers: []Container{
			// Together they request more than the workload: one is an init container.
			{Name: "app", RootfsBytes: ptr(int64(40)), LogsBytes: ptr(int64(20)), EphemeralStorageRequestBytes: ptr(int64(10))},
			{Name: "init", EphemeralStorageRequestBytes: ptr(int64(8))},
		},
		Volumes: []Volume{{Name: "scratch", UsedBytes: ptr(int64(25))}, {Name: "shm", Medium: "Memory", UsedBytes: ptr(int64(1000))}},
	}
	r := RankCase{Config: "compat: kubelet\n", Signal: "nodefs.available"}
	r.Snapshot.Workloads = []Workload{whole("89", 89), parts, whole("91", 91)}
	if err := answerRank(&r); err != nil {
		t.Fatal(err)
	}
	want := []Ranked{{"91", true}, {"parts", true}, {"89", true}}
	if got := r.Answer.Ranked; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
