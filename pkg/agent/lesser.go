package agent

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/fallback"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// lesser stands in for the loader where no BPF program can be loaded: wires and readings are
// pkg/fallback's. What hooks would do for a kill nobody does: no word condemns a victim, and
// no backstop kills in the agent's place. A row's number stands in the place of a css id, and
// is that of both controllers.
type lesser struct {
	*reader
	*fileLedger
	table *fallback.Table
	// why is what keeps BPF from being used.
	why error

	hot, helper cgroupfs.Scratch
	helperMu    sync.Mutex

	mu      sync.Mutex // guards what follows
	cgroups []fallback.Cgroup
	guest   string
}

var (
	_ kernel  = (*lesser)(nil)
	_ tracker = (*lesser)(nil)
)

// tracker is a kernel that has to be told which cgroups there are.
type tracker interface {
	// Track says of which cgroups there are to be rows, beside the guest's.
	Track([]fallback.Cgroup) error
	// Host has a row for a guest, a canary's cgroup; "" ends that.
	Host(guest string) error
}

func openLesser(o Options, fs *cgroupfs.FS, why error) (*lesser, error) {
	intents, err := openFileLedger(o.Config.Journal)
	if err != nil {
		return nil, err
	}
	r, err := openReader(o, fs)
	if err != nil {
		return nil, errors.Join(err, intents.file.Close())
	}
	return &lesser{
		reader: r, fileLedger: intents, table: fallback.NewTable(fs),
		why: fmt.Errorf("%w; without BPF there is neither a backstop nor a condemned word", why),
	}, nil
}

// openReader opens what watches without BPF, by the tier that was asked for or a better one.
func openReader(o Options, fs *cgroupfs.FS) (*reader, error) {
	w, err := fallback.Open(fallback.Options{
		FS: fs, Tier: fallback.Tier(o.Tier), FillBytesPerSecond: o.Config.MaxFillBytesPerSecond, Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("watch without BPF: %w", err)
	}
	return &reader{w, o.Log}, nil
}

func (k *lesser) Close() error {
	k.table.Close()
	return errors.Join(k.file.Close(), k.Watcher.Close())
}

// Tier is the watcher's. There is always a better one, so there is always a reason.
func (k *lesser) Tier(s sample.Scope) (string, error) {
	tier, why := k.Watcher.Tier(s)
	if why == nil || errors.Is(why, fallback.ErrAsked) {
		return string(tier), k.why
	}
	return string(tier), fmt.Errorf("%w; %w", k.why, why)
}

// Track is as tracker says.
func (k *lesser) Track(cgroups []fallback.Cgroup) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cgroups = cgroups
	return k.track()
}

// Host is as tracker says.
func (k *lesser) Host(guest string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.guest = guest
	return k.track()
}

func (k *lesser) track() error {
	all := k.cgroups
	if k.guest != "" {
		all = append(all[:len(all):len(all)], fallback.Cgroup{Path: k.guest})
	}
	return k.table.Track(all)
}

// Rows is 0: no crossing says whose it is, so nobody looks up the owner of a row.
func (k *lesser) Rows() int { return 0 }

// Walk reads all rows.
func (k *lesser) Walk() (int, error) {
	k.helperMu.Lock()
	defer k.helperMu.Unlock()
	return k.table.Walk(&k.helper), nil
}

// WalkNow is Walk for the hot thread.
func (k *lesser) WalkNow() error {
	k.table.Walk(&k.hot)
	return nil
}

// Find returns the number of a cgroup's row.
func (k *lesser) Find(c loader.Controller, cgroupID uint64) uint32 {
	switch {
	case cgroupID == 0:
		return 0
	case c == loader.Pids:
		return k.table.Find(0, cgroupID)
	}
	return k.table.Find(cgroupID, 0)
}

// Index appends all rows that have a figure.
func (k *lesser) Index(c loader.Controller, dst []sample.Cgroup) []sample.Cgroup {
	each := k.table.EachMemory
	if c == loader.Pids {
		each = k.table.EachTasks
	}
	each(func(row sample.Cgroup) { dst = append(dst, row) })
	return dst
}

// Row is as it was read last.
func (k *lesser) Row(c loader.Controller, number uint32, cgroupID uint64) (sample.Cgroup, bool) {
	if c == loader.Pids {
		return k.table.Tasks(number, cgroupID)
	}
	return k.table.Memory(number, cgroupID)
}

// Usage is what Row says of usage and inactive file.
func (k *lesser) Usage(c loader.Controller, number uint32, cgroupID uint64) (usage, inactiveFile int64, ok bool) {
	row, ok := k.Row(c, number, cgroupID)
	return row.Usage, row.InactiveFileBytes, ok
}

// Above knows of no row whose it is.
func (k *lesser) Above(loader.Controller, uint32) (cgroupID uint64, parent uint32, ok bool) {
	return 0, 0, false
}

// Refresh reads a cgroup's rows and the node's counters now, inactive file too.
func (k *lesser) Refresh(at, beside loader.At) (memory, pids bool) {
	if _, err := k.Look(); err != nil {
		return false, false
	}
	if beside != (loader.At{}) {
		_, _ = k.refresh(beside, &k.hot)
	}
	return k.refresh(at, &k.hot)
}

// RefreshRows is Refresh for helper goroutines, and without the node's counters.
func (k *lesser) RefreshRows(at loader.At) (memory, pids bool) {
	k.helperMu.Lock()
	defer k.helperMu.Unlock()
	return k.refresh(at, &k.helper)
}

func (k *lesser) refresh(at loader.At, s *cgroupfs.Scratch) (memory, pids bool) {
	if !k.table.Refresh(max(at.MemoryCSS, at.PidsCSS), s) { // one row has both
		return false, false
	}
	_, memory = k.Row(loader.Memory, at.MemoryCSS, at.MemoryID)
	_, pids = k.Row(loader.Pids, at.PidsCSS, at.PidsID)
	return memory, pids
}

// NextDelta: nobody tells of movements.
func (k *lesser) NextDelta(*sample.Sample) (bool, error) { return false, nil }

// Arm has no hook to attach, as the others have no word, no licence and no nominee.
func (k *lesser) Arm() error                         { return nil }
func (k *lesser) Disarm() error                      { return nil }
func (k *lesser) Armed() bool                        { return false }
func (k *lesser) Condemn(uint64, uint64) int         { return -1 }
func (k *lesser) Pardon(int)                         {}
func (k *lesser) SignalsSent() uint64                { return 0 }
func (k *lesser) SetGrace(time.Duration)             {}
func (k *lesser) Nominate(int, *loader.Nominee) bool { return false }
func (k *lesser) License(uint64) bool                { return false }
func (k *lesser) Licensed() bool                     { return false }
func (k *lesser) Withdraw() bool                     { return true }
func (k *lesser) BackstopActs() bool                 { return false }
func (k *lesser) Reach() loader.Reach                { return loader.ReachNone }
func (k *lesser) TakeNote() (n loader.BackstopKill, ok bool) {
	return n, false
}
