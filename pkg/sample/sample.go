// Package sample holds what the kernel tells us, decoded: the records of the ring
// buffers and the counters of the node and of its cgroups. Types only; pkg/loader
// makes them, pkg/signal turns them into observations.
package sample

// Kind says what a record is about.
type Kind uint8

const (
	// KindCrossing: a wire was crossed. One record per wire and sequence.
	KindCrossing Kind = iota + 1
	// KindArm: a memory wire is nearer than the margin and the hot hook is not
	// attached; the kernel asks user space to attach it.
	KindArm
	// KindDelta: a cgroup's usage moved by more than the configured step.
	KindDelta
)

// Scope says what a wire watches.
type Scope uint8

const (
	// ScopeOff: the wire is not in use.
	ScopeOff Scope = iota
	// ScopeNodeMemory watches memory.available of the node.
	ScopeNodeMemory
	// ScopeCgroupMemory watches a cgroup's page counter, less its inactive file, against a limit.
	ScopeCgroupMemory
	// ScopeNodeTasks watches the tasks of the initial pid namespace against a limit.
	ScopeNodeTasks
	// ScopeCgroupTasks watches a cgroup's pids counter against a limit.
	ScopeCgroupTasks
)

// Sample is one record of a ring buffer.
type Sample struct {
	Kind Kind
	// By is what saw it, for the journal's tier.
	By Observer
	// Ns is CLOCK_MONOTONIC when it was seen.
	Ns uint64
	// Wire is the number of the crossed wire, Seq the sequence it was armed with.
	Wire int
	Seq  uint64
	// Available is what was computed then: bytes (memory scopes) or tasks.
	Available int64
	// LimitValue is the wire's value at that moment, in the unit of Available.
	LimitValue int64
	// CgroupID is the cgroup of the task that allocated or forked (kernfs id; of the
	// memory hierarchy for memory scopes, of the pids hierarchy for task scopes),
	// CSSID its index in the table. Of ObserverCharge the cgroup that is charged, for
	// KindDelta the one that moved.
	CgroupID uint64
	CSSID    uint32
	// UsageBytes or tasks of that cgroup.
	Usage int64
	// TGID and TID are of the task that ran the hook; 0 when it is in another cgroup than
	// the one that is charged.
	TGID, TID uint32
	// Atomic: the allocation could not sleep, so it may have come from an interrupt
	// and the current task is no culprit.
	Atomic bool
}

// Observer is what saw a crossing.
type Observer uint8

const (
	ObserverAlloc  Observer = iota + 1 // kmem:mm_page_alloc
	ObserverTask                       // task:task_newtask
	ObserverTimer                      // the bpf_timer's tick
	ObserverCharge                     // page_counter_try_charge
)

// Those without BPF, in pkg/fallback.
const (
	ObserverEvent Observer = iota + 16 // a memory threshold of cgroup v1, or the proc connector
	ObserverPoll                       // a reading that was due
)

// Node is the node's counters as BPF read them, in bytes and tasks.
type Node struct {
	Ns                 uint64
	MemTotalBytes      int64
	HugepagesBytes     int64  // the hugetlb pools, of MemTotalBytes; 0 where that leaves them out already
	AnonBytes          int64  // NR_ANON_MAPPED
	FileBytes          int64  // NR_FILE_PAGES
	InactiveFileBytes  int64  // NR_INACTIVE_FILE
	Tasks              int64  // pid_namespace.pid_allocated of the initial namespace
	TasksMax           int64  // the smaller of kernel.pid_max and kernel.threads-max
	MemoryChecks       uint64 // by the allocation hook
	Charges            uint64 // checks by the charge hook
	ForeignCharges     uint64 // of counters that are no memory cgroup's memory
	UnchargedNs        uint64 // CLOCK_MONOTONIC when memory that nobody is charged for grew near a wire
	TaskChecks         uint64
	LostSamples        uint64 // records that found no room
	LostCrossings      uint64 // of these, crossings and asks for the hook
	CrossingsPublished uint64
}

// Cgroup is one row of the per-cgroup table.
type Cgroup struct {
	// CgroupID is the kernfs id: the inode of the cgroup's directory in its hierarchy.
	CgroupID uint64
	// CSSID is the row's index: the kernel's id of the controller state.
	CSSID  uint32
	Parent uint32
	// Usage is bytes (memory) or tasks (pids).
	Usage int64
	// InactiveFileBytes is the hierarchical estimate, up to one rstat flush old; memory only.
	InactiveFileBytes int64
	// Ns is CLOCK_MONOTONIC of the reading.
	Ns uint64
}
