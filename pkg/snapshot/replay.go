package snapshot

import (
	"slices"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Answer is what would have been decided at the moment of a snapshot.
type Answer struct {
	Time string `json:"time"`
	// ThresholdsMet are met now or held by the minimum reclaim, whatever their grace
	// period and the age of their reading, each signal once hard and once soft.
	ThresholdsMet []Threshold       `json:"thresholdsMet"`
	Conditions    decide.Conditions `json:"conditions"`
	// Acted is the threshold that was acted on, also when nobody could be evicted.
	Acted *Threshold `json:"acted"`
	// NodeReclaim is what was freed before any pod: "containers", "images".
	NodeReclaim []string `json:"nodeReclaim"`
	// Ranked are the uids of all workloads, first victim first; empty where nobody was
	// sought.
	Ranked []string `json:"ranked"`
	// Victims are at most one under compat, else as many as the target takes.
	Victims      []Victim   `json:"victims"`
	LocalStorage []Offender `json:"localStorage"`
}

// Threshold names one that was met.
type Threshold struct {
	Signal signal.Signal `json:"signal"`
	Hard   bool          `json:"hard"`
}

// Victim is a workload that would have been evicted.
type Victim struct {
	UID                string `json:"uid"`
	GracePeriodSeconds int64  `json:"gracePeriodSeconds"`
	Reason             string `json:"reason"`
	Message            string `json:"message"`
}

// Offender is a workload above a limit of its own local storage.
type Offender struct {
	UID                string `json:"uid"`
	Check              string `json:"check"`
	GracePeriodSeconds int64  `json:"gracePeriodSeconds"`
	Message            string `json:"message"`
}

// reasonEvicted is the reason in the status of an evicted pod.
const reasonEvicted = "Evicted"

// Replay is the state machine over a series of snapshots. The kill budget is left out:
// nobody is killed.
type Replay struct {
	settings decide.Settings
	memory   decide.Memory
	lastNs   uint64
}

// NewReplay starts a series. The bounds of the settings are in config's order.
func NewReplay(s decide.Settings) *Replay {
	s.Bounds = slices.Clone(s.Bounds)
	s.Budget = decide.Budget{PerMinute: 1, PerHour: 1}
	return &Replay{settings: s}
}

// Next answers the next snapshot. The first one's layout holds for all. The error is an
// *Error, for a snapshot without a time or before the last one; the series goes on as if it
// had not been there.
func (r *Replay) Next(s *Snapshot) (*Answer, error) {
	ns := Ns(s.Time)
	switch {
	case ns == 0:
		return nil, wrong("time", "missing")
	case ns < r.lastNs:
		return nil, wrong("time", "%s is before the last snapshot", formatTime(s.Time))
	case r.lastNs == 0:
		r.settle(s.Layout)
	}
	r.lastNs = ns
	in := r.input(s, ns)
	d := decide.Decide(&r.settings, &r.memory, in)
	a := r.answer(s, &d)
	if offenders := decide.LocalStorage(&r.settings, s.Workloads); len(offenders) > 0 {
		a.offend(s, offenders)
	} else if d.Bound >= 0 {
		r.act(a, in, d)
	}
	r.memory.Next(&r.settings, in, &d)
	return a, nil
}

func (r *Replay) settle(l signal.Layout) {
	r.settings.Layout = l
	r.settings.Bounds = decide.WithContainerFs(&r.settings, l)
	decide.SortBounds(r.settings.Bounds, r.settings.Compat)
}

func (r *Replay) input(s *Snapshot, ns uint64) *decide.Input {
	in := &decide.Input{
		NowNs: ns, Observations: r.plausible(s.Observations), Workloads: s.Workloads,
		Reclaimed: decide.NodeReclaim{Containers: true, Images: true, Figures: true},
	}
	in.AfterReclaim = in.Observations
	if s.AfterReclaim != nil {
		in.AfterReclaim = r.plausible(s.AfterReclaim)
	}
	return in
}

// plausible leaves out what can't be: "no data" by default, and the kubelet takes it. Memory
// and tasks can be used beyond a limit, a disk can't.
func (r *Replay) plausible(obs []signal.Observation) []signal.Observation {
	if r.settings.Compat {
		return obs
	}
	return slices.DeleteFunc(slices.Clone(obs), func(o signal.Observation) bool {
		return o.Capacity == 0 || o.Available > o.Capacity || o.Signal.Disk() && o.Available < 0
	})
}

func (r *Replay) answer(s *Snapshot, d *decide.Decision) *Answer {
	a := &Answer{
		Time: formatTime(s.Time), ThresholdsMet: []Threshold{}, Conditions: d.Conditions,
		NodeReclaim: []string{}, Ranked: []string{}, Victims: []Victim{}, LocalStorage: []Offender{},
	}
	for i := range r.settings.Bounds {
		b := &r.settings.Bounds[i]
		if t := (Threshold{b.Signal, b.Hard()}); d.Met[i] && !slices.Contains(a.ThresholdsMet, t) {
			a.ThresholdsMet = append(a.ThresholdsMet, t)
		}
	}
	return a
}

func (a *Answer) offend(s *Snapshot, offenders []decide.Offender) {
	for _, o := range offenders {
		a.LocalStorage = append(a.LocalStorage, Offender{s.Workloads[o.Index].UID, o.Check, 1, o.Message})
	}
}

// act adds what was done about the bound of d.
func (r *Replay) act(a *Answer, in *decide.Input, d decide.Decision) {
	b := &r.settings.Bounds[d.Bound]
	a.Acted = &Threshold{b.Signal, b.Hard()}
	if d.Reclaim.Containers {
		a.NodeReclaim = append(a.NodeReclaim, "containers")
	}
	if d.Reclaim.Images {
		a.NodeReclaim = append(a.NodeReclaim, "images")
	}
	if d.Reason == decide.ReasonReclaimed {
		return
	}
	ranked := decide.Rank(&r.settings, b, in.Workloads)
	for _, w := range ranked {
		a.Ranked = append(a.Ranked, in.Workloads[w.Index].UID)
	}
	if d.Verdict == decide.Evict {
		a.Victims = r.victims(in, &d, ranked)
	}
}

// victims are the first that may be evicted, as many as give back what is missing by what
// they hold now: whom decide would name one after the other, each dying at once.
func (r *Replay) victims(in *decide.Input, d *decide.Decision, ranked []decide.Ranked) []Victim {
	victims := []Victim{}
	b := &r.settings.Bounds[d.Bound]
	for missing, i := d.Missing(), 0; missing > 0 && i < len(ranked); i++ {
		if !ranked[i].Evictable {
			continue
		}
		w := &in.Workloads[ranked[i].Index]
		message, _ := decide.Message(&r.settings, d, w)
		victims = append(victims, Victim{
			w.UID, r.settings.GracePeriodSeconds(b, w.TerminationGracePeriodSeconds), reasonEvicted, message,
		})
		if r.settings.Compat {
			break
		}
		missing -= r.settings.Use(b, w)
	}
	return victims
}
