package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// openCanary makes sure that whoever is hit can be nobody but a canary, whatever the request
// says: its cgroup lies where only drills make any, has small limits of its own, no cgroup
// below, and in it one process of root that was started for just this cgroup.
func (a *Agent) openCanary(r *drill.Request) (*canary, error) {
	s := signal.Signal(r.Signal)
	if !s.Allocatable() {
		return nil, fmt.Errorf("signal %q is none of a canary's", r.Signal)
	}
	if !drill.IsCanary(r.Cgroup) {
		return nil, fmt.Errorf("cgroup %q is no canary's", r.Cgroup)
	}
	if err := a.apartFromRoots(); err != nil {
		return nil, err
	}
	cg, err := a.fs.Open(r.Cgroup)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cg.Close() }()
	if err := a.inspect(cg); err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", r.Cgroup, err)
	}
	unit := workload.Unit{
		Workload: workload.Workload{
			UID: r.Cgroup, Name: "canary", Cgroup: r.Cgroup, Usage: workload.NoUsage,
			ID: workload.Identity{MemoryID: cg.MemoryID(), PidsID: cg.PidsID()}, TerminationGracePeriodSeconds: workload.NoData,
		},
		Targets: []workload.Target{{Cgroup: r.Cgroup}},
	}
	h, err := actuator.Open(a.fs, &unit)
	if err != nil {
		return nil, err
	}
	c := &canary{id: r.ID, handle: h, done: make(chan struct{})}
	if err := a.stage(c, cg, &unit, s); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return c, nil
}

// apartFromRoots: who runs below a root is for real.
func (a *Agent) apartFromRoots() error {
	for _, root := range a.wires.roots {
		if root == drill.Parent || strings.HasPrefix(drill.Parent, root+"/") || strings.HasPrefix(root, drill.Parent+"/") {
			return fmt.Errorf("root %s and the canaries' %s lie in each other", root, drill.Parent)
		}
	}
	return nil
}

func (a *Agent) inspect(cg *cgroupfs.Cgroup) error {
	if below, err := a.fs.Children(cg.Path()); err != nil || len(below) > 0 {
		return errors.Join(err, errors.New("has cgroups below it"))
	}
	for _, l := range []struct {
		what string
		most int64
		read func() (int64, error)
	}{
		{"memory", drill.MaxMemoryBytes, cg.MemoryMaxBytes},
		{"tasks", drill.MaxTasks, cg.PidsMax},
	} {
		if limit, err := l.read(); err != nil || limit > l.most {
			return errors.Join(fmt.Errorf("its limit of %s is not at most %d", l.what, l.most), err)
		}
	}
	pids, err := cg.Procs(nil)
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		return fmt.Errorf("has %d processes, want the canary alone", len(pids))
	}
	return isCanary(pids[0], cg.Path())
}

// isCanary reports whether a process was started to die in this cgroup: a load is given the
// path of its cgroup.procs, and no two canaries have the same.
func isCanary(pid int, cgroup string) error {
	dir := "/proc/" + strconv.Itoa(pid)
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if s, ok := st.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("process %d is another user's", pid)
	}
	args, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return err
	}
	if !bytes.Contains(args, []byte(path.Join(cgroup, "cgroup.procs"))) {
		return fmt.Errorf("process %d is no canary of this cgroup", pid)
	}
	return nil
}

// stage gives the canary what a pass has of everybody else: rows, a root with limits, a
// bound. The bound is as far away as a canary can go.
func (a *Agent) stage(c *canary, cg *cgroupfs.Cgroup, of *workload.Unit, s signal.Signal) error {
	if err := a.host(of.Cgroup); err != nil {
		return err
	}
	if _, err := a.kernel.Walk(); err != nil {
		return err
	}
	at := rows{of.ID, a.kernel.Find(loader.Memory, of.ID.MemoryID), a.kernel.Find(loader.Pids, of.ID.PidsID)}
	r := root{path: drill.Parent, id: of.ID, memoryCSS: at.memoryCSS, pidsCSS: at.pidsCSS}
	var errs [3]error
	r.memoryMax, errs[0] = cg.MemoryMaxBytes()
	r.pidsMax, errs[1] = cg.PidsMax()
	r.inactiveFile, errs[2] = cg.InactiveFileBytes()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	one := &unit{Unit: *of, rows: at, targets: []rows{at}, grip: &grip{}}
	one.handle.Store(c.handle)
	c.scene = newScene(0)
	c.scene.take(&roster{units: []*unit{one}, roots: []root{r}, room: newRoom(1)})
	u := workload.NoUsage
	at.usage(a.kernel, &u)
	threshold := signal.Threshold{Signal: s, Value: signal.Quantity{Value: r.pidsMax - u.Tasks - drill.TaskDistance}}
	if s.Memory() {
		threshold.Value.Value = r.memoryMax - u.WorkingSetBytes - drill.MemoryDistanceBytes
		// What the kernel compares is its own estimate: the wire must not be below that.
		c.scene.from.roots[0].inactiveFile = u.MemoryBytes - u.WorkingSetBytes
	}
	if u.Tasks < 0 || u.WorkingSetBytes < 0 {
		return errors.New("its counters are not known")
	}
	if threshold.Value.Value <= 0 {
		return fmt.Errorf("no room for a wire of %s: it holds %s and %d tasks", s, record.FormatBytes(u.WorkingSetBytes), u.Tasks)
	}
	threshold.Value.Text = strconv.FormatInt(threshold.Value.Value, 10)
	c.settings = decide.Settings{
		Bounds: []decide.Bound{{Threshold: threshold, Root: drill.Parent}},
		Budget: decide.Budget{PerMinute: 1, PerHour: 1}, Overdue: overdue, Drained: drained,
	}
	c.input.Observations = make([]signal.Observation, 0, 1)
	return nil
}

// host has a row for a canary's cgroup, "" for none, where the kernel has to be told.
func (a *Agent) host(cgroup string) error {
	if t, ok := a.kernel.(tracker); ok {
		return t.Host(cgroup)
	}
	return nil
}

// armCanary places the wire. The allocation hook, where that is what would see a unit cross,
// is attached as for a victim that is being killed, and goes as it does then.
func (a *Agent) armCanary(c *canary) error {
	a.wires.killing.Add(1)
	if a.memoryTier() != record.TierCharge {
		if err := a.kernel.Arm(); err != nil {
			return err
		}
	}
	wire, ok := a.wires.wire(&c.settings.Bounds[0], a.kernel.Node(), c.scene.from)
	if !ok {
		return errors.New("the kernel can't watch its cgroup")
	}
	wire.Cgroup = c.scene.workloads[0].Cgroup
	var err error
	if c.wire, c.seq, err = a.wires.lend(wire); err != nil {
		return err
	}
	a.drills.current.Store(c)
	return nil
}

// disarmCanary undoes armCanary, also one that failed.
func (a *Agent) disarmCanary() error {
	defer a.wires.killing.Add(-1)
	return a.wires.giveBack()
}

// drillLine is the journal's line, and the client's answer.
func (a *Agent) drillLine(c *canary) *record.Line {
	b, w := &c.settings.Bounds[0], &c.scene.workloads[0]
	timeline := c.timeline
	l := &record.Line{
		Schema: record.Schema, Kind: record.KindDrill, ID: c.id, Time: record.Time{Time: time.Now()}, Node: a.node, Mode: *a.drills.mode.Load(), Tier: tierOf(c.by), Signal: string(b.Signal),
		Victim: &record.Victim{
			UID: w.UID, Name: w.Name, Cgroup: w.Cgroup, CgroupID: max(w.ID.MemoryID, w.ID.PidsID),
			UsageBytes: figure(w.Usage.WorkingSetBytes), Tasks: figure(w.Usage.Tasks),
		},
		Timeline: &timeline, Outcome: c.outcome, Reason: c.reason, By: record.ByAgent,
	}
	if w.ID.MemoryID != 0 {
		l.Victim.CgroupID = w.ID.MemoryID
	}
	if timeline.Decided != 0 {
		l.Threshold = thresholdLine(b, &c.decision)
		l.Observed = &record.Observed{Available: c.decision.Observed.Available, Capacity: c.decision.Observed.Capacity}
	}
	return l
}
