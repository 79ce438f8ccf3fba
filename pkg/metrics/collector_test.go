package metrics_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/metrics"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

const mib = 1 << 20

func files(t *testing.T) metrics.Options {
	dir := t.TempDir()
	return metrics.Options{
		Journal: filepath.Join(dir, "journal.jsonl"), State: filepath.Join(dir, "state.json"),
		Workloads: filepath.Join(dir, "workloads.json"), Version: "v1",
	}
}

func appendLines(t *testing.T, path string, lines ...record.Line) {
	t.Helper()
	j, err := record.OpenJournal(path, record.JournalOptions{PreallocBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i := range lines {
		if err := j.Append(&lines[i]); err != nil {
			t.Fatal(err)
		}
	}
}

func writeState(t *testing.T, path string, s record.State) {
	t.Helper()
	if err := record.WriteState(path, &s); err != nil {
		t.Fatal(err)
	}
}

// want compares the metrics of the given names, without the prefix.
func want(t *testing.T, c prometheus.Collector, expected string, names ...string) {
	t.Helper()
	var text strings.Builder
	for line := range strings.Lines(expected) {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintf(&text, "ebpf_evict_%s\n", line)
		}
	}
	var full []string
	for _, name := range names {
		full = append(full, "ebpf_evict_"+name)
	}
	got, err := testutil.CollectAndFormat(c, expfmt.TypeTextPlain, full...)
	if err != nil {
		t.Fatal(err)
	}
	var values strings.Builder
	for line := range strings.Lines(string(got)) {
		if !strings.HasPrefix(line, "#") {
			values.WriteString(line)
		}
	}
	if values.String() != text.String() {
		t.Errorf("got\n%swant\n%s", values.String(), text.String())
	}
}

// eviction is one of a hard threshold, closed as it ended.
func eviction(outcome record.Outcome, by string) record.Line {
	return record.Line{
		Kind: record.KindEviction, Signal: "memory.available", Outcome: outcome, By: by,
		Threshold: &record.Threshold{Signal: "memory.available", Hard: true},
		Timeline: &record.Timeline{Crossed: 1e9, Woke: 1e9 + 40e3, Decided: 1e9 + 80e3, Signalled: 1e9 + 120e3,
			SignalledAll: 1e9 + 130e3, Dead: 1e9 + 20e6, Recovered: 1e9 + 2e6},
		OvershootBytes: new(int64(100 << 10)),
	}
}

func TestEvictionsAreCountedOnceEachFromTheOldestLine(t *testing.T) {
	o := files(t)
	c := metrics.New(o)
	want(t, c, "", "evictions_total") // no journal, no evictions
	kill := eviction("", record.ByAgent)
	kill.Kind = record.KindKill
	appendLines(t, o.Journal+".1", kill, eviction(record.OutcomeKilled, record.ByAgent))
	appendLines(t, o.Journal, eviction(record.OutcomeKilled, record.ByBackstop))
	want(t, c, `
		evictions_total{by="agent",outcome="killed",signal="memory.available"} 1
		evictions_total{by="backstop",outcome="killed",signal="memory.available"} 1
	`, "evictions_total")
	appendLines(t, o.Journal, eviction(record.OutcomeKilled, record.ByAgent), eviction(record.OutcomeRefused, record.ByAgent))
	const all = `
		evictions_total{by="agent",outcome="killed",signal="memory.available"} 2
		evictions_total{by="agent",outcome="refused",signal="memory.available"} 1
		evictions_total{by="backstop",outcome="killed",signal="memory.available"} 1
	`
	want(t, c, all, "evictions_total")
	want(t, metrics.New(o), all, "evictions_total") // a restart counts the same
}

// A pod that came back has a closing line for each kill, and is one eviction.
func TestKillsAgainAreNoEvictions(t *testing.T) {
	o := files(t)
	var lines []record.Line
	for attempts := range 3 {
		l := eviction(record.OutcomeKilled, record.ByAgent)
		l.ID, l.Attempts = record.MakeID(1, [10]byte{}), attempts+1
		lines = append(lines, l)
	}
	appendLines(t, o.Journal, lines...)
	c := metrics.New(o)
	want(t, c, `
		evictions_total{by="agent",outcome="killed",signal="memory.available"} 1
		kills_again_total{signal="memory.available"} 2
	`, "evictions_total", "kills_again_total")
	if n := histogram(t, c, "overshoot_bytes", "memory.available").GetSampleCount(); n != 1 {
		t.Errorf("%d overshoots, want the first kill's", n)
	}
}

// histogram of one series of a family, by the value of a label.
func histogram(t *testing.T, c prometheus.Collector, family, label string) *dto.Histogram {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "ebpf_evict_"+family && l.GetValue() == label {
					return m.GetHistogram()
				}
			}
		}
	}
	t.Fatalf("no %s of %s", family, label)
	return nil
}

func TestStagesOfHardEvictions(t *testing.T) {
	o := files(t)
	soft := eviction(record.OutcomeKilled, record.ByAgent)
	soft.Threshold = &record.Threshold{Hard: false}
	ownLimit := eviction(record.OutcomeKilled, record.ByAgent)
	ownLimit.Threshold = nil
	backstop := eviction(record.OutcomeKilled, record.ByBackstop)
	backstop.Timeline.Woke, backstop.Timeline.Decided = 0, 0
	appendLines(t, o.Journal, eviction(record.OutcomeKilled, record.ByAgent), soft, ownLimit, backstop)
	c := metrics.New(o)
	for stage, sum := range map[string]float64{"woke": 40e-6, "decided": 80e-6, "signalled": 2 * 120e-6, "dead": 2 * 20e-3, "recovered": 2 * 2e-3} {
		if h := histogram(t, c, "stage_seconds", stage); h.GetSampleSum() < sum*.999 || h.GetSampleSum() > sum*1.001 {
			t.Errorf("%s: %v s in all, want %v", stage, h.GetSampleSum(), sum)
		}
	}
	h := histogram(t, c, "stage_seconds", "signalled")
	if len(h.GetPositiveSpan()) == 0 || len(h.GetBucket()) == 0 || h.GetZeroThreshold() != 10e-6 || h.GetBucket()[0].GetUpperBound() != 10e-6 {
		t.Errorf("want native and classic buckets from 10 µs on: %v", h)
	}
	if h := histogram(t, c, "overshoot_bytes", "memory.available"); h.GetSampleCount() != 2 || h.GetSampleSum() != 200<<10 {
		t.Errorf("overshoot: %v", h)
	}
}

func TestOtherLinesOfTheJournal(t *testing.T) {
	o := files(t)
	id := func(n byte) record.ID { return record.MakeID(1, [10]byte{n}) }
	reclaim := &record.Reclaim{ID: id(1), Signal: "nodefs.available", FreedBytes: new(int64(7 * mib))}
	drill := func(n byte, outcome record.Outcome) record.Line {
		return record.Line{Kind: record.KindDrill, ID: id(n), Outcome: outcome}
	}
	appendLines(t, o.Journal,
		record.Line{Kind: record.KindStart},
		record.Line{Kind: record.KindDegraded, Signal: "pid.available"},
		record.Line{Kind: record.KindDegraded},
		// One reclaim that was not enough is told by both lines of the eviction.
		record.Line{Kind: record.KindKill, Signal: "nodefs.available", Reclaim: reclaim},
		record.Line{Kind: record.KindEviction, Signal: "nodefs.available", Outcome: record.OutcomeKilled, By: record.ByAgent, Reclaim: reclaim},
		record.Line{Kind: record.KindReclaim, Signal: "nodefs.available", Reclaim: &record.Reclaim{ID: id(2), Signal: "nodefs.available", Error: "no runtime"}},
		drill(3, record.OutcomeKilled), drill(3, record.OutcomeKilled), drill(4, record.OutcomeFailed), drill(4, record.OutcomeGone), drill(5, record.OutcomeRefused),
	)
	f, err := os.OpenFile(o.Journal, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, `{"schema":"ebpf-evict/v1","ki`)
	want(t, metrics.New(o), `
		agent_starts_total 1
		degraded_total{signal=""} 1
		degraded_total{signal="pid.available"} 1
		drill_failures_total 1
		journal_errors_total 1
		reclaim_freed_bytes_total{signal="nodefs.available"} 7.340032e+06
		reclaims_total{result="error",signal="nodefs.available"} 1
		reclaims_total{result="ok",signal="nodefs.available"} 1
	`, "agent_starts_total", "degraded_total", "drill_failures_total", "journal_errors_total", "reclaim_freed_bytes_total", "reclaims_total")
}

func TestUnreadableJournalIsAnError(t *testing.T) {
	o := files(t)
	if err := os.Mkdir(o.Journal, 0o700); err != nil {
		t.Fatal(err)
	}
	want(t, metrics.New(o), "journal_errors_total 1\n", "journal_errors_total")
}

func state() record.State {
	return record.State{
		Time: record.Time{Time: time.Now()}, Mode: "enforce", Workloads: 3, RingLost: 2,
		Conditions: decide.Conditions{MemoryPressure: true},
		Budget:     record.BudgetState{MinuteLeft: 0, HourLeft: 100},
		Signals: []record.SignalState{
			{Signal: "memory.available", AvailableBytes: new(int64(1000)), CapacityBytes: new(int64(9000)), Tier: "bpf-charge", Armed: true,
				Thresholds:    []record.ThresholdState{{Hard: true, ValueBytes: new(int64(500))}, {Hard: false, ValueBytes: new(int64(2000)), Met: true}},
				DistanceBytes: new(int64(-1000)), SecondsToThreshold: new(1.5)},
			{Signal: "pid.available", Available: new(int64(40)), Capacity: new(int64(90)), Tier: "poll",
				Thresholds: []record.ThresholdState{{Hard: true, Value: new(int64(30))}}, Distance: new(int64(10))},
		},
		Drill: &record.DrillState{Time: record.Time{Time: time.Unix(1700000000, 0)}, OK: true, SignalledNs: 113000},
		Disk: &record.DiskState{AgeSeconds: new(0.5), OldestSeconds: new(61.5), Workloads: 2, Reclaiming: true,
			Reclaim: &record.Reclaim{Images: 4, FreedBytes: new(int64(5)), TookNs: 15e8}},
	}
}

var stateNames = []string{
	"up", "mode", "workloads", "condition", "budget_left", "ring_lost_total", "tier", "armed",
	"signal_available_bytes", "signal_available", "signal_capacity_bytes", "signal_capacity", "signal_threshold_bytes", "signal_threshold",
	"signal_threshold_met", "signal_time_to_threshold_seconds", "drill_seconds", "drill_ok", "drill_timestamp_seconds",
	"disk_figures_ok", "disk_figures_age_seconds", "disk_oldest_figure_age_seconds", "disk_figures_workloads",
	"reclaim_under_way", "reclaim_last_ok", "reclaim_last_duration_seconds", "reclaim_last_freed_bytes", "reclaim_last_removed",
}

func TestStateAsGauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := files(t)
		writeState(t, o.State, state())
		time.Sleep(2 * time.Second)
		c := metrics.New(o)
		want(t, c, `
			armed{signal="memory.available"} 1
			armed{signal="pid.available"} 0
			budget_left{window="hour"} 100
			budget_left{window="minute"} 0
			condition{condition="DiskPressure"} 0
			condition{condition="MemoryPressure"} 1
			condition{condition="PIDPressure"} 0
			disk_figures_age_seconds 0.5
			disk_figures_ok 1
			disk_figures_workloads 2
			disk_oldest_figure_age_seconds 61.5
			drill_ok 1
			drill_seconds 0.000113
			drill_timestamp_seconds 1.7e+09
			mode{mode="enforce"} 1
			reclaim_last_duration_seconds 1.5
			reclaim_last_freed_bytes 5
			reclaim_last_ok 1
			reclaim_last_removed{what="containers"} 0
			reclaim_last_removed{what="images"} 4
			reclaim_under_way 1
			ring_lost_total 2
			signal_available{signal="pid.available"} 40
			signal_available_bytes{signal="memory.available"} 1000
			signal_capacity{signal="pid.available"} 90
			signal_capacity_bytes{signal="memory.available"} 9000
			signal_threshold{hard="true",signal="pid.available"} 30
			signal_threshold_bytes{hard="false",signal="memory.available"} 2000
			signal_threshold_bytes{hard="true",signal="memory.available"} 500
			signal_threshold_met{hard="false",signal="memory.available"} 1
			signal_threshold_met{hard="true",signal="memory.available"} 0
			signal_threshold_met{hard="true",signal="pid.available"} 0
			signal_time_to_threshold_seconds{signal="memory.available"} 1.5
			state_age_seconds 2
			tier{signal="memory.available",tier="bpf-charge"} 1
			tier{signal="pid.available",tier="poll"} 1
			up 1
			workloads 3
		`, append(stateNames, "state_age_seconds")...)
		want(t, c, `build_info{version="v1"} 1`, "build_info")
		if n := testutil.CollectAndCount(c, "ebpf_evict_evictions_total"); n != 2*5+3*4 {
			t.Errorf("%d series of evictions before the first, want those that may come, at 0", n)
		}
	})
}

// Of a series that begins with 1 no increase is seen.
func TestWhatMayHappenBeginsAtZero(t *testing.T) {
	o := files(t)
	s := state()
	s.Signals = []record.SignalState{{Signal: string(signal.NodeFsInodesFree)}}
	writeState(t, o.State, s)
	var text strings.Builder
	text.WriteString("degraded_total{signal=\"\"} 0\ndegraded_total{signal=\"nodefs.inodesFree\"} 0\n")
	for _, outcome := range []string{"failed", "killed", "refused", "shadow"} {
		for _, of := range []string{decide.CheckEmptyDir, decide.CheckContainer, decide.CheckPod, string(signal.NodeFsInodesFree)} {
			fmt.Fprintf(&text, "evictions_total{by=\"agent\",outcome=%q,signal=%q} 0\n", outcome, of)
		}
	}
	want(t, metrics.New(o), text.String()+`
		evictions_total{by="backstop",outcome="killed",signal="nodefs.inodesFree"} 0
		reclaim_freed_bytes_total{signal="nodefs.inodesFree"} 0
		reclaims_total{result="error",signal="nodefs.inodesFree"} 0
		reclaims_total{result="ok",signal="nodefs.inodesFree"} 0
	`, "evictions_total", "degraded_total", "reclaim_freed_bytes_total", "reclaims_total")
}

func TestOldStateIsNoData(t *testing.T) {
	for name, c := range map[string]struct {
		written time.Duration // after now
		want    string
	}{
		"six seconds old":               {-6 * time.Second, "state_age_seconds 6\nup 0"},
		"the clock was set back a lot":  {time.Hour, "state_age_seconds -3600\nup 0"},
		"the clock was set back a bit":  {time.Second, "state_age_seconds 0\nup 1"},
		"four and a half seconds old":   {-4500 * time.Millisecond, "state_age_seconds 4.5\nup 1"},
		"stopped the moment it started": {-5 * time.Second, "state_age_seconds 5\nup 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := files(t)
				s := state()
				s.Time.Time = time.Now().Add(c.written)
				writeState(t, o.State, s)
				want(t, metrics.New(o), c.want, "up", "state_age_seconds")
				if strings.HasSuffix(c.want, "up 0") {
					want(t, metrics.New(o), "up 0", stateNames...)
				}
			})
		})
	}
}

func TestWithoutStateTheAgentIsUnwell(t *testing.T) {
	o := files(t)
	want(t, metrics.New(o), "up 0", stateNames...)
	if err := os.WriteFile(o.State, []byte(`{"schema":"ebpf-evict/state/v9"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, metrics.New(o), "up 0", stateNames...)
}

func TestSeveralRootsAreOneSeries(t *testing.T) {
	o := files(t)
	s := state()
	root := func(available, distance int64) record.SignalState {
		return record.SignalState{Signal: "allocatableMemory.available", AvailableBytes: &available, DistanceBytes: &distance, Tier: "poll",
			Thresholds: []record.ThresholdState{{Hard: true, ValueBytes: new(available - distance)}, {Hard: true, ValueBytes: new(int64(1))}}}
	}
	s.Signals = []record.SignalState{root(100, 90), root(200, 20), root(300, 30)}
	writeState(t, o.State, s)
	want(t, metrics.New(o), `
		signal_available_bytes{signal="allocatableMemory.available"} 200
		signal_threshold_bytes{hard="true",signal="allocatableMemory.available"} 180
	`, "signal_available_bytes", "signal_threshold_bytes")
}

func TestAgeOfTheWorkloadTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := files(t)
		c := metrics.New(o)
		want(t, c, "", "workload_table_age_seconds")
		if err := os.WriteFile(o.Workloads, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(o.Workloads, time.Time{}, time.Now().Add(-90*time.Second)); err != nil {
			t.Fatal(err)
		}
		want(t, c, "workload_table_age_seconds 90", "workload_table_age_seconds")
	})
}

func TestNamesAreGoodPrometheus(t *testing.T) {
	o := files(t)
	appendLines(t, o.Journal, eviction(record.OutcomeKilled, record.ByAgent))
	writeState(t, o.State, state())
	problems, err := testutil.CollectAndLint(metrics.New(o))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestHandler(t *testing.T) {
	o := files(t)
	h, err := metrics.Handler(metrics.New(o))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	for path, want := range map[string]string{"/metrics": "ebpf_evict_up 0\n", "/healthz": "ok\n", "/": "404"} {
		r, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		if got := string(body); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in %s", path, want, got)
		}
		_ = r.Body.Close()
	}
	if _, err := metrics.Handler(metrics.New(o), metrics.New(o)); err == nil {
		t.Error("the same metrics twice are served")
	}
}
