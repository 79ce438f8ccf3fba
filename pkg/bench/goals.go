package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// Verdict says whether a goal is met.
type Verdict string

const (
	Met         Verdict = "met"
	NotMet      Verdict = "not met"
	NotMeasured Verdict = "not measured"
)

// Goal is what the project sets out to hold, with what a report has for it.
type Goal struct {
	What, Want, Got string
	Verdict         Verdict
}

// Goals holds the report against the project's goals. They are for a machine of two CPUs;
// figures and verdicts are from the results alone.
func (r *Report) Goals() []Goal {
	return slices.Concat(
		r.latencyGoals(), r.stalledGoals(), []Goal{r.nobodyElse(), r.memoryGoal(), r.peersGoal()},
		r.overheadGoals(), r.scaleGoals(),
	)
}

func (r *Report) latencyGoals() (goals []Goal) {
	for _, g := range []struct {
		what     string
		tool     Tool
		scenario Scenario
		p50, p99 time.Duration // 0: no goal
	}{
		{"crossing to SIGKILL, 4 spinners", ToolAgent, Spinners, 150 * time.Microsecond, 500 * time.Microsecond},
		{"crossing to SIGKILL, idle", ToolAgent, Idle, 150 * time.Microsecond, 500 * time.Microsecond},
		{"crossing to SIGKILL, fork bomb", ToolAgent, Forkbomb, 150 * time.Microsecond, time.Millisecond},
		{"crossing to SIGKILL, kernel first, 4 spinners", ToolKernelFirst, Spinners, 0, 100 * time.Microsecond},
		{"crossing to SIGKILL, kernel first, idle", ToolKernelFirst, Idle, 0, 100 * time.Microsecond},
	} {
		run := r.longest(g.tool, g.scenario)
		if g.p50 > 0 {
			goals = append(goals, atMost(g.what+", p50", signalledOf(run), p50, int64(g.p50), record.FormatNs))
		}
		goals = append(goals, atMost(g.what+", p99", signalledOf(run), p99, int64(g.p99), record.FormatNs))
	}
	var overshoot *Quantiles
	if run := r.longest(ToolAgent, Idle); run != nil {
		overshoot = run.OvershootBytes
	}
	return append(goals,
		atMost("overshoot at the fastest 4 KiB fill, p50", overshoot, p50, 512<<10, record.FormatBytes),
		atMost("overshoot at the fastest 4 KiB fill, p99", overshoot, p99, 4<<20, record.FormatBytes))
}

// longest is the run with the most rounds of a tool in a scenario at the fastest 4 KiB fill;
// nil for none that was played.
func (r *Report) longest(t Tool, s Scenario) (longest *Run) {
	for i := range r.Latency {
		for j := range r.Latency[i].Runs {
			run := &r.Latency[i].Runs[j]
			if run.Tool != t || run.Tier != "" || run.Scenario != s || run.RateBytes != 0 || s != Forkbomb && run.Fill != load.FillPages {
				continue
			}
			if run.Rounds > 0 && (longest == nil || run.Rounds > longest.Rounds) {
				longest = run
			}
		}
	}
	return longest
}

func signalledOf(r *Run) *Quantiles {
	if r == nil {
		return nil
	}
	return r.CrossedToSignalledNs
}

func atMost(what string, q *Quantiles, of quantile, limit int64, format func(int64) string) Goal {
	g := Goal{What: what, Want: "≤ " + format(limit), Got: "–", Verdict: NotMeasured}
	if q != nil {
		g.Got, g.Verdict = format(of(q)), verdict(of(q) <= limit)
	}
	return g
}

func verdict(met bool) Verdict {
	if met {
		return Met
	}
	return NotMet
}

// stalledGoals also want that no round was missed.
func (r *Report) stalledGoals() (goals []Goal) {
	for _, s := range []Scenario{Stalled, StalledFar} {
		run := r.longest(ToolAgent, s)
		g := atMost(fmt.Sprintf("agent SIGSTOPped (%s), p99", s), signalledOf(run), p99, int64(2*time.Millisecond), record.FormatNs)
		g.Want += ", none missed"
		if run != nil && run.Missed > 0 {
			g.Got, g.Verdict = fmt.Sprintf("%d of %d missed", run.Missed, run.Rounds), NotMet
		}
		goals = append(goals, g)
	}
	return goals
}

// nobodyElse is about all rounds of ours but those of a stalled agent, which have a goal of
// their own.
func (r *Report) nobodyElse() Goal {
	g := Goal{What: "rounds missed or of a wrong victim", Want: "none", Got: "–", Verdict: NotMeasured}
	var rounds, missed, wrong int
	for i := range r.Latency {
		for j := range r.Latency[i].Runs {
			if run := &r.Latency[i].Runs[j]; run.Tool.Ours() {
				rounds, wrong = rounds+run.Rounds, wrong+run.WrongVictims
				if !run.Scenario.stalls() {
					missed += run.Missed
				}
			}
		}
	}
	if rounds > 0 {
		g.Got, g.Verdict = fmt.Sprintf("%d missed, %d wrong of %d", missed, wrong, rounds), verdict(missed+wrong == 0)
	}
	return g
}

func (r *Report) memoryGoal() Goal {
	g := Goal{What: "1 GiB back under load, against kill(2) alone", Want: "≥ 2 times sooner", Got: "–", Verdict: NotMeasured}
	for i := range r.Latency {
		for _, m := range r.Latency[i].MemoryBack {
			if m.Tool == ToolAgent {
				g.Got, g.Verdict = times(m.P50), verdict(m.P50 >= 2)
			}
		}
	}
	return g
}

// peersGoal is the least factor of any peer at the fastest fill: at a slow one the 256 KiB that
// the kernel charges ahead are milliseconds, which blur the yardstick.
func (r *Report) peersGoal() Goal {
	g := Goal{What: "every peer is behind in the same run, fastest fill, p50", Want: "all", Got: "–", Verdict: NotMeasured}
	var least *Factor
	for i := range r.Latency {
		for _, f := range r.Latency[i].Factors() {
			if f.RateBytes == 0 && (least == nil || f.P50 < least.P50) {
				least = &f
			}
		}
	}
	if least != nil {
		g.Got, g.Verdict = fmt.Sprintf("least: %s by %s", least.Tool, times(least.P50)), verdict(least.P50 > 1)
	}
	return g
}

// hotHook is the allocation hook of bpf/evict.bpf.c.
const hotHook = "page_alloc"

func (r *Report) overheadGoals() []Goal {
	detached := Goal{What: "far: the allocation hook is detached", Want: "no link, by the kernel's list", Got: "–", Verdict: NotMeasured}
	overlap := Goal{What: "far: quartiles overlap those of off against off", Want: "all works", Got: "–", Verdict: NotMeasured}
	var attached, apart []string
	for i := range r.Overhead {
		for j := range r.Overhead[i].Runs {
			run := &r.Overhead[i].Runs[j]
			if run.State != Far || run.Ratio == nil || run.Baseline == nil {
				continue
			}
			if slices.Contains(run.Attached, hotHook) {
				attached = append(attached, string(run.Work))
			}
			if run.Ratio.Q25 > run.Baseline.Q75 { // cheaper than without is noise
				apart = append(apart, string(run.Work))
			}
			if run.Attached != nil {
				detached.Got, detached.Verdict = goodOr("detached", attached), verdict(len(attached) == 0)
			}
			overlap.Got, overlap.Verdict = goodOr("all", apart), verdict(len(apart) == 0)
		}
	}
	return []Goal{
		detached, overlap,
		r.costs("far: fork loop, CPU time by CPU time without", WorkFork, Far, 1.015),
		r.costs("near: fault loop, CPU time by CPU time without", WorkFault, Near, 1.07),
	}
}

// goodOr is good where nothing is bad, otherwise what is not good.
func goodOr(good string, bad []string) string {
	if len(bad) == 0 {
		return good
	}
	return "not " + strings.Join(bad, ", ")
}

func (r *Report) costs(what string, w Work, s State, limit float64) Goal {
	g := Goal{What: what, Want: fmt.Sprintf("≤ %.3f", limit), Got: "–", Verdict: NotMeasured}
	for i := range r.Overhead {
		for _, run := range r.Overhead[i].Runs {
			if run.Work == w && run.State == s && run.Ratio != nil {
				g.Got, g.Verdict = fmt.Sprintf("%.4f", run.Ratio.Median), verdict(run.Ratio.Median <= limit)
			}
		}
	}
	return g
}

// goalWorkloads is the number of units that the goals are for.
const goalWorkloads = 5000

func (r *Report) scaleGoals() []Goal {
	var p Point
	for i := range r.Scale {
		for _, one := range r.Scale[i].Points {
			if one.Workloads == goalWorkloads {
				p = one
			}
		}
	}
	units := fmt.Sprintf("%d units: ", goalWorkloads)
	memory := Goal{What: units + "resident memory", Want: "≤ " + record.FormatBytes(40<<20), Got: "–", Verdict: NotMeasured}
	cpu := Goal{What: units + "idle CPU", Want: "≤ 0.5 %", Got: "–", Verdict: NotMeasured}
	if p.Workloads > 0 {
		memory.Got, memory.Verdict = record.FormatBytes(p.RSSBytes), verdict(p.RSSBytes <= 40<<20)
		cpu.Got, cpu.Verdict = fmt.Sprintf("%.2f %%", p.CPUPercent), verdict(p.CPUPercent <= 0.5)
	}
	return []Goal{
		atMost(units+"decision pass, p99", p.PassNs, p99, int64(time.Millisecond), record.FormatNs),
		atMost(units+"crossing to SIGKILL, p99", p.CrossedToSignalledNs, p99, int64(time.Millisecond), record.FormatNs),
		memory, cpu,
	}
}
