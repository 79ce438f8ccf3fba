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
	Stalled  Scenario = "stalled"  // the agent is SIGSTOPped before the hog begins
)

// Scenarios are all of them.
var Scenarios = []Scenario{Idle, Spinners, Hogs, Forkbomb, Stalled}

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
	case Spinners:
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
		l, err := b.bed.Start(fmt.Sprintf("%s-%d", b.spec.Kind, i), b.spec)
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
