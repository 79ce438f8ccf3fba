package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Options are what Run needs beside the configuration.
type Options struct {
	Config *config.Config
	// PinDir is where maps are pinned for bpftool; "" for none.
	PinDir string
	// Lock is the host file that one agent holds; DefaultLock when empty.
	Lock string
	// Ready is called when the agent watches.
	Ready func()
	// Reload brings configurations that replace Config while the agent runs; may be nil.
	Reload <-chan *config.Config
	Log    zerolog.Logger

	onStage func(stage) // tests stop the agent there
}

// DefaultLock is held by the one agent of a node.
const DefaultLock = "/run/ebpf-evict/agent.lock"

// Errors of Run that are no failure but a refusal.
var ErrRunning = errors.New("another agent runs on this node")

// Agent is one running agent. All fields belong to the hot thread unless they say else.
type Agent struct {
	kernel   *loader.Loader
	scout    *scout
	wires    *wires
	recorder *recorder
	poller   *poller
	fs       *cgroupfs.FS
	proc     signal.Proc
	log      zerolog.Logger
	onStage  func(stage)

	node, mode    string
	shadow        bool
	fillPerSecond int64

	settings   decide.Settings
	disks      *signal.Disks // nil where no threshold is about one
	stopDisks  context.CancelFunc
	pending    atomic.Pointer[plan] // from any goroutine
	memory     decide.Memory
	conditions decide.Conditions
	input      decide.Input
	guards     [decide.MaxBounds]signal.Guard
	fills      [decide.MaxBounds]fill // of what is used of each signal, a second apart
	scene      *scene

	open      [maxOpen]eviction
	shadowMet [decide.MaxBounds]bool
	refused   [decide.MaxBounds]decide.Reason
	entropy   [10]byte
	crossings crossings // of this turn
	leaving   bool      // no new eviction; those under way are closed as they are

	blind   [decide.MaxBounds]blindness
	viewed  time.Time
	state   string
	stateMu sync.Mutex // one writer of the state file at a time
}

const reasonFull decide.Reason = "too many evictions under way"

// overdue is how long a victim holds up the next one: 1 GiB is back in 65 to 235 ms.
const overdue = 5 * time.Second

// Run watches until ctx is done, then detaches and unpins everything. It returns an error
// of its own kind for a bad root (ErrNoRoot), a second agent (ErrRunning), and what
// loader.Open returns.
func Run(ctx context.Context, o Options) error {
	lock, err := takeLock(orText(o.Lock, DefaultLock))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, p, err := open(ctx, o)
	if err != nil {
		return err
	}
	err = a.watch(ctx, o, p)
	return errors.Join(err, a.close())
}

func orText(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// takeLock makes sure that one agent runs. The kernel gives the lock back when it dies.
func takeLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		return nil, errors.Join(fmt.Errorf("%w: pid %s holds %s", ErrRunning, strings.TrimSpace(string(holder[:n])), path), f.Close())
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintln(os.Getpid()))); err != nil {
		return nil, errors.Join(fmt.Errorf("write the lock file: %w", err), f.Close())
	}
	return f, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// open makes an agent of a plan. Errors of the plan come first: nothing is loaded then.
func open(ctx context.Context, o Options) (*Agent, *plan, error) {
	c := o.Config
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		return nil, nil, err
	}
	a := &Agent{
		mode: c.Mode, shadow: c.Mode != config.ModeEnforce, log: o.Log, state: c.State,
		fs: fs, proc: signal.NewProc("/proc"), onStage: o.onStage,
		fillPerSecond: c.MaxFillBytesPerSecond, stopDisks: func() {},
	}
	if !c.Hugepages {
		a.proc = a.proc.IgnoreHugepages()
	}
	if a.fillPerSecond <= 0 {
		a.fillPerSecond = loader.DefaultFillBytesPerSecond * int64(runtime.NumCPU())
	}
	a.node, _ = os.Hostname()
	a.input.Observations = make([]signal.Observation, 0, decide.MaxBounds)
	a.input.Dying = make([]decide.Dying, 0, maxOpen)
	a.crossings = make(crossings, 0, 2*decide.MaxBounds) // two CPUs may report one at once
	a.nextEntropy()
	p, err := a.plan(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if a.kernel, err = loader.Open(loader.Options{
		PinDir: o.PinDir, FillBytesPerSecond: c.MaxFillBytesPerSecond, MarginBytes: c.MarginBytes, Log: o.Log,
	}); err != nil {
		return nil, nil, err
	}
	if err := a.build(ctx, o, p); err != nil {
		return nil, nil, errors.Join(err, a.close())
	}
	return a, p, nil
}

func (a *Agent) build(ctx context.Context, o Options, p *plan) (err error) {
	c, fs := o.Config, a.fs
	node, err := a.proc.Node()
	if err != nil {
		return err
	}
	if err := a.kernel.SetLimits(signal.MemoryCapacityOf(node), node.TasksMax); err != nil {
		return err
	}
	journal, err := record.OpenJournal(c.Journal, record.JournalOptions{})
	if err != nil {
		return err
	}
	a.recorder = startRecorder(journal, o.Log, a.lineWritten())
	if err := a.takeOver(fs, c.Journal); err != nil {
		return err
	}
	margin := c.MarginBytes
	if margin <= 0 {
		margin = loader.DefaultMarginBytes
	}
	a.wires = &wires{kernel: a.kernel, roots: p.roots}
	a.scout = &scout{
		fs: fs, kernel: a.kernel, proc: a.proc, wires: a.wires, log: o.Log, margin: margin,
		scanner: workload.NewScanner(workload.Options{
			FS: fs, Roots: p.roots, SelfPIDs: selfPIDs(),
			TablePath: c.Workloads, TableUID: c.TableOwner, NodeMemoryBytes: node.MemTotalBytes, Procfs: "/proc",
		}),
		kicks: make(chan struct{}, 1), handles: map[workload.Identity]*actuator.Handle{}, fills: map[uint64]*fill{},
	}
	if a.poller, err = newPoller(a.kernel.CrossingsFD()); err != nil {
		return err
	}
	a.observeDisks(ctx, p)
	if err := a.take(p); err != nil {
		return err
	}
	return a.scout.round(false)
}

// lineWritten is the recorder's hook for the stages at which a line is in the journal.
func (a *Agent) lineWritten() func(*record.Line) {
	if a.onStage == nil {
		return nil
	}
	return func(l *record.Line) {
		switch l.Kind {
		case record.KindKill:
			a.at(stageKillLine)
		case record.KindEviction:
			a.at(stageClosed)
		}
	}
}

// watch is the life of the agent. The hot thread is this goroutine's.
func (a *Agent) watch(ctx context.Context, o Options, p *plan) error {
	runtime.LockOSThread() // never unlocked: the thread's priority must not leak to others
	settle(a.log)
	raise(a.log)
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() { a.scout.run(ctx) })
	others.Go(func() { a.scout.listen(ctx) })
	others.Go(func() { a.scout.readFigures(ctx, o.Config.Disk) })
	others.Go(func() { a.keepUp(ctx, p, o.Reload) })
	others.Go(func() { <-ctx.Done(); a.poller.wake() })
	defer others.Wait()
	defer cancel()
	a.recorder.send(&record.Line{Kind: record.KindStart, Node: a.node, Mode: a.mode}, nil)
	if o.Ready != nil {
		o.Ready()
	}
	for ctx.Err() == nil {
		a.poller.wait(a.patience())
		if err := a.turn(now()); err != nil {
			return err
		}
	}
	a.leave()
	a.recorder.send(&record.Line{Kind: record.KindStop, Node: a.node, Mode: a.mode}, nil)
	return nil
}

// farewell is how long an agent that ends waits for its last victims to die, and as long
// again for the disk: it is to be gone within a second.
const farewell = 400 * time.Millisecond

// leave closes the evictions that are under way, and starts none.
func (a *Agent) leave() {
	a.leaving = true
	for end := time.Now().Add(farewell); a.following() && time.Now().Before(end); {
		a.poller.wait(followTick)
		a.observe()
		a.follow()
	}
	for i := range a.open {
		if e := &a.open[i]; e.used && !e.recorded {
			a.closeEviction(e)
		}
	}
}

// turn takes what is in the ring buffer and makes one pass; without a crossing the pass is
// the clock's.
func (a *Agent) turn(wokeNs uint64) error {
	if p := a.pending.Swap(nil); p != nil {
		if err := a.take(p); err != nil {
			return err
		}
	}
	a.crossings = a.crossings[:0]
	for {
		var s sample.Sample
		ok, err := a.kernel.Next(&s)
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		if !ok {
			break
		}
		switch {
		case s.Kind == sample.KindArm:
			a.scout.kick() // it attaches the hook; the timer stands in meanwhile
		case s.Kind == sample.KindCrossing && len(a.crossings) < cap(a.crossings):
			a.crossings = append(a.crossings, s)
		}
	}
	if len(a.crossings) > 0 {
		a.at(stageWoke)
	}
	a.pass(a.crossings, wokeNs)
	a.idle()
	return nil
}

// crossings are the records that woke us, oldest first; none when the clock did.
type crossings []sample.Sample

// of returns the crossing of a wire's sequence, nil when that is none of them.
func (c crossings) of(wire int, seq uint64) *sample.Sample {
	for i := range c {
		if c[i].Wire == wire && c[i].Seq == seq {
			return &c[i]
		}
	}
	return nil
}

const (
	// followTick is how often an open eviction is looked at: dead and recovered are known
	// to that.
	followTick = time.Millisecond
	// nearTick and farTick catch what no event told: a lost record, a limit that moved.
	nearTick = 50 * time.Millisecond
	farTick  = time.Second
)

func (a *Agent) patience() time.Duration {
	switch {
	case a.following():
		return followTick
	case a.wires.near.Load():
		return nearTick
	}
	return farTick
}

func (a *Agent) anyStranger(c crossings) bool {
	for i := range c {
		if a.isStranger(&c[i]) {
			return true
		}
	}
	return false
}

// isStranger reports whether a crossing comes from a cgroup below a root that no handle of
// the scene would kill: a unit, or a container of a known pod, that is younger than the
// scene; or from a victim's that is dead, which so has somebody else in it.
func (a *Agent) isStranger(s *sample.Sample) bool {
	if s.CSSID == 0 || s.By == sample.ObserverTimer {
		return false
	}
	controller, known := loader.Memory, a.scene.knownMemory
	if s.By == sample.ObserverTask {
		controller, known = loader.Pids, a.scene.knownPids
	}
	stranger := false
	a.kernel.Climb(controller, s.CSSID, func(id uint64) bool {
		if _, ok := known[id]; ok {
			stranger = a.isDead(controller, id)
			return false
		}
		stranger = a.isRoot(id)
		return !stranger
	})
	return stranger && s.CgroupID != 0 && !a.isRoot(s.CgroupID)
}

func (a *Agent) isDead(c loader.Controller, id uint64) bool {
	for i := range a.open {
		e := &a.open[i]
		for t := range e.targets {
			of := e.targets[t].id
			if e.used && e.timeline.Dead != 0 && (c == loader.Memory && of.MemoryID == id || c == loader.Pids && of.PidsID == id) {
				return !e.revived
			}
		}
	}
	return false
}

func (a *Agent) isRoot(id uint64) bool {
	for i := range a.scene.roots {
		if r := &a.scene.roots[i]; id == r.id.MemoryID || id == r.id.PidsID {
			return true
		}
	}
	return false
}

// rearm lets the wires of bounds that are not met fire again. Without data a wire stays as
// it is: the kernel, which has some, would fire it at once, and again.
func (a *Agent) rearm(d *decide.Decision) {
	for i, number := range a.wires.number {
		if number == noWire || d.Met[i] || a.observed(&a.settings.Bounds[i]) == nil {
			continue
		}
		if seq, fired := a.kernel.WireSeq(number); seq != 0 && fired >= seq {
			a.kernel.ArmWire(number)
		}
		a.shadowMet[i] = false
		a.refused[i] = ""
	}
}

// report records a refusal, once for each time and reason.
func (a *Agent) report(d *decide.Decision) {
	if d.Verdict != decide.Refuse || a.refused[d.Bound] == d.Reason {
		return
	}
	a.refused[d.Bound] = d.Reason
	b := &a.settings.Bounds[d.Bound]
	a.log.Error().Str("signal", string(b.Signal)).Int64("available", d.Observed.Available).
		Str("reason", string(d.Reason)).Msg("threshold met, and nobody is killed")
	a.recorder.send(&record.Line{
		Kind: record.KindEviction, ID: record.MakeID(uint64(time.Now().UnixMilli()), record.Entropy()),
		Node: a.node, Mode: a.mode, Signal: string(b.Signal),
		Threshold: &record.Threshold{Signal: string(b.Signal), Hard: b.Hard(), Value: b.Value.Text},
		Observed:  &record.Observed{Available: d.Observed.Available, Capacity: d.Observed.Capacity},
		Ranked:    a.ranked(d), Outcome: record.OutcomeRefused, Reason: string(d.Reason), By: record.ByAgent,
	}, nil)
}

func (a *Agent) wake() { a.poller.wake() }

func (a *Agent) nextEntropy() { a.entropy = record.Entropy() }

// idle does what has time: the state file once a second, and a collection while every wire
// is far.
func (a *Agent) idle() {
	if time.Since(a.viewed) < time.Second {
		return
	}
	a.viewed = time.Now()
	a.confess()
	state, units := a.view(), slices.Clone(a.scene.workloads)
	go a.writeState(state, units)
	if !a.wires.near.Load() && !a.following() {
		var m runtime.MemStats
		if runtime.ReadMemStats(&m); m.HeapAlloc > collectAbove {
			go debug.FreeOSMemory()
		}
	}
}

func (a *Agent) writeState(s *record.State, units []workload.Workload) {
	if !a.stateMu.TryLock() {
		return // the disk is slow; the next one will do
	}
	defer a.stateMu.Unlock()
	if len(a.settings.Bounds) > 0 {
		s.Ranking = a.ranking(&a.settings.Bounds[0], units)
	}
	if err := record.WriteState(a.state, s); err != nil {
		a.log.Warn().Err(err).Msg("state file not written")
	}
}

// errDisk means that the lines of some evictions could not be written in time. Their
// intents stay pinned for the next start.
var errDisk = errors.New("the disk of the journal or state file does not answer; what is not recorded is left to the next start")

func (a *Agent) close() error {
	if a.poller != nil {
		defer a.poller.close()
	}
	errs := []error{a.closeFiles()}
	if a.scout != nil {
		a.scout.shut()
	}
	return errors.Join(append(errs, a.kernel.Close())...)
}

// closeFiles writes what is queued, and does not wait for a disk that hangs.
func (a *Agent) closeFiles() error {
	done := make(chan error, 1)
	go func() {
		var err error
		if a.recorder != nil {
			err = a.recorder.close()
		}
		if a.state != "" {
			a.stateMu.Lock()
			defer a.stateMu.Unlock()
			_ = os.Remove(a.state)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(farewell):
		return errDisk
	}
}
