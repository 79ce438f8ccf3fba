package actuator

import (
	"errors"
	"fmt"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Where the kernel kills a unit at once (cgroup.kill), no fork escapes it. Elsewhere a bomb
// forks on while it is hit process by process, and the brake ends that: pids.max of the
// whole unit is 0 from the first SIGKILL until nobody is left to be hit.

// holdBrake opens what Brake writes to. There is none for the root, for a unit without a
// pids cgroup, and where the file may not be written: it is a help, not a condition.
func (h *Handle) holdBrake() error {
	if h.kernelKills() {
		return nil
	}
	err := h.unit.HoldPidsMax()
	h.hasBrake = err == nil
	if errors.Is(err, cgroupfs.ErrGone) {
		return fmt.Errorf("open %s: %w", h.unit.Path(), ErrGone)
	}
	return nil
}

// Brake keeps the unit from forking until Release. keep is told the limit that Release
// restores before it is overwritten, so that not even SIGKILL of this process loses it.
// Nothing happens to a unit that can't fork anyway, nor where the kernel kills.
func (h *Handle) Brake(keep func(before int64)) error {
	h.brakeMu.Lock()
	defer h.brakeMu.Unlock()
	if !h.hasBrake || h.pidsMaxBefore != 0 {
		return nil
	}
	before, err := h.unit.PidsMax()
	if err != nil || before == 0 {
		return notGone(err)
	}
	keep(before)
	h.pidsMaxBefore = before
	return notGone(h.unit.SetPidsMax(0))
}

// Release takes the brake off, unless that is done or somebody else has set the limit since.
// released is told when the former limit is back. From any goroutine.
func (h *Handle) Release(released func()) error {
	h.brakeMu.Lock()
	defer h.brakeMu.Unlock()
	if h.pidsMaxBefore == 0 {
		return nil
	}
	if err := Unbrake(h.unit, h.pidsMaxBefore); err != nil {
		return err
	}
	h.pidsMaxBefore = 0
	released()
	return nil
}

// Unbrake gives a cgroup that a Brake has left behind its limit back.
func Unbrake(c *cgroupfs.Cgroup, before int64) error {
	v, err := c.PidsMax()
	if err != nil || v != 0 {
		return notGone(err)
	}
	return notGone(c.SetPidsMax(before))
}

// notGone: a unit that was removed needs no limit.
func notGone(err error) error {
	if errors.Is(err, cgroupfs.ErrGone) {
		return nil
	}
	return err
}
