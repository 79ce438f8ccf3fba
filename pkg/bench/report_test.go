package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func fixture(t *testing.T, names ...string) *Report {
	t.Helper()
	var r Report
	for _, n := range names {
		data, err := os.ReadFile("testdata/" + n + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Add(data); err != nil {
			t.Fatalf("%s: %v", n, err)
		}
	}
	return &r
}

func pageOf(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPageShowsFactorsAndNeedsNothingElse(t *testing.T) {
	page := pageOf(t, fixture(t, "latency", "overhead", "scale"))
	for _, want := range []string{
		"Linux 6.1.0", "2 CPUs", "2026-01-02", // the machine
		"500×",                      // earlyoom's p50 of 50 ms by ours of 100 µs, from outside
		"fault", "1.0500", "120 ns", // overhead
		"5000", "30.0 MiB", // scale
		"by tool", "by fill rate", "costs others", // a chart each
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	for _, bad := range []string{"<script", "src=", "<link", "@import", "NaN", "Inf"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if n := strings.Count(page, "<svg"); n != 3 {
		t.Errorf("%d charts, want 3", n)
	}
}

func TestChartsAreWellFormed(t *testing.T) {
	charts, err := fixture(t, "latency", "overhead").charts()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range charts {
		d := xml.NewDecoder(strings.NewReader(string(c.SVG)))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", c.Title, err)
			}
		}
	}
}

func TestReportReadsItsOwnJSON(t *testing.T) {
	r := fixture(t, "latency", "overhead", "scale")
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := again.Add(data); err != nil {
		t.Fatal(err)
	}
	if pageOf(t, r) != pageOf(t, &again) {
		t.Error("another page from its own JSON")
	}
}

func TestOtherJSONIsRefused(t *testing.T) {
	for name, text := range map[string]string{"a journal line": `{"schema":"ebpf-evict/v1"}`, "an array": `[]`, "no JSON": `x`, "no run": `{"runs":[]}`} {
		t.Run(name, func(t *testing.T) {
			if err := new(Report).Add([]byte(text)); err == nil {
				t.Error("not refused")
			}
		})
	}
}

func TestNoFactorWithoutAFigureToDivideBy(t *testing.T) {
	r := fixture(t, "latency")
	for i := range r.Latency[0].Runs {
		if r.Latency[0].Runs[i].Tool == ToolAgent {
			r.Latency[0].Runs[i].Outside.CrossedToSignalledNs.P50 = 0
		}
	}
	if f := r.Latency[0].Factors(); len(f) != 0 {
		t.Errorf("factors %v", f)
	}
}

// full has something for each chart.
func full() *Report {
	run := func(t Tool, s Scenario, rate int64) Run {
		r := agentRun(s, 100_000, 0)
		r.Tool, r.RateBytes = t, rate
		r.Raw[0].OvershootBytes = r.Raw[0].CrossedToSignalledNs
		if s == MemoryBack {
			r.Raw[0].SignalledToBackNs = r.Raw[0].CrossedToSignalledNs
		}
		r.summarise()
		return r
	}
	huge := run(ToolAgent, Idle, 0)
	huge.Fill = "thp"
	quarter := Point{Workloads: 100, PassNs: QuantilesOf([]int64{5}), CrossedToSignalledNs: QuantilesOf([]int64{90_000}), RSSFarBytes: 1 << 20, RSSNearBytes: 2 << 20}
	many := quarter
	many.Workloads = 10_000
	return &Report{
		Latency: []Latency{
			{Runs: []Run{run(ToolAgent, Idle, 0), huge, run(ToolAgent, Stalled, 0), run(ToolKernelFirst, Spinners, 0)}},
			{Runs: []Run{run(ToolAgent, Idle, 0), run(ToolAgent, Idle, 1<<28), run(ToolEarlyoom, Idle, 0), run(ToolEarlyoom, Idle, 1<<28), run(ToolPlainKill, MemoryBack, 0)}},
		},
		Overhead: []Overhead{{Runs: []OverheadRun{{Work: WorkFork, State: Far, Ratio: &Quartiles{1, 1, 1}, Baseline: &Quartiles{1, 1, 1}}}}},
		Scale:    []Scale{{Points: []Point{many, quarter}}},
	}
}

func TestEveryChartIsDrawn(t *testing.T) {
	charts, err := full().charts()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range charts {
		got = append(got, c.Title)
		if len(c.Legend) == 0 || !strings.Contains(string(c.SVG), "<path") {
			t.Errorf("%s: %d entries in its legend, %d bytes", c.Title, len(c.Legend), len(c.SVG))
		}
	}
	want := []string{
		"Crossing to SIGKILL, ebpf-evict, by what else goes on", "Crossing to SIGKILL, by the kernel",
		"Crossing to SIGKILL, ebpf-evict, by how the hog fills", "Crossing to SIGKILL, by tool", "Overshoot by fill rate",
		"Memory back", "What it costs others", "Thousands of units: time", "Thousands of units: memory", "Thousands of units: idle CPU",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestToolThatWasLeftOutIsNamedWithTheReason(t *testing.T) {
	r := full()
	r.Latency[0].Runs = append(r.Latency[0].Runs, Run{Tool: ToolNohang, Skipped: "program not found"})
	if page := pageOf(t, r); !strings.Contains(page, "nohang was left out: program not found.") {
		t.Error("the page does not say so")
	}
}
