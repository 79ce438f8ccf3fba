package bench

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// agentTool plays rounds with the agent on a root of its own.
type agentTool struct {
	*stand
	field *field
	gauge gauge
	agent *Agent
	// more is added to the agent's configuration.
	more map[string]any
	// wire is the threshold that the agent has, played its rounds. gap is what lay between
	// the wire and what was available when a round began.
	wire, gap int64
	played    int
}

// most rounds of one agent: some below its budget.
const mostPlayed = MostKills - 16

func newAgentTool(s *stand) (tool, error) { return s.newAgentTool("bench", nil) }

func (s *stand) newAgentTool(purpose string, more map[string]any) (*agentTool, error) {
	f, err := newField(purpose, s.options.Scenario.amounts().limit)
	t := &agentTool{stand: s, field: f, more: more}
	if err == nil {
		t.gauge, f.Tier = f.gauge(s.options.Signal), s.tier
	}
	return t, err
}

// newKernelFirst has an agent whose backstop has no grace. ErrRefused from a program that
// has no backstop.
func newKernelFirst(s *stand) (tool, error) {
	t, err := s.newAgentTool("bench-kernel-first", map[string]any{"backstop": map[string]any{"enabled": true, "grace": "0s"}})
	if err != nil {
		return t, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), roundDeadline)
	defer cancel()
	a, err := t.field.startAgent(ctx, map[signal.Signal]string{s.options.Signal: "1"}, t.more)
	if err != nil {
		return t, err
	}
	return t, a.Stop()
}

func (t *agentTool) note() string {
	switch {
	case t.options.Scenario.stalls():
		return "the agent is stopped: the figures are those from outside, as a peer's"
	case t.reads():
		return "tier " + t.tier + ": without a hook nobody stamps the crossing, so that of a hog is the one from outside, and that of a fork bomb the agent's wake-up"
	case t.more != nil:
		return "backstop.grace 0s: the kernel sends SIGKILL; the figures are from its stamp of the crossing to the first SIGKILL that it traced"
	}
	return ""
}

func (t *agentTool) close() error {
	return errors.Join(t.retire(), t.field.close())
}

// retire ends the agent.
func (t *agentTool) retire() error {
	if t.agent == nil {
		return nil
	}
	err := t.agent.Stop()
	t.agent = nil
	if t.watching == t {
		t.watching = nil
	}
	return err
}

// roundDeadline ends a round in which the agent does not close its eviction.
const roundDeadline = 30 * time.Second

func (t *agentTool) play(ctx context.Context) (r Round, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundDeadline)
	defer cancel()
	unit, victim, clear, err := t.field.victim(t.options.victim(t.rate))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, clear()) }()
	if err := t.watch(ctx); err != nil {
		return r, err
	}
	before, err := t.gauge()
	if err != nil {
		return r, err
	}
	t.gap = before - t.wire
	if t.node() && t.gap < t.options.distance()*3/4 {
		r.Disturbed = true
		return r, t.retire()
	}
	w, err := t.field.newMemoryWatch(&t.options, unit)
	defer func() { err = errors.Join(err, w.close()) }()
	if err != nil {
		return r, err
	}
	seen := len(t.agent.Lines())
	var b burnt
	if t.options.Scenario.stalls() {
		b, err = t.burnStalled(ctx, unit, victim)
	} else {
		b, err = t.burn(victim, roundDeadline/2, w)
	}
	if err != nil {
		return r, err
	}
	t.judge(ctx, &r, unit, seen, &b)
	return r, t.settle(&r, before, clear)
}

// burnStalled stops the agent while the victim burns, once it is as near or far as is asked
// for and ranks the victim first.
func (t *agentTool) burnStalled(ctx context.Context, unit string, victim *load.Load) (b burnt, err error) {
	near, patience := t.options.Scenario == Stalled, stallPatience
	if near {
		patience /= 4
	}
	err = t.agent.awaitState(ctx, func(s *record.State) bool {
		return armed(s, t.options.Signal) == near && len(s.Ranking) > 0 && s.Ranking[0].Name == unit
	})
	if err != nil {
		return b, err
	}
	err = t.agent.stalled(func() error {
		b, err = t.burn(victim, patience, nil)
		return err
	})
	return b, err
}

// stallPatience is far above what a backstop takes, and enough for the hog to cross a wire
// that is far.
const stallPatience = 4 * time.Second

// node: the signal is the machine's, not the root's.
func (t *agentTool) node() bool { return !t.options.Signal.Allocatable() }

// watch has an agent whose wire is distance below what is available. On the node's signals
// each round has an agent of its own, as the node moves.
func (t *agentTool) watch(ctx context.Context) error {
	if t.agent != nil && !t.node() && t.played < mostPlayed {
		t.played++
		return nil
	}
	if t.watching != nil {
		if err := t.watching.retire(); err != nil {
			return err
		}
	}
	now, err := t.gauge()
	if err != nil {
		return err
	}
	t.wire, t.played = now-t.options.distance(), 1
	t.agent, err = t.field.startAgent(ctx, map[signal.Signal]string{t.options.Signal: strconv.FormatInt(t.wire, 10)}, t.more)
	if err == nil {
		t.watching = t
	}
	return err
}

// judge reads the journal: the closed eviction of the victim, and who else was killed.
func (t *agentTool) judge(ctx context.Context, r *Round, unit string, seen int, b *burnt) {
	line := t.closed(ctx, t.field.Unit(unit), b.died)
	for i := range t.agent.Lines()[seen:] {
		l := &t.agent.Lines()[seen+i]
		if l.Kind == record.KindKill && l.Victim != nil && l.Victim.Cgroup != t.field.Unit(unit) {
			r.WrongVictim = true
		}
	}
	r.WrongVictim = r.WrongVictim || !t.field.bystandersAlive()
	if r.WrongVictim || !b.died || line == nil && !t.byKernel() {
		r.Missed = !r.WrongVictim
		return
	}
	if line != nil {
		r.Figures, r.Tier, r.By = figuresOf(line), line.Tier, line.By
	}
	r.Outside = t.outside(b)
	switch {
	case (t.options.Scenario.stalls() || t.reads()) && r.Outside != nil:
		// Far away it is a timer that sees and stamps the crossing, up to its period late.
		r.Figures = *r.Outside
	case t.byKernel():
		r.Figures = b.kernelFigures(line, r.Outside)
	}
	if r.Outside == nil {
		return
	}
	r.SignalledToBackNs = r.Outside.SignalledToBackNs
	if line != nil && r.CrossedToSignalledNs != nil && !t.options.Scenario.stalls() {
		apart := *r.CrossedToSignalledNs - *r.Outside.CrossedToSignalledNs
		r.CrossedApartNs = &apart
	}
}

// reads: no hook sees and stamps a crossing.
func (t *agentTool) reads() bool {
	return t.tier == record.TierEvent || t.tier == record.TierPoll
}

// byKernel: it is the backstop that sends SIGKILL, not the agent.
func (t *agentTool) byKernel() bool { return t.more != nil || t.options.Scenario.stalls() }

// closed is the victim's closed eviction, nil for none. An agent writes it within
// milliseconds of the death; one that was stalled may have missed the death.
func (t *agentTool) closed(ctx context.Context, cgroup string, died bool) *record.Line {
	if !died {
		return nil
	}
	if t.byKernel() {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	line, _ := t.agent.Await(ctx, func(l *record.Line) bool {
		return l.Kind == record.KindEviction && l.Victim != nil && l.Victim.Cgroup == cgroup && l.Outcome == record.OutcomeKilled
	})
	return line
}

// figuresOf are those of a closed eviction.
func figuresOf(l *record.Line) Figures {
	since := func(ns uint64) *int64 {
		if l.Timeline == nil || ns == 0 || l.Timeline.Crossed == 0 {
			return nil
		}
		d := int64(ns - l.Timeline.Crossed)
		return &d
	}
	if l.Timeline == nil {
		return Figures{}
	}
	return Figures{
		CrossedToSignalledNs: since(l.Timeline.Signalled), CrossedToDeadNs: since(l.Timeline.Dead),
		CrossedToRecoveredNs: since(l.Timeline.Recovered), OvershootBytes: l.OvershootBytes,
	}
}

// kernelFigures are of a victim that the kernel killed: the agent learns of it later, so
// signal and death are those seen from outside. The crossing is the kernel's stamp where the
// journal has it, otherwise outside's.
func (b *burnt) kernelFigures(line *record.Line, outside *Figures) Figures {
	if line == nil || line.Timeline == nil || line.Timeline.Crossed == 0 || b.signalNs == 0 {
		if outside == nil {
			return Figures{}
		}
		return *outside
	}
	signalled, dead := b.signalNs-int64(line.Timeline.Crossed), b.diedNs-int64(line.Timeline.Crossed)
	f := Figures{CrossedToSignalledNs: &signalled, CrossedToDeadNs: &dead, OvershootBytes: line.OvershootBytes}
	if outside != nil {
		f.OvershootBytes = outside.OvershootBytes
	}
	return f
}

// outside are the yardstick's figures, nil for a bomb: it fills nothing.
func (t *agentTool) outside(b *burnt) *Figures {
	if t.options.bomb() {
		return nil
	}
	filled := filledAt(t.gap, !t.node())
	return b.figures(b.curve.crossedOrEnd(filled), filled)
}

// settle ends a round: the victim goes, and a node that moved on its own marks the round.
func (t *agentTool) settle(r *Round, before int64, clear func() error) error {
	if err := clear(); err != nil {
		return err
	}
	if t.node() {
		after, err := t.gauge()
		if err != nil {
			return err
		}
		moved := after - before - t.options.victim(t.rate).Hold // which went with the victim
		r.Disturbed = max(moved, -moved) > t.options.distance()/4
	}
	if r.Missed || r.WrongVictim || r.Disturbed {
		return t.retire() // whatever it thinks, it does not carry over
	}
	return nil
}
