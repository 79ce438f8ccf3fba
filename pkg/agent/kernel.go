package agent

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// kernel is what watches and counts for the agent: by BPF, hooked, a *loader.Loader that may
// lose a hook; or without, lesser. What each method promises, and to which thread, is said at
// the loader's.
//
// No method of the hot thread takes a function or a pointer to a local variable: through an
// interface either would be allocated.
type kernel interface {
	watcher
	counters
	hooks
	understudy
	ledger
	// Tier is what watches the wires of a scope now, and if there is a better one, why not that.
	Tier(sample.Scope) (tier string, why error)
	SetLimits(memTotalBytes, tasksMax int64) error
	Close() error
}

// watcher has the wires, and tells when one is crossed.
type watcher interface {
	AddWire(sample.Scope) (int, error)
	ClearWires() error
	SetWire(int, loader.Wire)
	ArmWire(int) uint64
	DisarmWire(int)
	WireSeq(int) (seq, fired uint64)
	Claim(wire int, seq uint64) bool
	Release(wire int, seq uint64)
	AddDrillWire(loader.Wire) (wire int, seq uint64, err error)
	RemoveDrillWire() error
	Tick() error
	CrossingsFD() int
	Next(*sample.Sample) (bool, error)
}

// counters are the node's and the cgroups'.
type counters interface {
	Look() (sample.Node, error)
	Node() sample.Node
	NextDelta(*sample.Sample) (bool, error)
	Rows() int
	Walk() (int, error)
	WalkNow() error
	Find(c loader.Controller, cgroupID uint64) (cssID uint32)
	Index(loader.Controller, []sample.Cgroup) []sample.Cgroup
	Row(c loader.Controller, cssID uint32, cgroupID uint64) (sample.Cgroup, bool)
	Usage(c loader.Controller, cssID uint32, cgroupID uint64) (usage, inactiveFile int64, ok bool)
	Above(c loader.Controller, cssID uint32) (cgroupID uint64, parent uint32, ok bool)
	Refresh(at, beside loader.At) (memory, pids bool)
	RefreshRows(loader.At) (memory, pids bool)
}

// hooks are where memory is allocated and tasks are made, and what they do for a kill.
type hooks interface {
	Arm() error
	Disarm() error
	Armed() bool
	Condemn(memoryID, pidsID uint64) (slot int)
	Pardon(slot int)
	SignalsSent() uint64
}

// understudy is the backstop.
type understudy interface {
	SetGrace(time.Duration)
	Nominate(wire int, n *loader.Nominee) bool
	License(untilNs uint64) bool
	Licensed() bool
	Withdraw() bool
	BackstopActs() bool
	Reach() loader.Reach
	TakeNote() (loader.BackstopKill, bool)
}

// ledger outlives an agent that dies in the middle of a kill.
type ledger interface {
	StaleIntents() []loader.Intent
	StoreIntent(*loader.Intent) (slot int)
	IntentSignalled(slot int)
	IntentBraked(slot int, before int64)
	FreeIntent(slot int)
}
