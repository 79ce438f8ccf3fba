package bench

import (
	"context"
	"errors"
	"strconv"
	"syscall"
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
	// wire is the threshold that the agent has, played its rounds.
	wire   int64
	played int
}

// most rounds of one agent: some below its budget.
const mostPlayed = MostKills - 16

func newAgentTool(s *stand) (tool, error) {
	f, err := newField("bench")
	t := &agentTool{stand: s, field: f}
	if err == nil {
		t.gauge = f.gauge(s.options.Signal)
	}
	return t, err
}

func (t *agentTool) note() string { return "" }

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
	if t.node() && before-t.wire < t.options.distance()*3/4 {
		r.Disturbed = true
		return r, t.retire()
	}
	if t.options.Scenario == Stalled {
		return t.stalledRound(ctx, unit, victim)
	}
	seen := len(t.agent.Lines())
	b, err := t.burn(victim, roundDeadline/2)
	if err != nil {
		return r, err
	}
	t.judge(ctx, &r, unit, seen, b.died)
	t.fromOutside(&r, before, &b)
	return r, t.settle(&r, before, clear)
}

// node: the signal is the machine's, not the root's.
func (t *agentTool) node() bool { return !t.options.Signal.Allocatable() }

// watch has an agent whose wire is distance below what is available. On the node's signals
// each round has an agent of its own, as the node moves.
func (t *agentTool) watch(ctx context.Context) error {
	if t.agent != nil && !t.node() && t.played < mostPlayed {
		t.played++
		return nil
	}
	if err := t.retire(); err != nil {
		return err
	}
	now, err := t.gauge()
	if err != nil {
		return err
	}
	t.wire, t.played = now-t.options.distance(), 1
	t.agent, err = t.field.StartAgent(ctx, map[signal.Signal]string{t.options.Signal: strconv.FormatInt(t.wire, 10)})
	return err
}

// judge reads the journal: the closed eviction of the victim, and who else was killed.
func (t *agentTool) judge(ctx context.Context, r *Round, unit string, seen int, died bool) {
	cgroup := t.field.Unit(unit)
	var line *record.Line
	if died {
		line, _ = t.agent.Await(ctx, func(l *record.Line) bool {
			return l.Kind == record.KindEviction && l.Victim != nil && l.Victim.Cgroup == cgroup && l.Outcome == record.OutcomeKilled
		})
	}
	for _, l := range t.agent.Lines()[seen:] {
		if l.Kind == record.KindKill && l.Victim.Cgroup != cgroup {
			r.WrongVictim = true
		}
	}
	r.WrongVictim = r.WrongVictim || !t.field.bystandersAlive()
	if line == nil {
		r.Missed = !r.WrongVictim
		return
	}
	r.Figures = figuresOf(line)
}

// figuresOf are those of a closed eviction.
func figuresOf(l *record.Line) Figures {
	since := func(ns uint64) *int64 {
		if ns == 0 || l.Timeline.Crossed == 0 {
			return nil
		}
		d := int64(ns - l.Timeline.Crossed)
		return &d
	}
	return Figures{
		CrossedToSignalledNs: since(l.Timeline.Signalled), CrossedToDeadNs: since(l.Timeline.Dead),
		CrossedToRecoveredNs: since(l.Timeline.Recovered), OvershootBytes: l.OvershootBytes,
	}
}

// fromOutside adds the yardstick's figures and holds it against the kernel's stamp.
func (t *agentTool) fromOutside(r *Round, before int64, b *burnt) {
	if t.options.bomb() || r.Missed || r.WrongVictim {
		return
	}
	filled := filledAt(before-t.wire, !t.node())
	crossed, ok := b.curve.crossed(filled)
	if !ok {
		crossed = b.curve.last() // killed before the mark: the kernel charges ahead
	}
	r.Outside = b.figures(crossed, filled)
	if r.Outside != nil && r.CrossedToSignalledNs != nil {
		apart := *r.CrossedToSignalledNs - *r.Outside.CrossedToSignalledNs
		r.CrossedApartNs = &apart
	}
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
		moved := after - before
		r.Disturbed = max(moved, -moved) > t.options.distance()/4
	}
	if r.Missed || r.WrongVictim || r.Disturbed {
		return t.retire() // whatever it thinks, it does not carry over
	}
	return nil
}

// stallPatience is far above what a backstop takes.
const stallPatience = time.Second

// stalledRound stops the agent first. Who ends the victim in time is not the agent.
func (t *agentTool) stalledRound(ctx context.Context, unit string, victim *load.Load) (r Round, err error) {
	if err := t.agent.signal(syscall.SIGSTOP); err != nil {
		return r, err
	}
	b, err := t.burn(victim, stallPatience)
	if err = errors.Join(err, t.agent.signal(syscall.SIGCONT)); err != nil {
		return r, err
	}
	t.judge(ctx, &r, unit, len(t.agent.Lines()), true)
	if !b.died {
		r.Missed, r.Figures = true, Figures{}
	}
	return r, nil
}
