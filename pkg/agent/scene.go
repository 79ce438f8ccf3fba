package agent

import (
	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// scene is everything the hot thread needs to know about the cgroups, made by the scout.
// Only the usages change after it is published, and only by the hot thread.
type scene struct {
	workloads []workload.Workload
	// rows and handles belong to the workload of the same index.
	rows    []rows
	handles []*actuator.Handle
	roots   []root
	// known are the memory and pids css ids of every cgroup below the roots.
	knownMemory, knownPids map[uint64]struct{}
}

// rows are where a unit's counters stand in the two tables.
type rows struct {
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
}

func (s *scene) root(path string) *root {
	for i := range s.roots {
		if s.roots[i].path == path {
			return &s.roots[i]
		}
	}
	return nil
}

// fill reads every unit's usage from the tables: loads from memory, no system call.
func (s *scene) fill(k *loader.Loader) {
	for i := range s.workloads {
		s.fillOne(k, i)
	}
}

func (s *scene) fillOne(k *loader.Loader, i int) {
	w := &s.workloads[i]
	w.Usage = workload.NoUsage
	if row, ok := k.Row(loader.Memory, s.rows[i].memoryCSS, w.ID.MemoryID); ok {
		w.Usage.MemoryBytes = row.Usage
		w.Usage.WorkingSetBytes = max(0, row.Usage-row.InactiveFileBytes)
	}
	if row, ok := k.Row(loader.Pids, s.rows[i].pidsCSS, w.ID.PidsID); ok {
		w.Usage.Tasks = row.Usage
	}
}

// refresh reads one unit's counters from the kernel now.
func (s *scene) refresh(k *loader.Loader, i int) {
	k.Refresh(loader.Memory, s.rows[i].memoryCSS, s.workloads[i].ID.MemoryID)
	k.Refresh(loader.Pids, s.rows[i].pidsCSS, s.workloads[i].ID.PidsID)
}
