package signal_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

func reading(available int64, ns uint64) signal.Observation {
	return signal.Observation{Signal: signal.MemoryAvailable, Available: available, Capacity: 1 << 40, Ns: ns}
}

func TestGuardCheck(t *testing.T) {
	const perSecond = 1000
	tests := map[string]struct {
		guard  signal.Guard
		last   signal.Observation
		now    signal.Observation
		jump   bool
		noData bool
	}{
		"as fast as it can in half a second":   {last: reading(5000, 1e9), now: reading(4500, 15e8)},
		"one more than it can":                 {last: reading(5000, 1e9), now: reading(4499, 15e8), jump: true, noData: true},
		"within the slack":                     {guard: signal.Guard{Slack: 10}, last: reading(5000, 1e9), now: reading(4490, 15e8)},
		"one more than slack allows":           {guard: signal.Guard{Slack: 10}, last: reading(5000, 1e9), now: reading(4489, 15e8), jump: true, noData: true},
		"the same reading again":               {last: reading(5000, 1e9), now: reading(5000, 1e9)},
		"a fall in no time":                    {last: reading(5000, 1e9), now: reading(4999, 1e9), jump: true, noData: true},
		"freeing everything in no time":        {last: reading(-5000, 1e9), now: reading(1<<40, 1e9)},
		"the clock went back":                  {last: reading(5000, 1e9), now: reading(5000, 1e9-1), noData: true},
		"a fall from one end to the other":     {last: reading(math.MaxInt64, 1e9), now: reading(math.MinInt64, 2e9), jump: true, noData: true},
		"years later, where 64 bits overflow":  {last: reading(1<<43, 0), now: reading(0, math.MaxUint64)},
		"a slow fall below zero of what there": {last: reading(100, 1e9), now: reading(-100, 2e9)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.guard.Accept(tc.last)
			err := tc.guard.Check(tc.now, perSecond)
			if got := errors.Is(err, signal.ErrJump); got != tc.jump {
				t.Errorf("ErrJump %v, want %v (%v)", got, tc.jump, err)
			}
			if got := errors.Is(err, signal.ErrNoData); got != tc.noData {
				t.Errorf("ErrNoData %v, want %v (%v)", got, tc.noData, err)
			}
			if (err != nil) != tc.noData {
				t.Errorf("error %v, want one: %v", err, tc.noData)
			}
		})
	}
}

// A jump that the other source confirms is accepted, and the next reading is held
// against it, not against the one before.
func TestGuardScene(t *testing.T) {
	var g signal.Guard
	first := reading(1_000_000, 1e9)
	if err := g.Check(first, 1000); err != nil {
		t.Fatalf("first reading: %v", err)
	}
	g.Accept(first)

	jump := reading(2000, 11e8)
	if err := g.Check(jump, 1000); !errors.Is(err, signal.ErrJump) {
		t.Fatalf("jump: %v, want ErrJump", err)
	}
	if err := g.Check(jump, 1000); !errors.Is(err, signal.ErrJump) {
		t.Fatalf("a check alone accepted the reading: %v", err)
	}
	g.Accept(jump)
	if err := g.Check(reading(1950, 12e8), 1000); err != nil {
		t.Fatalf("after the accepted jump: %v", err)
	}
}

func TestGuardAllocatesNothing(t *testing.T) {
	var g signal.Guard
	g.Accept(reading(5000, 1e9))
	allocs := testing.AllocsPerRun(100, func() {
		if g.Check(reading(4500, 15e8), 1000) != nil {
			t.Error("unexpected error")
		}
		g.Accept(reading(5000, 1e9))
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

func TestFresh(t *testing.T) {
	const now = uint64(10 * time.Second)
	tests := map[string]struct {
		ns     uint64
		maxAge time.Duration
		ok     bool
	}{
		"now":                       {now, 0, true},
		"at the largest age":        {now - 50, 50, true},
		"older than that":           {now - 51, 50, false},
		"a little ahead":            {now + 50, 50, true},
		"dated too far ahead":       {now + 51, 50, false},
		"never read":                {0, time.Second, false},
		"negative age means no age": {now - 1, -1, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := signal.Fresh(reading(1, tc.ns), now, tc.maxAge)
			if (err == nil) != tc.ok || err != nil && !errors.Is(err, signal.ErrNoData) {
				t.Errorf("error %v, want fresh: %v", err, tc.ok)
			}
		})
	}
}

func TestAgree(t *testing.T) {
	base := signal.Observation{Signal: signal.AllocatablePIDAvailable, Root: "/a", Available: 100, Capacity: 1000, Ns: 1}
	tests := map[string]struct {
		change    func(*signal.Observation)
		tolerance int64
		want      bool
	}{
		"equal":                         {func(*signal.Observation) {}, 0, true},
		"read at another time":          {func(o *signal.Observation) { o.Ns = 99 }, 0, true},
		"above by the tolerance":        {func(o *signal.Observation) { o.Available += 5 }, 5, true},
		"below by the tolerance":        {func(o *signal.Observation) { o.Available -= 5 }, 5, true},
		"above by more":                 {func(o *signal.Observation) { o.Available += 6 }, 5, false},
		"below by more":                 {func(o *signal.Observation) { o.Available -= 6 }, 5, false},
		"another capacity":              {func(o *signal.Observation) { o.Capacity -= 6 }, 5, false},
		"another root":                  {func(o *signal.Observation) { o.Root = "/b" }, 5, false},
		"another signal":                {func(o *signal.Observation) { o.Signal = signal.PIDAvailable }, 5, false},
		"a difference beyond 63 bits":   {func(o *signal.Observation) { o.Available = math.MinInt64 }, math.MaxInt64, false},
		"negative tolerance means none": {func(o *signal.Observation) { o.Available++ }, -1, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			other := base
			tc.change(&other)
			if got := signal.Agree(base, other, tc.tolerance); got != tc.want {
				t.Errorf("Agree = %v, want %v", got, tc.want)
			}
			if got := signal.Agree(other, base, tc.tolerance); got != tc.want {
				t.Errorf("the other way round: Agree = %v, want %v", got, tc.want)
			}
		})
	}
}
