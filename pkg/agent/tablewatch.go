package agent

import (
	"strings"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// tableState is how the workload table does.
type tableState int

const (
	tableGood tableState = iota // or nobody needs one
	tableRefused
	tableMissing
	tableStates
)

// NoTable is what follows where there are pods and no workload table.
const NoTable = "no pod's priority is known: critical pods can be evicted (static ones never), requests are guessed from " +
	"cgroups, and nothing is reported; run ebpf-evict kube, or stay in shadow mode"

// tableWatch is what was said of the table last.
type tableWatch struct {
	state tableState
	at    [tableStates]time.Time // when each was said
}

// tableAgain is the least time between two lines of one trouble: whoever writes the table may not
// fill the journal by it.
const tableAgain = time.Minute

// turns reports whether a state is to be said. One that is not goes unsaid until it may.
func (w *tableWatch) turns(state tableState, now time.Time) bool {
	if state == w.state || state != tableGood && !w.at[state].IsZero() && now.Sub(w.at[state]) < tableAgain {
		return false
	}
	w.state, w.at[state] = state, now
	return true
}

// watchTable says when a workload table is refused, or missing where an enforcing agent's units are
// pods, and when a good one is there. The caller has looked at the cgroups.
func (s *scout) watchTable() {
	status := s.scanner.TableStatus()
	state, reason := s.tableOf(&status)
	if !s.table.turns(state, time.Now()) {
		return
	}
	if state == tableGood {
		s.log.Info().Uint64("generation", status.Generation).Msg(reason)
	} else {
		s.log.Error().Msg("degraded: " + reason)
	}
	s.raise(alarm{reason: reason})
}

func (s *scout) tableOf(status *workload.TableStatus) (state tableState, reason string) {
	isMissed := !status.Taken && s.enforces.Load() && s.scanner.HasPods()
	switch err := status.LastError; {
	case err != nil:
		reason = "workload table refused, the last good one stays: "
		if !status.Taken {
			reason = "workload table refused, and there was none before: "
		}
		if reason += strings.TrimPrefix(err.Error(), workload.ErrTable.Error()+": "); isMissed {
			reason += "; " + NoTable
		}
		return tableRefused, reason
	case isMissed:
		return tableMissing, "no workload table: " + NoTable
	case !status.Taken:
		return tableGood, "no workload table is needed any more"
	}
	return tableGood, "workload table is good again"
}
