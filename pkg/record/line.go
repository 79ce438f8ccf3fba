// Package record is the last stage of the flow: it turns decisions and outcomes into
// lines of the journal, keeps the state file, and reads both back. The journal is the
// truth; metrics, history and the companion read the same lines.
package record

import (
	"encoding/json"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
)

// Schema is the schema of a journal line.
const Schema = "ebpf-evict/v1"

// MaxRanked is how many units of a ranking go into a line and into the state file.
const MaxRanked = 20

// Kind says what a line tells.
type Kind string

const (
	// KindKill is written right after SIGKILL; KindEviction, with the same id, when the
	// eviction is closed.
	KindKill      Kind = "kill"
	KindEviction  Kind = "eviction"
	KindCondition Kind = "condition"
	KindThreshold Kind = "threshold"
	KindDrill     Kind = "drill"
	KindDegraded  Kind = "degraded"
	KindLedger    Kind = "ledger"
	// KindReclaim: node-level reclaim brought a signal back, and nobody was evicted for it.
	KindReclaim Kind = "reclaim"
	KindStart   Kind = "start"
	KindStop    Kind = "stop"
)

// Outcome says how an eviction ended.
type Outcome string

const (
	OutcomeKilled    Outcome = "killed"
	OutcomeGone      Outcome = "gone"
	OutcomeRefused   Outcome = "refused"
	OutcomeRecovered Outcome = "recovered"
	OutcomeShadow    Outcome = "shadow"
	OutcomeFailed    Outcome = "failed"
)

// Who killed.
const (
	ByAgent    = "agent"
	ByBackstop = "backstop"
)

// The tiers: which back-end saw a crossing.
const (
	TierCharge = "bpf-charge"
	TierAlloc  = "bpf-alloc"
	TierTask   = "bpf-task"
	TierEvent  = "event" // a memory threshold of cgroup v1, or the proc connector
	TierPoll   = "poll"  // a clock
)

// Line is one line of the journal. Parts that a kind does not have are absent; a nil
// pointer is "no data", never zero.
type Line struct {
	// Schema is set by Journal.Append.
	Schema string `json:"schema"`
	Kind   Kind   `json:"kind"`
	ID     ID     `json:"id,omitzero"`
	Time   Time   `json:"time"`
	Node   string `json:"node,omitempty"`
	// Mode is enforce or shadow.
	Mode string `json:"mode,omitempty"`
	// Tier is the back-end that saw the crossing: bpf-charge, bpf-alloc, bpf-task, event or poll.
	// On a degraded line, the one that watches the signal from then on.
	Tier string `json:"tier,omitempty"`
	// Signal is the eviction signal, or the label of a unit's own limit that was exceeded
	// (decide.CheckEmptyDir and so on). Observed is what is left of that limit then, below zero.
	Signal    string     `json:"signal,omitempty"`
	Threshold *Threshold `json:"threshold,omitempty"`
	Observed  *Observed  `json:"observed,omitempty"`
	Victim    *Victim    `json:"victim,omitempty"`
	// Ranked are the first MaxRanked units, first victim first.
	Ranked   []Ranked  `json:"ranked,omitempty"`
	Timeline *Timeline `json:"timelineNs,omitempty"`
	// OvershootBytes is how far below the threshold the signal fell.
	OvershootBytes *int64 `json:"overshootBytes,omitempty"`
	// FreedBytes may be negative: others took more than the victim gave back.
	FreedBytes      *int64 `json:"freedBytes,omitempty"`
	ProcessesKilled int    `json:"processesKilled,omitempty"`
	// Attempts are the kills so far of a pod that came back before its eviction was on record.
	// Each closes the eviction anew, with a line that is the first one but for attempts, outcome,
	// reason and processesKilled. There is one kill line.
	Attempts int     `json:"attempts,omitempty"`
	Outcome  Outcome `json:"outcome,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	By       string  `json:"by,omitempty"`
	// Message is what the kubelet would write into the pod's status and its event, and
	// Annotations are those of the event.
	Message     string            `json:"message,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Reclaim is what was freed of the node before anybody was to be evicted for a disk;
	// absent where nothing was tried.
	Reclaim *Reclaim `json:"reclaim,omitempty"`
	// Conditions are the node's, on lines of that kind.
	Conditions *decide.Conditions `json:"conditions,omitempty"`
	// Scene is the demo's.
	Scene string `json:"scene,omitempty"`
}

// Threshold is the threshold acted on.
type Threshold struct {
	Signal string `json:"signal"`
	Hard   bool   `json:"hard"`
	// Value is the threshold as apimachinery prints it ("500Mi"), or its percentage.
	Value string `json:"value"`
	// ValueBytes and MinReclaimBytes are for the observed capacity; nil where the signal
	// counts tasks or inodes.
	ValueBytes         *int64 `json:"valueBytes,omitempty"`
	MinReclaimBytes    *int64 `json:"minReclaimBytes,omitempty"`
	GracePeriodSeconds int64  `json:"gracePeriodSeconds"`
}

// Observed is in the unit of the signal. Available is signed.
type Observed struct {
	Available int64 `json:"available"`
	Capacity  int64 `json:"capacity"`
}

// Victim is the evicted unit with the figures it was ranked by; the backstop's with what it held
// at the kernel's last look before SIGKILL.
type Victim struct {
	UID          string `json:"uid"`
	Namespace    string `json:"namespace,omitempty"`
	Name         string `json:"name"`
	Cgroup       string `json:"cgroup"`
	CgroupID     uint64 `json:"cgroupId"`
	QOSClass     string `json:"qosClass,omitempty"`
	Priority     int32  `json:"priority"`
	UsageBytes   *int64 `json:"usageBytes,omitempty"`
	RequestBytes int64  `json:"requestBytes"`
	Tasks        *int64 `json:"tasks,omitempty"`
}

// Ranked is a unit of a ranking. Reason says why it may not be evicted, or why it ranks there.
type Ranked struct {
	UID          string `json:"uid"`
	Name         string `json:"name,omitempty"`
	UsageBytes   *int64 `json:"usageBytes,omitempty"`
	RequestBytes int64  `json:"requestBytes"`
	Tasks        *int64 `json:"tasks,omitempty"`
	Priority     int32  `json:"priority"`
	Evictable    bool   `json:"evictable"`
	Reason       string `json:"reason,omitempty"`
}

// Reclaim is what a node-level reclaim did, by the id of the agent's request.
type Reclaim struct {
	ID     ID     `json:"id"`
	Signal string `json:"signal"`
	// Containers and Images are how many were removed.
	Containers int64 `json:"containers"`
	Images     int64 `json:"images"`
	// FreedBytes and FreedInodes are nil where that could not be told.
	FreedBytes  *int64 `json:"freedBytes,omitempty"`
	FreedInodes *int64 `json:"freedInodes,omitempty"`
	// TookNs is from the request to its answer.
	TookNs uint64 `json:"tookNs,omitempty"`
	// Error says what went wrong; empty when nothing did.
	Error string `json:"error,omitempty"`
}

// Timeline is in nanoseconds of CLOCK_MONOTONIC; 0 means that the stage was not reached.
type Timeline struct {
	// Crossed is stamped in the kernel by the program that saw it.
	Crossed uint64 `json:"crossed,omitempty"`
	Woke    uint64 `json:"woke,omitempty"`
	Decided uint64 `json:"decided,omitempty"`
	// Asked is SIGTERM, of soft evictions.
	Asked uint64 `json:"asked,omitempty"`
	// Signalled is the first SIGKILL to the unit, SignalledAll the last.
	Signalled    uint64 `json:"signalled,omitempty"`
	SignalledAll uint64 `json:"signalledAll,omitempty"`
	// Dead is when the unit was unpopulated, Recovered when the signal was back.
	Dead      uint64 `json:"dead,omitempty"`
	Recovered uint64 `json:"recovered,omitempty"`
}

// Time is a wall time, written as RFC 3339 in UTC with all nine digits of the nanoseconds,
// so that lines sort as text. (time.Time's own form drops trailing zeros.)
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000000000Z"

// MarshalJSON writes nine digits of nanoseconds.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.UTC().Format(timeLayout)) }
