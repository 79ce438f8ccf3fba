package decide

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// MaxBounds is how many bounds one agent can hold: nine kubelet signals, hard and soft,
// with room for several roots. Fixed so that Memory is a plain value.
const MaxBounds = 32

// Bound is a threshold bound to what it watches.
type Bound struct {
	signal.Threshold
	// Root is the cgroup an allocatable signal belongs to and below which its victims
	// are sought; empty for node signals, whose victims may be anywhere below the roots.
	Root string
	// Passes are those in which the bound can become met, under Settings.Compat; by
	// default that is any.
	Passes Passes
}

// Passes are passes since the kubelet's start. It derives its thresholds for containerfs in
// the first one, from a list that this pass may have taken before.
type Passes uint8

const (
	AnyPass Passes = iota
	// LaterPasses: derived, and not in the list of the first pass.
	LaterPasses
	// FirstPass: overwritten after the first pass has taken it. What was due in the first
	// pass may still be held by its minimum reclaim in those after it.
	FirstPass
)

// Budget limits how many units may be killed; beyond it there is an alarm and no kill.
// Zero means no kill at all.
type Budget struct {
	PerMinute, PerHour int
}

// MaxBudgetPerHour is the largest hourly budget that Memory can count.
const MaxBudgetPerHour = 256

// Settings are what the operator asked for.
type Settings struct {
	// Bounds are in the order in which they are tried (SortBounds). At most MaxBounds.
	Bounds []Bound
	// Compat asks for the kubelet's own behaviour where ours differs: `compat: kubelet`.
	Compat bool
	// Room is for how many thresholds more the kubelet's list has room, which decides
	// what its first pass sees of those for containerfs (WithContainerFs).
	Room int
	// Layout says which filesystems are one, and so whose usage counts where.
	Layout signal.Layout
	// TransitionPeriod is how long a condition stays after its threshold was last met.
	TransitionPeriod time.Duration
	// MaxPodGracePeriodSeconds bounds the grace of a soft eviction.
	MaxPodGracePeriodSeconds int64
	// LocalStorageIsolation: limits of emptyDirs and of ephemeral storage are enforced.
	LocalStorageIsolation bool
	Budget                Budget
	// Overdue is how long a victim may take to die before it no longer holds up the next.
	Overdue time.Duration
	// Drained is the same where the dying hold less memory than is missing. Longer than what
	// was read of them at an earlier moment than the signal can make a difference.
	Drained time.Duration
}

// GracePeriodSeconds is the grace that the kill of a unit gets as an override of its own:
// 1 where the bound is hard, as in the kubelet, which reads 0 as unset; else the smaller of
// the maximum and the unit's own.
func (s *Settings) GracePeriodSeconds(b *Bound, own int64) int64 {
	switch {
	case b.Hard():
		return 1
	case own == workload.NoData:
		return s.MaxPodGracePeriodSeconds
	}
	return min(s.MaxPodGracePeriodSeconds, own)
}

// Dying is a victim that still holds something.
type Dying struct {
	UID    string
	Cgroup string
	// Signal it was killed for.
	Signal signal.Signal
	// KilledNs is when it got its first SIGKILL, on the clock of Input.NowNs.
	KilledNs uint64
	// Terminating: a soft eviction asked it to end, and its grace is not over. It holds up
	// and credits soft bounds only, and a hard one may kill it.
	Terminating bool
	// Populated: it still has processes that are not zombies.
	Populated bool
	// HeldBytes is its working set, HeldTasks its charged tasks (unreaped zombies included).
	HeldBytes int64
	HeldTasks int64
	// HeldDisk is bytes or inodes of the filesystem it was killed for (Settings.Use).
	HeldDisk int64
}

// Verdict is what a decision asks for.
type Verdict uint8

const (
	// Nothing: no threshold is due.
	Nothing Verdict = iota
	// Wait: a threshold is due, and what was done about it has yet to show.
	Wait
	// Evict: kill Decision.Victim.
	Evict
	// Refuse: a threshold is due and nobody may be killed; Decision.Reason says why.
	Refuse
	// Reclaim: free Decision.Reclaim of the node first, then ask again with Input.Reclaimed.
	Reclaim
)

// Reason says in a few constant words why a decision is what it is.
type Reason string

const (
	ReasonMet         Reason = "threshold met"
	ReasonHeld        Reason = "held by the minimum reclaim"
	ReasonDying       Reason = "waiting for the last victim to die"
	ReasonCredit      Reason = "the last victims still hold more than is missing"
	ReasonReclaimed   Reason = "node-level reclaim was enough"
	ReasonReclaiming  Reason = "waiting for node-level reclaim"
	ReasonLimits      Reason = "units above limits of their own go first"
	ReasonBudget      Reason = "kill budget spent"
	ReasonNoCandidate Reason = "nobody may be evicted"
	ReasonNoUsage     Reason = "no usage known of any unit that may be evicted"
	ReasonUnmeasured  Reason = "a unit without disk figures may be the one to evict"
)

// Conditions are the node conditions that the kubelet would publish.
type Conditions struct {
	MemoryPressure bool `json:"MemoryPressure"`
	DiskPressure   bool `json:"DiskPressure"`
	PIDPressure    bool `json:"PIDPressure"`
}

// Decision is a value: asked twice about the same things, decide gives the same.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// Bound is the index in Settings.Bounds of the bound acted on, -1 with Nothing.
	Bound    int
	Observed signal.Observation
	// ThresholdValue and TargetAvailable (value + minimum reclaim) are for Observed's capacity.
	ThresholdValue  int64
	TargetAvailable int64
	// Reclaim is what node-level reclaim frees for the signal before any pod; nothing for
	// memory and pids.
	Reclaim NodeReclaim
	// Victim is the index in Input.Workloads, -1 unless Verdict is Evict.
	Victim int
	// Unmeasured is the index of the unit that ReasonUnmeasured is about.
	Unmeasured int
	// Met says of each bound whether its threshold is met or held now, Due whether it has
	// been for its grace period.
	Met, Due [MaxBounds]bool
	// Conditions are those met now or within the transition period.
	Conditions Conditions
}
