package snapshot_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// settingsOf are those of a configuration; without evictionHard nothing is hard.
func settingsOf(t *testing.T, yaml string) decide.Settings {
	t.Helper()
	if !strings.Contains(yaml, "evictionHard") {
		yaml = "evictionHard: {}\n" + yaml
	}
	c, err := config.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Settings()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// at dates a snapshot by seconds after three o'clock.
func at(seconds int, rest string) string {
	return fmt.Sprintf(`{"time":"2026-01-02T03:%02d:%02d.000000000Z",%s}`, seconds/60, seconds%60, rest)
}

// answers replays snapshots and returns what was said to the last.
func answers(t *testing.T, s decide.Settings, lines ...string) *snapshot.Answer {
	t.Helper()
	r := snapshot.NewReplay(s)
	var last *snapshot.Answer
	for _, line := range lines {
		shot, err := snapshot.Parse([]byte(line))
		if err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		if last, err = r.Next(shot); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
	}
	return last
}

// threePods hold 30, 20 and 10 MiB of everything.
const threePods = `"workloads":[` +
	`{"uid":"c","memory":{"workingSetBytes":10485760},"tasks":10,"processes":30,"ephemeralStorage":{"rootfsBytes":10485760,"logsBytes":0,"localVolumesBytes":0}},` +
	`{"uid":"a","memory":{"workingSetBytes":31457280},"tasks":30,"processes":10,"ephemeralStorage":{"rootfsBytes":31457280,"logsBytes":0,"localVolumesBytes":0}},` +
	`{"uid":"b","memory":{"workingSetBytes":20971520},"tasks":20,"processes":20,"ephemeralStorage":{"rootfsBytes":20971520,"logsBytes":0,"localVolumesBytes":0}}]`

func victims(a *snapshot.Answer) string {
	var uids []string
	for _, v := range a.Victims {
		uids = append(uids, v.UID)
	}
	return strings.Join(uids, " ")
}

// By default as many die as give back what is missing to threshold and minimum reclaim;
// under compat one.
func TestVictimsUntilTheTarget(t *testing.T) {
	tests := map[string]struct {
		config, signals string
		dflt, compat    string
	}{
		"the first is enough": {
			`evictionHard: {memory.available: "100Mi"}`, `"memory.available":{"availableBytes":104857599,"capacityBytes":1073741824}`, "a", "a",
		},
		"to the last byte": {
			`evictionHard: {memory.available: "100Mi"}`, `"memory.available":{"availableBytes":73400320,"capacityBytes":1073741824}`, "a", "a",
		},
		"one byte more takes the next": {
			`evictionHard: {memory.available: "100Mi"}`, `"memory.available":{"availableBytes":73400319,"capacityBytes":1073741824}`, "a b", "a",
		},
		"the minimum reclaim counts": {
			"evictionHard: {memory.available: \"100Mi\"}\nevictionMinimumReclaim: {memory.available: \"40Mi\"}",
			`"memory.available":{"availableBytes":104857599,"capacityBytes":1073741824}`, "a b", "a",
		},
		"all of them are not enough": {
			`evictionHard: {memory.available: "100Mi"}`, `"memory.available":{"availableBytes":-1,"capacityBytes":1073741824}`, "a b c", "a",
		},
		"tasks by default, processes under compat": {
			`evictionHard: {pid.available: "100"}`, `"pid.available":{"available":51,"capacity":32768}`, "a b", "c",
		},
		"bytes of a disk": {
			`evictionHard: {nodefs.available: "100Mi"}`, `"nodefs.available":{"availableBytes":63400319,"capacityBytes":1073741824}`, "a b", "a",
		},
	}
	for name, tc := range tests {
		for compat, want := range map[string]string{"": tc.dflt, "\ncompat: kubelet": tc.compat} {
			t.Run(name+compat, func(t *testing.T) {
				a := answers(t, settingsOf(t, tc.config+compat), at(0, `"signals":{`+tc.signals+`},`+threePods))
				if got := victims(a); got != want {
					t.Errorf("victims %q, want %q", got, want)
				}
				if len(a.Ranked) != 3 || a.Acted == nil {
					t.Errorf("ranked %v, acted %v", a.Ranked, a.Acted)
				}
			})
		}
	}
}

// The victims are whom Decide names one after the other, when each holds what it held and
// has no process left.
func TestVictimsAreDecides(t *testing.T) {
	several := 0
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(signal.Names()).Filter(notDerived).Draw(t, "signal")
		b := decide.Bound{Threshold: signal.Threshold{Signal: name, Value: signal.Quantity{Value: 30}, MinReclaim: signal.Quantity{Value: 9}}}
		s := decide.Settings{Bounds: []decide.Bound{b}, Budget: decide.Budget{PerMinute: 1, PerHour: 1}}
		shot := &snapshot.Snapshot{Time: time.Unix(1, 0)}
		shot.Observations = []signal.Observation{{Signal: name, Available: rapid.Int64Range(0, 29).Draw(t, "available"), Capacity: 100}}
		for i := range rapid.IntRange(0, 9).Draw(t, "workloads") {
			use := rapid.SampledFrom([]int64{0, 1, 5, 9, workload.NoData}).Draw(t, "use")
			part := workload.FsUsage{Bytes: use, Inodes: use}
			shot.Workloads = append(shot.Workloads, workload.Workload{
				UID: fmt.Sprint(i), Cgroup: fmt.Sprint("/", i), Static: use == 9 && rapid.Bool().Draw(t, "static"),
				Usage: workload.Usage{WorkingSetBytes: use, Tasks: use, Disk: &workload.DiskUsage{Rootfs: part, Logs: part, LocalVolumes: part}},
			})
		}
		a, err := snapshot.NewReplay(s).Next(shot)
		if err != nil {
			t.Fatal(err)
		}
		in := &decide.Input{
			NowNs: snapshot.Ns(shot.Time), Observations: shot.Observations, Workloads: shot.Workloads,
			Reclaimed: decide.NodeReclaim{Containers: true, Images: true, Figures: true}, AfterReclaim: shot.Observations,
		}
		var want []string
		for d := decide.Decide(&s, &decide.Memory{}, in); d.Verdict == decide.Evict; d = decide.Decide(&s, &decide.Memory{}, in) {
			w := &in.Workloads[d.Victim]
			want = append(want, w.UID)
			use := s.Use(&b, w)
			in.Dying = append(in.Dying, decide.Dying{UID: w.UID, Cgroup: w.Cgroup, Signal: name, HeldBytes: use, HeldTasks: use, HeldDisk: use})
		}
		if len(want) > 1 {
			several++
		}
		if got := victims(a); got != strings.Join(want, " ") {
			t.Fatalf("victims %q, and Decide names %q", got, want)
		}
	})
	if several == 0 {
		t.Error("never more than one victim: the property was never tried")
	}
}

// notDerived: what is asked for containerfs is overwritten by what is asked for nodefs.
func notDerived(s signal.Signal) bool {
	return s != signal.ContainerFsAvailable && s != signal.ContainerFsInodesFree
}

// A reading that can't be is no data by default; the kubelet takes it, before and after
// node-level reclaim.
func TestImplausibleReadings(t *testing.T) {
	const low = `"nodefs.available":{"availableBytes":1,"capacityBytes":1073741824}`
	tests := map[string]struct {
		signals, after string
		dflt, compat   bool
	}{
		"capacity zero":           {`"memory.available":{"availableBytes":0,"capacityBytes":0}`, "", false, true},
		"more than there can be":  {`"memory.available":{"availableBytes":7,"capacityBytes":6}`, "", false, true},
		"as much as there can be": {`"memory.available":{"availableBytes":6,"capacityBytes":6}`, "", true, true},
		"negative, of memory":     {`"memory.available":{"availableBytes":-6,"capacityBytes":6}`, "", true, true},
		"negative, of tasks":      {`"pid.available":{"available":-6,"capacity":6}`, "", true, true},
		"nothing, of a disk":      {`"nodefs.available":{"availableBytes":0,"capacityBytes":6}`, "", true, true},
		"negative, of a disk":     {`"nodefs.available":{"availableBytes":-6,"capacityBytes":6}`, "", false, true},
		"after reclaim, capacity zero": {
			low, `"nodefs.available":{"availableBytes":0,"capacityBytes":0}`, false, true,
		},
		"after reclaim, plausible": {low, low, true, true},
	}
	for name, tc := range tests {
		for compat, want := range map[string]bool{"": tc.dflt, "\ncompat: kubelet": tc.compat} {
			t.Run(name+compat, func(t *testing.T) {
				s := settingsOf(t, `evictionHard: {memory.available: "100Mi", nodefs.available: "100Mi", pid.available: "5"}`+compat)
				line := `"signals":{` + tc.signals + `},` + threePods
				if tc.after != "" {
					line += `,"afterReclaim":{"signals":{` + tc.after + `}}`
				}
				if got := len(answers(t, s, at(0, line)).Victims) > 0; got != want {
					t.Errorf("evicted %v, want %v", got, want)
				}
			})
		}
	}
}

func TestAnswerInFull(t *testing.T) {
	const config = "compat: kubelet\n" +
		"evictionHard: {nodefs.available: \"10%\"}\nevictionSoft: {memory.available: \"1Gi\"}\n" +
		"evictionSoftGracePeriod: {memory.available: \"30s\"}\nevictionMaxPodGracePeriod: 20"
	const disk = `"nodefs.available":{"availableBytes":52428800,"capacityBytes":1073741824}`
	const memory = `"memory.available":{"availableBytes":536870912,"capacityBytes":2147483648}`
	const plenty = `"signals":{},"workloads":[]`
	const met = `{"signal":"nodefs.available","hard":true},{"signal":"containerfs.available","hard":true}`
	calm := `"conditions":{"MemoryPressure":false,"DiskPressure":false,"PIDPressure":false}`
	full := `"conditions":{"MemoryPressure":false,"DiskPressure":true,"PIDPressure":false}`
	tests := map[string]struct {
		lines []string
		want  string
	}{
		"nothing": {
			[]string{at(0, plenty)},
			at(0, `"thresholdsMet":[],`+calm+`,"acted":null,"nodeReclaim":[],"ranked":[],"victims":[],"localStorage":[]`),
		},
		"an eviction for the disk": {
			[]string{at(0, plenty), at(9, `"signals":{`+disk+`,"containerfs.available":{"availableBytes":1,"capacityBytes":100}},`+threePods)},
			at(9, `"thresholdsMet":[`+met+`],`+full+`,"acted":{"signal":"nodefs.available","hard":true},"nodeReclaim":["containers","images"],`+
				`"ranked":["a","b","c"],"victims":[{"uid":"a","gracePeriodSeconds":1,"reason":"Evicted","message":`+
				`"The node was low on resource: ephemeral-storage. Threshold quantity: 107374184, available: 50Mi. "}],"localStorage":[]`),
		},
		"node-level reclaim was enough": {
			[]string{at(0, `"signals":{`+disk+`},`+threePods+`,"afterReclaim":{"signals":{"nodefs.available":{"availableBytes":536870912,"capacityBytes":1073741824}}}`)},
			at(0, `"thresholdsMet":[{"signal":"nodefs.available","hard":true}],`+full+`,"acted":{"signal":"nodefs.available","hard":true},`+
				`"nodeReclaim":["containers","images"],"ranked":[],"victims":[],"localStorage":[]`),
		},
		"a soft one after its grace period": {
			[]string{at(0, `"signals":{`+memory+`},"workloads":[]`), at(30, `"signals":{`+memory+`},"workloads":[{"uid":"u","memory":{"workingSetBytes":5},"terminationGracePeriodSeconds":7}]`)},
			at(30, `"thresholdsMet":[{"signal":"memory.available","hard":false}],"conditions":{"MemoryPressure":true,"DiskPressure":false,"PIDPressure":false},`+
				`"acted":{"signal":"memory.available","hard":false},"nodeReclaim":[],"ranked":["u"],"victims":[{"uid":"u","gracePeriodSeconds":7,"reason":"Evicted","message":`+
				`"The node was low on resource: memory. Threshold quantity: 1Gi, available: 512Mi. "}],"localStorage":[]`),
		},
		"nobody to evict": {
			[]string{at(0, `"signals":{`+disk+`},"workloads":[{"uid":"u","static":true,"tasks":1}]`)},
			at(0, `"thresholdsMet":[{"signal":"nodefs.available","hard":true}],`+full+`,"acted":{"signal":"nodefs.available","hard":true},`+
				`"nodeReclaim":["containers","images"],"ranked":["u"],"victims":[],"localStorage":[]`),
		},
		"local storage comes before pressure": {
			[]string{at(0, `"signals":{`+disk+`},"workloads":[{"uid":"u","volumes":[{"name":"v","usedBytes":2,"sizeLimitBytes":1}]}]`)},
			at(0, `"thresholdsMet":[{"signal":"nodefs.available","hard":true}],`+full+`,"acted":null,"nodeReclaim":[],"ranked":[],"victims":[],`+
				`"localStorage":[{"uid":"u","check":"emptydirfs.limit","gracePeriodSeconds":1,"message":"Usage of EmptyDir volume \"v\" exceeds the limit \"1\". "}]`),
		},
		"hard and soft of one signal, each once": {
			[]string{at(0, `"signals":{"memory.available":{"availableBytes":1,"capacityBytes":9},"allocatableMemory.available":{"availableBytes":1,"capacityBytes":9}},"workloads":[]`)},
			at(0, `"thresholdsMet":[{"signal":"memory.available","hard":false}],"conditions":{"MemoryPressure":true,"DiskPressure":false,"PIDPressure":false},`+
				`"acted":null,"nodeReclaim":[],"ranked":[],"victims":[],"localStorage":[]`),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(answers(t, settingsOf(t, config), tc.lines...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// A pass with a local-storage eviction counts for the timers like any other.
func TestLocalStorageDoesNotStopTheTimers(t *testing.T) {
	s := settingsOf(t, "compat: kubelet\nevictionSoft: {memory.available: \"1Gi\"}\nevictionSoftGracePeriod: {memory.available: \"30s\"}")
	const low = `"signals":{"memory.available":{"availableBytes":1,"capacityBytes":2147483648}},"workloads":[{"uid":"u","volumes":[{"name":"v","usedBytes":%d,"sizeLimitBytes":1}]}]`
	a := answers(t, s, at(0, fmt.Sprintf(low, 2)), at(30, fmt.Sprintf(low, 1)))
	if victims(a) != "u" {
		t.Errorf("victims %+v, want u: met for 30 s", a.Victims)
	}
}

func TestReplayRefuses(t *testing.T) {
	r := snapshot.NewReplay(settingsOf(t, ""))
	next := func(line string) error {
		s, err := snapshot.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Next(s)
		return err
	}
	for _, step := range []struct{ line, want string }{
		{`{}`, "time: missing"},
		{`{"time":"0001-01-01T00:00:00Z"}`, "time: missing"},
		{at(10, `"signals":{}`), ""},
		{at(9, `"signals":{}`), "time: 2026-01-02T03:00:09.000000000Z is before the last snapshot"},
		{at(10, `"signals":{}`), ""},
		{`{}`, "time: missing"},
		{at(11, `"signals":{}`), ""},
	} {
		err := next(step.line)
		var bad *snapshot.Error
		if step.want == "" && err != nil || step.want != "" && (!errors.As(err, &bad) || err.Error() != step.want) {
			t.Errorf("%s: %v, want %q", step.line, err, step.want)
		}
	}
}

// The first snapshot's layout holds for the whole series, a refused one's does not.
func TestLayoutOfTheFirstSnapshot(t *testing.T) {
	s := settingsOf(t, "compat: kubelet\nevictionHard: {nodefs.available: \"100Mi\"}")
	r := snapshot.NewReplay(s)
	const low = `"signals":{"nodefs.available":{"availableBytes":1,"capacityBytes":9}},"workloads":[]`
	var reclaimed [][]string
	for _, line := range []string{
		`{"layout":{"dedicatedImageFs":true}}`, // without a time
		at(0, `"layout":{"dedicatedImageFs":true,"splitImageFs":true},`+low),
		at(1, `"layout":{},`+low),
	} {
		shot, err := snapshot.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := r.Next(shot); err == nil {
			reclaimed = append(reclaimed, a.NodeReclaim)
		}
	}
	if diff := gocmp.Diff([][]string{{"containers"}, {"containers"}}, reclaimed); diff != "" {
		t.Errorf("reclaimed (-want +got):\n%s", diff)
	}
}

// A replay changes neither the settings it was given nor what another makes of them.
func TestReplaysAreIndependent(t *testing.T) {
	s := settingsOf(t, "evictionHard: {nodefs.available: \"100Mi\", memory.available: \"100Mi\"}")
	s.Bounds[0], s.Bounds[1] = s.Bounds[1], s.Bounds[0] // in no order that a replay would keep
	before := append([]decide.Bound{}, s.Bounds...)
	answers(t, s, at(0, `"signals":{},"workloads":[]`))
	if diff := gocmp.Diff(before, s.Bounds); diff != "" {
		t.Errorf("settings changed (-before +after):\n%s", diff)
	}
}

func TestRankOfASnapshot(t *testing.T) {
	shot, err := snapshot.Parse([]byte(`{"layout":{"dedicatedImageFs":true},"workloads":[
		{"uid":"unknown"},{"uid":"logs","ephemeralStorage":{"rootfsBytes":0,"logsBytes":9,"localVolumesBytes":0}},
		{"uid":"critical","priority":2000000000,"ephemeralStorage":{"rootfsBytes":9,"logsBytes":1,"localVolumesBytes":0}},
		{"uid":"rootfs","ephemeralStorage":{"rootfsBytes":9,"logsBytes":0,"localVolumesBytes":0}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(snapshot.Rank(decide.Settings{}, shot, signal.ImageFsAvailable))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"signal":"imagefs.available","ranked":[{"uid":"rootfs","evictable":true,"reason":"9 above its request, priority 0"},` +
		`{"uid":"critical","evictable":false,"reason":"critical"},{"uid":"logs","evictable":false,"reason":"holds nothing"},` +
		`{"uid":"unknown","evictable":false,"reason":"no usage known"}]}`
	if diff := gocmp.Diff(want, string(got)); diff != "" {
		t.Errorf("ranking (-want +got):\n%s", diff)
	}
	empty, _ := json.Marshal(snapshot.Rank(decide.Settings{}, &snapshot.Snapshot{}, signal.PIDAvailable))
	if want := `{"signal":"pid.available","ranked":[]}`; string(empty) != want {
		t.Errorf("nobody ranks as %s, want %s", empty, want)
	}
}

// replayAndRank asks everything about a snapshot: twice the same, and every workload once.
func replayAndRank(t *testing.T, s *snapshot.Snapshot, compat bool) {
	t.Helper()
	settings := decide.Settings{Compat: compat, LocalStorageIsolation: true, TransitionPeriod: time.Minute}
	for _, name := range signal.Names() {
		ranking := snapshot.Rank(settings, s, name)
		if len(ranking.Ranked) != len(s.Workloads) {
			t.Fatalf("%s: %d ranked of %d", name, len(ranking.Ranked), len(s.Workloads))
		}
		settings.Bounds = append(settings.Bounds, decide.Bound{Threshold: signal.Threshold{Signal: name, Value: signal.Quantity{Value: 100, Text: "100"}}})
	}
	once, err := snapshot.NewReplay(settings).Next(s)
	again, errAgain := snapshot.NewReplay(settings).Next(s)
	if (err == nil) != (errAgain == nil) {
		t.Fatalf("%v, then %v", err, errAgain)
	}
	if diff := gocmp.Diff(once, again); diff != "" {
		t.Fatalf("asked twice:\n%s", diff)
	}
	if once != nil && len(once.Victims) > 0 && len(once.LocalStorage) > 0 {
		t.Fatal("victims for pressure and for local storage in one pass")
	}
}
