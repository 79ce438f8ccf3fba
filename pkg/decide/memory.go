package decide

import "time"

// Memory is what decide remembers from one pass to the next: a plain value of fixed size
// that can be copied and compared. Its zero value remembers nothing. It belongs to one
// goroutine.
type Memory struct {
	// held says of each hard bound whether it was met or held in the last pass.
	held [MaxBounds]bool
	// kills is a ring of the times of the last kills; killed counts up to its length.
	kills  [MaxBudgetPerHour]uint64
	next   int
	killed int
}

// Next goes on to the next pass: the hard bounds that d found met stay held until their
// signal is back above the threshold by the minimum reclaim. Soft ones are not held: the
// kubelet's hysteresis starts when a grace period has passed.
func (m *Memory) Next(s *Settings, _ *Input, d *Decision) {
	m.Release()
	for i := range s.Bounds {
		m.held[i] = d.Met[i] && s.Bounds[i].Hard()
	}
}

// Release lets go of every held bound and keeps the kills. Bounds are held by index, so
// new settings need it.
func (m *Memory) Release() { m.held = [MaxBounds]bool{} }

// Killed counts a kill that was carried out, by whomever, against the budget.
func (m *Memory) Killed(nowNs uint64) {
	m.kills[m.next] = nowNs
	m.next = (m.next + 1) % MaxBudgetPerHour
	m.killed = min(m.killed+1, MaxBudgetPerHour)
}

// Left is how many more units may be killed now: within any 60 s and within any 3600 s.
// An hourly budget above MaxBudgetPerHour counts as that. A kill dated after nowNs counts
// as one of now.
func (m *Memory) Left(s *Settings, nowNs uint64) (minute, hour int) {
	minute, hour = s.Budget.PerMinute, min(s.Budget.PerHour, MaxBudgetPerHour)
	for _, ns := range m.kills[:m.killed] {
		age := elapsed(nowNs, ns)
		if age < uint64(time.Minute) {
			minute--
		}
		if age < uint64(time.Hour) {
			hour--
		}
	}
	return max(0, minute), max(0, hour)
}

func (m *Memory) spent(s *Settings, nowNs uint64) bool {
	minute, hour := m.Left(s, nowNs)
	return minute == 0 || hour == 0
}
