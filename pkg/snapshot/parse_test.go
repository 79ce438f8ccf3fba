package snapshot_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func TestParseRefuses(t *testing.T) {
	of := func(workload string) string { return `{"workloads":[{"uid":"first"},` + workload + `]}` }
	tests := map[string]struct{ line, path, reason string }{
		"no JSON":               {`time=now`, "", "byte 2: invalid character 'i' in literal true (expecting 'r')"},
		"half an object":        {`{"time":`, "", "byte 8: unexpected end of JSON input"},
		"two objects":           {`{}{}`, "", "byte 3: invalid character '{' after top-level value"},
		"NaN":                   {of(`{"uid":"u","tasks":NaN}`), "", "byte 50: invalid character 'N' looking for beginning of value"},
		"null":                  {`null`, "", "null where an object is wanted"},
		"a list":                {`[]`, "", "array where an object is wanted"},
		"a number":              {` 7`, "", "number where an object is wanted"},
		"tasks in bytes":        {`{"signals":{"pid.available":{"availableBytes":1,"capacityBytes":2}}}`, "signals[pid.available]", "pid.available is given by available and capacity"},
		"bytes without a unit":  {`{"signals":{"memory.available":{"available":1,"capacity":2}}}`, "signals[memory.available]", "memory.available is given by availableBytes and capacityBytes"},
		"a time that is none":   {`{"time":"yesterday"}`, "time", `"yesterday" is no RFC 3339 time`},
		"a time in numbers":     {`{"time":5}`, "time", "number where a string is wanted"},
		"a month too many":      {`{"time":"2026-13-02T00:00:00Z"}`, "time", `"2026-13-02T00:00:00Z" is no RFC 3339 time`},
		"long ago":              {`{"time":"1600-01-01T00:00:00Z"}`, "time", `"1600-01-01T00:00:00Z" is too far from now`},
		"far ahead":             {`{"time":"2300-01-01T00:00:00Z"}`, "time", `"2300-01-01T00:00:00Z" is too far from now`},
		"a layout of text":      {`{"layout":{"dedicatedImageFs":"yes"}}`, "layout.dedicatedImageFs", "string where true or false is wanted"},
		"a key twice":           {`{"time":"2026-01-02T00:00:00Z","layout":{},"time":"2026-01-03T00:00:00Z"}`, "time", "given twice"},
		"a key twice in a list": {of(`{"uid":"a","memory":{"workingSetBytes":1},"uid":"b"}`), "workloads[1].uid", "given twice"},
		"a key in another case": {of(`{"uid":"a","volumes":[{"name":"{\"name\":"},{"name":"w","Name":"w"}]}`), "workloads[1].volumes[1].Name", "given twice"},
		"a key unknown, twice":  {`{"future":{"a":[1,{"b":"]"}]},"future":[]}`, "future", "given twice"},
		"two lists of workloads, which would be mixed": {
			`{"workloads":[{"uid":"a","tasks":5}],"workloads":[{"uid":"b"}]}`, "workloads", "given twice",
		},
		"a signal twice": {
			`{"signals":{"pid.available":{"available":1,"capacity":2},"pid.available":{}}}`, "signals[pid.available]", "given twice",
		},
		"an unknown signal":   {`{"signals":{"cpu.available":{}}}`, "signals[cpu.available]", "no such signal"},
		"a negative capacity": {`{"signals":{"memory.available":{"availableBytes":1,"capacityBytes":-1}}}`, "signals[memory.available].capacityBytes", "-1 is negative"},
		"a negative capacity of inodes": {
			`{"signals":{"nodefs.inodesFree":{"capacity":-1}}}`, "signals[nodefs.inodesFree].capacity", "-1 is negative",
		},
		"a reading of text": {`{"signals":{"memory.available":{"availableBytes":"1Gi"}}}`, "signals[memory.available].availableBytes", "string where an integer is wanted"},
		"a reading's time":  {`{"signals":{"pid.available":{"time":"now"}}}`, "signals[pid.available].time", `"now" is no RFC 3339 time`},
		"a reading that is no object": {
			`{"signals":{"pid.available":7}}`, "signals[pid.available]", "number where an object is wanted",
		},
		"after reclaim": {
			`{"afterReclaim":{"signals":{"nodefs.available":{"capacityBytes":-7}}}}`, "afterReclaim.signals[nodefs.available].capacityBytes", "-7 is negative",
		},
		"workloads that are no list": {`{"workloads":{}}`, "workloads", "object where a list is wanted"},
		"a workload that is null":    {of(`null`), "workloads[1].uid", "missing"},
		"no uid":                     {of(`{"name":"u"}`), "workloads[1].uid", "missing"},
		"a uid twice":                {of(`{"uid":"u"},{"uid":"first"}`), "workloads[2].uid", `"first" is workloads[0] already`},
		"a uid in numbers":           {of(`{"uid":7}`), "workloads[1].uid", "number where a string is wanted"},
		"a priority beyond 32 bits":  {of(`{"uid":"u","priority":2147483648}`), "workloads[1].priority", "number 2147483648 where an integer is wanted"},
		"a fraction":                 {of(`{"uid":"u","memory":{"workingSetBytes":1.5}}`), "workloads[1].memory.workingSetBytes", "number 1.5 where an integer is wanted"},
		"a figure beyond 64 bits":    {of(`{"uid":"u","tasks":9223372036854775808}`), "workloads[1].tasks", "number 9223372036854775808 where an integer is wanted"},
		"a QoS class":                {of(`{"uid":"u","qosClass":"Gold"}`), "workloads[1].qosClass", `"Gold" is none of Guaranteed, Burstable, BestEffort`},
		"a mark":                     {of(`{"uid":"u","evict":"last"}`), "workloads[1].evict", `"last" is none of allow, never, first`},
		"text in the second container": {
			of(`{"uid":"u","containers":[{"name":"c"},{"name":"d","logsBytes":"1"}]}`), "workloads[1].containers[1].logsBytes", "string where an integer is wanted",
		},
	}
	for _, name := range []string{"workingSetBytes", "requestBytes", "podLevelRequestBytes"} {
		tests["negative memory "+name] = struct{ line, path, reason string }{
			of(`{"uid":"u","memory":{"` + name + `":-5}}`), "workloads[1].memory." + name, "-5 is negative",
		}
	}
	for _, name := range []string{"rootfsBytes", "logsBytes", "localVolumesBytes", "usedBytes", "requestBytes", "limitBytes"} {
		tests["negative storage "+name] = struct{ line, path, reason string }{
			of(`{"uid":"u","ephemeralStorage":{"` + name + `":-5}}`), "workloads[1].ephemeralStorage." + name, "-5 is negative",
		}
	}
	for _, name := range []string{"rootfs", "logs", "localVolumes"} {
		tests["negative inodes "+name] = struct{ line, path, reason string }{
			of(`{"uid":"u","inodes":{"` + name + `":-5}}`), "workloads[1].inodes." + name, "-5 is negative",
		}
	}
	for _, name := range []string{"processes", "tasks"} {
		tests["negative "+name] = struct{ line, path, reason string }{of(`{"uid":"u","` + name + `":-5}`), "workloads[1]." + name, "-5 is negative"}
	}
	for _, name := range []string{"usedBytes", "sizeLimitBytes"} {
		tests["negative volume "+name] = struct{ line, path, reason string }{
			of(`{"uid":"u","volumes":[{},{"` + name + `":-5}]}`), "workloads[1].volumes[1]." + name, "-5 is negative",
		}
	}
	for _, name := range []string{
		"memoryWorkingSetBytes", "memoryRequestBytes", "logsBytes", "rootfsBytes", "ephemeralStorageRequestBytes", "ephemeralStorageLimitBytes",
	} {
		tests["negative container "+name] = struct{ line, path, reason string }{
			of(`{"uid":"u","containers":[{"` + name + `":-5}]}`), "workloads[1].containers[0]." + name, "-5 is negative",
		}
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := snapshot.Parse([]byte(tc.line))
			var bad *snapshot.Error
			if !errors.As(err, &bad) {
				t.Fatalf("%+v, %v: accepted", s, err)
			}
			if diff := gocmp.Diff(&snapshot.Error{Path: tc.path, Reason: tc.reason}, bad); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if want := strings.TrimPrefix(tc.path+": "+tc.reason, ": "); err.Error() != want {
				t.Errorf("error %q, want %q", err, want)
			}
		})
	}
}

func TestAbsentIsNoData(t *testing.T) {
	s, err := snapshot.Parse([]byte(`{"future":true,
		"signals":{"memory.available":{"availableBytes":5},"allocatableMemory.available":{"capacityBytes":5},"nodefs.available":{},
			"imagefs.available":null,"pid.available":{"time":"2026-01-02T03:04:05Z"},
			"nodefs.inodesFree":{"available":0,"capacity":0}},
		"workloads":[{"uid":"u"},{"uid":"v","tasks":0,"inodes":{"logs":0},"volumes":[{"name":"x"}],"containers":[{"name":"c"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	nothing := workload.Workload{UID: "u", TerminationGracePeriodSeconds: workload.NoData, Usage: workload.NoUsage}
	some := nothing
	some.UID, some.Usage.Tasks = "v", 0
	d := workload.NoDiskUsage
	d.Logs.Inodes = 0
	some.Usage.Disk = &d
	some.Volumes = []workload.Volume{{Name: "x", UsedBytes: workload.NoData}}
	some.Containers = []workload.Container{{Name: "c", WorkingSetBytes: workload.NoData, RootfsBytes: workload.NoData, LogsBytes: workload.NoData}}
	want := &snapshot.Snapshot{
		Observations: []signal.Observation{{Signal: signal.NodeFsInodesFree}}, // the only one that is whole
		Workloads:    []workload.Workload{nothing, some},
	}
	if diff := gocmp.Diff(want, s); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

// The same key in two objects, and text that looks like a key, is no key twice.
func TestKeysOfDifferentObjects(t *testing.T) {
	for _, line := range []string{
		`{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}],"c":["a","a"],"d":"a","e":"\"e\":","f":{}}`,
		`{"workloads":[{"uid":"uid","name":"uid"},{"uid":"name","name":"name"}],"layout":{"name":{}}}`,
	} {
		if _, err := snapshot.Parse([]byte(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// A grace period below zero is one; a priority too.
func TestNegativeWhereItMeansSomething(t *testing.T) {
	s, err := snapshot.Parse([]byte(`{"signals":{"allocatableMemory.available":{"availableBytes":-9,"capacityBytes":5}},
		"workloads":[{"uid":"u","priority":-2147483648,"terminationGracePeriodSeconds":-1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if w := s.Workloads[0]; w.Priority != -1<<31 || w.TerminationGracePeriodSeconds != -1 || s.Observations[0].Available != -9 {
		t.Errorf("%+v", s)
	}
}

func TestTimes(t *testing.T) {
	before := uint64(0)
	for _, text := range []string{"1677-09-21T00:12:43.145224194Z", "1969-12-31T23:59:59.999999999Z", "1970-01-01T00:00:00Z", "2026-01-02T04:04:05+01:00", "2262-04-11T23:47:16.854775807Z"} {
		s, err := snapshot.Parse([]byte(`{"time":"` + text + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		if ns := snapshot.Ns(s.Time); ns <= before {
			t.Errorf("%s is %d, not after %d", text, ns, before)
		} else {
			before = ns
		}
	}
	if ns := snapshot.Ns(time.Time{}); ns != 0 {
		t.Errorf("no time is %d", ns)
	}
}

func TestReadNumbersTheLines(t *testing.T) {
	in := "{}\n\n  \r\n{\"time\":7}\r\n{}\nnull"
	var got []string
	for line := range snapshot.Read(strings.NewReader(in)) {
		got = append(got, fmt.Sprintf("%d %v", line.Number, line.Err))
	}
	want := []string{"1 <nil>", "4 time: number where a string is wanted", "5 <nil>", "6 null where an object is wanted"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestReadStopsWhenAsked(t *testing.T) {
	for line := range snapshot.Read(strings.NewReader("{}\n{}\n")) {
		if line.Number > 1 {
			t.Error("went on")
		}
		break
	}
}

// endless is a line without an end, and then an error.
type endless struct{ left int }

var errEnd = errors.New("cable pulled")

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, errEnd
	}
	n := min(len(p), e.left)
	for i := range p[:n] {
		p[i] = 'x'
	}
	e.left -= n
	return n, nil
}

func TestReadEndsAtWhatItCantRead(t *testing.T) {
	for name, tc := range map[string]struct {
		bytes int
		want  error
	}{"a line beyond 64 MiB": {65 << 20, snapshot.ErrLine}, "a reader that fails": {0, errEnd}} {
		t.Run(name, func(t *testing.T) {
			var lines []snapshot.Line
			for line := range snapshot.Read(&endless{tc.bytes}) {
				lines = append(lines, line)
			}
			var bad *snapshot.Error
			if len(lines) != 1 || !errors.Is(lines[0].Err, tc.want) || errors.As(lines[0].Err, &bad) || lines[0].Number != 1 {
				t.Errorf("%+v, want the error %v alone", lines, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-02T03:04:05Z","layout":{"splitImageFs":true},"signals":{"memory.available":{"availableBytes":-1,"capacityBytes":2}},
		"workloads":[{"uid":"a","memory":{"workingSetBytes":1},"containers":[{"name":"c","logsBytes":1}],"volumes":[{"name":"v"}]}]}`))
	f.Add([]byte(`{"workloads":[{"uid":"a"},{"uid":"a"}]}`))
	f.Add([]byte(`{"workloads":[{"uid":"a","tasks":-1}]}`))
	f.Add([]byte(`{"workloads":[{"uid":"a","containers":[{},{"logsBytes":"x"}]}],"afterReclaim":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := snapshot.Parse(data)
		if err != nil {
			var bad *snapshot.Error
			if !errors.As(err, &bad) || bad.Reason == "" {
				t.Fatalf("error %v does not say what is wrong", err)
			}
			return
		}
		checkAccepted(t, s)
		for _, compat := range []bool{true, false} {
			replayAndRank(t, s, compat)
		}
	})
}

// checkAccepted: what can't be is not accepted.
func checkAccepted(t *testing.T, s *snapshot.Snapshot) {
	t.Helper()
	for _, o := range append(s.Observations, s.AfterReclaim...) {
		if o.Capacity < 0 || o.Signal == "" {
			t.Errorf("observation %+v", o)
		}
	}
	seen := map[string]bool{}
	for i := range s.Workloads {
		w := &s.Workloads[i]
		if w.UID == "" || seen[w.UID] {
			t.Errorf("uid %q", w.UID)
		}
		seen[w.UID] = true
		figures := []int64{w.Usage.WorkingSetBytes, w.Usage.Tasks, w.Usage.Processes, w.MemoryRequestBytes, w.EphemeralStorageRequestBytes}
		if d := w.Usage.Disk; d != nil {
			figures = append(figures, d.UsedBytes, d.Rootfs.Bytes, d.Rootfs.Inodes, d.Logs.Bytes, d.Logs.Inodes, d.LocalVolumes.Bytes, d.LocalVolumes.Inodes)
		}
		for _, c := range w.Containers {
			figures = append(figures, c.WorkingSetBytes, c.RootfsBytes, c.LogsBytes, c.MemoryRequestBytes, c.EphemeralStorageLimitBytes, c.EphemeralStorageRequestBytes)
		}
		for _, v := range w.Volumes {
			figures = append(figures, v.UsedBytes, v.SizeLimitBytes)
		}
		for _, f := range figures {
			if f < 0 && f != workload.NoData {
				t.Errorf("%s holds %d of something", w.UID, f)
			}
		}
	}
}
