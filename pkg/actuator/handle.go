package actuator

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// ErrGone means that the unit ended by itself, or that its path is another unit by now.
var ErrGone = errors.New("the unit is gone")

// maxLeads is how many processes of a unit are held ready where there is no cgroup.kill.
// One SIGKILL stops a hog; the rest follows in Finish.
const maxLeads = 16

// Handle is a unit opened for killing. It is bound to the directories it was opened from:
// a unit that was removed and made again needs a new one.
type Handle struct {
	// ID is the identity that the directories had when they were opened.
	ID workload.Identity

	unit    *cgroupfs.Cgroup
	targets []*cgroupfs.Cgroup
	// busy counts the strikes that are not finished: a soft and a hard eviction may end
	// one unit together.
	busy atomic.Int32
	// empty: a strike hit nobody, and no process has been seen since. dead: Finish left
	// nothing but zombies.
	empty, dead atomic.Bool
	// struck: there was a Strike or End.
	struck atomic.Bool

	brakeMu  sync.Mutex // held while pids.max is read and written
	hasBrake bool
	// pidsMaxBefore is the limit that Release restores, 0: the brake is off.
	pidsMaxBefore int64

	mu    sync.Mutex // held while leads change or are used; never while anything slow runs
	leads []lead
}

// lead is a process held by a pidfd, so that no reused pid can be hit.
type lead struct {
	pid, fd int
}

// Open opens the unit's cgroups and holds its first processes. ErrGone when it vanished
// meanwhile.
func Open(fs *cgroupfs.FS, u *workload.Unit) (*Handle, error) {
	h, err := OpenCold(fs, u)
	if err != nil {
		return nil, err
	}
	if err := h.Prepare(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// OpenCold is Open for who has no time: Strike finds the processes then.
func OpenCold(fs *cgroupfs.FS, u *workload.Unit) (*Handle, error) {
	unit, err := openSame(fs, u.Cgroup, u.ID)
	if err != nil {
		return nil, err
	}
	h := &Handle{ID: u.ID, unit: unit}
	if err := h.openTargets(fs, u); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err := h.holdBrake(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Handle) openTargets(fs *cgroupfs.FS, u *workload.Unit) error {
	for i, t := range u.Targets {
		if t.Cgroup == u.Cgroup {
			h.targets = append(h.targets, h.unit)
			continue
		}
		c, err := fs.Open(t.Cgroup)
		if errors.Is(err, cgroupfs.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		if i < len(u.TargetIDs) && idOf(c) != u.TargetIDs[i] { // made anew since it was read
			_ = c.Close()
			continue
		}
		h.targets = append(h.targets, c)
	}
	if len(h.targets) == 0 {
		h.targets = append(h.targets, h.unit)
	}
	if !h.unit.Exists() { // the targets, opened by path, may be those of a unit made since
		return fmt.Errorf("open %s: %w", u.Cgroup, ErrGone)
	}
	return nil
}

// Fits reports whether the handle still is what Open would make of the unit: a container
// that was started, or started again, since then needs a new one. Off the hot path.
func (h *Handle) Fits(u *workload.Unit) bool {
	if h.ID != u.ID || len(h.targets) != len(u.Targets) {
		return false
	}
	for i, t := range h.targets {
		if t.Path() != u.Targets[i].Cgroup || !t.Exists() {
			return false
		}
	}
	return true
}

// Targets are the identities of the cgroups that a strike kills.
func (h *Handle) Targets() (ids []workload.Identity) {
	for _, t := range h.targets {
		ids = append(ids, idOf(t))
	}
	return ids
}

// Empty reports whether a strike has hit nobody and Prepare has seen no process since: a
// cgroup keeps its page cache and its zombies when its last process ends.
func (h *Handle) Empty() bool { return h.empty.Load() }

// Revived reports whether the unit, once killed, has processes again: its cgroup is in use
// by somebody that is no remnant of the victim. Reads text, off the hot path.
func (h *Handle) Revived() bool {
	if !h.dead.Load() {
		return false
	}
	populated, err := h.populated()
	return err == nil && populated
}

// Alive reports whether a process of the unit runs. Reads text, off the hot path.
func (h *Handle) Alive() bool {
	populated, err := h.populated()
	return err != nil || populated
}

func idOf(c *cgroupfs.Cgroup) workload.Identity {
	return workload.Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()}
}

func openSame(fs *cgroupfs.FS, path string, id workload.Identity) (*cgroupfs.Cgroup, error) {
	c, err := fs.Open(path)
	if errors.Is(err, cgroupfs.ErrGone) {
		return nil, fmt.Errorf("open %s: %w", path, ErrGone)
	}
	if err != nil {
		return nil, err
	}
	if idOf(c) != id {
		return nil, errors.Join(fmt.Errorf("open %s: another cgroup of that name: %w", path, ErrGone), c.Close())
	}
	return c, nil
}

// Prepare opens pidfds of the unit's first processes where there is no cgroup.kill, so
// that Strike reads no text. Off the hot path.
func (h *Handle) Prepare() error {
	if h.kernelKills() {
		return nil
	}
	fresh, err := h.openLeads(maxLeads)
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		h.empty.Store(false)
	}
	h.mu.Lock()
	old := h.leads
	h.leads = fresh
	h.mu.Unlock()
	closeLeads(old)
	return nil
}

// LetGo closes the pidfds that Prepare opened: held for long they may be of processes that
// went elsewhere.
func (h *Handle) LetGo() {
	h.mu.Lock()
	old := h.leads
	h.leads = nil
	h.mu.Unlock()
	closeLeads(old)
}

// WasStruck reports whether somebody tried to kill the unit: the handle knows what became of
// that.
func (h *Handle) WasStruck() bool { return h.struck.Load() }

func (h *Handle) kernelKills() bool {
	for _, t := range h.targets {
		if !t.CanKill() {
			return false
		}
	}
	return true
}

// openLeads holds up to most processes. A pid is listed, opened, and listed again: what is
// in the second list is in the unit, whatever its number meant before.
func (h *Handle) openLeads(most int) ([]lead, error) {
	var (
		leads []lead
		pids  []int
		err   error
	)
	for _, t := range h.targets {
		if pids, err = t.Procs(pids[:0]); err != nil {
			if errors.Is(err, cgroupfs.ErrGone) {
				continue
			}
			closeLeads(leads)
			return nil, err
		}
		for _, pid := range pids {
			if len(leads) == most {
				break
			}
			if fd, err := unix.PidfdOpen(pid, 0); err == nil {
				leads = append(leads, lead{pid, fd})
			}
		}
	}
	return h.stillMembers(leads)
}

func (h *Handle) stillMembers(leads []lead) ([]lead, error) {
	var (
		pids []int
		err  error
	)
	members := map[int]bool{}
	for _, t := range h.targets {
		if pids, err = t.Procs(pids[:0]); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			closeLeads(leads)
			return nil, err
		}
		for _, pid := range pids {
			members[pid] = true
		}
	}
	kept := leads[:0]
	for _, l := range leads {
		if members[l.pid] {
			kept = append(kept, l)
			continue
		}
		_ = unix.Close(l.fd)
	}
	return kept, nil
}

func closeLeads(leads []lead) {
	for _, l := range leads {
		_ = unix.Close(l.fd)
	}
}

// Busy reports whether the unit was struck and is not finished: Close must wait.
func (h *Handle) Busy() bool { return h.busy.Load() > 0 }

// Close lets go of the unit. Not while it is Busy.
func (h *Handle) Close() error {
	h.mu.Lock()
	closeLeads(h.leads)
	h.leads = nil
	h.mu.Unlock()
	errs := []error{h.unit.Close()}
	for _, t := range h.targets {
		if t != h.unit {
			errs = append(errs, t.Close())
		}
	}
	return errors.Join(errs...)
}
