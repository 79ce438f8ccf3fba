package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"slices"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

const (
	chartWidth  = 18 * vg.Centimeter
	chartHeight = 9.5 * vg.Centimeter
)

// palette is Okabe and Ito's, which also the colour-blind tell apart.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xB2, 0xFF}, color.RGBA{0xD5, 0x5E, 0x00, 0xFF}, color.RGBA{0x00, 0x9E, 0x73, 0xFF},
	color.RGBA{0xCC, 0x79, 0xA7, 0xFF}, color.RGBA{0xE6, 0x9F, 0x00, 0xFF}, color.RGBA{0x56, 0xB4, 0xE9, 0xFF}, color.RGBA{0x33, 0x33, 0x33, 0xFF},
}

// series is a named set of points.
type series struct {
	name   string
	points plotter.XYs
}

// chart is a picture with what it shows. The legend is the page's: text in a picture is as
// wide as the browser's font.
type chart struct {
	Title, Text string
	Legend      []legendEntry
	SVG         template.HTML
}

type legendEntry struct {
	Name  string
	Color string
}

func legend(all []series) (entries []legendEntry) {
	for i, s := range all {
		entries = append(entries, legendEntry{s.name, cssColor(colorOf(i))})
	}
	return entries
}

func colorOf(i int) color.Color { return palette[i%len(palette)] }

func cssColor(c color.Color) string {
	r, g, b, _ := c.RGBA()
	return fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)
}

// sans is laid out by the metrics of Liberation Sans, which are Arial's.
var sans = font.Font{Typeface: "Liberation", Variant: "Sans"}

func newChart(x, y string) *plot.Plot {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, style := range []*text.Style{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Font = font.From(sans, vg.Points(9))
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xE2}, color.Gray{0xE2}
	p.Add(grid)
	return p
}

// cdfChart draws which share of rounds had SIGKILL by when; x is in nanoseconds.
func cdfChart(all []series) (template.HTML, error) {
	p := newChart("from the crossing to SIGKILL", "share of rounds")
	for i, s := range all {
		line, err := plotter.NewLine(s.points)
		if err != nil {
			return "", fmt.Errorf("%s: %w", s.name, err)
		}
		line.StepStyle = plotter.PostStep
		line.Color, line.Width = colorOf(i), vg.Points(1.6)
		p.Add(line)
	}
	logScale(&p.X, 10, func(v float64) string { return record.FormatNs(int64(math.Round(v))) })
	p.Y.Min, p.Y.Max = 0, 1
	return render(p)
}

// cdf are the steps of a distribution: at each value the share that does not exceed it.
func cdf(values []int64) plotter.XYs {
	sorted := slices.Sorted(slices.Values(values))
	steps := make(plotter.XYs, 0, len(sorted)+1)
	for i, v := range sorted {
		x := math.Max(float64(v), float64(time.Microsecond)) // the axis is logarithmic
		if i == 0 {
			steps = append(steps, plotter.XY{X: x, Y: 0})
		}
		steps = append(steps, plotter.XY{X: x, Y: float64(i+1) / float64(len(sorted))})
	}
	return steps
}

// logScale needs values above 0 on the axis. The axis goes from power to power of base, a
// tick at each; with few powers of ten there are ticks at 2 and 5 too.
func logScale(a *plot.Axis, base float64, label func(float64) string) {
	power := func(v float64, round func(float64) float64) float64 {
		return math.Pow(base, round(math.Log(v)/math.Log(base)))
	}
	a.Scale = plot.LogScale{}
	a.Min, a.Max = power(a.Min, math.Floor), power(a.Max, math.Ceil)
	a.Tick.Marker = plot.TickerFunc(func(low, high float64) (ticks []plot.Tick) {
		steps := []float64{1}
		if base == 10 && high/low < 1500 {
			steps = []float64{1, 2, 5}
		}
		for v := power(low*1.001, math.Floor); v <= high*1.001; v *= base {
			for _, step := range steps {
				if step*v <= high*1.001 {
					ticks = append(ticks, plot.Tick{Value: step * v, Label: label(step * v)})
				}
			}
		}
		return ticks
	})
}

// overshootChart draws the median overshoot by fill rate, a line a tool.
func overshootChart(rates []int64, all []series) (template.HTML, error) {
	p := newChart("fill rate", "overshoot") // short: on a logarithmic axis the label lies near the top
	names := make([]string, len(rates))
	for i, r := range rates {
		names[i] = FormatRate(r)
	}
	p.NominalX(names...)
	for i, s := range all {
		slices.SortFunc(s.points, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
		line, points, err := plotter.NewLinePoints(s.points)
		if err != nil {
			return "", fmt.Errorf("%s: %w", s.name, err)
		}
		line.Color, points.Color = colorOf(i), colorOf(i)
		line.Width, points.Shape, points.Radius = vg.Points(1.4), draw.CircleGlyph{}, vg.Points(3)
		p.Add(line, points)
	}
	p.X.Min, p.X.Max = -0.3, float64(len(rates))-0.7
	logScale(&p.Y, 16, func(v float64) string { return record.FormatBytes(int64(math.Round(v))) })
	return render(p)
}

// quartileBars are bars at the medians with whiskers from quartile to quartile.
type quartileBars struct {
	plotter.XYs
	plotter.YErrors
}

// overheadChart draws by how many per cent CPU time grew, and how much it did by chance.
func overheadChart(runs []OverheadRun) (template.HTML, error) {
	p := newChart("", "CPU time more than without, %")
	names := make([]string, len(runs))
	for i := range runs {
		names[i] = fmt.Sprintf("%s\n%s", runs[i].Work, runs[i].State)
	}
	width := chartWidth / vg.Length(3.6*float64(max(len(runs), 2)))
	for i, of := range []func(*OverheadRun) *Quartiles{
		func(r *OverheadRun) *Quartiles { return r.Baseline },
		func(r *OverheadRun) *Quartiles { return r.Ratio },
	} {
		var values plotter.Values
		bars := quartileBars{}
		for n := range runs {
			q := of(&runs[n])
			median := 100 * (q.Median - 1)
			values = append(values, median)
			bars.XYs = append(bars.XYs, plotter.XY{X: float64(n), Y: median})
			bars.YErrors = append(bars.YErrors, struct{ Low, High float64 }{100 * (q.Median - q.Q25), 100 * (q.Q75 - q.Median)})
		}
		chart, err := plotter.NewBarChart(values, width)
		if err != nil {
			return "", err
		}
		whiskers, err := plotter.NewYErrorBars(bars)
		if err != nil {
			return "", err
		}
		chart.Offset = width * vg.Length(float64(i)-0.5)
		chart.LineStyle.Width = 0
		chart.Color = overheadColors[i]
		p.Add(chart, shifted{whiskers, chart.Offset})
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.6, float64(len(runs))-0.4
	return render(p)
}

var (
	overheadColors = []color.Color{color.Gray{0xBB}, palette[0]}
	overheadLegend = []legendEntry{
		{"without the agent too: the noise", cssColor(overheadColors[0])}, {"ebpf-evict", cssColor(overheadColors[1])},
	}
)

// shifted draws whiskers where the bars are.
type shifted struct {
	*plotter.YErrorBars
	by vg.Length
}

func (s shifted) Plot(c draw.Canvas, p *plot.Plot) {
	c.Push()
	c.Translate(vg.Point{X: s.by})
	s.YErrorBars.Plot(c, p)
	c.Pop()
}

func render(p *plot.Plot) (template.HTML, error) {
	canvas := vgsvg.New(chartWidth, chartHeight)
	p.Draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", fmt.Errorf("draw: %w", err)
	}
	// Inside of a page there is no XML declaration and no DTD.
	_, svg, ok := bytes.Cut(b.Bytes(), []byte("<svg"))
	if !ok {
		return "", fmt.Errorf("draw: no <svg> in %d bytes", b.Len())
	}
	return template.HTML("<svg" + string(svg)), nil
}

// backChart draws bars of medians and p99 of the time until memory was back.
func backChart(runs []Run) (template.HTML, error) {
	p := newChart("", "from SIGKILL to memory back, ms")
	names := make([]string, len(runs))
	width := chartWidth / vg.Length(3.6*float64(max(len(runs), 2)))
	for i, of := range []quantile{p50, p99} {
		var values plotter.Values
		for n := range runs {
			names[n] = string(runs[n].Tool)
			values = append(values, float64(of(runs[n].SignalledToBackNs))/1e6)
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return "", err
		}
		bars.Offset, bars.LineStyle.Width, bars.Color = width*vg.Length(float64(i)-0.5), 0, backColors[i]
		p.Add(bars)
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max, p.Y.Min = -0.6, float64(len(runs))-0.4, 0
	return render(p)
}

var (
	backColors = []color.Color{palette[0], color.Gray{0xBB}}
	backLegend = []legendEntry{{"p50", cssColor(backColors[0])}, {"p99", cssColor(backColors[1])}}
)

// pointsChart draws a line for each figure of a number of units; a point that has no figure
// is left out.
func pointsChart(p *plot.Plot, points []Point, figures []func(*Point) (float64, bool)) error {
	for i, of := range figures {
		var xys plotter.XYs
		for n := range points {
			if y, ok := of(&points[n]); ok {
				xys = append(xys, plotter.XY{X: float64(points[n].Workloads), Y: y})
			}
		}
		if len(xys) == 0 {
			continue
		}
		slices.SortFunc(xys, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
		line, dots, err := plotter.NewLinePoints(xys)
		if err != nil {
			return err
		}
		line.Color, dots.Color = colorOf(i), colorOf(i)
		line.Width, dots.Shape, dots.Radius = vg.Points(1.4), draw.CircleGlyph{}, vg.Points(3)
		p.Add(line, dots)
	}
	p.X.Scale = plot.LogScale{}
	p.X.Min, p.X.Max = p.X.Min/1.3, p.X.Max*1.3
	p.X.Tick.Marker = plot.TickerFunc(func(float64, float64) (ticks []plot.Tick) {
		for i := range points {
			ticks = append(ticks, plot.Tick{Value: float64(points[i].Workloads), Label: strconv.Itoa(points[i].Workloads)})
		}
		return ticks
	})
	return nil
}

func quantileOf(q *Quantiles, of quantile) (float64, bool) {
	if q == nil {
		return 0, false
	}
	return math.Max(float64(of(q)), float64(time.Microsecond)), true
}

func scaleTimes(points []Point) (template.HTML, error) {
	p := newChart("units", "time")
	err := pointsChart(p, points, []func(*Point) (float64, bool){
		func(p *Point) (float64, bool) { return quantileOf(p.PassNs, p50) },
		func(p *Point) (float64, bool) { return quantileOf(p.PassNs, p99) },
		func(p *Point) (float64, bool) { return quantileOf(p.CrossedToSignalledNs, p50) },
		func(p *Point) (float64, bool) { return quantileOf(p.CrossedToSignalledNs, p99) },
	})
	if err != nil {
		return "", err
	}
	logScale(&p.Y, 10, func(v float64) string { return record.FormatNs(int64(math.Round(v))) })
	return render(p)
}

func scaleMemory(points []Point) (template.HTML, error) {
	if !slices.ContainsFunc(points, func(p Point) bool { return p.RSSFarBytes > 0 || p.RSSNearBytes > 0 }) {
		return "", nil // a chart of nothing has no scale
	}
	p := newChart("units", "MiB")
	err := pointsChart(p, points, []func(*Point) (float64, bool){
		func(p *Point) (float64, bool) { return float64(p.RSSFarBytes) / (1 << 20), p.RSSFarBytes > 0 },
		func(p *Point) (float64, bool) { return float64(p.RSSNearBytes) / (1 << 20), p.RSSNearBytes > 0 },
	})
	if err != nil {
		return "", err
	}
	p.Y.Min = 0
	return render(p)
}

func scaleCPU(points []Point) (template.HTML, error) {
	p := newChart("units", "% of one CPU")
	if err := pointsChart(p, points, []func(*Point) (float64, bool){func(p *Point) (float64, bool) { return p.CPUPercent, true }}); err != nil {
		return "", err
	}
	p.Y.Min = 0
	return render(p)
}

var (
	scaleTimesLegend  = legend([]series{{name: "pass, p50"}, {name: "pass, p99"}, {name: "crossing to SIGKILL, p50"}, {name: "crossing to SIGKILL, p99"}})
	scaleMemoryLegend = legend([]series{{name: "wire far, idle"}, {name: "wire near, after the rounds"}})
	scaleCPULegend    = legend([]series{{name: "CPU"}})
)

// signalledNs are of the rounds of a run that count.
func signalledNs(r *Run) (values []int64) {
	for i := range r.Raw {
		round := &r.Raw[i]
		if !round.Disturbed && !round.Missed && !round.WrongVictim && round.CrossedToSignalledNs != nil {
			values = append(values, *round.CrossedToSignalledNs)
		}
	}
	return values
}

// plain: nothing else went on, the hog touched pages, and no tier was forced.
func plain(r *Run) bool { return r.Tier == "" && r.Scenario == Idle && r.Fill == load.FillPages }
