package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// scoutFar and scoutNear are between two rounds of the scout: the rows and the
	// inactive file of the roots are that fresh, apart from what the hooks refresh.
	scoutFar  = time.Second
	scoutNear = 50 * time.Millisecond
	// scanEvery is between two scans of the directories when no inotify event asks for one.
	scanEvery = time.Second
	// disarmAfter is how long every memory wire must have been far before the hook goes:
	// attaching it again within an RCU grace period would take 20 ms.
	disarmAfter = time.Second
	// graveTime is how long a handle that nobody needs any more is kept open: far longer
	// than a pass.
	graveTime = 5 * time.Second
)

// scout prepares, off the hot thread, what a pass needs: who could be evicted, where
// their rows are, open handles, limits, and whether the hook is attached.
type scout struct {
	fs      *cgroupfs.FS
	kernel  *loader.Loader
	scanner *workload.Scanner
	proc    signal.Proc
	wires   *wires
	log     zerolog.Logger

	// alarms are for the journal; what finds no room is in the log alone.
	alarms    chan string
	tableErr  string
	published atomic.Pointer[scene]
	kicks     chan struct{}
	// figures are the disk process's, nil without; wantsFigures: a threshold is about a disk.
	figures      atomic.Pointer[workload.DiskTable]
	wantsFigures atomic.Bool

	nearness nearness // of the scout's own goroutine

	mu        sync.Mutex // one scan at a time; guards what follows
	units     []workload.Unit
	scannedAt time.Time
	handles   map[workload.Identity]*actuator.Handle
	grave     []buried
	index     []sample.Cgroup
	fills     map[uint64]*fill // of the roots, by memory cgroup id
}

type buried struct {
	at time.Time
	h  *actuator.Handle
}

func (s *scout) current() *scene { return s.published.Load() }

// kick asks for a scan soon; never blocks.
func (s *scout) kick() {
	select {
	case s.kicks <- struct{}{}:
	default:
	}
}

// refreshNow scans at once and returns what it found. For the hot thread, where a doubt is
// worth the wait: for a scan under way and one of its own, never for the hook to be attached.
func (s *scout) refreshNow() *scene {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.publish(true, false); err != nil {
		s.log.Warn().Err(err).Msg("scan failed")
	}
	return s.current()
}

func (s *scout) run(ctx context.Context) {
	for {
		pause := scoutFar
		if s.wires.near.Load() {
			pause = scoutNear
		}
		scan := false
		select {
		case <-ctx.Done():
			return
		case <-s.kicks:
			scan = true
		case <-time.After(pause):
		}
		s.drain()
		if err := s.round(scan); err != nil {
			s.log.Warn().Err(err).Msg("scout round failed")
		}
	}
}

// watchTable says when a workload table is refused, and when one is good again.
func (s *scout) watchTable() {
	text := ""
	if err := s.scanner.TableStatus().LastError; err != nil {
		text = err.Error()
	}
	if text == s.tableErr {
		return
	}
	s.tableErr = text
	reason := "workload table refused, the last good one stays: " + text
	if text == "" {
		reason = "workload table is good again"
	}
	s.log.Warn().Msg(reason)
	select {
	case s.alarms <- reason:
	default:
	}
}

// adopt takes over what a configuration says of units.
func (s *scout) adopt(p *plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scanner.Configure(p.config.Protect, p.config.AllowEvictFirst)
	s.wantsFigures.Store(p.disks != nil)
}

// round makes a new scene and publishes it, and does what follows from it.
func (s *scout) round(scan bool) error {
	if err := s.limits(); err != nil {
		return err
	}
	s.mu.Lock()
	err := s.publish(scan, true)
	s.bury()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.arm() // may take 20 ms, and a hot thread in doubt waits for the lock
}

// publish makes a scene, and places the wires by it. Without prepare, known handles stay as
// they are: what makes them ready reads two lists a unit. The caller holds the lock.
func (s *scout) publish(scan, prepare bool) error {
	if scan || time.Since(s.scannedAt) > scanEvery {
		units, err := s.scanner.Scan()
		if err != nil {
			return fmt.Errorf("scan the roots: %w", err)
		}
		s.units, s.scannedAt = units, time.Now()
		s.watchTable()
	}
	if _, err := s.kernel.Walk(); err != nil {
		return err
	}
	next, err := s.compose(prepare)
	if err != nil {
		return err
	}
	s.published.Store(next)
	if err := s.wires.place(next); err != nil {
		return err
	}
	return nil
}

func (s *scout) limits() error {
	n, err := s.proc.Node()
	if err != nil {
		return err
	}
	return s.kernel.SetLimits(signal.MemoryCapacityOf(n), n.TasksMax)
}

func (s *scout) compose(prepare bool) (*scene, error) {
	memory, pids := s.cssIDs(loader.Memory), s.cssIDs(loader.Pids)
	next := &scene{knownMemory: map[uint64]struct{}{}, knownPids: map[uint64]struct{}{}}
	for _, path := range s.wires.roots {
		r, err := s.openRoot(path, memory, pids)
		if errors.Is(err, cgroupfs.ErrGone) {
			continue // its bounds have no data until it is there again
		}
		if err != nil {
			return nil, err
		}
		next.roots = append(next.roots, r)
	}
	for i := range s.units {
		u := &s.units[i]
		h, err := s.handle(u, prepare)
		if errors.Is(err, actuator.ErrGone) {
			continue
		}
		if err != nil {
			s.log.Error().Err(err).Str("cgroup", u.Cgroup).Msg("degraded: unit can't be opened; nobody is evicted in its place")
			next.incomplete = true
			continue
		}
		next.workloads = append(next.workloads, u.Workload)
		s.addFigures(&next.workloads[len(next.workloads)-1])
		next.handles = append(next.handles, h)
		next.rows = append(next.rows, rows{u.ID, memory[u.ID.MemoryID], pids[u.ID.PidsID]})
		next.targets = append(next.targets, rowsOf(h, memory, pids))
		next.revived = append(next.revived, h.Revived())
		next.empty = append(next.empty, false)
		for _, id := range h.Targets() {
			next.knownMemory[id.MemoryID] = struct{}{}
			next.knownPids[id.PidsID] = struct{}{}
		}
	}
	return next, nil
}

func rowsOf(h *actuator.Handle, memory, pids map[uint64]uint32) (of []rows) {
	for _, id := range h.Targets() {
		of = append(of, rows{id, memory[id.MemoryID], pids[id.PidsID]})
	}
	return of
}

// cssIDs maps cgroup ids to rows. Where an id stands in two rows, the cgroup was removed
// and the younger row counts.
func (s *scout) cssIDs(c loader.Controller) map[uint64]uint32 {
	s.index = s.kernel.Index(c, s.index[:0])
	ids := make(map[uint64]uint32, len(s.index))
	newest := make(map[uint64]uint64, len(s.index))
	for _, row := range s.index {
		if row.Ns >= newest[row.CgroupID] {
			ids[row.CgroupID], newest[row.CgroupID] = row.CSSID, row.Ns
		}
	}
	return ids
}

func (s *scout) openRoot(path string, memory, pids map[uint64]uint32) (root, error) {
	c, err := s.fs.Open(path)
	if err != nil {
		return root{}, err
	}
	defer func() { _ = c.Close() }()
	r := root{path: path, id: workload.Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()}}
	r.memoryCSS, r.pidsCSS = memory[r.id.MemoryID], pids[r.id.PidsID]
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

// handle returns the unit's open handle, from the last round where it is the same unit of
// the same containers.
func (s *scout) handle(u *workload.Unit, prepare bool) (*actuator.Handle, error) {
	if h := s.handles[u.ID]; h != nil {
		switch {
		case h.Fits(u) && prepare:
			return h, h.Prepare()
		case h.Fits(u):
			return h, nil
		}
		s.grave = append(s.grave, buried{time.Now(), h})
		delete(s.handles, u.ID)
	}
	h, err := actuator.Open(s.fs, u)
	if err != nil {
		return nil, err
	}
	s.handles[u.ID] = h
	return h, nil
}

// bury closes the handles of units that are gone, once no pass can still hold them.
func (s *scout) bury() {
	alive := make(map[workload.Identity]bool, len(s.units))
	for i := range s.units {
		alive[s.units[i].ID] = true
	}
	for id, h := range s.handles {
		if !alive[id] {
			s.grave = append(s.grave, buried{time.Now(), h})
			delete(s.handles, id)
		}
	}
	for len(s.grave) > 0 && time.Since(s.grave[0].at) > graveTime && !s.grave[0].h.Busy() {
		_ = s.grave[0].h.Close()
		s.grave = s.grave[1:]
	}
}

// arm attaches the allocation hook while a memory wire is near, and detaches it when all
// have been far for a while. It stays while a victim dies.
func (s *scout) arm() error {
	distance, any := s.wires.memoryDistance(s.kernel.Node(), s.current())
	if s.wires.killing.Load() > 0 {
		s.nearness.farSince = time.Time{}
		return nil
	}
	// The hysteresis is for what was near: a hook attached for a kill or a drill alone goes.
	any = any && (s.wires.near.Load() || distance < s.nearness.margin)
	switch near, far := s.nearness.judge(distance, any, time.Now()); {
	case near:
		s.wires.near.Store(true)
		return s.kernel.Arm()
	case far:
		s.wires.near.Store(false)
		return s.kernel.Disarm()
	}
	return nil
}

// shut closes everything that is open, but what a finisher still works with.
func (s *scout) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.handles {
		s.grave = append(s.grave, buried{h: h})
	}
	for _, g := range s.grave {
		if !g.h.Busy() {
			_ = g.h.Close()
		}
	}
}

// selfPIDs are processes that must never be hit: the agent.
func selfPIDs() []int { return []int{os.Getpid()} }
