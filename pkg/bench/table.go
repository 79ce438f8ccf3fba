package bench

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// WriteTable writes the result for people.
func (l *Latency) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d CPUs, cgroup %s, %s\n\n", l.Kernel, l.CPUs, l.Cgroup, l.Date.UTC().Format("2006-01-02"))
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "TOOL\tSCENARIO\tFILL\tRATE\tROUNDS\tMISSED\tWRONG\tDISTURBED\tSIGKILL P50\tP99\tMAX\tDEAD P50\tOVERSHOOT P50\tP99\tBACK P50")
	for i := range l.Runs {
		r := &l.Runs[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d", r.name(), r.Scenario, cmp.Or(string(r.Fill), "-"), FormatRate(r.RateBytes),
			r.Rounds, r.Missed, r.WrongVictims, r.Disturbed)
		fmt.Fprintf(t, "\t%s\t%s\n", formatNs(r.CrossedToSignalledNs, p50, p99, most), formatNs(r.CrossedToDeadNs, p50)+"\t"+formatBytes(r.OvershootBytes, p50, p99)+"\t"+formatNs(r.SignalledToBackNs, p50))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nSIGKILL, DEAD: since the crossing. Of ebpf-evict by its journal, of others by the yardstick outside.")
	for _, m := range l.MemoryBack {
		fmt.Fprintf(w, "BACK: since SIGKILL, until the unit holds a tenth; with %s %.1f times sooner (p50) than with %s, %.1f times (p99).\n", m.Tool, m.P50, ToolPlainKill, m.P99)
	}
	for i := range l.Runs {
		if r := &l.Runs[i]; r.Skipped != "" {
			fmt.Fprintf(w, "%s was left out: %s\n", r.Tool, r.Skipped)
		}
	}
	return nil
}

// name is the tool's, with the tier where that was forced.
func (r *Run) name() string {
	if r.Tier == "" {
		return string(r.Tool)
	}
	return fmt.Sprintf("%s (%s)", r.Tool, r.Tier)
}

// FormatRate writes a fill rate.
func FormatRate(bytes int64) string {
	if bytes == 0 {
		return "max"
	}
	return record.FormatBytes(bytes) + "/s"
}

type quantile func(*Quantiles) int64

func p50(q *Quantiles) int64  { return q.P50 }
func p99(q *Quantiles) int64  { return q.P99 }
func most(q *Quantiles) int64 { return q.Max }

func formatNs(q *Quantiles, which ...quantile) string { return format(q, record.FormatNs, which) }

func formatBytes(q *Quantiles, which ...quantile) string {
	return format(q, record.FormatBytes, which)
}

// format is a column for each quantile.
func format(q *Quantiles, text func(int64) string, which []quantile) (s string) {
	for i, of := range which {
		if i > 0 {
			s += "\t"
		}
		if q == nil {
			s += "-"
		} else {
			s += text(of(q))
		}
	}
	return s
}

// WriteTable writes the result for people.
func (o *Overhead) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d CPUs, cgroup %s, %s\n\n", o.Kernel, o.CPUs, o.Cgroup, o.Date.UTC().Format("2006-01-02"))
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "WORK\tSTATE\tPAIRS\tON/OFF\tQ25\tQ75\tOFF/OFF\tQ25\tQ75")
	for i := range o.Runs {
		r := &o.Runs[i]
		fmt.Fprintf(t, "%s\t%s\t%d\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f\n", r.Work, r.State, r.Pairs,
			r.Ratio.Median, r.Ratio.Q25, r.Ratio.Q75, r.Baseline.Median, r.Baseline.Q25, r.Baseline.Q75)
	}
	for _, h := range o.Hooks {
		fmt.Fprintf(t, "\n%s\t%.0f ns a run, %d runs", h.Program, h.NsPerRun, h.Runs)
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// WriteTable writes the result for people.
func (s *Scale) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d CPUs, cgroup %s, %s\n\n", s.Kernel, s.CPUs, s.Cgroup, s.Date.UTC().Format("2006-01-02"))
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "WORKLOADS\tROUNDS\tMISSED\tPASS P50\tP99\tSIGKILL P50\tP99\tRSS\tIDLE CPU")
	for i := range s.Points {
		p := &s.Points[i]
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%s\t%s\t%.2f %%\n", p.Workloads, p.Rounds, p.Missed,
			formatNs(p.PassNs, p50, p99), formatNs(p.CrossedToSignalledNs, p50, p99), record.FormatBytes(p.RSSBytes), p.CPUPercent)
	}
	return t.Flush()
}
