package decide_test

import (
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Two kills a minute, three an hour, under pressure that never ends: times in seconds.
func TestBudgetScene(t *testing.T) {
	s := settings(nodeMemory)
	s.Budget = decide.Budget{PerMinute: 2, PerHour: 3}
	scene := []struct {
		at           uint64
		minute, hour int
		want         decide.Verdict
	}{
		{5000, 2, 3, decide.Evict},
		{5001, 1, 2, decide.Evict},
		{5002, 0, 1, decide.Refuse}, // two within the minute
		{5059, 0, 1, decide.Refuse},
		{5060, 1, 1, decide.Evict},  // the first is 60 s old
		{5061, 1, 0, decide.Refuse}, // three within the hour
		{8599, 2, 0, decide.Refuse},
		{8600, 2, 1, decide.Evict},  // the first is 3600 s old
		{8000, 1, 0, decide.Refuse}, // the clock went back: the kill at 8600 counts as one of now
		{12200, 2, 3, decide.Evict},
	}
	var m decide.Memory
	for _, step := range scene {
		at := step.at * second
		if minute, hour := m.Left(s, at); minute != step.minute || hour != step.hour {
			t.Errorf("t=%d: left %d, %d, want %d, %d", step.at, minute, hour, step.minute, step.hour)
		}
		in := &decide.Input{
			NowNs: at, Observations: []signal.Observation{observe(nodeMemory, 1)},
			Workloads: []workload.Workload{unit("/u", 10)},
		}
		in.Observations[0].Ns = 0 // never stale, also when the clock goes back
		d := decide.Decide(s, &m, in)
		if d.Verdict != step.want || d.Verdict == decide.Refuse && d.Reason != decide.ReasonBudget {
			t.Errorf("t=%d: %v %q, want %v", step.at, d.Verdict, d.Reason, step.want)
		}
		if d.Verdict == decide.Evict {
			m.Killed(at)
		}
		m.Next(s, in, &d)
	}
}

func TestLeft(t *testing.T) {
	tests := map[string]struct {
		budget       decide.Budget
		kills        int
		minute, hour int
	}{
		"no budget is no kill":                  {decide.Budget{}, 0, 0, 0},
		"no kill an hour":                       {decide.Budget{PerMinute: 5}, 0, 5, 0},
		"no kill a minute":                      {decide.Budget{PerHour: 5}, 0, 0, 5},
		"more kills than the budget allowed":    {decide.Budget{PerMinute: 1, PerHour: 2}, 7, 0, 0},
		"negative budget":                       {decide.Budget{PerMinute: -1, PerHour: -1}, 0, 0, 0},
		"more an hour than can be counted":      {decide.Budget{PerMinute: 1000, PerHour: 1000}, 0, 1000, decide.MaxBudgetPerHour},
		"the last that can be counted":          {decide.Budget{PerMinute: 1000, PerHour: 1000}, decide.MaxBudgetPerHour - 1, 1000 - decide.MaxBudgetPerHour + 1, 1},
		"as many as can be counted":             {decide.Budget{PerMinute: 1000, PerHour: 1000}, decide.MaxBudgetPerHour, 1000 - decide.MaxBudgetPerHour, 0},
		"twice around the ring, still not more": {decide.Budget{PerMinute: 1000, PerHour: 1000}, 2*decide.MaxBudgetPerHour + 3, 1000 - decide.MaxBudgetPerHour, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &decide.Settings{Budget: tc.budget}
			var m decide.Memory
			for range tc.kills {
				m.Killed(now)
			}
			if minute, hour := m.Left(s, now+second); minute != tc.minute || hour != tc.hour {
				t.Errorf("left %d, %d, want %d, %d", minute, hour, tc.minute, tc.hour)
			}
		})
	}
}

// The ring forgets the oldest kill, not a young one.
func TestRingForgetsTheOldest(t *testing.T) {
	s := &decide.Settings{Budget: decide.Budget{PerMinute: 1000, PerHour: 1000}}
	var m decide.Memory
	for range decide.MaxBudgetPerHour {
		m.Killed(now)
	}
	for range 10 {
		m.Killed(now + 100*second)
	}
	if minute, _ := m.Left(s, now+101*second); minute != 1000-10 {
		t.Errorf("left %d in the minute, want %d", minute, 1000-10)
	}
}

// A budget for one of the two windows alone is no budget.
func TestEitherBudgetRefuses(t *testing.T) {
	for _, budget := range []decide.Budget{{PerMinute: 1}, {PerHour: 1}, {}} {
		s := settings(nodeMemory)
		s.Budget = budget
		d := decide.Decide(s, &decide.Memory{}, &decide.Input{
			NowNs: now, Observations: []signal.Observation{observe(nodeMemory, 1)},
			Workloads: []workload.Workload{unit("/u", 10)},
		})
		if d.Verdict != decide.Refuse || d.Reason != decide.ReasonBudget {
			t.Errorf("%+v: %v %q, want a refusal for the budget", budget, d.Verdict, d.Reason)
		}
	}
}
