package agent

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
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
	nowNs := now()
	for i := range a.settings.Bounds {
		b, s := &a.blind[i], &a.settings.Bounds[i]
		switch {
		case b.err != nil && !b.said && nowNs-b.sinceNs > uint64(blindAfter):
			b.said = true
			a.log.Warn().Err(b.err).Str("signal", string(s.Signal)).Str("root", s.Root).Msg("degraded: signal without data")
			a.degraded(s.Signal, b.err.Error())
		case b.err == nil && b.said:
			b.said = false
			a.log.Info().Str("signal", string(s.Signal)).Str("root", s.Root).Msg("signal has data again")
			a.degraded(s.Signal, "has data again")
		}
	}
}

func (a *Agent) degraded(s signal.Signal, reason string) {
	a.recorder.send(&record.Line{
		Kind: record.KindDegraded, Node: a.node, Mode: a.mode, Signal: string(s), Reason: reason,
	}, nil)
}
