package agent

import (
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// sweepTime is in how many seconds every unit is read again though nothing told of it:
	// 5,000 units are 20 a second, 1 ms of CPU time. At least minSweep are read each second.
	// Who has neither a task nor a page is left out: nothing of it can be protected.
	sweepTime = 256
	minSweep  = 16
	// listEvery is between two listings of the directories that no event asks for, 30 ms for
	// 5,000; a level whose number of children moved is listed at once.
	listEvery = 5 * time.Minute
	// A new unit is made first, and gets its processes then: for youngTime it is read again
	// whenever it has become older by an eighth, the mostYoung newest of them.
	youngTime = 10 * time.Second
	mostYoung = 64
	// mostReads bounds what a round reads because events and tables told of it.
	mostReads = 256
	// graveTime is how long a handle that nobody needs any more is kept open: far longer
	// than a pass.
	graveTime = 5 * time.Second
)

// known are the units as the scout knows them.
type known struct {
	units []*unit
	index map[string]int // by cgroup
	// altered: units is not the last roster's.
	altered bool
	room    *room
	held    []int
	opened  map[string]bool // the cgroups of units with an open handle
	version uint64          // of the table and configuration that they were judged by
	// unread are the units that are there and can't be read or opened.
	unread map[string]string

	listedAt, comparedAt, sweptAt time.Time
	// links are how many children each level had, when it was listed or events told of it;
	// odd: that is not so now.
	links map[string]uint64
	odd   bool
	young []*unit
	queue []*unit // to be read again
	turn  []*unit // of which now
	next  int     // of the sweep
}

func newKnown() known {
	return known{index: map[string]int{}, opened: map[string]bool{}, unread: map[string]string{}, links: map[string]uint64{}, sweptAt: time.Now()}
}

type buried struct {
	at time.Time
	h  *actuator.Handle
}

// roster is what is known now. The slices of the former one are used again where nothing
// has changed.
func (k *known) roster(roots []root, former *roster) *roster {
	next := &roster{roots: roots, room: k.room, incomplete: len(k.unread) > 0}
	for path, children := range k.links {
		next.levels = append(next.levels, level{path, children})
	}
	if !k.room.holds(len(k.units)) {
		k.room = newRoom(len(k.units))
		next.room = k.room
	}
	if former != nil {
		next.units, next.held = former.units, former.held
	}
	if k.altered || former == nil {
		next.units = slices.Clone(k.units)
	}
	k.held = k.held[:0]
	for dir := range k.opened {
		k.held = append(k.held, k.index[dir])
	}
	slices.Sort(k.held)
	if !slices.Equal(k.held, next.held) {
		next.held = slices.Clone(k.held)
	}
	k.altered = false
	return next
}

func (k *known) put(u *unit) {
	k.altered = true
	if i, ok := k.index[u.Cgroup]; ok {
		k.units[i] = u
		return
	}
	k.index[u.Cgroup] = len(k.units)
	k.units = append(k.units, u)
}

// remove puts the last unit in the place of the one that goes.
func (k *known) remove(cgroup string) {
	i, ok := k.index[cgroup]
	if !ok {
		return
	}
	k.altered = true
	last := len(k.units) - 1
	k.units[i] = k.units[last]
	k.index[k.units[i].Cgroup] = i
	k.units[last] = nil
	k.units = k.units[:last]
	delete(k.index, cgroup)
}

func (k *known) unit(cgroup string) *unit {
	if i, ok := k.index[cgroup]; ok {
		return k.units[i]
	}
	return nil
}

// ask has a unit read again.
func (k *known) ask(u *unit) {
	if !u.queued {
		u.queued = true
		k.queue = append(k.queue, u)
	}
}

// look brings what is known up to date.
func (s *scout) look(d depth) error {
	k := &s.known
	s.meet()
	names, lost := s.changes.take()
	for dir := range names {
		unit := s.scanner.UnitOf(dir)
		if unit == "" { // a level, or something above a root
			lost = true
			continue
		}
		k.links[path.Dir(unit)] = s.fs.Links(path.Dir(unit))
		s.read(unit)
	}
	if d == scanned || lost || s.isOverdue(d == doubted) {
		if err := s.list(d == scanned); err != nil {
			return err
		}
	}
	if version := s.scanner.Version(); version != k.version {
		k.version = version
		s.judge()
	}
	s.sweep()
	return nil
}

// isOverdue reports whether the directories are to be listed though no event says so: after a
// while, or when a level has other children than events told of. Those of the last moment
// may be on their way: it is asked once a second, and has to be so twice, but in doubt.
func (s *scout) isOverdue(inDoubt bool) bool {
	k := &s.known
	if time.Since(k.listedAt) > listEvery {
		return true
	}
	if time.Since(k.comparedAt) < time.Second && !inDoubt {
		return false
	}
	k.comparedAt = time.Now()
	former := k.odd
	k.odd = slices.ContainsFunc(s.scanner.Levels(), func(level string) bool { return s.fs.Links(level) != k.links[level] })
	return k.odd && (former || inDoubt || s.changes.deaf.Load())
}

// list finds the units that came and went by the names in the directories; with again it
// reads the others anew too.
func (s *scout) list(again bool) error {
	k := &s.known
	dirs, err := s.scanner.List()
	if err != nil {
		return fmt.Errorf("list the roots: %w", err)
	}
	isFirst := k.listedAt.IsZero()
	k.listedAt, k.odd = time.Now(), false
	clear(k.links)
	for _, level := range s.scanner.Levels() {
		s.changes.watch(s.fs, level)
		k.links[level] = s.fs.Links(level)
	}
	for i := len(k.units) - 1; i >= 0; i-- {
		if _, there := slices.BinarySearch(dirs, k.units[i].Cgroup); !there {
			s.forget(k.units[i].Cgroup)
		}
	}
	for _, dir := range dirs {
		if again || k.unit(dir) == nil {
			s.read(dir)
		}
	}
	if isFirst {
		k.young = nil // they have been there
	}
	return nil
}

// read reads one unit.
func (s *scout) read(dir string) {
	k := &s.known
	was, began := k.unit(dir), sample.Now()
	u, err := s.scanner.Unit(dir)
	if vanished(err) {
		s.forget(dir)
		return
	}
	if s.degrade(dir, err); err != nil {
		return
	}
	n := was
	switch {
	case was == nil || !was.Same(&u):
		if was != nil {
			s.letGo(was)
		}
		n = newUnit(u)
		s.welcome(n)
	case !was.Equal(&u):
		n = was.again(u)
		k.put(n)
	}
	if u.Runs {
		n.ranNs.Store(began)
	}
	n.readAt, n.queued, n.tasks, n.wasVoid = time.Now(), false, s.tasks(n), s.isVoid(n)
}

// welcome takes a unit in that was not known, or not like this.
func (s *scout) welcome(u *unit) {
	s.known.put(u)
	s.known.young = append(s.known.young, u)
	s.walks.isDue.Store(true)
	if u.QOSClass != "" {
		s.changes.watch(s.fs, u.Cgroup) // a pod's containers come and go
	}
}

// degrade keeps account of the units that can't be read or opened, and says so once.
func (s *scout) degrade(dir string, err error) {
	k := &s.known
	if err == nil {
		delete(k.unread, dir)
		return
	}
	if k.unread[dir] != err.Error() {
		s.log.Error().Err(err).Str("cgroup", dir).Msg("degraded: unit can't be opened; nobody is evicted in its place")
	}
	k.unread[dir] = err.Error()
}

func (s *scout) forget(dir string) {
	if u := s.known.unit(dir); u != nil {
		s.letGo(u)
		s.known.remove(dir)
	}
	delete(s.known.unread, dir)
}

// letGo buries the handle of a unit that is not what it was.
func (s *scout) letGo(u *unit) {
	delete(s.known.opened, u.Cgroup)
	if h := u.handle.Load(); h != nil {
		s.grave = append(s.grave, buried{time.Now(), h})
	}
}

// meet takes over the units that the hot thread met, and the handles that it opened.
func (s *scout) meet() {
	k := &s.known
	for {
		select {
		case u := <-s.met:
			was := k.unit(u.Cgroup)
			switch {
			case was == nil:
				s.welcome(u)
			case was.grip == u.grip:
			case was.Same(&u.Unit): // we read it meanwhile; what the hot thread holds counts
				s.letGo(was)
				k.put(&unit{Unit: was.Unit, rows: was.rows, targets: was.targets, grip: u.grip})
			case u.readAt.After(was.readAt):
				s.letGo(was)
				s.welcome(u)
			default:
				s.letGo(u)
			}
			if now := k.unit(u.Cgroup); now.handle.Load() != nil {
				k.opened[u.Cgroup] = true
			}
			k.ask(k.unit(u.Cgroup))
		default:
			return
		}
	}
}

// judge says anew what follows from table and configuration.
func (s *scout) judge() {
	for _, u := range s.known.units {
		n := u.again(u.Unit)
		if s.scanner.Judge(&n.Unit); !n.JudgedLike(&u.Workload) {
			s.known.put(n)
		}
	}
}

// sweep reads again who is young, who changed by the tables, and a share of the others.
func (s *scout) sweep() {
	k := &s.known
	at := time.Now()
	young := k.young[max(0, len(k.young)-mostYoung):]
	k.young = k.young[:0]
	for _, u := range young {
		now, age := k.unit(u.Cgroup), at.Sub(u.bornAt)
		if now == nil || now.grip != u.grip || age > youngTime {
			continue
		}
		k.young = append(k.young, u)
		if at.Sub(u.readAt) > age/8 {
			k.ask(now)
		}
	}
	share := at.Sub(k.sweptAt).Seconds() * float64(len(k.units)/sweepTime+minSweep)
	if share >= 1 {
		k.sweptAt = at
	}
	for range min(int(share), len(k.units)) {
		k.next = (k.next + 1) % len(k.units)
		if u := k.units[k.next]; !s.isVoid(u) {
			k.ask(u)
		}
	}
	for dir := range k.unread {
		s.read(dir)
	}
	k.readQueue()
	for _, u := range k.turn {
		if now := k.unit(u.Cgroup); now != nil {
			s.read(u.Cgroup)
		}
		u.queued = false
	}
}

// isVoid reports whether a unit has neither a task nor a page.
func (s *scout) isVoid(u *unit) bool {
	var held workload.Usage
	u.rows.usage(s.kernel, &held)
	return held.Tasks == 0 && held.MemoryBytes == 0
}

// readQueue takes from the queue what this round reads.
func (k *known) readQueue() {
	n := min(len(k.queue), mostReads)
	k.turn = append(k.turn[:0], k.queue[:n]...)
	k.queue = k.queue[:copy(k.queue, k.queue[n:])]
}

// bury closes the handles of units that are gone, once no pass can still hold them.
func (s *scout) bury() {
	for len(s.grave) > 0 && time.Since(s.grave[0].at) > graveTime && !s.grave[0].h.Busy() {
		_ = s.grave[0].h.Close()
		s.grave = s.grave[1:]
	}
}

// shut closes everything that is open, but what a finisher still works with.
func (s *scout) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes.close()
	s.meet()
	for dir := range s.known.opened {
		if u := s.known.unit(dir); u != nil {
			s.letGo(u)
		}
	}
	for _, g := range s.grave {
		if !g.h.Busy() {
			_ = g.h.Close()
		}
	}
	s.grave = nil
}
