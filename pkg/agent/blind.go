package agent

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// blindAfter is how long a bound's signal must have no data before that is worth a line: a
// cgroup that is made again, or a filesystem's first answer, take less.
const blindAfter = 2 * time.Second

// blindness is a bound whose signal can't be told.
type blindness struct {
	sinceNs uint64
	err     error
	said    bool
}

func (b *blindness) add(nowNs uint64, err error) {
	if b.err == nil {
		b.sinceNs = nowNs
	}
	b.err = err
}

func (b *blindness) clear() { b.err = nil }

// confess records each signal that has no data for a while, and each that is back: what is
// not seen is not protected.
func (a *Agent) confess() {
	for {
		select {
		case al := <-a.scout.alarms:
			a.degraded(al)
			continue
		default:
		}
		break
	}
	nowNs := sample.Now()
	for i := range a.settings.Bounds {
		b, s := &a.blind[i], &a.settings.Bounds[i]
		switch {
		case b.err != nil && !b.said && nowNs-b.sinceNs > uint64(blindAfter):
			b.said = true
			a.log.Warn().Err(b.err).Str("signal", string(s.Signal)).Str("root", s.Root).Msg("degraded: signal without data")
			a.degraded(alarm{signal: s.Signal, reason: b.err.Error()})
		case b.err == nil && b.said:
			b.said = false
			a.log.Info().Str("signal", string(s.Signal)).Str("root", s.Root).Msg("signal has data again")
			a.degraded(alarm{signal: s.Signal, reason: "has data again"})
		}
	}
}

// waitAfter is how long the dead may hold what is missing before somebody has to know.
const waitAfter = 10 * time.Second

// wait is a bound that waits for what the dead still hold.
type wait struct {
	sinceNs uint64
	said    bool
}

// watchWait says so when nobody reaps the dead: no reason to kill the living, and no state
// to leave a node in.
func (a *Agent) watchWait(d *decide.Decision) {
	for i := range a.waiting {
		if i != d.Bound || d.Verdict != decide.Wait || d.Reason != decide.ReasonCredit {
			a.waiting[i] = wait{}
		}
	}
	if d.Bound < 0 || d.Verdict != decide.Wait || d.Reason != decide.ReasonCredit {
		return
	}
	w, s := &a.waiting[d.Bound], a.settings.Bounds[d.Bound].Signal
	switch nowNs := sample.Now(); {
	case w.sinceNs == 0:
		w.sinceNs = nowNs
	case !w.said && a.left == "" && nowNs-w.sinceNs > uint64(waitAfter):
		w.said = true
		a.log.Error().Str("signal", string(s)).Msg("threshold met; the dead hold what is missing, and nobody reaps them")
		a.degraded(alarm{signal: s, reason: "threshold met; the dead hold what is missing, and nobody reaps them"})
	}
}

func (a *Agent) degraded(al alarm) {
	a.recorder.send(&record.Line{
		Kind: record.KindDegraded, Node: a.node, Mode: a.mode, Signal: string(al.signal), Tier: al.tier, Reason: al.reason,
	}, nil)
}
