package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
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
	// Tier forces how wires are watched, one of Tiers; "" is the best that can be had.
	Tier string
	// Lock is the host file that one agent holds; DefaultLock when empty.
	Lock string
	// Ready is called when the agent watches.
	Ready func()
	// Alive, when set, is called by the hot thread about once a second. It must neither wait
	// nor allocate.
	Alive func()
	// Drills brings the results of the drills that are held at start and on a timer, by a
	// keeper that the caller has started; may be nil.
	Drills <-chan drill.Result
	// Reload brings configurations that replace Config while the agent runs; may be nil.
	Reload <-chan *config.Config
	// Renew is asked when BPF can be had after a start without: true has Run end with ErrRenew,
	// and the caller starts it anew. nil: never.
	Renew func() bool
	Log   zerolog.Logger

	onStage func(stage) // tests stop the agent there
}

// DefaultLock is held by the one agent of a node.
const DefaultLock = "/run/ebpf-evict/agent.lock"

// ErrRunning means that another agent holds the lock.
var ErrRunning = errors.New("another agent runs on this node")

// Run watches until ctx is done, then detaches and unpins everything. It returns an error
// of its own kind for a bad root (ErrNoRoot), a second agent (ErrRunning), a tier that the
// configuration does not put up with (ErrTier), when it could do better now (ErrRenew), and what loader.Open returns where nothing can
// do without.
func Run(ctx context.Context, o Options) error {
	lock, err := workload.Lock(orText(o.Lock, DefaultLock))
	if errors.Is(err, workload.ErrLocked) {
		return fmt.Errorf("%w: %w", ErrRunning, err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	refuseHugePages(o.Log)
	calm := hurry()
	a, p, err := open(ctx, o)
	_ = calm() // a higher nice value is refused to nobody
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

// open makes an agent of a plan. Errors of the plan come first: nothing is loaded then.
func open(ctx context.Context, o Options) (*Agent, *plan, error) {
	c := o.Config
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		return nil, nil, err
	}
	a := &Agent{
		mode: c.Mode, shadow: c.Mode != config.ModeEnforce, log: o.Log, state: c.State,
		fs: fs, proc: signal.NewProc("/proc"), onStage: o.onStage, alive: orNothing(o.Alive),
		fillPerSecond: c.MaxFillBytesPerSecond, stopDisks: func() {}, apart: isApart(),
	}
	if !c.Hugepages {
		a.proc = a.proc.IgnoreHugepages()
	}
	if a.fillPerSecond <= 0 {
		a.fillPerSecond = loader.DefaultFillBytesPerSecond * int64(runtime.NumCPU())
	}
	hostname, _ := os.Hostname()
	a.node = cmp.Or(os.Getenv("NODE_NAME"), hostname) // in a container the second is the pod's
	a.input.Observations = make([]signal.Observation, 0, decide.MaxBounds)
	a.input.Dying = make([]decide.Dying, 0, maxOpen+maxUnreaped)
	a.crossings = make(crossings, 0, 2*decide.MaxBounds) // two CPUs may report one at once
	a.entropy = record.Entropy()
	a.backstop.init()
	p, err := a.plan(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if a.kernel, err = openKernel(o, fs); err != nil {
		return nil, nil, err
	}
	if err := isEnough(a.kernel, c, p.settings.Bounds); err != nil {
		return nil, nil, errors.Join(err, a.kernel.Close())
	}
	if err := a.build(ctx, o, p); err != nil {
		return nil, nil, errors.Join(err, a.close())
	}
	return a, p, nil
}

func orNothing(f func()) func() {
	if f == nil {
		return func() {}
	}
	return f
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
	victims, err := a.takeOver(fs, c.Journal)
	if err != nil {
		return err
	}
	margin := c.MarginBytes
	if margin <= 0 {
		margin = loader.DefaultMarginBytes
	}
	a.wires = &wires{kernel: a.kernel, roots: p.roots}
	a.scout = &scout{
		fs: fs, kernel: a.kernel, proc: a.proc, wires: a.wires, log: o.Log, nearness: nearness{margin: margin},
		scanner: workload.NewScanner(workload.Options{
			FS: fs, Roots: p.roots, SelfPIDs: selfPIDs(),
			TablePath: c.Workloads, TableUID: c.TableOwner, NodeName: os.Getenv("NODE_NAME"), NodeMemoryBytes: node.MemTotalBytes, Procfs: "/proc",
		}),
		wake: a.wake, alarms: make(chan alarm, 16), kicks: make(chan struct{}, 1), met: make(chan *unit, 4*maxGuests),
		known: newKnown(), fills: map[uint64]*fill{},
	}
	a.reclaim.path = c.Reclaim
	a.scout.changes.open(o.Log)
	a.scene, a.reader = newScene(a.kernel.Rows()), a.scout.scanner.NewReader()
	if a.poller, err = newPoller(a.kernel.CrossingsFD()); err != nil {
		return err
	}
	if k, ok := a.kernel.(*hooked); ok {
		k.enter = a.poller.watch
	}
	a.rehearsals = a.openRehearsals(c.State)
	a.observeDisks(ctx, p)
	if err := a.take(p); err != nil {
		return err
	}
	a.scout.lookForFigures(watchFigures(c.Disk)) // or the first pass would refuse for want of any
	if err := a.scout.round(false); err != nil {
		return err
	}
	a.inherit(victims, sample.Now())
	return nil
}

// openKernel loads the BPF programs, or opens what can do without them.
func openKernel(o Options, fs *cgroupfs.FS) (kernel, error) {
	why := fmt.Errorf("the tier %s was asked for", o.Tier)
	if o.Tier == "" || !isReading(o.Tier) {
		k, err := openHooked(o, fs)
		if err == nil {
			return k, nil
		}
		if o.Tier != "" {
			return nil, fmt.Errorf("%w: %s: %w", ErrForced, o.Tier, err)
		}
		if errors.Is(err, loader.ErrPrivilege) && !mayKill() {
			return nil, err
		}
		why = err
	}
	return openLesser(o, fs, why)
}

// mayKill reports whether processes of any user can be killed: who lacks that as well can
// evict nobody. The root of a user namespace lacks it, whatever its capabilities say.
func mayKill() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || !slices.Equal(strings.Fields(string(ids)), []string{"0", "0", "4294967295"}) {
		return false
	}
	var caps [2]unix.CapUserData
	err = unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0])
	return err == nil && caps[0].Effective&(1<<unix.CAP_KILL) != 0
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

// errDisk means that the lines of some evictions could not be written in time. Their
// intents stay pinned for the next start.
var errDisk = errors.New("the disk of the journal or state file does not answer; what is not recorded is left to the next start")

func (a *Agent) close() error {
	if a.poller != nil {
		defer a.poller.close()
	}
	errs := []error{a.closeFiles(), a.rehearsals.close()}
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
