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
	c, err := b.fs.Open(path.Join(b.root, "bomb"))
	must(t, err)
	defer c.Close()
	if most, err := c.PidsMax(); err != nil || most != 0 {
		t.Fatalf("pids.max is %d (%v): this test sees nothing", most, err)
	}
	b.start(0)
	b.await("pids.max", func() bool {
		most, err := c.PidsMax()
		return err == nil && most == 390
	})
}

// A unit that nobody has told of, and whose rows nobody has read: it is the victim, not
// whoever looked largest at the last look.
func TestTheClockLooksAgainBeforeItNamesAVictim(t *testing.T) {
	b := newBed(t)
	b.tier = record.TierPoll
	idle := b.sleeper("idle", 24<<20)
	grown := b.sleeper("grown", 8<<20)
	a := b.open(map[string]string{"allocatableMemory.available": "400Mi"}, nil)
	young := b.sleeper("young", 96<<20) // the scout has not looked since
	must(t, a.turn(now()))
	if !young.Wait(time.Minute) || !idle.Alive() || !grown.Alive() {
		t.Errorf("alive: the young unit %v, the idle ones %v and %v", young.Alive(), idle.Alive(), grown.Alive())
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
