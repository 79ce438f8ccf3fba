package agent

import (
	"errors"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// brakeAbove is how many tasks make a victim of a memory threshold one that may outrun its
// killer: more than the first strike can reach.
const brakeAbove = 16

// brake keeps the victim from forking until it is finished. After the first SIGKILL: the
// two system calls would delay it, and what forks in that time gets SIGKILL from the
// condemned word.
func (a *Agent) brake(e *eviction) {
	tasks := !e.bound.Signal.Memory() && !e.bound.Signal.Disk()
	if e.intent < 0 || !tasks && e.victim.Usage.Tasks <= brakeAbove {
		return // without an intent a crash would leave the limit at 0
	}
	if err := e.handle.Brake(func(before int64) { a.kernel.IntentBraked(e.intent, before) }); err != nil {
		a.log.Warn().Err(err).Str("cgroup", e.victim.Cgroup).Msg("the victim may fork while it is killed")
	}
	a.at(stageBraked)
}

// release gives the victim's cgroup its limit back. From any goroutine.
func (a *Agent) release(e *eviction) {
	if err := e.handle.Release(func() { a.kernel.IntentBraked(e.intent, 0) }); err != nil {
		a.log.Error().Err(err).Str("cgroup", e.victim.Cgroup).Msg("pids.max is not set back")
	}
}

// releaseStale does it for a victim of a former agent, whose path may be another cgroup's by
// now.
func (a *Agent) releaseStale(tree *cgroupfs.FS, of ledger, in loader.Intent) {
	if in.PidsMaxBefore == 0 {
		return
	}
	if err := unbrake(tree, in); err != nil {
		a.log.Error().Err(err).Str("cgroup", in.Cgroup).Int64("pids_max", in.PidsMaxBefore).Msg("pids.max is not set back")
		return
	}
	of.IntentBraked(in.Slot, 0)
}

func unbrake(tree *cgroupfs.FS, in loader.Intent) error {
	c, err := tree.Open(in.Cgroup)
	if errors.Is(err, cgroupfs.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if c.PidsID() != in.PidsID {
		return nil
	}
	return actuator.Unbrake(c, in.PidsMaxBefore)
}
