package fallback

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Tier is how wires are watched, as the journal names it.
type Tier string

const (
	// Event: the kernel says when to look.
	Event Tier = "event"
	// Poll: readings alone.
	Poll Tier = "poll"
)

// Options say what to watch with.
type Options struct {
	FS *cgroupfs.FS
	// Procfs is the initial pid namespace's. Default "/proc".
	Procfs string
	// Tier is the best one to try. Default Event.
	Tier Tier
	// FillBytesPerSecond and ForksPerSecond bound how fast this machine can fill memory and
	// make tasks. Default 11 GB/s and 20,000 for each CPU.
	FillBytesPerSecond, ForksPerSecond int64
	Log                                zerolog.Logger
}

// Watcher watches wires. Methods may be called from several goroutines, except those that
// say whom they are for.
type Watcher struct {
	fs    *cgroupfs.FS
	proc  *procfs
	log   zerolog.Logger
	bytes pace
	forks pace

	wires   [maxWires]wire
	used    [2]int
	retired chan *place

	epoll, timer, kick int
	alarm              uint64 // what the timer is set to, 0 when it went off
	events             [maxWires]unix.EpollEvent
	word               [8]byte
	scratch            cgroupfs.Scratch
	found              []sample.Sample
	next               int // of found
	nodeNs             uint64
	nodeOK             bool
	node               sample.Node

	thresholds *registrar            // nil on v2
	connector  *connector            // nil without
	why        [2]error              // what keeps memory and tasks from the event tier
	lost       atomic.Pointer[error] // why the connector rests

	memTotal, tasksMax atomic.Int64
	lastMu             sync.Mutex
	last               sample.Node
}

// Open finds out which tier each signal can have. That a better one is not to be had is no
// error; Tier tells it.
func Open(o Options) (*Watcher, error) {
	w := &Watcher{
		fs: o.FS, log: o.Log, epoll: -1, timer: -1, kick: -1,
		bytes: newPace(o.FillBytesPerSecond, fillPerCPU), forks: newPace(o.ForksPerSecond, forksPerCPU),
		// A cgroup is replaced at most once a round of whoever places wires.
		retired: make(chan *place, 4*maxWires),
		found:   make([]sample.Sample, 0, maxWires),
	}
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	if err := w.open(o); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *Watcher) open(o Options) (err error) {
	if w.proc, err = openProcfs(o.Procfs); err != nil {
		return err
	}
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	if w.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("create timerfd: %w", err)
	}
	if w.kick, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	for _, fd := range []int{w.timer, w.kick} {
		if err := w.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, 0); err != nil {
			return err
		}
	}
	if o.Tier == Poll {
		w.why = [2]error{ErrAsked, ErrAsked}
		return nil
	}
	w.thresholds, w.why[0] = w.openRegistrar()
	if w.connector, w.why[1] = openConnector(); w.connector == nil {
		return nil
	}
	return w.watch(unix.EPOLL_CTL_ADD, w.connector.fd, 0, 0)
}

// ErrAsked is why nothing better than Poll was tried.
var ErrAsked = errors.New("the tier poll was asked for")

func (w *Watcher) watch(op, fd int, events uint32, wire int) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(wire)}
	if err := unix.EpollCtl(w.epoll, op, fd, &ev); err != nil {
		return fmt.Errorf("add to epoll: %w", err)
	}
	return nil
}

// Close ends everything that Open began. Next and SetWire must not run any more.
func (w *Watcher) Close() error {
	if w.thresholds != nil {
		w.thresholds.close()
	}
	if w.connector != nil {
		w.connector.close()
	}
	w.bury()
	for i := range w.wires {
		if p := w.wires[i].place.Swap(nil); p != nil {
			p.figures.Close()
		}
		w.wires[i].threshold.close()
	}
	for _, fd := range []int{w.epoll, w.timer, w.kick} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if w.proc != nil {
		w.proc.close()
	}
	return nil
}

// Tier is what a wire of that scope is watched with now, and if that is Poll, why: what was
// lost is tried again after a while.
func (w *Watcher) Tier(scope sample.Scope) (Tier, error) {
	half := 1
	if isMemory(scope) {
		half = 0
	}
	if w.why[half] != nil {
		return Poll, w.why[half]
	}
	if half == 1 {
		if lost := w.lost.Load(); lost != nil {
			return Poll, *lost
		}
		return Event, nil
	}
	for i := range memoryWires {
		if why := w.wires[i].threshold.failed.Load(); why != nil && w.wires[i].seq.Load() != 0 {
			return Poll, *why
		}
	}
	return Event, nil
}

// SetLimits tells how large the node is. Call it at start and now and then: balloons,
// hotplug and sysctls move it.
func (w *Watcher) SetLimits(memTotalBytes, tasksMax int64) error {
	w.memTotal.Store(memTotalBytes)
	w.tasksMax.Store(tasksMax)
	return nil
}

// errNoFigures means that a file of /proc does not tell what it should.
var errNoFigures = errors.New("/proc/meminfo or /proc/loadavg is not as known")

// Look reads the node's counters now: two small files. For the thread of Next.
func (w *Watcher) Look() (sample.Node, error) {
	ns := sample.Now()
	if !w.readNode(ns) || !w.readTasks(ns) {
		return sample.Node{}, errNoFigures
	}
	return w.node, nil
}

// Node returns the counters as they were read last.
func (w *Watcher) Node() sample.Node {
	w.lastMu.Lock()
	n := w.last
	w.lastMu.Unlock()
	n.MemTotalBytes, n.TasksMax = w.memTotal.Load(), w.tasksMax.Load()
	return n
}

// publish keeps what was read for Node.
func (w *Watcher) publish() {
	w.node.MemTotalBytes, w.node.TasksMax = w.memTotal.Load(), w.tasksMax.Load()
	w.lastMu.Lock()
	w.last = w.node
	w.lastMu.Unlock()
}

// readNode reads memory once for all wires of one look.
func (w *Watcher) readNode(ns uint64) bool {
	if w.nodeNs == ns {
		return w.nodeOK
	}
	w.nodeNs, w.nodeOK = ns, w.proc.memory(&w.node)
	w.node.Ns = ns
	w.publish()
	return w.nodeOK
}

func (w *Watcher) readTasks(ns uint64) bool {
	ok := w.proc.tasks(&w.node)
	w.node.Ns = ns
	w.publish()
	return ok
}

// CrossingsFD becomes readable when there may be a crossing: a member of the caller's epoll.
func (w *Watcher) CrossingsFD() int { return w.epoll }

// Tick has all wires compared at once.
func (w *Watcher) Tick() error {
	w.wake()
	return nil
}

func (w *Watcher) wake() {
	_, _ = unix.Write(w.kick, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Next looks at what is due and takes the oldest crossing; false when there is none. It
// allocates nothing. For one thread, which should be of a real-time class.
func (w *Watcher) Next(s *sample.Sample) (bool, error) {
	if w.next == len(w.found) {
		w.found, w.next = w.found[:0], 0
		w.look()
	}
	if w.next == len(w.found) {
		return false, nil
	}
	*s = w.found[w.next]
	w.next++
	return true, nil
}

// look reads every wire that is due, and says when it wants to look again.
func (w *Watcher) look() {
	w.bury()
	ns := sample.Now()
	w.collect(ns)
	nearestTasks := int64(math.MaxInt64)
	alarm := uint64(never)
	for i := range w.wires {
		r := &w.wires[i]
		seq, watched := r.watched()
		if !watched {
			continue
		}
		if w.isDue(r, seq, ns) {
			w.compare(i, seq, ns)
		}
		if r.fired.Load() >= seq {
			continue
		}
		alarm = min(alarm, r.nextNs)
		if !r.memory() {
			nearestTasks = min(nearestTasks, r.distance)
		}
	}
	if w.connector != nil {
		alarm = min(alarm, w.attend(nearestTasks, ns))
	}
	// Where a look takes a millisecond, who fills has to get the CPU too.
	end := sample.Now()
	w.setAlarm(max(alarm, end+breath*(end-ns)))
}

// breath is the least pause between two looks, in times that a look takes.
const breath = 3

// attend keeps the tier of tasks up to date with the connector.
func (w *Watcher) attend(nearestTasks int64, ns uint64) (again uint64) {
	again, err := w.connector.attend(w, nearestTasks, ns)
	switch {
	case err != nil:
		w.connector.rest(ns)
		w.lose(err)
	case w.lost.Load() != nil && !w.connector.rests(ns):
		w.lost.Store(nil)
	}
	return again
}

// never is the time of an alarm that is not wanted.
const never = math.MaxInt64

// lose says why tasks are polled for now. A copy of err: of err itself each look would allocate.
func (w *Watcher) lose(err error) { w.lost.Store(&err) }

// collect takes what woke us and marks the wires that it is about.
func (w *Watcher) collect(ns uint64) {
	n, err := unix.EpollWait(w.epoll, w.events[:], 0)
	if err != nil {
		n = 0 // EINTR: the next look is near
	}
	forked := false
	for i := range w.events[:n] {
		ev := &w.events[i]
		switch fd := int(ev.Fd); {
		case w.connector != nil && fd == w.connector.fd:
			forked = true
		case fd == w.timer:
			_, _ = unix.Read(fd, w.word[:])
			w.alarm = 0
		case fd == w.kick:
			_, _ = unix.Read(fd, w.word[:])
			for j := range w.wires {
				w.wires[j].due = true
			}
		default:
			_, _ = unix.Read(fd, w.word[:])
			w.wires[ev.Pad].event = true
		}
	}
	if w.connector != nil {
		w.connector.take(forked, ns)
	}
}

func (w *Watcher) isDue(r *wire, seq, ns uint64) bool {
	if r.at != r.place.Load() || r.armed != seq {
		return true
	}
	if !r.memory() && w.connector != nil && w.connector.spent(r.forks, r.distance) {
		r.event = true
	}
	return r.event || r.due || ns >= r.nextNs
}

// compare reads a wire's counter, fires or finds out when to look again.
func (w *Watcher) compare(index int, seq, ns uint64) {
	r := &w.wires[index]
	by := sample.ObserverPoll
	if r.event {
		by = sample.ObserverEvent
	}
	if at := r.place.Load(); r.at != at {
		r.at, r.inactiveNs = at, 0
	}
	r.armed, r.event, r.due = seq, false, false
	if w.connector != nil {
		r.forks = w.connector.total
	}
	available, usage, ok := w.available(r, ns)
	if !ok {
		r.distance, r.nextNs = math.MaxInt64, ns+uint64(pollMax)
		return
	}
	limit := r.limit.Load()
	r.distance = available - limit
	if r.distance < 0 {
		r.fired.Store(seq)
		w.found = append(w.found, sample.Sample{
			Kind: sample.KindCrossing, By: by, Ns: sample.Now(), Wire: index, Seq: seq,
			Available: available, LimitValue: limit,
		})
		return
	}
	r.nextNs = ns + uint64(w.paceOf(r, index, usage, ns).next(r.distance))
}

// paceOf is how often a wire is to be read, and has the kernel watch it where it can.
func (w *Watcher) paceOf(r *wire, index int, usage int64, ns uint64) pace {
	switch {
	case r.memory() && w.thresholds != nil && w.thresholds.watches(r, index, usage, w.bytes, ns):
		return w.bytes.watched()
	case r.memory():
		return w.bytes
	case w.connector != nil && w.connector.listening:
		return w.forks.watched()
	}
	return w.forks
}

// inactiveFresh is how old the inactive file of a cgroup may be that no crossing hangs on:
// reading it is dear, and it moves slowly.
const inactiveFresh = 50 * time.Millisecond

// available reads what a wire is about, and of memory the usage that a threshold compares
// (0: not known). False: there is no data.
func (w *Watcher) available(r *wire, ns uint64) (available, usage int64, ok bool) {
	capacity := r.capacity.Load()
	switch sample.Scope(r.scope.Load()) {
	case sample.ScopeNodeMemory:
		if !w.readNode(ns) {
			return 0, 0, false
		}
		n := &w.node
		if w.thresholds != nil {
			usage, _ = r.at.figures.MemoryCurrentBytes()
		}
		return n.MemTotalBytes - n.AnonBytes - n.FileBytes + n.InactiveFileBytes, usage, n.MemTotalBytes > 0
	case sample.ScopeCgroupMemory:
		usage, err := r.at.figures.MemoryCurrentBytes()
		if err != nil {
			return 0, 0, false
		}
		if r.inactiveNs == 0 || ns-r.inactiveNs >= uint64(inactiveFresh) || capacity-usage+r.inactive < r.limit.Load() {
			r.readInactive(&w.scratch, ns)
		}
		return capacity - max(0, usage-r.inactive), usage, true
	case sample.ScopeNodeTasks:
		ok := w.readTasks(ns)
		return w.node.TasksMax - w.node.Tasks, 0, ok && w.node.TasksMax > 0
	case sample.ScopeCgroupTasks:
		tasks, err := r.at.figures.PidsCurrent()
		return capacity - tasks, 0, err == nil
	}
	return 0, 0, false
}

// readInactive takes a cgroup that does not tell its inactive file for one that has none:
// less is available then, never more.
func (r *wire) readInactive(s *cgroupfs.Scratch, ns uint64) {
	v, err := r.at.figures.InactiveFileBytes(s)
	if err != nil {
		v = 0
	}
	r.inactive, r.inactiveNs = v, ns
}

func (w *Watcher) setAlarm(ns uint64) {
	if ns == w.alarm {
		return
	}
	w.alarm = ns
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(ns))}
	_ = unix.TimerfdSettime(w.timer, unix.TFD_TIMER_ABSTIME, &spec, nil)
}

// retire leaves a place to the thread of Next, which may be reading it.
func (w *Watcher) retire(p *place) {
	if p == nil {
		return
	}
	select {
	case w.retired <- p:
	default:
		w.log.Debug().Str("cgroup", p.path).Msg("left open: nobody looks")
	}
}

// bury closes the places that no wire is at any more.
func (w *Watcher) bury() {
	for {
		select {
		case p := <-w.retired:
			p.figures.Close()
		default:
			return
		}
	}
}
