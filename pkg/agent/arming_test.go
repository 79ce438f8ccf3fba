package agent

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// Arming by distance: whatever fills at up to the rate that the machine allows, by bursts,
// stops and reversals, towards several wires that are moved at any time: no wire is crossed
// but that the allocation hook is attached or the timer looks within bridge. The clock and the
// fill are simulated; the timer's plan is the BPF program's, the scout's is nearness.
func TestNoFillPassesAWireUnseen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: loads BPF programs; `make test` has it")
	}
	for _, tc := range []struct {
		name                  string
		fillPerSecond, margin int64
		uncharged             bool // beside the charge hook, which sees none of it
	}{
		{"two CPUs", 2 * loader.DefaultFillBytesPerSecond, loader.DefaultMarginBytes, false},
		{"a margin that is filled in less than the shortest tick", 64 * loader.DefaultFillBytesPerSecond, loader.DefaultMarginBytes, false},
		{"hardly a margin", 2 * loader.DefaultFillBytesPerSecond, 1 << 20, false},
		{"a slow machine", 1_000_000_000, loader.DefaultMarginBytes, false},
		{"uncharged", 2 * loader.DefaultFillBytesPerSecond, loader.DefaultMarginBytes, true},
		{"uncharged, on many CPUs", 64 * loader.DefaultFillBytesPerSecond, loader.DefaultMarginBytes, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			kernel, err := loader.Open(loader.Options{FillBytesPerSecond: tc.fillPerSecond, MarginBytes: tc.margin, MemoryTier: loader.TierAlloc, Log: zerolog.New(io.Discard)})
			must(t, err)
			t.Cleanup(func() { must(t, kernel.Close()) })
			crossings := 0
			for seed := range uint64(40) {
				s := newSimulation(t, kernel, tc.fillPerSecond, tc.margin, seed)
				if tc.uncharged {
					s.view = loader.ChargeHook
				}
				s.run(30 * time.Second)
				crossings += s.crossings
				if s.unseen != "" {
					t.Fatalf("seed %d: %s", seed, s.unseen)
				}
			}
			if crossings < 500 {
				t.Errorf("%d crossings: this test sees little", crossings)
			}
			t.Logf("%d crossings", crossings)
		})
	}
	t.Run("the simulation sees a timer that is half as fast", func(t *testing.T) {
		kernel, err := loader.Open(loader.Options{FillBytesPerSecond: 2 * loader.DefaultFillBytesPerSecond, MarginBytes: 64 << 20, MemoryTier: loader.TierAlloc, Log: zerolog.New(io.Discard)})
		must(t, err)
		t.Cleanup(func() { must(t, kernel.Close()) })
		for seed := range uint64(40) {
			s := newSimulation(t, kernel, 2*loader.DefaultFillBytesPerSecond, 64<<20, seed)
			s.slowness = 2
			if s.run(30 * time.Second); s.unseen != "" {
				return
			}
		}
		t.Error("no crossing was missed")
	})
}

const (
	bridge  = time.Millisecond // BRIDGE_NS of bpf/far.h
	simStep = 100 * time.Microsecond
	// worstAttach is how long attaching may wait for RCU, worstRound how late the scout may
	// be: it is an ordinary thread.
	worstAttach = 20 * time.Millisecond
	worstRound  = 30 * time.Millisecond
)

type simulation struct {
	t      *testing.T
	kernel *loader.Loader
	rng    *rand.Rand
	fill   int64 // bytes a second at most
	margin int64
	// slowness stretches each far tick.
	slowness time.Duration

	now   time.Duration
	wires []simWire
	// The timer: when it looks next, when it asked last, what it saw.
	look, asked time.Duration
	seenAtLook  int64
	view        loader.FarView // with loader.ChargeHook nobody ever answers an ask
	// The hook, and what the scout has under way.
	attached, hookSeen bool
	attachAt, roundAt  time.Duration // 0: nothing
	nearness           nearness

	crossings int
	unseen    string
}

// simWire is a distance that moves by itself: wires of several signals have fills of their own.
type simWire struct {
	distance, rate int64
	until          time.Duration
	// crossed is when it was crossed and not seen yet, 0: it was not.
	crossed time.Duration
}

func newSimulation(t *testing.T, kernel *loader.Loader, fill, margin int64, seed uint64) *simulation {
	s := &simulation{
		t: t, kernel: kernel, fill: fill, margin: margin, slowness: 1, rng: rand.New(rand.NewPCG(seed, 1)),
		nearness: nearness{margin: margin}, wires: make([]simWire, 1+seed%4), roundAt: simStep, asked: -time.Hour,
	}
	for i := range s.wires {
		s.wires[i].distance = s.farAway()
	}
	return s
}

// farAway is anything up to what takes two seconds to fill.
func (s *simulation) farAway() int64 { return 1 + s.rng.Int64N(2*s.fill) }

func (s *simulation) run(most time.Duration) {
	for ; s.now < most && s.unseen == ""; s.now += simStep {
		s.move()
		s.observe()
		s.scout()
	}
}

// move fills for one step, and finds what was crossed.
func (s *simulation) move() {
	for i := range s.wires {
		w := &s.wires[i]
		if s.now >= w.until {
			s.turn(w)
		}
		w.distance -= int64(float64(w.rate) * simStep.Seconds())
		if w.distance < 0 && w.crossed == 0 {
			w.crossed = s.now
			s.crossings++
		}
	}
}

// turn chooses what a wire's fill does next.
func (s *simulation) turn(w *simWire) {
	span := time.Duration(s.rng.Int64N(int64(60 * time.Millisecond)))
	switch s.rng.IntN(8) {
	case 0: // stop
		w.rate = 0
	case 1: // fall back
		w.rate = -s.rng.Int64N(s.fill)
	case 2: // a process ends
		w.distance, w.rate = max(w.distance, 0)+s.rng.Int64N(3*s.margin+1), 0
	case 3: // some fill
		w.rate = s.rng.Int64N(s.fill)
	case 4: // until far again, once it was crossed or for a change
		w.distance, w.rate = max(w.distance, s.farAway()), 0
		span = time.Duration(s.rng.Int64N(int64(1500 * time.Millisecond)))
	default: // as fast as it goes, and for long
		w.rate = s.fill
		span = time.Duration(s.rng.Int64N(int64(time.Second)))
	}
	w.until = s.now + span
}

func (s *simulation) nearest() int64 {
	nearest := s.wires[0].distance
	for _, w := range s.wires[1:] {
		nearest = min(nearest, w.distance)
	}
	return max(0, nearest)
}

// observe is the kernel's side of a step: the hook at each allocation, or the timer.
func (s *simulation) observe() {
	if s.attached {
		for i := range s.wires {
			s.hookSeen = s.hookSeen || s.wires[i].rate > 0
		}
	}
	if s.attached && s.hookSeen {
		s.seen()
	}
	if s.now < s.look {
		s.overdue()
		return
	}
	s.seen()
	view := s.view
	if s.hookSeen {
		view |= loader.HookSeen
	}
	next, ask, err := s.kernel.PlanTick(s.nearest(), view, s.now-s.asked)
	must(s.t, err)
	if next > bridge {
		next *= s.slowness
	}
	s.look = s.now + next
	if ask {
		s.asked = s.now
		s.kick()
	}
}

// seen: all wires are compared. One that was crossed is given room again: its victim died.
func (s *simulation) seen() {
	s.seenAtLook = s.nearest()
	for i := range s.wires {
		if w := &s.wires[i]; w.crossed != 0 {
			w.crossed = 0
			w.distance, w.rate, w.until = s.farAway(), 0, s.now
		}
	}
}

// overdue finds a crossing that nobody has seen in time.
func (s *simulation) overdue() {
	for i, w := range s.wires {
		if w.crossed != 0 && s.now-w.crossed > bridge {
			s.unseen = fmt.Sprintf("wire %d, crossed at %v, is not seen at %v; the next look is at %v, hook attached %v", i, w.crossed, s.now, s.look, s.attached)
		}
	}
}

// kick asks the scout for a round, which comes late.
func (s *simulation) kick() {
	s.roundAt = min(s.roundAt, s.now+time.Duration(s.rng.Int64N(int64(worstRound))))
}

// scout is the agent's side: rounds that place the wires, and the hook.
func (s *simulation) scout() {
	if s.attachAt != 0 && s.now >= s.attachAt {
		s.attached, s.hookSeen, s.attachAt = true, false, 0
	}
	if s.now < s.roundAt {
		return
	}
	if s.attachAt != 0 {
		s.roundAt = s.attachAt // the scout waits for it
		return
	}
	if s.rng.IntN(10) == 0 { // a limit was lowered, or a threshold is another
		w := &s.wires[s.rng.IntN(len(s.wires))]
		w.distance = min(w.distance, s.farAway())
	}
	s.look = min(s.now+bridge, max(s.look, s.now)) // place has the timer look
	distance := s.seenAtLook
	if s.attached && s.hookSeen {
		distance = s.nearest()
	}
	pause := scoutFar
	switch near, far := s.nearness.judge(distance, true, time.Unix(0, int64(s.now))); {
	case near && !s.attached && s.view == 0:
		s.attachAt = s.now + simStep + time.Duration(s.rng.Int64N(int64(worstAttach)))
	case far && s.attached:
		s.attached, s.hookSeen = false, false
		s.look = s.now + bridge // Disarm has the timer look
	}
	if s.attached {
		pause = scoutNear
	}
	s.roundAt = s.now + pause
}
