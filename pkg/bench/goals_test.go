package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
)

// verdicts are those that are not "not measured", by goal.
func verdicts(r *Report) map[string]Verdict {
	got := map[string]Verdict{}
	for _, g := range r.Goals() {
		if g.Verdict != NotMeasured {
			got[g.What] = g.Verdict
		}
	}
	return got
}

func agentRun(s Scenario, signalledNs int64, missed int) Run {
	r := Run{Tool: ToolAgent, Scenario: s, Fill: load.FillPages, Raw: []Round{round(signalledNs)}}
	for range missed {
		r.Raw = append(r.Raw, Round{Missed: true})
	}
	r.summarise()
	return r
}

func latencyOf(runs ...Run) *Report { return &Report{Latency: []Latency{{Runs: runs}}} }

func TestGoalsAreHeldAgainstTheResults(t *testing.T) {
	for name, tc := range map[string]struct {
		report *Report
		want   map[string]Verdict
	}{
		"nothing measured": {&Report{}, map[string]Verdict{}},
		"spinners at the limit of p50": {
			latencyOf(agentRun(Spinners, 150_000, 0)),
			map[string]Verdict{
				"crossing to SIGKILL, 4 spinners, p50": Met, "crossing to SIGKILL, 4 spinners, p99": Met,
				"rounds missed or of a wrong victim": Met,
			},
		},
		"spinners beyond it, and a miss": {
			latencyOf(agentRun(Spinners, 150_001, 1)),
			map[string]Verdict{
				"crossing to SIGKILL, 4 spinners, p50": NotMet, "crossing to SIGKILL, 4 spinners, p99": Met,
				"rounds missed or of a wrong victim": NotMet,
			},
		},
		"the kernel misses a round of a stalled agent": {
			latencyOf(agentRun(Stalled, 1_000_000, 1), agentRun(StalledFar, 2_000_001, 0)),
			map[string]Verdict{
				"agent SIGSTOPped (stalled), p99": NotMet, "agent SIGSTOPped (stalled-far), p99": NotMet,
				"rounds missed or of a wrong victim": Met,
			},
		},
		"memory back twice as soon": {
			&Report{Latency: []Latency{{MemoryBack: []MemoryFactor{{ToolAgent, 2, 1}}}}},
			map[string]Verdict{"1 GiB back under load, against kill(2) alone": Met},
		},
		"the hook is attached though far, and it shows": {
			&Report{Overhead: []Overhead{{Runs: []OverheadRun{{
				Work: WorkFork, State: Far, Attached: []string{"newtask", hotHook},
				Ratio: &Quartiles{1.02, 1.015, 1.03}, Baseline: &Quartiles{1, 0.99, 1.01},
			}}}}},
			map[string]Verdict{
				"far: the allocation hook is detached":            NotMet,
				"far: quartiles overlap those of off against off": NotMet,
				"far: fork loop, CPU time by CPU time without":    NotMet,
			},
		},
		"5000 units in little memory": {
			&Report{Scale: []Scale{{Points: []Point{{Workloads: 5000, RSSBytes: 40 << 20, CPUPercent: 0.51}}}}},
			map[string]Verdict{"5000 units: resident memory": Met, "5000 units: idle CPU": NotMet},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, verdicts(tc.report)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestLeastFactorOfAllPeersIsTheGoals(t *testing.T) {
	got := verdicts(fixture(t, "latency"))
	if v := got["every peer is behind in the same run, fastest fill, p50"]; v != Met {
		t.Errorf("%q with a peer 500 times behind", v)
	}
}
