package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Tools that need no program of their own: the kernel's OOM killer of a memory cgroup, and
// a poller.
const (
	ToolKernelOOM Tool = "kernel-oom"
	ToolPoller    Tool = "poller10s"
)

// pollEvery is the kubelet's default between two looks (eviction manager, 10 s).
const pollEvery = 10 * time.Second

// kernelTool gives the victim a memory limit where the others have a wire.
type kernelTool struct{ *stand }

func newKernelTool(s *stand) (tool, error) { return &kernelTool{s}, nil }

func (t *kernelTool) note() string {
	return "the crossing is the last page that the hog got; the overshoot is 0 by nature"
}
func (t *kernelTool) close() error { return nil }

func (t *kernelTool) play(context.Context) (r Round, err error) {
	unit, victim, clear, err := t.peers.victim(t.options.victim(t.rate))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, clear()) }()
	c, err := t.peers.FS.Open(t.peers.Unit(unit))
	if err != nil {
		return r, err
	}
	defer func() { _ = c.Close() }()
	usage, err := c.MemoryCurrentBytes()
	if err == nil {
		err = c.SetMemoryMax(usage + t.options.distance())
	}
	if err != nil {
		return r, err
	}
	b, err := t.burn(victim, roundDeadline, nil)
	if err != nil {
		return r, err
	}
	r.Outside = b.figures(b.curve.last(), b.curve.bytes)
	t.peers.judge(&r)
	return r, nil
}

// judge settles a peer's round: its figures are those from outside.
func (f *field) judge(r *Round) {
	r.WrongVictim = !f.bystandersAlive()
	r.Missed = r.Outside == nil && !r.WrongVictim
	if r.Outside != nil {
		r.Figures = *r.Outside
	}
}

// poller looks every pollEvery and kills at once: the best that polling at the kubelet's
// default interval can do. The first look comes at a random time.
type poller struct{ *stand }

func newPoller(s *stand) (tool, error) {
	return &poller{stand: s}, nil
}

func (t *poller) note() string {
	return "looks every 10 s, the kubelet's default, and sends SIGKILL at once; the kubelet itself takes longer; one round in ten of the others"
}
func (t *poller) close() error { return nil }

func (t *poller) play(ctx context.Context) (r Round, err error) {
	_, victim, clear, err := t.peers.victim(t.options.victim(t.rate))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, clear()) }()
	available := t.peers.gauge(signal.AllocatableMemoryAvailable)
	before, err := available()
	if err != nil {
		return r, err
	}
	wire := before - t.options.distance()
	ctx, stop := context.WithCancel(ctx)
	looked := make(chan error, 1)
	go func() {
		looked <- poll(ctx, rand.N(pollEvery), func() (bool, error) {
			now, err := available()
			if err != nil || now >= wire {
				return false, err
			}
			return true, unix.Kill(victim.PID(), unix.SIGKILL)
		})
	}()
	b, err := t.burn(victim, roundDeadline, nil)
	stop()
	if err = errors.Join(err, <-looked); err != nil {
		return r, err
	}
	filled := filledAt(t.options.distance(), true)
	crossed, _ := b.curve.crossed(filled)
	r.Outside = b.figures(crossed, filled)
	r.Full = b.curve.full()
	t.peers.judge(&r)
	return r, nil
}

// poll asks after first and then every pollEvery, until done or ctx is.
func poll(ctx context.Context, first time.Duration, ask func() (done bool, err error)) error {
	next := time.NewTimer(first)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		if done, err := ask(); done || err != nil {
			return err
		}
		next.Reset(pollEvery)
	}
}
