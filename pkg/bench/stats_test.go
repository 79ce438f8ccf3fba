package bench

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

func TestQuantilesAreValuesThatWereMeasured(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[99-i] = int64(i + 1)
	}
	for name, tc := range map[string]struct {
		values []int64
		want   *Quantiles
	}{
		"none":                    {nil, nil},
		"one":                     {[]int64{7}, &Quantiles{7, 7, 7, 7}},
		"two: the lower half":     {[]int64{9, 3}, &Quantiles{3, 9, 9, 9}},
		"a hundred, not in order": {hundred, &Quantiles{50, 90, 99, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, QuantilesOf(tc.values)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestQuartilesInterpolate(t *testing.T) {
	want := &Quartiles{Median: 2.5, Q25: 1.75, Q75: 3.25}
	if diff := cmp.Diff(want, quartilesOf([]float64{4, 1, 3, 2})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func round(signalled int64) Round {
	return Round{Figures: Figures{CrossedToSignalledNs: &signalled}}
}

func TestDisturbedRoundsCountForNothingElse(t *testing.T) {
	disturbed := round(900)
	disturbed.Disturbed, disturbed.Missed, disturbed.WrongVictim = true, true, true
	missed, wrong := round(800), round(700)
	missed.Missed, wrong.WrongVictim = true, true
	r := Run{Raw: []Round{round(1), disturbed, missed, wrong, round(3)}}
	r.summarise()
	if r.Rounds != 4 || r.Missed != 1 || r.WrongVictims != 1 || r.Disturbed != 1 {
		t.Errorf("rounds %d, missed %d, wrong %d, disturbed %d", r.Rounds, r.Missed, r.WrongVictims, r.Disturbed)
	}
	if diff := cmp.Diff(&Quantiles{1, 3, 3, 3}, r.CrossedToSignalledNs); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCrossingLiesBetweenTwoMarks(t *testing.T) {
	c := fillCurve{marks: []int64{1000, 2000, 4000}}
	for name, tc := range map[string]struct {
		distance, want int64
		ok             bool
	}{
		"at a mark":            {2 * load.MarkBytes, 2000, true},
		"a quarter of the way": {2*load.MarkBytes + load.MarkBytes/4, 2500, true},
		"before the first":     {load.MarkBytes - 1, 0, false},
		"never filled":         {3 * load.MarkBytes, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := c.crossed(tc.distance)
			if got != tc.want || ok != tc.ok {
				t.Errorf("got %d, %v; want %d, %v", got, ok, tc.want, tc.ok)
			}
		})
	}
}

// The shape that outside tools read.
func TestLatencyJSON(t *testing.T) {
	r := Run{Tool: ToolAgent, Scenario: Idle, Fill: load.FillPages, Signal: "allocatableMemory.available", Raw: []Round{round(5)}}
	r.summarise()
	data, err := json.Marshal(Latency{Machine: Machine{Kernel: "6.1", CPUs: 2}, Runs: []Run{r}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"kernel", "cpus", "date", "runs"} {
		if _, ok := got[key]; !ok {
			t.Errorf("no key %q in %s", key, data)
		}
	}
	run := got["runs"].([]any)[0].(map[string]any)
	for _, key := range []string{"tool", "scenario", "fill", "signal", "rounds", "missed", "wrongVictims", "raw"} {
		if _, ok := run[key]; !ok {
			t.Errorf("no key %q in a run of %s", key, data)
		}
	}
	want := map[string]any{"p50": 5.0, "p90": 5.0, "p99": 5.0, "max": 5.0}
	if diff := cmp.Diff(want, run["crossedToSignalledNs"]); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWhatCantBeMeasuredIsRefused(t *testing.T) {
	good := LatencyOptions{Tools: []Tool{ToolAgent}, Rounds: 1, Scenario: Idle, Fill: load.FillPages, RatesBytes: []int64{0}, Tiers: []string{""}}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*LatencyOptions){
		"no rounds":                    func(o *LatencyOptions) { o.Rounds = 0 },
		"unknown scenario":             func(o *LatencyOptions) { o.Scenario = "busy" },
		"unknown fill":                 func(o *LatencyOptions) { o.Fill = "swap" },
		"unknown tool":                 func(o *LatencyOptions) { o.Tools = []Tool{"oomd9"} },
		"a disk signal":                func(o *LatencyOptions) { o.Signal = "nodefs.available" },
		"a fork bomb on a memory wire": func(o *LatencyOptions) { o.Scenario, o.Signal = Forkbomb, "memory.available" },
		"a peer that is to be stalled": func(o *LatencyOptions) { o.Scenario, o.Tools = StalledFar, []Tool{ToolEarlyoom} },
		"a plain kill of no 1 GiB":     func(o *LatencyOptions) { o.Tools = []Tool{ToolPlainKill} },
		"a peer's memory back":         func(o *LatencyOptions) { o.Scenario, o.Tools = MemoryBack, []Tool{ToolEarlyoom} },
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			change(&o)
			if err := o.validate(); err == nil {
				t.Error("not refused")
			}
		})
	}
}

func TestRefusalIsShortAndNamesNoFile(t *testing.T) {
	said := "ebpf-evict: configuration /tmp/x/config-1.yaml: backstop: no such key, want one of budget, compat"
	if got, want := refusal(said, "/tmp/x/config-1.yaml"), "backstop: no such key"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKernelsKillIsMeasuredFromItsStampToTheTrace(t *testing.T) {
	b := burnt{died: true, signalNs: 1_500, diedNs: 9_000}
	outside, overshoot := int64(700), int64(4096)
	seen := &Figures{CrossedToSignalledNs: &outside, OvershootBytes: &overshoot}
	for name, tc := range map[string]struct {
		line *record.Line
		want int64
	}{
		"the journal has the crossing":    {&record.Line{Timeline: &record.Timeline{Crossed: 1_000, Signalled: 8_000}}, 500},
		"the journal has none":            {&record.Line{Timeline: &record.Timeline{Signalled: 8_000}}, 700},
		"no line: the agent never saw it": {nil, 700},
	} {
		t.Run(name, func(t *testing.T) {
			f := b.kernelFigures(tc.line, seen)
			if f.CrossedToSignalledNs == nil || *f.CrossedToSignalledNs != tc.want || *f.OvershootBytes != overshoot {
				t.Errorf("got %+v", f)
			}
		})
	}
}

func backRun(t Tool, ns int64) Run {
	return Run{Tool: t, Scenario: MemoryBack, Summary: Summary{SignalledToBackNs: QuantilesOf([]int64{ns})}}
}

func TestMemoryBackIsThePlainKillsTimeByOurs(t *testing.T) {
	l := Latency{Runs: []Run{backRun(ToolPlainKill, 300), backRun(ToolAgent, 100), {Tool: ToolKernelFirst, Scenario: MemoryBack}}}
	if diff := cmp.Diff([]MemoryFactor{{ToolAgent, 3, 3}}, l.memoryBack()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	l.Runs = l.Runs[1:]
	if got := l.memoryBack(); got != nil {
		t.Errorf("without a plain kill: %v", got)
	}
}
