package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// State says how near the agent's memory wire is.
type State string

const (
	// Far: the allocation hook is detached.
	Far State = "far"
	// Near: it is attached.
	Near State = "near"
)

// Overhead is the result of `bench overhead`.
type Overhead struct {
	Machine
	Runs []OverheadRun `json:"runs"`
	// Hooks are what the programs took while near, by the kernel's own statistics.
	Hooks []Hook `json:"hooks"`
}

// OverheadRun is CPU time with the agent by CPU time without, of pairs A B B A: (B+B)/(A+A).
// In the baseline B is without the agent too.
type OverheadRun struct {
	Work     Work       `json:"work"`
	State    State      `json:"state"`
	Pairs    int        `json:"pairs"`
	Ratio    *Quartiles `json:"ratio"`
	Baseline *Quartiles `json:"baseline"`
	// Attached are the agent's programs that had a link, before or after the work of any
	// pair, by the kernel's own list.
	Attached []string `json:"attached"`
	// Note says what the work was done with.
	Note    string    `json:"note,omitempty"`
	Raw     []float64 `json:"raw"`
	RawBase []float64 `json:"rawBaseline"`
}

// OverheadOptions say what is measured.
type OverheadOptions struct {
	Works    []Work
	States   []State
	Pairs    int
	Version  string
	Progress func(Work, State, int)
}

func (o *OverheadOptions) validate() error {
	for _, w := range o.Works {
		if !slices.Contains(Works, w) {
			return fmt.Errorf("%w: work %q, want some of %v", ErrOptions, w, Works)
		}
	}
	for _, s := range o.States {
		if s != Far && s != Near {
			return fmt.Errorf("%w: state %q, want far or near", ErrOptions, s)
		}
	}
	if o.Pairs < 1 || len(o.Works) == 0 || len(o.States) == 0 {
		return fmt.Errorf("%w: no pair, work or state", ErrOptions)
	}
	return nil
}

// MeasureOverhead measures work and state in turn.
func MeasureOverhead(ctx context.Context, o OverheadOptions) (result Overhead, err error) {
	if err := o.validate(); err != nil {
		return result, err
	}
	runtime.LockOSThread() // the agent's life hangs on it
	bed, err := NewBed("bench", fieldMemory, fieldPids)
	defer func() { err = errors.Join(err, bed.Destroy()) }()
	if err != nil {
		return result, err
	}
	if result.Machine, err = ThisMachine(o.Version, fmt.Sprintf("v%d", bed.FS.Version())); err != nil {
		return result, err
	}
	for _, w := range o.Works {
		runs, err := measureWork(ctx, bed, w, &o)
		if err != nil {
			return result, fmt.Errorf("%s: %w", w, err)
		}
		result.Runs = append(result.Runs, runs...)
	}
	result.Hooks, err = measureHooks(ctx, bed)
	return result, err
}

// measureWork is a run for each state. A pair is A B B A for each state in turn; the A's of
// two states, or two more A's, are the baseline: four works without the agent, the two in
// the middle by the two outside.
func measureWork(ctx context.Context, bed *Bed, w Work, o *OverheadOptions) ([]OverheadRun, error) {
	runs := make([]OverheadRun, len(o.States))
	for i, s := range o.States {
		runs[i] = OverheadRun{Work: w, State: s, Pairs: o.Pairs, Note: w.note()}
	}
	for pair := range o.Pairs {
		var off []time.Duration
		for i := range runs {
			before, after, err := runs[i].pair(ctx, bed)
			if err != nil {
				return nil, fmt.Errorf("%s, pair %d: %w", runs[i].State, pair, err)
			}
			off = append(off, before, after)
			if o.Progress != nil {
				o.Progress(w, runs[i].State, pair+1)
			}
		}
		for len(off) < 4 {
			took, err := runWork(bed.Self, w)
			if err != nil {
				return nil, err
			}
			off = append(off, took)
		}
		for i := range runs {
			runs[i].RawBase = append(runs[i].RawBase, abba(off[0], off[1], off[2], off[3]))
		}
	}
	for i := range runs {
		runs[i].Ratio, runs[i].Baseline = quartilesOf(runs[i].Raw), quartilesOf(runs[i].RawBase)
	}
	return runs, nil
}

// abba is (B+B)/(A+A): what drifts evenly is in both alike.
func abba(a1, b1, b2, a2 time.Duration) float64 { return float64(b1+b2) / float64(a1+a2) }

// pair adds A B B A, and what was attached before and after B B; it returns the A's.
func (r *OverheadRun) pair(ctx context.Context, bed *Bed) (before, after time.Duration, err error) {
	loaded, err := loadedPrograms()
	if err != nil {
		return 0, 0, err
	}
	var b1, b2 time.Duration
	run := func(took *time.Duration) (err error) {
		*took, err = runWork(bed.Self, r.Work)
		return err
	}
	err = run(&before)
	if err == nil {
		err = withAgent(ctx, bed, r.State, func() error {
			return errors.Join(r.sawAttached(loaded), run(&b1), run(&b2), r.sawAttached(loaded))
		})
	}
	if err == nil {
		err = run(&after)
	}
	if err != nil {
		return 0, 0, err
	}
	r.Raw = append(r.Raw, abba(before, b1, b2, after))
	return before, after, nil
}

func (r *OverheadRun) sawAttached(before programs) error {
	names, err := attachedSince(before)
	r.Attached = slices.Compact(slices.Sorted(slices.Values(append(r.Attached, names...))))
	return err
}

// withAgent runs f while an agent watches whose state file says that it is as far or near as
// is asked for.
func withAgent(ctx context.Context, bed *Bed, s State, f func() error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, roundDeadline)
	defer cancel()
	wire := int64(1) // the whole root away
	if s == Near {
		wire = fieldMemory - 256<<20
	}
	a, err := bed.StartAgent(ctx, map[signal.Signal]string{
		signal.AllocatableMemoryAvailable: strconv.FormatInt(wire, 10), signal.PIDAvailable: "1",
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Stop()) }()
	near := func(st *record.State) bool { return armed(st, signal.AllocatableMemoryAvailable) == (s == Near) }
	if err := a.awaitState(ctx, near); err != nil {
		return err
	}
	return f()
}

// runWork runs a worker and returns the CPU time that it says it took.
func runWork(self string, w Work) (time.Duration, error) {
	out, err := exec.Command(self, WorkCommand, string(w)).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return 0, fmt.Errorf("work %s: %w", w, err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return time.Duration(ns), err
}

// measureHooks lets the kernel count while the agent is near.
func measureHooks(ctx context.Context, bed *Bed) (hooks []Hook, err error) {
	stats, err := ebpf.EnableStats(statsRunTime)
	if err != nil {
		return nil, nil // not allowed here
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	before, err := loadedPrograms()
	if err != nil {
		return nil, err
	}
	err = withAgent(ctx, bed, Near, func() error {
		for _, w := range []Work{WorkFault, WorkFork} {
			if _, err := runWork(bed.Self, w); err != nil {
				return err
			}
		}
		hooks, err = hooksSince(before)
		return err
	})
	return hooks, err
}
