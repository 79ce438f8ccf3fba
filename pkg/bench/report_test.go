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
