package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// crossWithin is how long an armed canary may take to cross its wire, dieWithin how long
	// it may take to die. Both take milliseconds on a node that is well, and a drill is no
	// test of speed.
	crossWithin = 10 * time.Second
	dieWithin   = 10 * time.Second
	// lookWithin is how long a drill waits for the pass that says whether it may be held.
	lookWithin = 5 * time.Second
	// canaryTick is how soon it is known that a canary ended without crossing its wire.
	canaryTick = 20 * time.Millisecond
)

// ErrDrill means that the drill at start failed, and the mode is enforce.
var ErrDrill = errors.New("the drill at start failed")

// rehearsals hold drills, one at a time, off the hot thread.
type rehearsals struct {
	*Agent
	box *drill.Mailbox
	log zerolog.Logger
	// last is the drill of the last lines, ok and signalledNs what they say of each signal.
	last        record.ID
	ok          map[string]bool
	signalledNs uint64
}

func (a *Agent) openRehearsals(state string) *rehearsals {
	r := &rehearsals{Agent: a, log: a.log}
	err := drill.Sweep(a.fs)
	if err != nil {
		r.log.Warn().Err(err).Msg("what a dead drill left can't be removed")
	}
	if r.box, err = drill.MakeMailbox(drill.MailboxOf(state)); err != nil {
		r.log.Warn().Err(err).Msg("degraded: no drill can be held")
	}
	return r
}

func (r *rehearsals) close() error {
	if r == nil || r.box == nil {
		return nil
	}
	return r.box.Remove()
}

// run takes requests until ctx is done.
func (r *rehearsals) run(ctx context.Context) {
	if r.box == nil {
		return
	}
	bell := workload.NewBell(r.box.Path(), time.Second)
	defer bell.Close()
	for ctx.Err() == nil {
		names, err := r.box.Requests()
		if err != nil {
			r.log.Warn().Err(err).Msg("requests for drills can't be listed")
		}
		for _, name := range names {
			if err := r.box.Answer(name, r.hold(ctx, name)); err != nil {
				r.log.Warn().Err(err).Msg("a drill can't be answered")
			}
		}
		bell.Wait(ctx)
	}
}

// hold takes a request and says what became of it.
func (r *rehearsals) hold(ctx context.Context, name string) drill.Reply {
	q, err := r.box.Take(name)
	if err != nil {
		return r.refuse(&q, fmt.Errorf("request: %w", err))
	}
	defer func() { _ = r.host("") }()
	c, err := r.openCanary(&q)
	if err != nil {
		return r.refuse(&q, err)
	}
	defer func() {
		if !c.handle.Busy() {
			_ = c.handle.Close()
		}
	}()
	if why := r.unrestNow(ctx); why != "" {
		return r.skip(why)
	}
	r.play(ctx, name, c)
	if c.skipped {
		return r.skip(c.reason)
	}
	line := r.drillLine(c)
	r.recorder.send(line, nil)
	r.note(line)
	return drill.Reply{State: drill.Done, Line: line, ByClock: r.isByClock(line.Tier, signal.Signal(line.Signal))}
}

// play arms the wire, lets the canary go and waits for its end.
func (r *rehearsals) play(ctx context.Context, name string, c *canary) {
	defer func() {
		if err := r.disarmCanary(); err != nil {
			r.log.Warn().Err(err).Msg("a drill's wire can't be taken away")
		}
	}()
	if err := r.armCanary(c); err != nil {
		c.end(record.OutcomeFailed, "its wire is not armed: "+err.Error())
		return
	}
	if err := r.box.Answer(name, drill.Reply{State: drill.Armed}); err != nil && r.drills.withdraw(c) {
		c.end(record.OutcomeFailed, "its client can't be told: "+err.Error())
		return
	}
	r.awaitStrike(ctx, c)
	if c.timeline.Signalled != 0 {
		r.awaitDeath(ctx, c)
	}
}

// awaitStrike returns when the hot thread is through with the canary, or has not seen it.
func (r *rehearsals) awaitStrike(ctx context.Context, c *canary) {
	tick, timeout := time.NewTicker(canaryTick), time.NewTimer(crossWithin)
	defer tick.Stop()
	defer timeout.Stop()
	gone := ctx.Done()
	for {
		select {
		case <-c.done:
			return
		case <-gone:
			gone = nil
			if r.drills.withdraw(c) {
				c.skipped, c.reason = true, "the agent ends"
				return
			}
		case <-timeout.C:
			if r.drills.withdraw(c) {
				c.end(record.OutcomeFailed, fmt.Sprintf("no record of its crossing came within %v", crossWithin))
				return
			}
		case <-tick.C:
			if c.handle.Alive() || !r.drills.withdraw(c) {
				continue
			}
			c.end(record.OutcomeGone, "it ended before a record of its crossing came")
			return
		}
	}
}

func (r *rehearsals) awaitDeath(ctx context.Context, c *canary) {
	finished := make(chan actuator.Outcome, 1)
	go func() { finished <- c.handle.Finish(r.crew, sample.Now, dieWithin) }()
	select {
	case <-ctx.Done():
		c.end(record.OutcomeFailed, "signalled, and not dead when the agent ended")
	case out := <-finished:
		c.timeline.SignalledAll, c.timeline.Dead = max(c.timeline.Signalled, out.SignalledAllNs), out.DeadNs
		c.end(record.OutcomeKilled, "")
		if out.DeadNs == 0 {
			c.end(record.OutcomeFailed, fmt.Sprintf("signalled, and not dead within %v", dieWithin))
		}
	}
}

// skip is no failure, and no line: it is tried again.
func (r *rehearsals) skip(why string) drill.Reply {
	r.log.Info().Str("reason", why).Msg("drill skipped")
	return drill.Reply{State: drill.Skipped, Reason: why}
}

// refuse records a request that would have hit somebody else than a canary.
func (r *rehearsals) refuse(q *drill.Request, err error) drill.Reply {
	r.log.Warn().Err(err).Msg("request for a drill refused")
	r.recorder.send(&record.Line{
		Kind: record.KindDrill, ID: q.ID, Node: r.node, Mode: *r.drills.mode.Load(),
		Outcome: record.OutcomeRefused, Reason: err.Error(), By: record.ByAgent,
	}, nil)
	return drill.Reply{State: drill.Refused, Reason: err.Error()}
}

// note keeps the last drill for the state file. A drill is well when all its signals are, and
// the hook saw them where there is one: by the timer alone kills come late.
func (r *rehearsals) note(l *record.Line) {
	if l.ID != r.last {
		r.last, r.ok, r.signalledNs = l.ID, map[string]bool{}, 0
	}
	r.ok[l.Signal] = l.Outcome == record.OutcomeKilled && !r.isByClock(l.Tier, signal.Signal(l.Signal))
	if t := l.Timeline; t.Signalled != 0 {
		r.signalledNs = max(r.signalledNs, t.Signalled-t.Crossed)
	}
	state := &record.DrillState{Time: record.Time{Time: time.Now()}, OK: true, SignalledNs: r.signalledNs}
	for _, ok := range r.ok {
		state.OK = state.OK && ok
	}
	r.drills.state.Store(state)
}

// hear takes the results of the drills that the keeper makes, at start and on its timer. A
// failed first one ends an agent that was to enforce.
func (a *Agent) hear(ctx context.Context, o Options, fail context.CancelCauseFunc) {
	for {
		var d drill.Result
		select {
		case <-ctx.Done():
			return
		case d = <-o.Drills:
		}
		switch {
		case d.OK:
			a.praise(&d)
			continue
		case d.Skipped:
			a.log.Warn().Str("reason", d.Reason).Msg("drill skipped; it is tried again")
			continue
		}
		if d.AtStart && o.Config.Mode == config.ModeEnforce && !a.isExcused(ctx) {
			fail(fmt.Errorf("%w at the stage %q: %s", ErrDrill, d.Stage, d.Reason))
			return
		}
		a.log.Error().Str("stage", d.Stage).Str("reason", d.Reason).Msg("degraded: drill failed")
		a.drills.state.Store(&record.DrillState{Time: record.Time{Time: time.Now()}})
		a.scout.raise(alarm{reason: fmt.Sprintf("drill failed at the stage %q: %s", d.Stage, d.Reason)})
	}
}

// isExcused: a canary that gets no CPU in the middle of a fork bomb is no reason to end. What the
// hot thread has yet to see of that it sees first.
func (a *Agent) isExcused(ctx context.Context) bool {
	why := a.unrestNow(ctx)
	return a.drills.proven.Load() || why != "" && why != noTime
}

// noTime: the hot thread has not looked.
const noTime = "the agent has no time for it"

// unrestNow has the hot thread look, and says what is more urgent than a drill.
func (a *Agent) unrestNow(ctx context.Context) string {
	before := a.drills.passes.Load()
	a.wake()
	for end := time.Now().Add(lookWithin); a.drills.passes.Load() == before; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(end) {
			return noTime
		}
	}
	if why := a.drills.unrest.Load(); why != nil {
		return *why
	}
	return ""
}

func (a *Agent) praise(d *drill.Result) {
	log := a.log.Info().Str("id", d.ID.String())
	for i := range d.Drills {
		l, of := &d.Drills[i], "tasks"
		if signal.Signal(l.Signal).Memory() {
			of = "memory"
		}
		log = log.Dur(of+"_crossed_to_signalled_ms", time.Duration(l.Timeline.Signalled-l.Timeline.Crossed))
	}
	log.Msg("drill passed")
}
