package bench

import (
	"errors"
	"fmt"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
)

// Scenario is what else goes on during a round.
type Scenario string

const (
	Idle     Scenario = "idle"
	Spinners Scenario = "spinners" // backgroundLoads SCHED_OTHER loops
	Hogs     Scenario = "hogs"     // backgroundLoads page-fault loops in a root of their own
	Forkbomb Scenario = "forkbomb" // the victim forks; nothing else
	// Stalled: the agent is SIGSTOPped near its wire, with the allocation hook attached,
	// before the hog begins. StalledFar: far from it, with the hook detached.
	Stalled    Scenario = "stalled"
	StalledFar Scenario = "stalled-far"
	// MemoryBack: the spinners, and a hog that holds 1 GiB at the wire.
	MemoryBack Scenario = "memoryback"
)

// Scenarios are all of them.
var Scenarios = []Scenario{Idle, Spinners, Hogs, Forkbomb, Stalled, StalledFar, MemoryBack}

// stalls: somebody else than the agent has to act.
func (s Scenario) stalls() bool { return s == Stalled || s == StalledFar }

// amounts are the bytes of a scenario's rounds.
type amounts struct {
	// distance is how far above the wire a round begins.
	distance int64
	// hog is how much the victim fills at most, limit what everything in a tool's root may
	// take: the bystanders too, and what the hog holds before it begins.
	hog, limit int64
}

func (s Scenario) amounts() amounts {
	switch s {
	case StalledFar: // beyond twice the agent's default margin of 512 MiB
		return amounts{distance: 1280 << 20, hog: 1792 << 20, limit: 3 << 30}
	case MemoryBack:
		return amounts{distance: 1<<30 - victimHold, hog: 1536 << 20, limit: 2 << 30}
	}
	// 0.1 s at the fastest 4 KiB fill, near enough for every peer to look at its shortest
	// interval; a slow tool has 1.25 GiB to be late by.
	return amounts{distance: 256 << 20, hog: 1536 << 20, limit: fieldMemory}
}

// victimHold makes the victim the largest unit before it begins, as a leak is.
const victimHold = 64 << 20

const (
	backgroundLoads = 4
	faulterBytes    = 16 << 20
	// lifetime is below the ten minutes that a load lives at most.
	lifetime = 8 * time.Minute
)

// background keeps a scenario's loads running, in a root that no tool watches.
type background struct {
	bed     *Bed
	spec    load.Spec
	running []*load.Load
	started time.Time
}

func newBackground(s Scenario) (*background, error) {
	b := &background{}
	switch s {
	case Spinners, MemoryBack:
		b.spec = load.Spec{Kind: load.Spinner}
	case Hogs:
		b.spec = load.Spec{Kind: load.Faulter, Bytes: faulterBytes}
	default:
		return b, nil
	}
	b.spec.Deadline = lifetime + time.Minute
	var err error
	b.bed, err = NewBed("bench-background", 512<<20, 200)
	return b, err
}

// refresh starts the loads, or anew when they are old.
func (b *background) refresh() error {
	if b.bed == nil || len(b.running) > 0 && time.Since(b.started) < lifetime {
		return nil
	}
	if err := b.stop(); err != nil {
		return err
	}
	b.started = time.Now()
	for i := range backgroundLoads {
		unit := fmt.Sprintf("%s-%d", b.spec.Kind, i)
		if err := b.bed.Remove(unit); err != nil { // that of an old one
			return err
		}
		l, err := b.bed.Start(unit, b.spec)
		if err != nil {
			return err
		}
		b.running = append(b.running, l)
	}
	return nil
}

func (b *background) stop() error {
	err := stopAll(b.running)
	b.running = nil
	return err
}

func (b *background) close() error {
	if b.bed == nil {
		return nil
	}
	return errors.Join(b.stop(), b.bed.Destroy())
}

func stopAll(loads []*load.Load) error {
	var errs []error
	for _, l := range loads {
		errs = append(errs, l.Stop())
	}
	return errors.Join(errs...)
}
