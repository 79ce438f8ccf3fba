package decide

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Memory is what decide remembers from one pass to the next: a plain value of fixed size
// that can be copied and compared. Its zero value remembers nothing. It belongs to one
// goroutine.
type Memory struct {
	// started: there was a pass before.
	started bool
	// met and due say of each bound what the last pass found, sinceNs since when it is met.
	met, due [MaxBounds]bool
	sinceNs  [MaxBounds]uint64
	// read says of each bound whether its signal was observed in the last pass, and
	// readNs when that reading was made.
	read   [MaxBounds]bool
	readNs [MaxBounds]uint64
	// pressure is when each condition was last met.
	pressure [conditionCount]lastMet
	// kills is a ring of the times of the last kills; killed counts up to its length.
	kills  [MaxBudgetPerHour]uint64
	next   int
	killed int
}

type lastMet struct {
	ever bool
	ns   uint64
}

type condition uint8

const (
	memoryPressure condition = iota
	diskPressure
	pidPressure
	conditionCount
)

func conditionOf(s signal.Signal) condition {
	switch {
	case s.Memory():
		return memoryPressure
	case s.Disk():
		return diskPressure
	}
	return pidPressure
}

// Next goes on to the next pass. A bound that is due stays met until its signal is back
// above the threshold by the minimum reclaim; one that is no longer met, or has no reading,
// starts its grace period anew.
func (m *Memory) Next(s *Settings, in *Input, d *Decision) {
	m.started = true
	for i := range s.Bounds {
		b := &s.Bounds[i]
		if d.Met[i] {
			m.pressure[conditionOf(b.Signal)] = lastMet{true, in.NowNs}
			if !m.met[i] {
				m.sinceNs[i] = in.NowNs
			}
		}
		m.met[i], m.due[i] = d.Met[i], d.Due[i]
		o, ok := observed(in.Observations, b)
		m.read[i], m.readNs[i] = ok, o.Ns
	}
}

// Release forgets what is known of the bounds, which are known by index, so new settings
// need it. The kills and the conditions stay.
func (m *Memory) Release() {
	m.met, m.due, m.read = [MaxBounds]bool{}, [MaxBounds]bool{}, [MaxBounds]bool{}
}

// watches reports whether a bound counts in this pass: one that can become met, or is held.
func (m *Memory) watches(s *Settings, i int) bool {
	switch p := s.Bounds[i].Passes; {
	case !s.Compat || p == AnyPass || m.due[i]:
		return true
	case m.started:
		return p == LaterPasses
	default:
		return p == FirstPass
	}
}

// metFor is for how long a bound that is met now has been met without a break.
func (m *Memory) metFor(i int, nowNs uint64) uint64 {
	if !m.met[i] {
		return 0
	}
	return elapsed(nowNs, m.sinceNs[i])
}

// isStale reports whether a reading is the one that the last pass had already seen: what was
// done about that one can't show in it. A reading without a time is never stale.
func (m *Memory) isStale(i int, o signal.Observation) bool {
	return m.read[i] && o.Ns != 0 && o.Ns <= m.readNs[i]
}

// conditions are those met now, or less than the transition period ago.
func (m *Memory) conditions(s *Settings, met *[MaxBounds]bool, nowNs uint64) Conditions {
	pressure := m.pressure
	for i := range s.Bounds {
		if met[i] {
			pressure[conditionOf(s.Bounds[i].Signal)] = lastMet{true, nowNs}
		}
	}
	holds := func(c condition) bool {
		return pressure[c].ever && elapsed(nowNs, pressure[c].ns) < uint64(max(0, s.TransitionPeriod))
	}
	return Conditions{
		MemoryPressure: holds(memoryPressure),
		DiskPressure:   holds(diskPressure),
		PIDPressure:    holds(pidPressure),
	}
}

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

// MetSince is when a threshold was first seen met of the passes up to the last one; false
// where that did not see it met.
func (m *Memory) MetSince(bound int) (ns uint64, ok bool) { return m.sinceNs[bound], m.met[bound] }
