package agent

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Tiers are what Options.Tier can ask for, best first. Those of BPF are of the same programs: each
// brings the best that there is for the other half of the signals.
var Tiers = []string{record.TierCharge, record.TierAlloc, record.TierTask, record.TierEvent, record.TierPoll}

// ErrTier means that a signal can't be watched by a tier as good as the key leastTier asks for.
var ErrTier = errors.New("watched by less than leastTier allows")

// ErrForced means that the tier of Options.Tier can't be had on this node.
var ErrForced = errors.New("the tier that was asked for can't be had")

// half is one of the two halves of the wires: those of memory, and those of tasks.
type half int

const (
	memoryHalf half = iota
	tasksHalf
	halves
)

func (h half) String() string { return [halves]string{"memory", "pids"}[h] }

// scope is one of the half's, as all of it are watched by one tier.
func (h half) scope() sample.Scope {
	return [halves]sample.Scope{sample.ScopeNodeMemory, sample.ScopeNodeTasks}[h]
}

// halfOf returns the half of a scope.
func halfOf(s sample.Scope) half {
	if s == sample.ScopeNodeTasks || s == sample.ScopeCgroupTasks {
		return tasksHalf
	}
	return memoryHalf
}

// tierOf names the back-end that saw a crossing.
func tierOf(by sample.Observer) string {
	switch by {
	case sample.ObserverCharge:
		return record.TierCharge
	case sample.ObserverAlloc:
		return record.TierAlloc
	case sample.ObserverTask:
		return record.TierTask
	case sample.ObserverEvent:
		return record.TierEvent
	}
	return record.TierPoll // a timer, or a look of the agent's own
}

// tierFor names the back-end that watches a signal now.
func (a *Agent) tierFor(s signal.Signal) string {
	if scopeOf(s) == sample.ScopeOff {
		return record.TierPoll
	}
	tier, _ := a.kernel.Tier(scopeOf(s))
	return tier
}

// memoryTier is what watches memory now.
func (a *Agent) memoryTier() string {
	tier, _ := a.kernel.Tier(memoryHalf.scope())
	return tier
}

// isReading: without a hook, a counter is read now and then. Whose a crossing is nobody knows
// then, and the rows are as old as the last walk.
func isReading(tier string) bool { return tier == record.TierEvent || tier == record.TierPoll }

// isByClock reports whether a hook has missed a crossing that a clock saw.
func (a *Agent) isByClock(seen string, s signal.Signal) bool {
	return seen == record.TierPoll && !isReading(a.tierFor(s))
}

// rank of a tier as the key leastTier has them.
func rank(tier string) int {
	switch tier {
	case record.TierPoll:
		return 0
	case record.TierEvent:
		return 1
	}
	return 2
}

// leastRank of config.LeastTierBPF is that of any hook.
func leastRank(least string) int {
	if least == config.LeastTierBPF {
		return rank(record.TierAlloc)
	}
	return rank(least)
}

// isEnough reports whether every signal that has a hard threshold gets a tier that the
// configuration puts up with. ErrTier.
func isEnough(k kernel, c *config.Config, bounds []decide.Bound) error {
	if c.Mode != config.ModeEnforce {
		return nil
	}
	for i := range bounds {
		scope := scopeOf(bounds[i].Signal)
		if scope == sample.ScopeOff || !bounds[i].Hard() {
			continue
		}
		if tier, why := k.Tier(scope); rank(tier) < leastRank(c.LeastTier) {
			return fmt.Errorf("%s: %w: tier %s, leastTier %s: %w", bounds[i].Signal, ErrTier, tier, c.LeastTier, why)
		}
	}
	return nil
}

// alarm is something for the journal that the scout has found out.
type alarm struct {
	signal       signal.Signal
	tier, reason string
}

// raise sends an alarm; what finds no room is in the log alone.
func (s *scout) raise(a alarm) {
	select {
	case s.alarms <- a:
	default:
	}
}

// watchTiers says which signals are watched by less than the best there is, and what changes
// of that.
func (s *scout) watchTiers() {
	if k, ok := s.kernel.(*hooked); ok {
		k.check(s.wires)
		if _, n := k.BackstopSignals(); n != s.stoodDown {
			s.stoodDown = n
			s.raise(alarm{reason: "the backstop was due and stood down: the unit that it may kill was no more for sure the one to evict"})
		}
	}
	settings := s.settings.Load()
	if settings == nil {
		return
	}
	for h := range halves {
		tier, why := s.kernel.Tier(h.scope())
		said := s.tiers[h]
		if s.tiers[h] = tier; tier == said || said == "" && why == nil {
			continue
		}
		reason := fmt.Sprintf("tier %s is back", tier)
		if why != nil {
			reason = fmt.Sprintf("tier %s: %v", tier, why)
			s.log.Warn().Err(why).Str("signals", h.String()).Str("tier", tier).Msg("degraded: " + lack(tier))
		} else {
			s.log.Info().Str("signals", h.String()).Str("tier", tier).Msg("tier is back")
		}
		for _, of := range watchedOf(settings.Bounds, h) {
			s.raise(alarm{of, tier, reason})
		}
	}
}

// lack is what a tier that is not the best does less well.
func lack(tier string) string {
	if isReading(tier) {
		return "crossings are seen later, and nobody knows whose they are"
	}
	return "each page costs more while a wire is near"
}

// watchedOf are the signals of a half that have a threshold.
func watchedOf(bounds []decide.Bound, h half) (signals []signal.Signal) {
	for i := range bounds {
		s := bounds[i].Signal
		if scope := scopeOf(s); scope != sample.ScopeOff && halfOf(scope) == h && !slices.Contains(signals, s) {
			signals = append(signals, s)
		}
	}
	return signals
}

// describeTiers is for the start line; degraded lines say why.
func describeTiers(k kernel) string {
	memory, _ := k.Tier(memoryHalf.scope())
	tasks, _ := k.Tier(tasksHalf.scope())
	return fmt.Sprintf("%s by %s, %s by %s", memoryHalf, memory, tasksHalf, tasks)
}
