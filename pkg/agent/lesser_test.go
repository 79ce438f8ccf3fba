package agent

import (
	"errors"
	"path"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Without a pinned map the intents are in a file, and the next agent closes them as well.
func TestKill9WithoutBPFIsClosedByTheNextStart(t *testing.T) {
	killed, failed, gone := record.OutcomeKilled, record.OutcomeFailed, record.OutcomeGone
	for _, tc := range []struct {
		name  string
		die   stage
		next  string
		want  []record.Outcome
		kills int
	}{
		{"after the intent and before SIGKILL", stageStored, record.TierPoll, []record.Outcome{failed, killed}, 1},
		{"after SIGKILL, before the intent says so", stageStruck, record.TierPoll, []record.Outcome{gone}, 0},
		{"after SIGKILL, before the kill line", stageSignalled, record.TierPoll, []record.Outcome{killed}, 1},
		{"and BPF is there the next time", stageSignalled, record.TierAlloc, []record.Outcome{killed}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t)
			b.tier = record.TierPoll
			b.conf.EvictionHard = map[string]string{"allocatableMemory.available": "200Mi"}
			bystander := b.sleeper("bystander", 64<<20)
			b.create("hog")
			hog := b.run("hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20, Held: true})
			first := b.start(tc.die)
			must(t, hog.Go())
			_ = first.Wait()
			if tc.die != stageStored && !hog.Wait(time.Minute) { // the next start is fast
				t.Fatal("the hog lives")
			}
			b.tier = tc.next
			b.start(0)
			b.await("the hog's last line", func() bool { return len(b.outcomes("hog")) >= len(tc.want) })
			if !hog.Wait(time.Minute) || !bystander.Alive() {
				t.Error("the hog lives, or the bystander died")
			}
			if diff := cmp.Diff(tc.want, b.outcomes("hog")); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s\n%s", diff, b.journal())
			}
			b.eachEvictionOnce(tc.kills)
		})
	}
}

// The brake's pids.max of a victim is not forgotten either.
func TestABrakedUnitOfADeadAgentWithoutBPFGetsItsLimitBack(t *testing.T) {
	b := newBed(t)
	b.tier = record.TierPoll
	b.conf.EvictionHard = map[string]string{"allocatablePID.available": "200"}
	b.create("bomb")
	b.limit(path.Join(b.root, "bomb"), bedMemory, 390)
	bomb := b.run("bomb", load.Spec{Kind: load.Bomb, Tasks: 300, Held: true})
	first := b.start(stageBraked)
	must(t, bomb.Go())
	_ = first.Wait()
	if most := b.pidsMax("bomb"); b.brakes() && most != 0 {
		t.Fatalf("pids.max is %d: this test sees nothing", most)
	}
	b.start(0)
	b.await("pids.max", func() bool { return b.pidsMax("bomb") == 390 })
}

// The victim is who holds most now, not whoever looked largest at the last look.
func TestTheClockLooksAgainBeforeItNamesAVictim(t *testing.T) {
	for name, grow := range map[string]func(*bed, *load.Load) *load.Load{
		"a unit has grown": func(b *bed, known *load.Load) *load.Load {
			must(b.t, known.Go())
			b.await("its memory", func() bool {
				n, err := known.Progress()
				must(b.t, err)
				return n >= 96<<20
			})
			return known
		},
		"a unit has come that nobody has told of": func(b *bed, _ *load.Load) *load.Load {
			return b.sleeper("young", 96<<20)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.tier = record.TierPoll
			idle := b.sleeper("idle", 24<<20)
			b.create("known")
			known := b.run("known", load.Spec{Kind: load.Hog, Bytes: 96 << 20, Held: true})
			a := b.open(map[string]string{"allocatableMemory.available": "400Mi"}, nil)
			hog := grow(b, known)
			must(t, a.turn(sample.Now()))
			if !hog.Wait(time.Minute) || !idle.Alive() || hog != known && !known.Alive() {
				t.Errorf("alive: the hog %v, the idle one %v, the known one %v", hog.Alive(), idle.Alive(), known.Alive())
			}
		})
	}
}

func TestLeastTier(t *testing.T) {
	for _, tc := range []struct {
		name, least, mode, tier string
		refused                 bool
	}{
		{"the clock is enough by default", "", config.ModeEnforce, record.TierPoll, false},
		{"a hook is asked for, and there is a clock", config.LeastTierBPF, config.ModeEnforce, record.TierPoll, true},
		{"an event is asked for, and there is a clock", config.LeastTierEvent, config.ModeEnforce, record.TierPoll, true},
		{"in shadow mode nobody dies", config.LeastTierBPF, config.ModeShadow, record.TierPoll, false},
		{"a hook is asked for, and there is one", config.LeastTierBPF, config.ModeEnforce, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t)
			b.conf.Mode = tc.mode
			if tc.least != "" {
				b.conf.LeastTier = tc.least
			}
			b.conf.EvictionHard = met
			a, _, err := open(t.Context(), Options{Config: b.conf, Tier: tc.tier})
			if errors.Is(err, ErrTier) != tc.refused || err == nil == tc.refused {
				t.Errorf("got %v, refused: %v", err, tc.refused)
			}
			if err == nil {
				must(t, a.close())
			}
		})
	}
}
