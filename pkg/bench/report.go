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

	"gonum.org/v1/plot/plotter"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
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
			r.Latency[i].MemoryBack = r.Latency[i].memoryBack()
			return
		}
	}
	r.Latency = append(r.Latency, l)
}

func (l *Latency) hasPeers() bool {
	return slices.ContainsFunc(l.Runs, func(r Run) bool { return !r.Tool.Ours() })
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
			slices.SortStableFunc(r.Scale[i].Points, func(a, b Point) int { return cmp.Compare(a.Workloads, b.Workloads) })
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
		if peer.Tool.Ours() || peer.Tool == ToolPlainKill || at < 0 {
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
		"times": times, "ours": Tool.Ours,
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
		Goals    []Goal
	}{r, r.machines(), c, r.Goals()})
}

// Notes say what was done to tools so that they can take part, or why they could not; each
// once.
func (r *Report) Notes() (all []string) {
	for i := range r.Latency {
		for _, run := range r.Latency[i].Runs {
			note := fmt.Sprintf("%s: %s", run.Tool, run.Note)
			if run.Skipped != "" {
				note = fmt.Sprintf("%s was left out: %s", run.Tool, run.Skipped)
			}
			if run.Note+run.Skipped != "" && !slices.Contains(all, note) {
				all = append(all, note)
			}
		}
	}
	return all
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
		for _, v := range views {
			drawn := l.distributions(v.name)
			if len(drawn) < v.least {
				continue
			}
			svg, e := cdfChart(drawn)
			draw(v.title, v.text+" "+logarithmic, legend(drawn), svg, e)
		}
		rates := l.rates()
		if overshoots := l.overshoots(rates); l.hasPeers() && len(rates) > 1 && len(overshoots) > 0 {
			svg, e := overshootChart(rates, overshoots)
			draw("Overshoot by fill rate", "How much more the hog took after it had crossed, medians; of ebpf-evict with what the kernel had charged ahead. The poller lets it take all there is for it. Logarithmic: each label is sixteen times the one below.", legend(overshoots), svg, e)
		}
		if bars := l.backs(); len(bars) > 0 {
			svg, e := backChart(bars)
			draw("Memory back", "From SIGKILL until a victim of 1 GiB beside four spinners holds a tenth of it, looked at from outside.", backLegend, svg, e)
		}
	}
	for i := range r.Overhead {
		svg, e := overheadChart(r.Overhead[i].Runs)
		draw("What it costs others", "CPU time of a worker with the agent by CPU time without, in pairs. Far from a wire the allocation hook is detached. Whiskers: quartiles.", overheadLegend, svg, e)
	}
	for i := range r.Scale {
		if points := r.Scale[i].Points; len(points) > 1 {
			svg, e := scaleTimes(points)
			draw("Thousands of units: time", "A pass is from waking to the decision. "+logarithmic, scaleTimesLegend, svg, e)
			svg, e = scaleMemory(points)
			draw("Thousands of units: memory", "The agent's resident memory.", scaleMemoryLegend, svg, e)
			svg, e = scaleCPU(points)
			draw("Thousands of units: idle CPU", "Of one CPU, with the wire far and nothing happening.", scaleCPULegend, svg, e)
		}
	}
	return all, err
}

const logarithmic = "Logarithmic."

// views are the distributions that a page shows. name puts a run's rounds into a series of
// that name; empty leaves it out. A chart of fewer series than least tells nothing.
var views = []struct {
	title, text string
	least       int
	name        func(l *Latency, r *Run) string
}{
	{"Crossing to SIGKILL, by tool", "The fastest fill with 4 KiB pages, nothing else going on, all tools in turn in one run.", 2, func(l *Latency, r *Run) string {
		if !l.hasPeers() || !plain(r) || r.RateBytes != 0 {
			return ""
		}
		return string(r.Tool)
	}},
	{"Crossing to SIGKILL, ebpf-evict, by what else goes on", "By the agent's journal: the kernel's stamp of the crossing to the return of the first kill.", 1, func(l *Latency, r *Run) string {
		if l.hasPeers() || r.Tool != ToolAgent || r.Tier != "" || r.Fill != load.FillPages && r.Scenario != Forkbomb || r.Scenario.stalls() {
			return ""
		}
		return string(r.Scenario)
	}},
	{"Crossing to SIGKILL, by the kernel", "Kernel first: the backstop has no grace. Stalled: the agent is SIGSTOPped, near its wire or far from it.", 1, func(l *Latency, r *Run) string {
		switch {
		case l.hasPeers() || r.Fill != load.FillPages:
			return ""
		case r.Tool == ToolKernelFirst:
			return "kernel first, " + string(r.Scenario)
		case r.Scenario.stalls():
			return string(r.Scenario)
		}
		return ""
	}},
	{"Crossing to SIGKILL, ebpf-evict, by how the hog fills", "Nothing else going on.", 2, func(l *Latency, r *Run) string {
		if l.hasPeers() || r.Tool != ToolAgent || r.Tier != "" || r.Scenario != Idle {
			return ""
		}
		return string(r.Fill)
	}},
	{"Crossing to SIGKILL, ebpf-evict, by tier", "What watches is forced. Without a hook (event, poll) a hog's crossing is the one seen from outside.", 2, func(_ *Latency, r *Run) string {
		if r.Fill != load.FillPages {
			return ""
		}
		return r.Tier
	}},
}

// distributions are the series of a view, in the order of the runs.
func (l *Latency) distributions(name func(*Latency, *Run) string) (all []series) {
	values := map[string][]int64{}
	var order []string
	for i := range l.Runs {
		n := name(l, &l.Runs[i])
		got := signalledNs(&l.Runs[i])
		if n == "" || len(got) == 0 {
			continue
		}
		if values[n] == nil {
			order = append(order, n)
		}
		values[n] = append(values[n], got...)
	}
	for _, n := range order {
		all = append(all, series{n, cdf(values[n])})
	}
	return all
}

// rates are the fill rates of plain runs, slowest first.
func (l *Latency) rates() (rates []int64) {
	for i := range l.Runs {
		if r := &l.Runs[i]; plain(r) && r.Rounds > 0 && !slices.Contains(rates, r.RateBytes) {
			rates = append(rates, r.RateBytes)
		}
	}
	slices.SortFunc(rates, func(a, b int64) int { return cmp.Compare(uint64(a-1), uint64(b-1)) }) // 0 is the fastest
	return rates
}

// backs are the runs that have the time until memory was back.
func (l *Latency) backs() (runs []Run) {
	for i := range l.Runs {
		if l.Runs[i].SignalledToBackNs != nil {
			runs = append(runs, l.Runs[i])
		}
	}
	return runs
}

// overshoots are the medians at each rate, a series a tool: of ours by the journal, which
// sees what the kernel charged ahead, of peers by the yardstick, which does not.
func (l *Latency) overshoots(rates []int64) (all []series) {
	for i := range l.Runs {
		r := &l.Runs[i]
		if !plain(r) || r.OvershootBytes == nil || r.Tool == ToolKernelOOM {
			continue // the OOM killer has no overshoot
		}
		at := slices.IndexFunc(all, func(s series) bool { return s.name == string(r.Tool) })
		if at < 0 {
			at, all = len(all), append(all, series{name: string(r.Tool)})
		}
		all[at].points = append(all[at].points, plotter.XY{
			X: float64(slices.Index(rates, r.RateBytes)),
			Y: float64(max(r.OvershootBytes.P50, 4096)), // a page; the axis is logarithmic
		})
	}
	return all
}
