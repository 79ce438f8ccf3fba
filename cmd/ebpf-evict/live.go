package main

import (
	"context"
	"errors"
	"math"
	"os"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// answerWithin is how long a filesystem may take to answer; one that does not has no data.
const answerWithin = 500 * time.Millisecond

// liveSnapshot reads the node as it is now, from files alone: no BPF program is loaded and
// no agent asked, so it works beside one. Signals and figures that can't be read are left
// out. The disk figures that it was made with are nil where there are none.
func liveSnapshot(ctx context.Context, c *config.Config) (*snapshot.Snapshot, *workload.DiskTable, error) {
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		return nil, nil, err
	}
	roots, err := agent.Roots(fs, c)
	if err != nil {
		return nil, nil, err
	}
	s := &snapshot.Snapshot{Time: time.Now()}
	node := liveNode(c)
	for _, of := range []func(sample.Node) (signal.Observation, error){signal.MemoryAvailableOf, signal.PIDAvailableOf} {
		add(s, of, node)
	}
	addRoot(s, fs, roots)
	addDisks(ctx, s, c)
	units, err := workload.NewScanner(workload.Options{
		FS: fs, Roots: roots, Protect: c.Protect, TablePath: c.Workloads, TableUID: c.TableOwner, NodeName: os.Getenv("NODE_NAME"),
		AllowFirst: c.AllowEvictFirst, NodeMemoryBytes: node.MemTotalBytes, Procfs: "/proc",
	}).Scan()
	if err != nil {
		return nil, nil, err
	}
	figures, _ := workload.LoadDisk(c.Disk, uint32(os.Geteuid())) // without them disk has no data
	for i := range units {
		s.Workloads = append(s.Workloads, measured(fs, &units[i], figures))
	}
	return s, figures, nil
}

// liveNode leaves zero what can't be read; the signals refuse that.
func liveNode(c *config.Config) sample.Node {
	proc := signal.NewProc("/proc")
	if !c.Hugepages {
		proc = proc.IgnoreHugepages()
	}
	node, _ := proc.Node()
	return node
}

// add dates an observation by the wall: a snapshot has no other clock.
func add[From any](s *snapshot.Snapshot, of func(From) (signal.Observation, error), from From) {
	if o, err := of(from); err == nil {
		o.Ns, o.Root = snapshot.Ns(s.Time), ""
		s.Observations = append(s.Observations, o)
	}
}

// addRoot adds allocatableMemory.available of the first root that has a limit: a snapshot
// has room for one.
func addRoot(s *snapshot.Snapshot, fs *cgroupfs.FS, roots []string) {
	for _, root := range roots {
		before := len(s.Observations)
		add(s, func(root string) (signal.Observation, error) {
			c, err := fs.Open(root)
			if err != nil {
				return signal.Observation{}, err
			}
			defer func() { _ = c.Close() }()
			limit, limitErr := c.MemoryMaxBytes()
			usage, usageErr := c.MemoryCurrentBytes()
			inactive, err := c.InactiveFileBytes()
			if err := errors.Join(limitErr, usageErr, err); err != nil {
				return signal.Observation{}, err
			}
			return signal.AllocatableMemoryOf(root, limit, usage, inactive, 0)
		}, root)
		if len(s.Observations) > before {
			return
		}
	}
}

func addDisks(ctx context.Context, s *snapshot.Snapshot, c *config.Config) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	disks := signal.NewDisks(signal.DiskOptions{Paths: agent.DiskPaths(c, agent.RuntimeLayout(c))})
	disks.Start(ctx)
	for ctx.Err() == nil {
		layout, err := disks.Layout()
		if err == nil {
			s.Layout = layout
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, name := range signal.Names() {
		if name.Disk() {
			add(s, func(name signal.Signal) (signal.Observation, error) { return disks.Observe(name, sample.Now()) }, name)
		}
	}
}

// measured is a unit with what its files say that it holds.
func measured(fs *cgroupfs.FS, u *workload.Unit, figures *workload.DiskTable) workload.Workload {
	w := u.Workload
	if figures != nil {
		if e := figures.Entry(w.UID); e != nil {
			e.Measure(&w, sample.Now(), math.MaxInt64)
		}
	}
	c, err := fs.Open(w.Cgroup)
	if err != nil {
		return w // it ended; there is no data
	}
	defer func() { _ = c.Close() }()
	if usage, err := c.MemoryCurrentBytes(); err == nil {
		inactive, _ := c.InactiveFileBytes() // without it the kubelet's working set is the usage
		w.Usage.MemoryBytes, w.Usage.WorkingSetBytes = usage, signal.WorkingSetBytes(usage, inactive)
	}
	if tasks, err := c.PidsCurrent(); err == nil {
		w.Usage.Tasks = tasks
	}
	return w
}
