package snapshot

import (
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Ranking is the answer to a snapshot: all its workloads, first victim first.
type Ranking struct {
	Signal signal.Signal `json:"signal"`
	Ranked []Ranked      `json:"ranked"`
}

// Ranked is one place of a ranking. Reason says why an evictable workload stands there, and
// of another why it is not evictable.
type Ranked struct {
	UID       string `json:"uid"`
	Evictable bool   `json:"evictable"`
	Reason    string `json:"reason"`
}

// Rank ranks the workloads of a snapshot for a signal, by the snapshot's own layout.
func Rank(settings decide.Settings, s *Snapshot, name signal.Signal) Ranking {
	settings.Layout = s.Layout
	b := decide.Bound{Threshold: signal.Threshold{Signal: name}}
	out := Ranking{Signal: name, Ranked: make([]Ranked, 0, len(s.Workloads))}
	for _, r := range decide.Rank(&settings, &b, s.Workloads) {
		out.Ranked = append(out.Ranked, Ranked{s.Workloads[r.Index].UID, r.Evictable, r.Reason})
	}
	return out
}
