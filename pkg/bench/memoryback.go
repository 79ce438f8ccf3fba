package bench

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// ToolPlainKill is kill(2) by an ordinary thread, as soon as the hog has crossed: what
// memoryback holds the agent against.
const ToolPlainKill Tool = "plain-kill"

// MemoryFactor is how many times sooner than with kill(2) alone the memory of a victim was
// back, counted from SIGKILL.
type MemoryFactor struct {
	Tool Tool    `json:"tool"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
}

// memoryBack holds each of our tools against the plain kill of the same run.
func (l *Latency) memoryBack() (all []MemoryFactor) {
	plain := l.backOf(ToolPlainKill)
	for _, t := range Tools {
		if q := l.backOf(t); t.Ours() && q != nil && plain != nil && q.P50 > 0 {
			all = append(all, MemoryFactor{t, ratio(plain.P50, q.P50), ratio(plain.P99, q.P99)})
		}
	}
	return all
}

func (l *Latency) backOf(t Tool) *Quantiles {
	for i := range l.Runs {
		if r := &l.Runs[i]; r.Tool == t && r.Scenario == MemoryBack {
			return r.SignalledToBackNs
		}
	}
	return nil
}

const (
	// backShare is the part of its peak that a victim may hold when its memory counts as back.
	backShare = 10
	// lookEvery is what the figure is exact to.
	lookEvery = 500 * time.Microsecond
)

// memoryWatch looks at the usage of a victim's cgroup, again and again.
type memoryWatch struct {
	unit *cgroupfs.Cgroup
	// from is the usage that a peak has to exceed before anything can be back.
	from int64
	// crossed is called once, at the first look at from or more; may be nil.
	crossed func()
	peak    int64
}

// newMemoryWatch is nil but in the scenario memoryback.
func (f *field) newMemoryWatch(o *LatencyOptions, unit string) (*memoryWatch, error) {
	if o.Scenario != MemoryBack {
		return nil, nil
	}
	c, err := f.FS.Open(f.Unit(unit))
	if err != nil {
		return nil, err
	}
	usage, err := c.MemoryCurrentBytes()
	return &memoryWatch{unit: c, from: usage + o.distance()}, err
}

func (w *memoryWatch) close() error {
	if w == nil {
		return nil
	}
	return w.unit.Close()
}

// await returns when the memory was back, 0 for not within patience.
func (w *memoryWatch) await(patience time.Duration) (backNs int64, err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(lookEvery) {
		usage, err := w.unit.MemoryCurrentBytes()
		switch {
		case err != nil:
			return 0, err
		case usage >= w.from && w.crossed != nil:
			w.crossed()
			w.crossed = nil
		}
		if w.peak = max(w.peak, usage); w.peak >= w.from*9/10 && usage <= w.peak/backShare {
			return monotonicNs(), nil
		}
	}
	return 0, nil
}

// plainKill plays rounds with nothing but kill(2).
type plainKill struct{ *stand }

func newPlainKill(s *stand) (tool, error) { return &plainKill{s}, nil }

func (t *plainKill) note() string {
	return "kill(2) by an ordinary thread as soon as the hog holds what lay between it and the wire"
}

func (t *plainKill) close() error { return nil }

func (t *plainKill) play(context.Context) (r Round, err error) {
	unit, victim, clear, err := t.peers.victim(t.options.victim(t.rate))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, clear()) }()
	w, err := t.peers.newMemoryWatch(&t.options, unit)
	defer func() { err = errors.Join(err, w.close()) }()
	if err != nil {
		return r, err
	}
	killed := make(chan error, 1)
	w.crossed = func() { go func() { killed <- unix.Kill(victim.PID(), unix.SIGKILL) }() }
	b, err := t.burn(victim, roundDeadline, w)
	if err != nil {
		return r, err
	}
	if w.crossed == nil {
		err = <-killed
	}
	filled := filledAt(t.options.distance(), true)
	r.Outside = b.figures(b.curve.crossedOrEnd(filled), filled)
	t.peers.judge(&r)
	return r, err
}
