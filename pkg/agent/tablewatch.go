package agent

import (
	"strings"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// NoTable is what follows where there are pods and no workload table.
const NoTable = "no pod's priority is known: critical pods can be evicted (static ones never), requests are guessed from " +
	"cgroups, and nothing is reported; run ebpf-evict kube, or stay in shadow mode"

// tableOld is how long a table holds whose time of change nobody sets anew: the companion does each
// minute while it hears of pods, and can write.
const tableOld = 3 * time.Minute

// tableWatch is what is wrong with the table, as it was said last; "" for nothing.
type tableWatch struct {
	trouble string
	since   time.Time // the first of the troubles that were said within tableAgain
	said    int
}

// tableSays is how many troubles are said within tableAgain at most: whoever writes the table may not
// fill the journal by it.
const (
	tableSays  = 6
	tableAgain = time.Minute
)

// turns reports whether it is to be said that this is wrong now. What is not goes unsaid until it may.
func (w *tableWatch) turns(trouble string, now time.Time) bool {
	if trouble == w.trouble {
		return false
	}
	if trouble != "" {
		if now.Sub(w.since) >= tableAgain {
			w.since, w.said = now, 0
		}
		if w.said == tableSays {
			return false
		}
		w.said++
	}
	w.trouble = trouble
	return true
}

// watchTable says when a workload table is refused, or missing or old where an enforcing agent's units
// are pods, and when a good one is there. The caller has looked at the cgroups.
func (s *scout) watchTable() {
	status := s.scanner.TableStatus()
	s.hasTable.Store(status.Taken)
	now := time.Now()
	reason := s.tableTrouble(&status, now)
	if !s.table.turns(reason, now) {
		return
	}
	switch {
	case reason != "":
		s.log.Error().Msg("degraded: " + reason)
	case status.Taken:
		reason = "workload table is good again"
		s.log.Info().Uint64("generation", status.Generation).Msg(reason)
	default:
		reason = "no workload table is needed any more"
		s.log.Info().Msg(reason)
	}
	s.raise(alarm{reason: reason})
}

func (s *scout) tableTrouble(status *workload.TableStatus, now time.Time) string {
	isWanted := s.enforces.Load() && s.scanner.HasPods()
	isMissed := isWanted && !status.Taken
	switch err := status.LastError; {
	case err != nil:
		reason := "workload table refused, the last good one stays: "
		if !status.Taken {
			reason = "workload table refused, and there was none before: "
		}
		if reason += strings.TrimPrefix(err.Error(), workload.ErrTable.Error()+": "); isMissed {
			reason += "; " + NoTable
		}
		return reason
	case isMissed:
		return "no workload table: " + NoTable
	case isWanted && now.Sub(status.Changed) > tableOld:
		return "workload table not set anew since " + status.Changed.UTC().Format(time.RFC3339) + ": the priority of pods made " +
			"since is not known, and critical ones can be evicted (static ones never); look at the log of ebpf-evict kube"
	}
	return ""
}
