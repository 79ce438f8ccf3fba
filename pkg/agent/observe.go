package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// observe fills input.Observations with every signal that some bound asks for, and reads one
// unit of the scene with them; -1: none. A signal that can't be told is absent, and costs its
// own bounds alone.
func (a *Agent) observe(unit int) {
	obs := a.input.Observations[:0]
	a.rootRead, a.beside = rootRead{}, loader.At{}
	if unit >= 0 {
		a.beside = a.scene.rows[unit].at()
	}
	node, err := a.lookAtNode()
	if unit >= 0 {
		a.scene.looked(a.kernel, unit)
	}
	nowNs := sample.Now()
	for i := range a.settings.Bounds {
		b := &a.settings.Bounds[i]
		if has(obs, b) {
			continue // hard and soft of one signal
		}
		o, oErr := a.observeOne(b, node, err, nowNs)
		if oErr == nil {
			oErr = a.check(i, o)
		}
		if oErr != nil {
			a.blind[i].add(nowNs, oErr)
			continue
		}
		a.blind[i].clear()
		obs = append(obs, o)
	}
	a.input.Observations = obs
}

// lookAtNode reads the node's counters, in one system call with those of a root whose
// allocatable signals are asked for, and with the unit's.
func (a *Agent) lookAtNode() (sample.Node, error) {
	for i := range a.settings.Bounds {
		if b := &a.settings.Bounds[i]; b.Signal.Allocatable() {
			if r := a.scene.from.root(b.Root); r != nil && a.readRoot(r).any() {
				return a.kernel.Node(), nil
			}
			break
		}
	}
	if a.beside != (loader.At{}) {
		if memory, pids := a.kernel.Refresh(a.beside, loader.At{}); memory || pids {
			return a.kernel.Node(), nil
		}
	}
	return a.kernel.Look()
}

// rootRead says which counters of a root were read in this observation.
type rootRead struct {
	of           *root
	memory, pids bool
}

func (r rootRead) any() bool { return r.memory || r.pids }

func (a *Agent) readRoot(r *root) rootRead {
	if a.rootRead.of != r {
		memory, pids := a.kernel.Refresh(at(r.id, r.memoryCSS, r.pidsCSS), a.beside)
		a.rootRead, a.beside = rootRead{r, memory, pids}, loader.At{}
	}
	return a.rootRead
}

func has(obs []signal.Observation, b *decide.Bound) bool {
	for i := range obs {
		if obs[i].Signal == b.Signal && obs[i].Root == b.Root {
			return true
		}
	}
	return false
}

func (a *Agent) observeOne(b *decide.Bound, node sample.Node, nodeErr error, nowNs uint64) (signal.Observation, error) {
	switch {
	case b.Signal.Disk():
		return a.disks.Observe(b.Signal, nowNs)
	case b.Signal.Allocatable():
		return a.observeRoot(a.scene.from, b)
	case nodeErr != nil:
		return signal.Observation{}, nodeErr
	case b.Signal == signal.PIDAvailable:
		return signal.PIDAvailableOf(node)
	}
	return signal.MemoryAvailableOf(node)
}

var (
	errNoRoot  = fmt.Errorf("the root is gone: %w", signal.ErrNoData)
	errNoLimit = fmt.Errorf("the root has no limit, and nothing to run out of: %w", signal.ErrNoData)
	errNoRow   = fmt.Errorf("the root's counters are not known: %w", signal.ErrNoData)
)

func (a *Agent) observeRoot(s *roster, b *decide.Bound) (signal.Observation, error) {
	r := s.root(b.Root)
	if r == nil {
		return signal.Observation{}, errNoRoot
	}
	if r.limit(b.Signal) > cgroupfs.Unlimited/2 {
		return signal.Observation{}, errNoLimit
	}
	read := a.readRoot(r)
	if b.Signal == signal.AllocatableMemoryAvailable {
		row, ok := a.kernel.Row(loader.Memory, r.memoryCSS, r.id.MemoryID)
		if !ok || !read.memory {
			return signal.Observation{}, errNoRow
		}
		return signal.AllocatableMemoryOf(b.Root, r.memoryMax, row.Usage, r.inactiveFile, row.Ns)
	}
	row, ok := a.kernel.Row(loader.Pids, r.pidsCSS, r.id.PidsID)
	if !ok || !read.pids {
		return signal.Observation{}, errNoRow
	}
	return signal.AllocatablePIDOf(b.Root, r.pidsMax, row.Usage, row.Ns)
}

// check holds a reading against the last one. A fall faster than the machine can fill is
// read again at once through the other source; if both agree it is true.
func (a *Agent) check(bound int, o signal.Observation) error {
	if o.Signal.Disk() {
		return nil // fallocate takes any amount at once, and there is no other source
	}
	g := &a.guards[bound]
	perSecond := a.fillPerSecond
	if !o.Signal.Memory() {
		perSecond = maxForksPerSecond
	}
	err := g.Check(o, perSecond)
	if errors.Is(err, signal.ErrJump) {
		err = a.agrees(o, err)
	}
	if err == nil {
		g.Accept(o)
	}
	return err
}

// maxForksPerSecond is far above what a machine can do (20,000 a CPU were measured).
const maxForksPerSecond = 1_000_000

// setSlack allows for what two readings may differ by though nothing moved that fast. The
// kernel folds up to 125 pages a CPU of each counter at once (mm/vmstat.c), charges a cgroup
// 64 pages ahead (mm/memcontrol.c), and a huge page comes in one piece.
func (a *Agent) setSlack() {
	const (
		hugePage  = 2 << 20
		unfolded  = 3 * 125
		forkBurst = 64
	)
	for i := range a.settings.Bounds {
		perCPU := int64(forkBurst)
		if a.settings.Bounds[i].Signal.Memory() {
			perCPU = hugePage + unfolded*int64(os.Getpagesize())
		}
		a.guards[i].Slack = perCPU * int64(runtime.NumCPU())
	}
}

// agrees reads a signal again through the other source: /proc, or the root's own files. A
// limit that was lowered is a jump too, and true.
func (a *Agent) agrees(o signal.Observation, jump error) error {
	other, err := a.other(&o)
	if err != nil || !signal.Agree(o, other, max(o.Capacity/64, 64)) {
		return errors.Join(jump, err)
	}
	return nil
}

func (a *Agent) other(o *signal.Observation) (signal.Observation, error) {
	if o.Root != "" {
		return a.otherRoot(o)
	}
	node, err := a.proc.Node()
	if err != nil {
		return signal.Observation{}, err
	}
	node.Ns = o.Ns
	if o.Signal == signal.PIDAvailable {
		return signal.PIDAvailableOf(node)
	}
	return signal.MemoryAvailableOf(node)
}

func (a *Agent) otherRoot(o *signal.Observation) (signal.Observation, error) {
	c, err := a.fs.Open(o.Root)
	if err != nil {
		return signal.Observation{}, err
	}
	defer func() { _ = c.Close() }()
	if r := a.scene.from.root(o.Root); r == nil || r.id.MemoryID != c.MemoryID() || r.id.PidsID != c.PidsID() {
		return signal.Observation{}, signal.ErrNoData // another root of that name
	}
	if o.Signal == signal.AllocatablePIDAvailable {
		most, maxErr := c.PidsMax()
		tasks, err := c.PidsCurrent()
		if err = errors.Join(maxErr, err); err != nil {
			return signal.Observation{}, err
		}
		return signal.AllocatablePIDOf(o.Root, most, tasks, o.Ns)
	}
	most, maxErr := c.MemoryMaxBytes()
	usage, usageErr := c.MemoryCurrentBytes()
	inactive, err := c.InactiveFileBytes()
	if err = errors.Join(maxErr, usageErr, err); err != nil {
		return signal.Observation{}, err
	}
	return signal.AllocatableMemoryOf(o.Root, most, usage, inactive, o.Ns)
}
