package agent

import (
	"errors"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// leading is how many units of each ranking are read in each round, and held ready to be
	// killed. Whoever is evicted from farther behind costs 30 µs more.
	leading = 16
	// leadTime is how long the handle of one that no longer leads stays open.
	leadTime = 10 * time.Second
)

// leaders are the units that are evicted next, should a threshold be met.
type leaders struct {
	workloads []workload.Workload
	top       []int
	chosen    []*unit
	at        time.Time
	weighedAt time.Time
	figures   *workload.DiskTable
	figuresAt time.Time
	judged    time.Time // figuresAt of those that offences were sought in
}

// prepareLeaders reads the leading units again, and holds them ready. A round that an event
// asked for leaves that to the next regular one.
func (s *scout) prepareLeaders() {
	l, settings := &s.lead, s.settings.Load()
	pause := scoutFar
	if s.wires.near.Load() {
		pause = scoutNear
	}
	if settings == nil || time.Since(l.at) < pause*3/4 && !s.known.altered {
		return
	}
	l.at = time.Now()
	s.choose(settings)
	for _, u := range l.chosen {
		if l.at.Sub(u.readAt) > scoutNear/2 {
			s.read(u.Cgroup)
		}
		if u = s.known.unit(u.Cgroup); u != nil {
			s.degrade(u.Cgroup, s.ready(u))
		}
	}
	s.unready()
}

// choose finds the leading units of each ranking.
func (s *scout) choose(settings *decide.Settings) {
	l := &s.lead
	s.weigh()
	l.chosen = l.chosen[:0]
	for i := range settings.Bounds {
		b := &settings.Bounds[i]
		ranked := slices.ContainsFunc(settings.Bounds[:i], func(o decide.Bound) bool { return o.Signal == b.Signal && o.Root == b.Root })
		if ranked || b.Signal.Disk() && s.figures.Load() == nil {
			continue
		}
		l.top = decide.Candidates(settings, b, l.workloads, leading, l.top[:0])
		for _, j := range l.top {
			if u := s.known.units[j]; !u.ledAt.Equal(l.at) {
				u.ledAt = l.at
				l.chosen = append(l.chosen, u)
			}
		}
	}
}

// weigh fills in what every unit uses by the tables.
func (s *scout) weigh() {
	l := &s.lead
	l.workloads, l.weighedAt = slices.Grow(l.workloads[:0], len(s.known.units)), time.Now()
	for _, u := range s.known.units {
		l.workloads = append(l.workloads, u.Workload)
		w := &l.workloads[len(l.workloads)-1]
		u.rows.usage(s.kernel, &w.Usage)
		u.addDisk(&w.Usage)
	}
	for dir := range s.known.opened {
		if i := s.known.index[dir]; s.known.units[i].isHollow() && l.workloads[i].Protected == "" {
			l.workloads[i].Protected = noProcess
		}
	}
}

// ready opens a unit's handle and holds its first processes.
func (s *scout) ready(u *unit) error {
	h, err := u.open(s.fs)
	if err == nil {
		s.known.opened[u.Cgroup] = true
		err = h.Prepare()
	}
	if errors.Is(err, actuator.ErrGone) {
		s.known.ask(u)
		return nil
	}
	return err
}

// unready lets go of the processes of units that no longer lead, later of the handle too,
// and sees which of those that were killed run again. What was struck is kept: its handle
// knows what became of that.
func (s *scout) unready() {
	k := &s.known
	for dir := range k.opened {
		u := k.unit(dir)
		h := u.handle.Load()
		if h.WasStruck() {
			u.look()
		}
		if u.ledAt.Equal(s.lead.at) {
			continue
		}
		h.LetGo()
		if s.lead.at.Sub(u.ledAt) > leadTime && !h.WasStruck() && u.handle.CompareAndSwap(h, nil) {
			s.grave = append(s.grave, buried{time.Now(), h})
			delete(k.opened, dir)
		}
	}
}

// ranking is the top of the first bound's ranking as of the last round, for the state file.
func (s *scout) ranking(settings *decide.Settings) []record.Ranked {
	if len(settings.Bounds) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.lead.weighedAt) > scoutFar+scoutNear {
		s.weigh()
	}
	return ranking(settings, &settings.Bounds[0], s.lead.workloads)
}
