package agent

import (
	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// scene is everything the hot thread needs to know about the cgroups, made by the scout.
// Only the usages and marks of the workloads change after it is published, and only by the
// hot thread.
type scene struct {
	workloads []workload.Workload
	// The rest belongs to the workload of the same index: its counters, those of the
	// cgroups that a strike kills, and what kills them.
	rows    []rows
	targets [][]rows
	handles []*actuator.Handle
	// revived: it was killed, and runs again. empty: it had no task when that was read
	// last, just before it would have been killed.
	revived, empty []bool
	roots          []root
	// incomplete: a unit that is there can't be opened, and may be the one to evict.
	incomplete bool
	// known are the ids of every cgroup that a strike would kill.
	knownMemory, knownPids map[uint64]struct{}
}

// rows are where a cgroup's counters stand in the two tables.
type rows struct {
	id                 workload.Identity
	memoryCSS, pidsCSS uint32
}

// root is a cgroup below which units may be evicted.
type root struct {
	path               string
	id                 workload.Identity
	memoryCSS, pidsCSS uint32
	// memoryMax and pidsMax are its limits, inactiveFile its inactive file bytes from a
	// fresh memory.stat.
	memoryMax, pidsMax, inactiveFile int64
	// fill is how fast its memory grows, by what the hooks reported.
	fill fill
}

// limit is what an allocatable signal is measured against, cgroupfs.Unlimited for none.
func (r *root) limit(s signal.Signal) int64 {
	if s == signal.AllocatableMemoryAvailable {
		return r.memoryMax
	}
	return r.pidsMax
}

func (s *scene) root(path string) *root {
	for i := range s.roots {
		if s.roots[i].path == path {
			return &s.roots[i]
		}
	}
	return nil
}

// unit returns the index of the workload with that identity, -1 when it is gone.
func (s *scene) unit(id workload.Identity) int {
	for i := range s.rows {
		if s.rows[i].id == id {
			return i
		}
	}
	return -1
}

// fill reads every unit's usage from the tables: loads from memory, no system call but for
// units that were found empty.
func (s *scene) fill(k *loader.Loader) {
	for i := range s.workloads {
		if s.empty[i] {
			s.look(k, i)
			continue
		}
		s.use(k, i)
		s.mark(i)
	}
}

// look reads one unit's counters from the kernel: what it holds now, and whether anybody
// is in it. A row of tasks alone can be a second old, and a process that joins counts no fork.
func (s *scene) look(k *loader.Loader, i int) {
	s.rows[i].refresh(k)
	s.use(k, i)
	s.empty[i] = s.workloads[i].Usage.Tasks == 0
	s.mark(i)
}

// unreaped appends the units of which only zombies are left, whoever killed them: their
// tasks come back without a victim, when somebody reaps them.
func (s *scene) unreaped(dst []decide.Dying) []decide.Dying {
	for i := range s.workloads {
		w := &s.workloads[i]
		if w.Protected != noProcess || w.Usage.Tasks <= 0 || len(dst) == cap(dst) {
			continue
		}
		dst = append(dst, decide.Dying{UID: w.UID, Cgroup: w.Cgroup, Signal: signal.PIDAvailable, HeldTasks: w.Usage.Tasks})
	}
	return dst
}

// use takes memory and tasks from the tables. Processes and disk are the scout's.
func (s *scene) use(k *loader.Loader, i int) {
	u, former := s.rows[i].usage(k), &s.workloads[i].Usage
	u.Processes, u.Disk = former.Processes, former.Disk
	*former = u
}

// noProcess marks a unit of which only page cache, tmpfs or zombies are left: it has usage,
// and killing it would free nothing.
const noProcess = "has no process"

func (s *scene) mark(i int) {
	w := &s.workloads[i]
	empty := s.empty[i] || s.handles[i].Empty()
	switch {
	case empty && w.Protected == "":
		w.Protected = noProcess
	case !empty && w.Protected == noProcess:
		w.Protected = ""
	}
}

// usage is what the tables say.
func (r *rows) usage(k *loader.Loader) workload.Usage {
	u := workload.NoUsage
	if row, ok := k.Row(loader.Memory, r.memoryCSS, r.id.MemoryID); ok {
		u.MemoryBytes = row.Usage
		u.WorkingSetBytes = signal.WorkingSetBytes(row.Usage, row.InactiveFileBytes)
	}
	if row, ok := k.Row(loader.Pids, r.pidsCSS, r.id.PidsID); ok {
		u.Tasks = row.Usage
	}
	return u
}

// refresh reads the counters from the kernel now.
func (r *rows) refresh(k *loader.Loader) {
	k.Refresh(loader.Memory, r.memoryCSS, r.id.MemoryID)
	k.Refresh(loader.Pids, r.pidsCSS, r.id.PidsID)
}

// held is what the cgroup still holds, read now; nothing when it is gone.
func (r *rows) held(k *loader.Loader) (u workload.Usage) {
	if k.Refresh(loader.Memory, r.memoryCSS, r.id.MemoryID) {
		u.MemoryBytes = max(0, r.usage(k).WorkingSetBytes)
	}
	if k.Refresh(loader.Pids, r.pidsCSS, r.id.PidsID) {
		u.Tasks = max(0, r.usage(k).Tasks)
	}
	return u
}
