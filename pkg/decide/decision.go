package decide

import (
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
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
}

// Budget limits how many units may be killed; beyond it there is an alarm and no kill.
// Zero means no kill at all.
type Budget struct {
	PerMinute, PerHour int
}

// MaxBudgetPerHour is the largest hourly budget that Memory can count.
const MaxBudgetPerHour = 256

// Settings are what the operator asked for.
type Settings struct {
	// Bounds are in the order of urgency in which they are tried: hard before soft,
	// memory before pids (SortBounds makes it so). At most MaxBounds.
	Bounds []Bound
	Budget Budget
	// Overdue is how long a victim may take to die before it no longer holds up the next.
	Overdue time.Duration
}

// Dying is a victim that still holds something.
type Dying struct {
	UID    string
	Cgroup string
	// Signal it was killed for.
	Signal signal.Signal
	// KilledNs is when it got its first SIGKILL, on the clock of Input.NowNs.
	KilledNs uint64
	// Populated: it still has processes that are not zombies.
	Populated bool
	// HeldBytes is its working set, HeldTasks its charged tasks (unreaped zombies included).
	HeldBytes int64
	HeldTasks int64
}

// Verdict is what a decision asks for.
type Verdict uint8

const (
	// Nothing: no threshold is met.
	Nothing Verdict = iota
	// Wait: a threshold is met, and what a former victim gives back is still on its way.
	Wait
	// Evict: kill Decision.Victim.
	Evict
	// Refuse: a threshold is met and nobody may be killed; Decision.Reason says why.
	Refuse
)

// Reason says in a few constant words why a decision is what it is.
type Reason string

const (
	ReasonMet         Reason = "threshold met"
	ReasonHeld        Reason = "held by the minimum reclaim"
	ReasonDying       Reason = "waiting for the last victim to die"
	ReasonCredit      Reason = "the last victims still hold more than is missing"
	ReasonBudget      Reason = "kill budget spent"
	ReasonNoCandidate Reason = "nobody may be evicted"
	ReasonNoUsage     Reason = "no usage known of any unit that may be evicted"
)

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
	// Victim is the index in Input.Workloads, -1 unless Verdict is Evict.
	Victim int
	// Met says of each bound whether its threshold is met or held now.
	Met [MaxBounds]bool
}
