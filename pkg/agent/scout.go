package agent

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/fallback"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// scoutFar and scoutNear are between two rounds of the scout: the inactive file of the
	// roots and the leading units are that fresh.
	scoutFar  = time.Second
	scoutNear = 50 * time.Millisecond
	// limitsEvery is between two looks at how large the node is.
	limitsEvery = time.Second
	// disarmAfter is how long every memory wire must have been far before the hook goes:
	// attaching it again within an RCU grace period would take 20 ms.
	disarmAfter = time.Second
)

// scout prepares, off the hot thread, what a pass needs: who could be evicted, where
// their rows are, open handles, limits, and whether the hook is attached. What it does in a
// round does not grow with the number of units, but for loads from memory.
type scout struct {
	fs      *cgroupfs.FS
	kernel  kernel
	scanner *workload.Scanner
	proc    signal.Proc
	wires   *wires
	log     zerolog.Logger

	// alarms are for the journal; what finds no room is in the log alone.
	alarms    chan alarm
	stoodDown uint64            // how often the backstop had when that was said last
	tiers     [halves]string    // as they were said last
	tracked   []fallback.Cgroup // what the kernel was told of, where it has to be
	table     tableWatch
	enforces  atomic.Bool // and not in shadow mode
	published atomic.Pointer[roster]
	kicks     chan struct{}
	changes   changes
	// met are the units that the hot thread met or struck.
	met chan *unit
	// hasTable: some workload table was taken.
	hasTable atomic.Bool
	// figures are the disk process's, nil without, figuresErr what is wrong with them.
	// watchesDisk: a threshold is about a disk; limited: a unit has a limit of its own;
	// awaited: an answer is to be in the figures.
	figures     atomic.Pointer[workload.DiskTable]
	applied     atomic.Pointer[workload.DiskTable] // those that the units have
	figuresErr  atomic.Pointer[string]
	watchesDisk atomic.Bool
	limited     atomic.Bool
	awaited     atomic.Bool
	// offences are those that the last figures show, nil without; never changed.
	offences atomic.Pointer[[]offence]
	settings atomic.Pointer[decide.Settings]
	wake     func() // of the hot thread

	nearness nearness  // of the scout's own goroutine
	limitsAt time.Time // likewise
	helpedAt time.Time // likewise: when the allocation hook was needed last, beside the charge hook

	mu    sync.Mutex // one look at a time; guards what follows
	known known
	walks walks
	lead  leaders
	grave []buried
	index []sample.Cgroup
	roots []root
	fills map[uint64]*fill // of the roots, by memory cgroup id
	// saidLogs: that logs lie elsewhere was said.
	saidLogs bool
}

func (s *scout) current() *roster { return s.published.Load() }

// kick asks for a round soon; never blocks.
func (s *scout) kick() {
	select {
	case s.kicks <- struct{}{}:
	default:
	}
}

// tell has the scout look at a unit that the hot thread met or struck; never blocks. False:
// there is no room.
func (s *scout) tell(u *unit) bool {
	select {
	case s.met <- u:
		s.kick()
		return true
	default:
		return false
	}
}

// lockPause is between two tries for the lock of a round, which takes tens of microseconds.
var lockPause = unix.Timespec{Nsec: 50_000}

// refreshNow looks at once and returns what it found. For the hot thread, where a doubt is
// worth the wait: for a round under way and a look of its own, never for the hook to be
// attached.
func (s *scout) refreshNow() *roster {
	// Not by Lock: who waits there is put back by an ordinary thread of Go's runtime, which has to
	// get a CPU first. From its own sleep the kernel wakes the hot thread.
	for !s.mu.TryLock() {
		_ = unix.Nanosleep(&lockPause, nil)
	}
	defer s.mu.Unlock()
	if err := s.publish(doubted); err != nil {
		s.log.Warn().Err(err).Msg("look at the cgroups failed")
	}
	return s.current()
}

func (s *scout) run(ctx context.Context) {
	if _, ok := s.kernel.(*lesser); ok {
		// Without BPF the hot thread waits for a round under way before it names a victim, and
		// a fork bomb starves an ordinary thread for minutes.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		raise(zerolog.Nop(), scoutPriority)
	}
	var (
		ended     time.Time
		collector collector
	)
	for {
		pause := scoutFar
		if s.wires.near.Load() || s.walks.isDue.Load() {
			pause = scoutNear
		}
		select {
		case <-ctx.Done():
			return
		case <-s.kicks:
			time.Sleep(betweenRounds - time.Since(ended)) // a burst of changes is one
		case <-time.After(pause):
		}
		s.drain()
		if err := s.round(false); err != nil {
			s.log.Warn().Err(err).Msg("scout round failed")
		}
		if err := collector.tidy(s.wires.near.Load() || s.wires.killing.Load() > 0); err != nil {
			s.log.Warn().Err(err).Msg("degraded: no SCHED_FIFO any more, kills may take milliseconds under load")
		}
		ended = time.Now()
	}
}

// betweenRounds bounds what a storm of cgroups that come and go can cost.
const betweenRounds = 10 * time.Millisecond

// adopt takes over what a configuration says of units.
func (s *scout) adopt(p *plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scanner.Configure(p.config.Protect, p.config.AllowEvictFirst)
	s.watchesDisk.Store(p.disks != nil)
	s.enforces.Store(p.config.Mode == config.ModeEnforce)
	settings := p.settings
	s.settings.Store(&settings)
}

// round looks at what may have changed, all with scan, publishes it, and does what follows
// from it.
func (s *scout) round(scan bool) error {
	s.watchTiers()
	if err := s.limits(); err != nil {
		return err
	}
	depth := changed
	if scan {
		depth = scanned
	}
	s.mu.Lock()
	err := s.publish(depth)
	s.bury()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.arm() // may take 20 ms, and a hot thread in doubt waits for the lock
}

// depth is how much is looked at.
type depth int

const (
	// changed: what events told of, the leading units, and a share of the others.
	changed depth = iota
	// doubted: events that have not come yet are not waited for, and every row is fresh.
	doubted
	// scanned: every unit is read.
	scanned
)

// publish makes a roster, and places the wires by it. The caller holds the lock.
func (s *scout) publish(d depth) error {
	s.scanner.LoadTable()
	err := s.look(d)
	s.watchTable()
	if err != nil {
		return err
	}
	if err := s.track(); err != nil {
		return err
	}
	if err := s.walk(d > changed); err != nil {
		return err
	}
	if err := s.openRoots(); err != nil {
		return err
	}
	if d != doubted {
		s.prepareLeaders()
	}
	s.addFigures()
	if d != doubted {
		s.findOffences()
	}
	next := s.known.roster(s.roots, s.published.Load())
	s.published.Store(next)
	return s.wires.place(next)
}

// track tells a kernel that has to know it which cgroups there are: the roots, the units and
// what a strike kills.
func (s *scout) track() error {
	k, ok := s.kernel.(tracker)
	if !ok {
		return nil
	}
	var all []fallback.Cgroup
	for _, path := range s.wires.roots {
		c := fallback.Cgroup{Path: path}
		if i := slices.IndexFunc(s.roots, func(r root) bool { return r.path == path }); i >= 0 {
			c.MemoryID, c.PidsID = s.roots[i].id.MemoryID, s.roots[i].id.PidsID
		}
		all = append(all, c)
	}
	for _, u := range s.known.units {
		all = append(all, fallback.Cgroup{Path: u.Cgroup, MemoryID: u.ID.MemoryID, PidsID: u.ID.PidsID})
		for i, t := range u.Targets {
			all = append(all, fallback.Cgroup{Path: t.Cgroup, MemoryID: u.TargetIDs[i].MemoryID, PidsID: u.TargetIDs[i].PidsID})
		}
	}
	if slices.Equal(all, s.tracked) {
		return nil
	}
	s.tracked = all
	s.walks.isDue.Store(true) // whoever is new has no figures
	if s.walks.took < quickWalk {
		s.walks.at = time.Time{} // no record of a crossing will say where its row is
	}
	return k.Track(all)
}

func (s *scout) limits() error {
	if time.Since(s.limitsAt) < limitsEvery {
		return nil
	}
	n, err := s.proc.Node()
	if err != nil {
		return err
	}
	s.limitsAt = time.Now()
	return s.kernel.SetLimits(signal.MemoryCapacityOf(n), n.TasksMax)
}

func (s *scout) openRoots() error {
	former := s.roots
	s.roots = make([]root, 0, len(s.wires.roots))
	for _, path := range s.wires.roots {
		r, err := s.openRoot(path, former)
		if errors.Is(err, cgroupfs.ErrGone) {
			continue // its bounds have no data until it is there again
		}
		if err != nil {
			s.roots = former
			return err
		}
		s.roots = append(s.roots, r)
		if former != nil && !slices.ContainsFunc(former, func(f root) bool { return f.id == r.id }) {
			s.changes.miss() // it is back: nobody told what was made in it
		}
	}
	return nil
}

func (s *scout) openRoot(path string, former []root) (root, error) {
	c, err := s.fs.OpenToRead(path)
	if err != nil {
		return root{}, err
	}
	defer func() { _ = c.Close() }()
	r := root{path: path, id: workload.Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()}}
	s.placeRoot(&r, former)
	r.fill = s.fillOf(r.id.MemoryID)
	for _, f := range []struct {
		into *int64
		read func() (int64, error)
	}{
		{&r.memoryMax, c.MemoryMaxBytes},
		{&r.pidsMax, c.PidsMax},
		{&r.inactiveFile, c.InactiveFileBytes},
	} {
		v, err := f.read()
		if errors.Is(err, cgroupfs.ErrNoKey) {
			v = cgroupfs.Unlimited // the signal says "no data" to that
			if f.into == &r.inactiveFile {
				v = 0
			}
		} else if err != nil {
			return root{}, err
		}
		*f.into = v
	}
	return r, nil
}

// placeRoot finds the root's rows, as a rule where they were, and reads them: how far a wire
// is depends on them.
func (s *scout) placeRoot(r *root, former []root) {
	if i := slices.IndexFunc(former, func(f root) bool { return f.path == r.path && f.id == r.id }); i >= 0 {
		r.memoryCSS, r.pidsCSS = former[i].memoryCSS, former[i].pidsCSS
	}
	memory, pids := s.kernel.RefreshRows(at(r.id, r.memoryCSS, r.pidsCSS))
	if !memory {
		r.memoryCSS = s.kernel.Find(loader.Memory, r.id.MemoryID)
	}
	if !pids {
		r.pidsCSS = s.kernel.Find(loader.Pids, r.id.PidsID)
	}
}

// arm attaches the allocation hook while a memory wire is near, and detaches it when all
// have been far for a while. It stays while a victim dies.
func (s *scout) arm() error {
	distance, any := s.wires.memoryDistance(s.kernel.Node(), s.current())
	if s.wires.killing.Load() > 0 {
		s.nearness.farSince, s.helpedAt = time.Time{}, time.Now()
		return nil
	}
	// The hysteresis is for what was near: a hook attached for a kill or a drill alone goes.
	any = any && (s.wires.near.Load() || distance < s.nearness.margin)
	near, far := s.nearness.judge(distance, any, time.Now())
	was := s.wires.near.Load()
	tier, _ := s.kernel.Tier(memoryHalf.scope())
	if near || far {
		s.wires.near.Store(near)
	}
	switch {
	case tier == record.TierCharge:
		return s.helpCharge()
	case near:
		if err := s.kernel.Arm(); err != nil || was {
			return err
		}
		_, err := s.kernel.Walk() // what was allocated without the hook
		return err
	case far:
		return s.kernel.Disarm()
	}
	return nil
}

// helpCharge attaches the allocation hook beside the charge hook while memory grows near a
// wire that nobody is charged for, that of tasks in the root: the timer has seen it.
// Otherwise it is off, a while after the last kill that it helped with.
func (s *scout) helpCharge() error {
	if grew := s.kernel.Node().UnchargedNs; grew != 0 && sample.Now()-grew < uint64(disarmAfter) {
		s.helpedAt = time.Now()
		return s.kernel.Arm()
	}
	if time.Since(s.helpedAt) > disarmAfter {
		return s.kernel.Disarm()
	}
	return nil
}

// selfPIDs are processes that must never be hit: the agent.
func selfPIDs() []int { return []int{os.Getpid()} }
