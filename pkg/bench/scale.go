package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Scale is the result of `bench scale`.
type Scale struct {
	Machine
	Points []Point `json:"points"`
}

// Point is what the agent does with that many units below its root. Most units are empty
// cgroups; Live have a process.
type Point struct {
	Workloads int `json:"workloads"`
	Live      int `json:"live"`
	Rounds    int `json:"rounds"`
	Missed    int `json:"missed"`
	// PassNs is from waking to the decision: all readings, the ranking, the second look.
	PassNs               *Quantiles `json:"passNs,omitempty"`
	CrossedToSignalledNs *Quantiles `json:"crossedToSignalledNs,omitempty"`
	// RSSBytes is the larger of the agent's resident memory with its wire far, after the
	// time in which nothing happens, and near, after the rounds.
	RSSBytes     int64 `json:"rssBytes"`
	RSSFarBytes  int64 `json:"rssFarBytes"`
	RSSNearBytes int64 `json:"rssNearBytes"`
	// CPUPercent is the agent's share of one CPU while its wire is far and nothing happens.
	CPUPercent float64 `json:"cpuPercent"`
}

// ScaleOptions say what is measured.
type ScaleOptions struct {
	Workloads []int
	Rounds    int
	Version   string
	Progress  func(workloads int, doing string)
}

const (
	// mostWorkloads leaves room in the 65,535 ids that the kernel has for memory cgroups.
	mostWorkloads = 20_000
	// settleFor is how long after its start an agent still learns its units; idleFor is how
	// long its CPU time is watched then.
	settleFor = 3 * time.Second
	idleFor   = 10 * time.Second
)

// MeasureScale measures one number of units after the other.
func MeasureScale(ctx context.Context, o ScaleOptions) (result Scale, err error) {
	for _, n := range o.Workloads {
		if n < 1 || n > mostWorkloads {
			return result, fmt.Errorf("%w: %d workloads, want 1 to %d", ErrOptions, n, mostWorkloads)
		}
	}
	if o.Rounds < 1 || len(o.Workloads) == 0 {
		return result, fmt.Errorf("%w: no round or number of workloads", ErrOptions)
	}
	runtime.LockOSThread() // the agent's life hangs on it
	for _, n := range o.Workloads {
		p, version, err := measurePoint(ctx, n, o)
		if err == nil && result.Kernel == "" {
			result.Machine, err = ThisMachine(o.Version, version)
		}
		if err != nil {
			return result, fmt.Errorf("%d workloads: %w", n, err)
		}
		result.Points = append(result.Points, p)
	}
	return result, nil
}

func measurePoint(ctx context.Context, n int, o ScaleOptions) (p Point, cgroup string, err error) {
	say := func(doing string) {
		if o.Progress != nil {
			o.Progress(n, doing)
		}
	}
	f, err := newField("bench", fieldMemory)
	defer func() { err = errors.Join(err, f.close()) }()
	if err != nil {
		return p, "", err
	}
	cgroup = fmt.Sprintf("v%d", f.FS.Version())
	p = Point{Workloads: n, Live: len(bystanderBytes) + 1, Rounds: o.Rounds}
	say("making cgroups")
	for i := range max(0, n-p.Live) {
		if err := errors.Join(ctx.Err(), f.FS.Create(f.Unit(fmt.Sprintf("empty-%d", i)))); err != nil {
			return p, cgroup, err
		}
	}
	if err := f.refresh(); err != nil {
		return p, cgroup, err
	}
	say("idle")
	if err := p.idle(ctx, f); err != nil {
		return p, cgroup, err
	}
	say("rounds")
	if err := p.play(ctx, f); err != nil {
		return p, cgroup, err
	}
	p.RSSBytes = max(p.RSSFarBytes, p.RSSNearBytes)
	return p, cgroup, nil
}

// idle watches an agent whose wires are far. Meanwhile nothing of the bench runs.
func (p *Point) idle(ctx context.Context, f *field) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*roundDeadline)
	defer cancel()
	a, err := f.StartAgent(ctx, map[signal.Signal]string{signal.AllocatableMemoryAvailable: "1"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Stop()) }()
	if err := a.awaitState(ctx, func(s *record.State) bool { return !armed(s, signal.AllocatableMemoryAvailable) }); err != nil {
		return err
	}
	if err := sleep(ctx, settleFor); err != nil {
		return err
	}
	before, err := processCPU(a.PID())
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := sleep(ctx, idleFor); err != nil {
		return err
	}
	after, err := processCPU(a.PID())
	if err != nil {
		return err
	}
	p.CPUPercent = 100 * float64(after-before) / float64(time.Since(begun))
	p.RSSFarBytes, err = processRSS(a.PID())
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// play evicts a hog, round after round.
func (p *Point) play(ctx context.Context, f *field) (err error) {
	available := f.gauge(signal.AllocatableMemoryAvailable)
	now, err := available()
	if err != nil {
		return err
	}
	options := LatencyOptions{Fill: load.FillPages}
	a, err := f.StartAgent(ctx, map[signal.Signal]string{signal.AllocatableMemoryAvailable: strconv.FormatInt(now-options.distance(), 10)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Stop()) }()
	var pass, signalled []int64
	for range p.Rounds {
		l, err := evictOne(ctx, f, a, options.victim(0))
		if err != nil {
			return err
		}
		if l == nil {
			p.Missed++
			continue
		}
		pass = append(pass, int64(l.Timeline.Decided-l.Timeline.Woke))
		signalled = append(signalled, int64(l.Timeline.Signalled-l.Timeline.Crossed))
	}
	p.PassNs, p.CrossedToSignalledNs = QuantilesOf(pass), QuantilesOf(signalled)
	p.RSSNearBytes, err = processRSS(a.PID())
	return err
}

// evictOne is nil when the agent did not end the victim.
func evictOne(ctx context.Context, f *field, a *Agent, s load.Spec) (l *record.Line, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundDeadline)
	defer cancel()
	unit, victim, clear, err := f.victim(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clear()) }()
	if err := victim.Go(); err != nil {
		return nil, err
	}
	l, err = a.Await(ctx, func(l *record.Line) bool {
		return l.Kind == record.KindEviction && l.Outcome == record.OutcomeKilled && l.Victim.Cgroup == f.Unit(unit)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	return l, err
}

// processCPU is by the clock of the process: exact, where /proc/PID/stat counts ticks.
func processCPU(pid int) (time.Duration, error) {
	// CPUCLOCK_SCHED of a process (include/linux/posix-timers.h).
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// processRSS is resident memory from /proc/PID/statm ("4711 2048 …", pages).
func processRSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm of %d: %q", pid, text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
