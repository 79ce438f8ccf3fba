package loader

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// testRunAttr is the part of union bpf_attr that BPF_PROG_TEST_RUN reads
// (include/uapi/linux/bpf.h).
type testRunAttr struct {
	progFD, retval          uint32
	dataSizeIn, dataSizeOut uint32
	dataIn, dataOut         uint64
	repeat, duration        uint32
	ctxSizeIn, ctxSizeOut   uint32
	ctxIn, ctxOut           uint64
	flags, cpu              uint32
	batchSize, _            uint32
}

const cmdTestRun = 10 // BPF_PROG_TEST_RUN

// testRun is a prepared run of a program: a run allocates nothing. Not for two goroutines
// at once.
type testRun struct {
	attr *testRunAttr
	args *[8]uint64
}

func newTestRun(fd int) testRun {
	r := testRun{attr: new(testRunAttr), args: new([8]uint64)}
	r.attr.progFD = uint32(fd)
	r.attr.ctxIn = uint64(uintptr(unsafe.Pointer(r.args)))
	r.attr.ctxSizeIn = uint32(unsafe.Sizeof(*r.args))
	return r
}

// run returns the program's return value.
func (r testRun) run() (uint32, error) {
	_, _, errno := unix.Syscall(unix.SYS_BPF, cmdTestRun, uintptr(unsafe.Pointer(r.attr)), unsafe.Sizeof(*r.attr))
	runtime.KeepAlive(r.args)
	if errno != 0 {
		return 0, errno
	}
	return r.attr.retval, nil
}

// runOnce runs a syscall program, which takes no context.
func runOnce(fd int) error {
	r := newTestRun(fd)
	r.attr.ctxIn, r.attr.ctxSizeIn = 0, 0
	ret, err := r.run()
	if err == nil && ret != 0 {
		err = fmt.Errorf("the program returned %d", int32(ret))
	}
	return err
}

// Tick has the far timer, or who stands in for it, compare all wires at once, and takes its next tick from what it
// finds. Call it when a wire was placed: the timer may be asleep for a second more.
func (l *Loader) Tick() error {
	if l.ticker != nil {
		return l.ticker.Tick()
	}
	if err := runOnce(l.objs.StartFarTimer.FD()); err != nil {
		return fmt.Errorf("have the far timer look: %w", err)
	}
	return nil
}

// farAsks is FAR_ASKS of bpf/far.h.
const farAsks = 1 << 31

// FarView is what the far timer knows beside the distance, enum far_flag of bpf/far.h.
type FarView uint64

const (
	HookSeen       FarView = 1 << iota // the allocation hook runs
	ChargeHook                         // so does the charge hook
	UnchargedGrows                     // memory that nobody is charged for
)

// PlanTick says what the far timer does when the nearest memory wire is so many bytes away
// and it has asked for the allocation hook so long ago: when it looks again, and whether it
// asks. For tests.
func (l *Loader) PlanTick(distance int64, view FarView, asked time.Duration) (next time.Duration, ask bool, err error) {
	r := newTestRun(l.objs.PlanTick.FD())
	r.args[0], r.args[1], r.args[2] = uint64(distance/l.page), uint64(view), uint64(asked)
	ret, err := r.run()
	return time.Duration(ret &^ farAsks), ret&farAsks != 0, err
}

var errNotFound = errors.New("the task's memory cgroup leads to no NUMA node, or to more than 16 that have memory: is the memory controller disabled (cgroup_disable=memory)?")

func (l *Loader) learn() error {
	ret, err := newTestRun(l.objs.Learn.FD()).run()
	if err == nil && ret != 0 {
		err = errNotFound
	}
	if err != nil {
		return fmt.Errorf("find the node's counters: %w", err)
	}
	return nil
}

// Look reads the node's counters now: one system call of about 7 µs, no text, no
// allocation. For the hot thread.
func (l *Loader) Look() (sample.Node, error) {
	if _, err := l.lookRun.run(); err != nil {
		return sample.Node{}, fmt.Errorf("run the look program: %w", err)
	}
	return l.Node(), nil
}

// SignalsSent counts the tasks of condemned cgroups that got SIGKILL in a hook.
func (l *Loader) SignalsSent() uint64 { return atomic.LoadUint64(&l.node.at(0).SignalsSent) }

// Node returns the counters as they were read last, by whom ever.
func (l *Loader) Node() sample.Node {
	n := l.node.at(0)
	return sample.Node{
		Ns:                 n.UpdatedNs,
		MemTotalBytes:      l.memTotalPages.Load() * l.page,
		AnonBytes:          n.AnonPages * l.page,
		FileBytes:          n.FilePages * l.page,
		InactiveFileBytes:  n.InactiveFilePages * l.page,
		Tasks:              n.Tasks,
		TasksMax:           l.tasksMax.Load(),
		MemoryChecks:       n.MemoryChecks,
		Charges:            n.Charges,
		ForeignCharges:     n.ForeignCharges,
		UnchargedNs:        atomic.LoadUint64(&n.UnchargedNs),
		TaskChecks:         n.TaskChecks,
		LostSamples:        n.LostSamples,
		LostCrossings:      n.LostCrossings,
		CrossingsPublished: n.Crossings,
	}
}
