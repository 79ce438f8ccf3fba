package loader

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
)

// Options say how the kernel shall watch.
type Options struct {
	// PinDir is where counters, statistics and intents are pinned; "" pins nothing.
	// Its parent must be a bpffs, or is mounted as one.
	PinDir string
	// BTF is a file with this kernel's types, a copy of KernelBTF or an ELF file with them,
	// for where the kernel's own are hidden; "" where they are not. A kernel that was built
	// without takes no hook of ours whatever the file says.
	BTF string
	// FillBytesPerSecond bounds how fast this machine can fill memory. Default
	// DefaultFillBytesPerSecond for each CPU.
	FillBytesPerSecond int64
	// MarginBytes: nearer than this to a memory wire the allocation hook is attached.
	// Default DefaultMarginBytes.
	MarginBytes int64
	// DeltaBytes: a cgroup that moved by this much is reported. Default 8 MiB.
	DeltaBytes int64
	// MemoryTier is TierCharge or TierAlloc, and an error where the kernel refuses it; "" is
	// the best that the kernel takes.
	MemoryTier string
	// RaiseTicker is called on the thread that compares the wires where the kernel has no
	// timer for it (before 5.15), to give it a priority; may be nil.
	RaiseTicker func()
	Log         zerolog.Logger

	able *able // tests pretend; else what is found by trying
}

const (
	// DefaultFillBytesPerSecond is what one CPU can fill at most: 11 GB/s was measured
	// with transparent huge pages by MADV_POPULATE_WRITE, five times a 4 KiB touch loop.
	DefaultFillBytesPerSecond = 11_000_000_000
	// DefaultMarginBytes covers the 20 ms that attaching the hook may have to wait for
	// RCU, at 22 GB/s.
	DefaultMarginBytes = 512 << 20
	defaultDeltaBytes  = 8 << 20
)

// ErrPrivilege means that the kernel refuses BPF to this process.
var ErrPrivilege = errors.New("no permission to load BPF programs: run as root of the host, or with CAP_BPF and CAP_PERFMON (and CAP_SYS_RESOURCE before 5.11)")

// Loader is the loaded set of programs. Methods may be called from several goroutines,
// except those that say whom they are for.
type Loader struct {
	objs      gen.EvictObjects
	task      link.Link
	crossings *ring
	deltas    *ring
	pins      *pins
	page      int64
	log       zerolog.Logger

	node      mapping[gen.EvictNodeRow]
	memory    mapping[gen.EvictCgroupRow]
	pids      mapping[gen.EvictCgroupRow]
	wires     mapping[gen.EvictWire]
	intents   mapping[gen.EvictIntent]
	nominees  mapping[gen.EvictNominee]
	condemned []gen.EvictCondemned
	backstop  *gen.EvictBackstop
	can       able
	ticker    *ticker // nil where the kernel has a timer
	unmap     map[*ebpf.Map]func() error
	counts    wireCounts

	hookMu    sync.Mutex // may be held for 20 ms
	hook      link.Link
	hookTurns uint32 // odd while it is attached
	armed     atomic.Bool

	charge        link.Link
	chargeProgram *ebpf.Program
	chargeMaps    map[string]*ebpf.Map // what it is loaded over
	charged       atomic.Bool
	chargeRefused error

	options Options
	// sections has the maps of the object's sections.
	sections *ebpf.Collection

	// memTotalPages and tasksMax mirror the BPF globals for Look.
	memTotalPages, tasksMax atomic.Int64

	lookRun, refreshRun, hotWalkRun testRun

	walkMu           sync.Mutex
	walkRun, helpRun testRun

	stale []Intent
	// Malformed counts records that did not have the size and kind of a record.
	malformed atomic.Uint64
}

// Open loads the programs, finds the node's counters, attaches task:task_newtask and
// starts the far timer, in the kernel or, before 5.15, on a thread. The allocation hook
// stays off until Arm. Errors: ErrNoBTF, ErrForeignBTF, ErrPrivilege, ErrLockdown, and
// *ebpf.VerifierError (print it once with %+v).
func Open(o Options) (*Loader, error) {
	types, err := loadTypes(o.BTF)
	if err != nil {
		return nil, err
	}
	raiseMemlock(o.Log)
	can, err := abilities(o, types)
	if err != nil {
		return nil, err
	}
	l := &Loader{page: int64(os.Getpagesize()), log: o.Log, can: can, options: o, unmap: map[*ebpf.Map]func() error{}}
	rest, charge, err := l.specs()
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(rest, types.options())
	if err != nil {
		return nil, explain(err)
	}
	l.sections, l.chargeMaps = coll, maps.Clone(coll.Maps) // Assign takes all but the sections' maps
	if err := coll.Assign(&l.objs); err != nil {
		coll.Close()
		return nil, fmt.Errorf("assign the BPF object: %w", err)
	}
	if err := l.openAll(coll, o); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := l.openCharge(charge, types); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// specs are what this kernel takes of the object: the charge hook alone, and the rest.
func (l *Loader) specs() (rest, charge *ebpf.CollectionSpec, err error) {
	if rest, err = spec(l.options); err != nil {
		return nil, nil, err
	}
	if err := l.can.trim(rest); err != nil {
		return nil, nil, err
	}
	charge, err = takeCharge(rest)
	return rest, charge, err
}

func spec(o Options) (*ebpf.CollectionSpec, error) {
	spec, err := gen.LoadEvict()
	if err != nil {
		return nil, fmt.Errorf("read the embedded BPF object: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	ids, err := numaIDs("/sys/devices/system/node/possible")
	if err != nil {
		return nil, err
	}
	spec.Maps[gen.EvictMapLookouts].MaxEntries = uint32(cpus)
	page := int64(os.Getpagesize())
	for name, value := range map[string]any{
		gen.EvictVarPossibleCpus:          uint32(cpus),
		gen.EvictVarNumaIds:               int32(ids),
		gen.EvictVarDeltaPages:            orDefault(o.DeltaBytes, defaultDeltaBytes) / page,
		gen.EvictVarMaxFillPagesPerSecond: orDefault(o.FillBytesPerSecond, DefaultFillBytesPerSecond*int64(runtime.NumCPU())) / page,
		gen.EvictVarMarginPages:           orDefault(o.MarginBytes, DefaultMarginBytes) / page,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	return spec, nil
}

func (l *Loader) openAll(coll *ebpf.Collection, o Options) error {
	if err := l.mapTables(coll); err != nil {
		return err
	}
	return l.start(o)
}

func (l *Loader) start(o Options) error {
	l.lookRun = newTestRun(l.objs.Look.FD())
	l.refreshRun = newTestRun(l.objs.Refresh.FD())
	l.helpRun = newTestRun(l.objs.Refresh.FD())
	l.walkRun, l.hotWalkRun = newTestRun(l.objs.Walk.FD()), newTestRun(l.objs.Walk.FD())
	err := l.learn()
	if err == nil && o.BTF != "" {
		err = fits(l.Node())
	}
	if err != nil {
		return err
	}
	if err := l.prepareTimers(o); err != nil { // before a hook runs
		return err
	}
	if l.crossings, err = openRing(l.objs.Crossings); err != nil {
		return fmt.Errorf("open the crossings ring buffer: %w", err)
	}
	if l.deltas, err = openRing(l.objs.Deltas); err != nil {
		return fmt.Errorf("open the deltas ring buffer: %w", err)
	}
	if l.task, err = link.AttachTracing(link.TracingOptions{Program: l.objs.Newtask}); err != nil {
		return fmt.Errorf("attach task:task_newtask: %w", explain(err))
	}
	if err := l.Tick(); err != nil {
		return fmt.Errorf("start the far timer: %w", err)
	}
	if o.PinDir == "" {
		return nil
	}
	l.adopt(staleIntents(filepath.Join(o.PinDir, gen.EvictMapIntents)))
	l.pins, err = pinAll(o.PinDir, map[string]*ebpf.Map{
		gen.EvictMapNode:          l.objs.Node,
		gen.EvictMapMemoryCgroups: l.objs.MemoryCgroups,
		gen.EvictMapPidsCgroups:   l.objs.PidsCgroups,
		gen.EvictMapIntents:       l.objs.Intents,
	})
	return err
}

// prepareTimers has what can tick, the kernel or a thread of ours, ready for Tick.
func (l *Loader) prepareTimers(o Options) (err error) {
	if !l.can.timers {
		l.ticker, err = startTicker(newTestRun(l.objs.Tick.FD()), o.RaiseTicker, o.Log)
		return err
	}
	if err := runOnce(l.objs.InitBackstop.FD()); err != nil {
		return fmt.Errorf("prepare the backstop's timers: %w", err)
	}
	return l.startLookouts()
}

// condemnedSection is where bpf/condemned.h keeps its words.
const condemnedSection = ".data.condemned"

func (l *Loader) mapTables(coll *ebpf.Collection) error {
	var errs []error
	mapOne := func(m *ebpf.Map) []byte {
		mem, unmap, err := mapMemory(m)
		if err != nil {
			errs = append(errs, err)
			return nil
		}
		l.unmap[m] = unmap
		return mem
	}
	l.node = overlay[gen.EvictNodeRow](mapOne(l.objs.Node))
	l.memory = overlay[gen.EvictCgroupRow](mapOne(l.objs.MemoryCgroups))
	l.pids = overlay[gen.EvictCgroupRow](mapOne(l.objs.PidsCgroups))
	l.wires = overlay[gen.EvictWire](mapOne(l.objs.Wires))
	l.intents = overlay[gen.EvictIntent](mapOne(l.objs.Intents))
	l.nominees = overlay[gen.EvictNominee](mapOne(l.objs.Nominees))
	l.backstop = mapBackstop(mapOne(coll.Maps[backstopSection]))
	l.condemned = overlaySlice[gen.EvictCondemned](mapOne(coll.Maps[condemnedSection]), maxCondemned)
	return errors.Join(errs...)
}

// Close stops the timer, detaches the hooks and removes the pins. The kernel does all but
// the last by itself when the process dies. Intents that are not freed stay pinned for the
// next start, and mapped, should whoever is to free them still come to it.
func (l *Loader) Close() error {
	errs := []error{l.Disarm()}
	if l.ticker != nil {
		errs = append(errs, l.ticker.Close())
		l.ticker = nil
	}
	for _, hook := range []link.Link{l.task, l.charge} {
		if hook != nil {
			errs = append(errs, hook.Close())
		}
	}
	errs = append(errs, l.chargeProgram.Close())
	for _, r := range []*ring{l.crossings, l.deltas} {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	l.crossings, l.deltas = nil, nil
	open := l.openIntents()
	if l.pins != nil {
		errs = append(errs, l.pins.remove(open))
	}
	for m, unmap := range l.unmap {
		if m != l.objs.Intents || !open {
			errs = append(errs, unmap())
			delete(l.unmap, m)
		}
	}
	l.sections.Close()
	return errors.Join(append(errs, l.objs.Close())...)
}

// StaleIntents are the intents that a former agent left open. They are this agent's now:
// free each slot when its journal lines are written, and should that not come to pass, the
// next start finds them again.
func (l *Loader) StaleIntents() []Intent { return l.stale }

// SetLimits tells the kernel side how large the node is. Call it at start and at each far
// tick: balloons, hotplug and sysctls move it.
func (l *Loader) SetLimits(memTotalBytes, tasksMax int64) error {
	former := l.memTotalPages.Swap(memTotalBytes / l.page)
	l.tasksMax.Store(tasksMax)
	var err error
	if former != memTotalBytes/l.page {
		err = l.learn() // a sum without a node that has memory would hide that memory runs out
	}
	return errors.Join(err,
		l.objs.MemTotalPages.Set(memTotalBytes/l.page),
		l.objs.TasksMax.Set(tasksMax))
}

// explain turns cilium's errors into ours; its hint at MEMLOCK misleads above 5.11.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) && !errors.Is(err, unix.EPERM) { // the verifier itself says EACCES or EINVAL
		return lockedDown(withVerdict(err))
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (%w)", ErrPrivilege, err)
	}
	return err
}

// numaIDs reads how many NUMA node ids there may be.
//
//	0-1
func numaIDs(path string) (int, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 1, nil // a kernel without CONFIG_NUMA
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	text := strings.TrimSpace(string(b))
	last := text[strings.LastIndexAny(text, ",-")+1:]
	n, err := strconv.Atoi(last)
	if err != nil || n < 0 || n >= math.MaxInt16 {
		return 0, fmt.Errorf("read %s: %q is no node list", path, text)
	}
	return n + 1, nil
}

func orDefault(v, fallback int64) int64 {
	if v > 0 {
		return v
	}
	return fallback
}

// DefaultPinDir is where bpftool finds the agent's maps.
var DefaultPinDir = filepath.Join(bpffs, "ebpf-evict")
