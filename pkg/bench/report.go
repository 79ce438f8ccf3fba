package bench

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"gonum.org/v1/plot/plotter"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// Report are the results that one page shows.
type Report struct {
	Latency  []Latency  `json:"latency,omitempty"`
	Overhead []Overhead `json:"overhead,omitempty"`
	Scale    []Scale    `json:"scale,omitempty"`
}

// Add takes a result of `bench … -o json`, or a report's own JSON.
func (r *Report) Add(data []byte) error {
	var kind struct {
		Latency, Overhead, Scale json.RawMessage
		Points                   json.RawMessage
		Runs                     []struct{ Tool, Work string }
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return err
	}
	switch {
	case kind.Latency != nil || kind.Overhead != nil || kind.Scale != nil:
		var other Report
		err := json.Unmarshal(data, &other)
		for _, l := range other.Latency {
			r.addLatency(l)
		}
		for _, o := range other.Overhead {
			r.addOverhead(o)
		}
		for _, s := range other.Scale {
			r.addScale(s)
		}
		return err
	case kind.Points != nil:
		return decode(data, r.addScale)
	case len(kind.Runs) > 0 && kind.Runs[0].Work != "":
		return decode(data, r.addOverhead)
	case len(kind.Runs) > 0 && kind.Runs[0].Tool != "":
		return decode(data, r.addLatency)
	}
	return errors.New("no result of bench latency, overhead or scale")
}

func decode[T any](data []byte, add func(T)) error {
	var one T
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	add(one)
	return nil
}

// Results of one machine, kernel and version are drawn together; those with peers apart
// from those of the agent alone.

func (r *Report) addLatency(l Latency) {
	for i := range r.Latency {
		if same(r.Latency[i].Machine, l.Machine) && r.Latency[i].hasPeers() == l.hasPeers() {
			r.Latency[i].Runs = append(r.Latency[i].Runs, l.Runs...)
			return
		}
	}
	r.Latency = append(r.Latency, l)
}

func (l *Latency) hasPeers() bool {
	return slices.ContainsFunc(l.Runs, func(r Run) bool { return r.Tool != ToolAgent })
}

func (r *Report) addOverhead(o Overhead) {
	for i := range r.Overhead {
		if same(r.Overhead[i].Machine, o.Machine) {
			r.Overhead[i].Runs, r.Overhead[i].Hooks = append(r.Overhead[i].Runs, o.Runs...), o.Hooks
			return
		}
	}
	r.Overhead = append(r.Overhead, o)
}

func (r *Report) addScale(s Scale) {
	for i := range r.Scale {
		if same(r.Scale[i].Machine, s.Machine) {
			r.Scale[i].Points = append(r.Scale[i].Points, s.Points...)
			return
		}
	}
	r.Scale = append(r.Scale, s)
}

// same but for the date.
func same(a, b Machine) bool {
	a.Date = b.Date
	return a == b
}

// Factor is how many times later than the agent a peer was in the same run, by the same
// yardstick.
type Factor struct {
	Tool      Tool
	RateBytes int64
	// Rounds are the peer's.
	Rounds   int
	P50, P99 float64
}

// Factors holds each peer against the agent at the same scenario, fill and rate.
func (l *Latency) Factors() (all []Factor) {
	for i := range l.Runs {
		peer := &l.Runs[i]
		at := slices.IndexFunc(l.Runs, func(r Run) bool {
			return r.Tool == ToolAgent && r.Scenario == peer.Scenario && r.Fill == peer.Fill && r.RateBytes == peer.RateBytes
		})
		if peer.Tool == ToolAgent || at < 0 {
			continue
		}
		theirs, ours := outsideSignalled(peer), outsideSignalled(&l.Runs[at])
		if theirs == nil || ours == nil || ours.P50 <= 0 || ours.P99 <= 0 {
			continue
		}
		all = append(all, Factor{peer.Tool, peer.RateBytes, peer.Rounds, ratio(theirs.P50, ours.P50), ratio(theirs.P99, ours.P99)})
	}
	return all
}

func outsideSignalled(r *Run) *Quantiles {
	if r.Outside == nil {
		return nil
	}
	return r.Outside.CrossedToSignalledNs
}

func ratio(a, b int64) float64 { return float64(a) / float64(b) }

// YardstickApart is how far the crossing as seen from outside is from the kernel's stamp,
// over all rounds of the agent, whichever came first.
func (l *Latency) YardstickApart() *Quantiles {
	var values []int64
	for i := range l.Runs {
		for j := range l.Runs[i].Raw {
			if d := l.Runs[i].Raw[j].CrossedApartNs; d != nil {
				values = append(values, max(*d, -*d))
			}
		}
	}
	return QuantilesOf(values)
}

//go:embed report.html
var page string

// WriteHTML writes one page that needs nothing else. Every figure is from the results.
func (r *Report) WriteHTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"ns": formatNsCell, "bytes": formatBytesCell, "rate": FormatRate, "size": record.FormatBytes,
		"times": times,
		"share": func(f float64) string { return fmt.Sprintf("%.4f", f) },
	}).Parse(page)
	if err != nil {
		return err
	}
	c, err := r.charts()
	if err != nil {
		return err
	}
	return t.Execute(w, struct {
		*Report
		Machines []Machine
		Charts   []chart
	}{r, r.machines(), c})
}

// times writes a factor with two digits or, from 10 on, in whole numbers.
func times(f float64) string {
	if f < 10 {
		return fmt.Sprintf("%.1f×", f)
	}
	return fmt.Sprintf("%.0f×", f)
}

func formatNsCell(q *Quantiles, which string) string {
	return format(q, record.FormatNs, []quantile{quantiles[which]})
}

func formatBytesCell(q *Quantiles, which string) string {
	return format(q, record.FormatBytes, []quantile{quantiles[which]})
}

var quantiles = map[string]quantile{"p50": p50, "p90": func(q *Quantiles) int64 { return q.P90 }, "p99": p99, "max": most}

// machines are those of the results, each once.
func (r *Report) machines() (all []Machine) {
	add := func(m Machine) {
		if !slices.ContainsFunc(all, func(o Machine) bool { return same(o, m) }) {
			all = append(all, m)
		}
	}
	for i := range r.Latency {
		add(r.Latency[i].Machine)
	}
	for i := range r.Overhead {
		add(r.Overhead[i].Machine)
	}
	for i := range r.Scale {
		add(r.Scale[i].Machine)
	}
	return all
}

func (r *Report) charts() (all []chart, err error) {
	draw := func(title, text string, legend []legendEntry, svg template.HTML, drawErr error) {
		err = errors.Join(err, drawErr)
		all = append(all, chart{title, text, legend, svg})
	}
	for i := range r.Latency {
		l := &r.Latency[i]
		tools, scenarios, rates := l.series()
		if len(tools) > 1 {
			svg, e := cdfChart(tools)
			draw("Crossing to SIGKILL, by tool", "The fastest fill with 4 KiB pages, nothing else going on, all tools in turn in one run. Logarithmic: each label is ten times the one before.", legend(tools), svg, e)
		}
		if !l.hasPeers() && len(scenarios) > 0 {
			svg, e := cdfChart(scenarios)
			draw("Crossing to SIGKILL, ebpf-evict, by what else goes on", "By the agent's journal: the kernel's stamp of the crossing to the return of the first kill.", legend(scenarios), svg, e)
		}
		if l.hasPeers() && len(rates) > 1 {
			overshoots := l.overshoots(rates)
			svg, e := overshootChart(rates, overshoots)
			draw("Overshoot by fill rate", "How much more the hog took after it had crossed. The poller let it take all there was for it. Logarithmic: each label is sixteen times the one below.", legend(overshoots), svg, e)
		}
	}
	for i := range r.Overhead {
		svg, e := overheadChart(r.Overhead[i].Runs)
		draw("What it costs others", "CPU time of a worker with the agent by CPU time without, in pairs. Far from a wire the allocation hook is detached. Whiskers: quartiles.", overheadLegend, svg, e)
	}
	return all, err
}

// series are the distributions of a result: of the tools at the fastest fill, and of the
// agent in each scenario; and its fill rates, slowest first.
func (l *Latency) series() (tools, scenarios []series, rates []int64) {
	for i := range l.Runs {
		r := &l.Runs[i]
		values := signalledNs(r)
		if len(values) == 0 {
			continue
		}
		if plain(r) && r.RateBytes == 0 {
			tools = append(tools, series{string(r.Tool), cdf(values)})
		}
		if r.Tool == ToolAgent {
			scenarios = append(scenarios, series{strings.TrimSpace(fmt.Sprintf("%s %s", r.Scenario, r.Fill)), cdf(values)})
		}
		if !slices.Contains(rates, r.RateBytes) {
			rates = append(rates, r.RateBytes)
		}
	}
	slices.SortFunc(rates, func(a, b int64) int { return cmp.Compare(uint64(a-1), uint64(b-1)) }) // 0 is the fastest
	return tools, scenarios, rates
}

// overshoots are the medians at each rate, a series a tool, by the yardstick.
func (l *Latency) overshoots(rates []int64) (all []series) {
	for i := range l.Runs {
		r := &l.Runs[i]
		if !plain(r) || r.Outside == nil || r.Outside.OvershootBytes == nil || r.Tool == ToolKernelOOM {
			continue // the OOM killer has no overshoot
		}
		at := slices.IndexFunc(all, func(s series) bool { return s.name == string(r.Tool) })
		if at < 0 {
			at, all = len(all), append(all, series{name: string(r.Tool)})
		}
		all[at].points = append(all[at].points, plotter.XY{
			X: float64(slices.Index(rates, r.RateBytes)),
			Y: float64(max(r.Outside.OvershootBytes.P50, 4096)), // a page; the axis is logarithmic
		})
	}
	return all
}
