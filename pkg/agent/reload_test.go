package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// reload plans a copy of the bed's configuration that change has changed, and has it taken
// over as SIGHUP does.
func (b *bed) reload(a *Agent, change func(*config.Config)) {
	b.t.Helper()
	c := *b.conf
	change(&c)
	p, err := a.plan(b.t.Context(), &c)
	must(b.t, err)
	a.observeDisks(b.t.Context(), p)
	a.pending.Store(p)
	must(b.t, a.turn(sample.Now()))
}

// A victim that was asked to end under the former configuration is seen to its end.
func TestReloadWhileAVictimIsUnderWay(t *testing.T) {
	b := newBed(t)
	b.soft("470Mi", time.Millisecond, 1)
	deaf := b.deaf("deaf", 64<<20)
	a := b.open(map[string]string{}, nil)
	b.turns(a, "the victim to be asked", func() bool { return a.open[0].timeline.Asked != 0 })
	b.reload(a, func(c *config.Config) {
		c.EvictionSoft, c.EvictionSoftGracePeriod = nil, nil
		c.EvictionHard = map[string]string{"allocatablePID.available": "10"}
	})
	b.turns(a, "the eviction to be closed", func() bool { return a.open[0].recorded })
	b.written(a)
	if l := b.line(record.KindEviction, "deaf"); deaf.Alive() || l.Outcome != record.OutcomeKilled {
		t.Errorf("it lives: %v; %s: %s", deaf.Alive(), l.Outcome, l.Reason)
	}
}

func TestReloadMovesWiresAndProtection(t *testing.T) {
	b := newBed(t)
	big := b.sleeper("big", 64<<20)
	b.sleeper("small", 16<<20)
	a := b.open(map[string]string{"allocatableMemory.available": "10Mi"}, nil)
	b.reload(a, func(c *config.Config) {
		c.EvictionHard = met
		c.Protect = []string{b.root + "/big"}
	})
	b.turns(a, "the small one to be evicted", func() bool { return slices.Contains(b.outcomes("small"), record.OutcomeKilled) })
	if !big.Alive() {
		t.Error("a unit that is protected since the reload was killed")
	}
	b.reload(a, func(c *config.Config) { c.EvictionHard = met })
	b.turns(a, "the big one to be evicted", func() bool { return !big.Alive() })
}

// What only a restart can change stays, and the rest of the file is taken over.
func TestRestartKeysAreKeptAtAReload(t *testing.T) {
	a := &Agent{}
	former, next := config.Default(), config.Default()
	next.Journal, next.Mode = "/elsewhere", config.ModeEnforce
	if changed := a.restrict(former, next); !slices.Equal(changed, []string{"mode"}) {
		t.Errorf("changed %v, want the mode", changed)
	}
	if next.Journal != former.Journal || next.Mode != config.ModeEnforce {
		t.Errorf("journal %s, mode %s", next.Journal, next.Mode)
	}
}
