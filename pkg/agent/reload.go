package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// plan is what a configuration means on this node, before the hot thread takes it over.
type plan struct {
	config   *config.Config
	roots    []string
	settings decide.Settings
	// disks are nil where no threshold is about one; stop ends the former ones.
	disks *signal.Disks
	stop  context.CancelFunc
	// runtime is what the container runtime had named when paths were chosen.
	runtime workload.DiskLayout
	paths   signal.DiskPaths
	// layoutErr says which filesystem did not tell where it lies. Until it does, there is
	// one filesystem for all we know.
	layoutErr error
}

func (a *Agent) plan(ctx context.Context, c *config.Config) (*plan, error) {
	roots, err := Roots(a.fs, c)
	if err != nil {
		return nil, err
	}
	p := &plan{config: c, roots: roots, runtime: RuntimeLayout(c)}
	p.paths = DiskPaths(c, p.runtime)
	if p.settings, err = settingsOf(c, roots, signal.Layout{}); err != nil || !watchesDisk(&p.settings) {
		return p, err
	}
	layout, err := detectLayout(ctx, p.paths)
	if p.layoutErr = err; err != nil {
		a.log.Warn().Err(err).Msg("degraded: layout of the filesystems not known, taken for one")
	}
	p.settings, err = settingsOf(c, roots, layout)
	return p, err
}

// observeDisks starts reading the plan's filesystems.
func (a *Agent) observeDisks(ctx context.Context, p *plan) {
	ctx, p.stop = context.WithCancel(ctx)
	if p.disks = disks(p.paths, &p.settings, a.wake); p.disks != nil {
		p.disks.Start(ctx)
	}
}

// keepUp takes over each new configuration, and a layout that was not to be had at first.
// A configuration that can't be used changes nothing.
func (a *Agent) keepUp(ctx context.Context, first *plan, configs <-chan *config.Config) {
	current := first
	for {
		next, changed := current.config, []string(nil)
		select {
		case <-ctx.Done():
			return
		case next = <-configs:
			changed = a.restrict(current.config, next)
		case <-time.After(layoutAgain):
			if current.layoutErr == nil && !a.layoutMoved(current) {
				continue
			}
		}
		p, err := a.plan(ctx, next)
		if err != nil {
			a.log.Error().Err(err).Msg("configuration not taken over, the former one stays")
			continue
		}
		if next == current.config && p.layoutErr != nil && p.paths == current.paths {
			continue // no news
		}
		if next == current.config && current.layoutErr == nil && p.paths == current.paths {
			current.runtime = p.runtime // the paths that are read stay what they are
			continue
		}
		a.observeDisks(ctx, p)
		a.pending.Store(p)
		a.wake()
		current = p
		a.log.Info().Strs("changed", changed).Str("mode", next.Mode).Msg("configuration taken over")
	}
}

// layoutMoved reports whether the container runtime names other directories than those that
// a plan was made by.
func (a *Agent) layoutMoved(p *plan) bool {
	t := a.scout.figures.Load()
	return p.disks != nil && t != nil && t.Layout != nil && *t.Layout != p.runtime
}

// restrict gives next the former values of what needs a restart, and returns what else
// has changed.
func (a *Agent) restrict(former, next *config.Config) (changed []string) {
	kept := []string{}
	for _, key := range former.Diff(next) {
		if slices.Contains(config.RestartKeys, key) {
			kept = append(kept, key)
		} else {
			changed = append(changed, key)
		}
	}
	if len(kept) > 0 {
		a.log.Warn().Strs("keys", kept).Msg("changed in the configuration file, and not taken over: they need a restart")
		next.KeepUntilRestart(former)
	}
	return changed
}

// take makes a plan the one that the hot thread follows. Victims under way stay what they
// are; every bound starts anew, and the kills still count.
func (a *Agent) take(p *plan) error {
	a.stopDisks()
	a.disks, a.stopDisks = p.disks, p.stop
	a.settings, a.mode = p.settings, p.config.Mode
	a.shadow = p.config.Mode != config.ModeEnforce
	mode := a.mode
	a.drills.mode.Store(&mode)
	a.backstop.config = p.config.Backstop
	a.setGrace()
	a.memory.Release()
	a.guards, a.fills = [decide.MaxBounds]signal.Guard{}, [decide.MaxBounds]fill{}
	a.shadowMet, a.refused = [decide.MaxBounds]bool{}, [decide.MaxBounds]decide.Reason{}
	a.blind, a.waiting = [decide.MaxBounds]blindness{}, [decide.MaxBounds]wait{}
	a.reclaim.reset(p.config.ReclaimDeadline)
	a.scout.awaited.Store(false)
	a.setSlack()
	if err := a.wires.assign(a.settings.Bounds); err != nil {
		return fmt.Errorf("place the wires: %w", err)
	}
	a.scout.adopt(p)
	a.scene.disk = p.disks != nil
	a.refresh()
	return nil
}
