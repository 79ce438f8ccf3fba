// Package drill is what the client of a fire drill and the agent say to each other, in files
// of a directory that is root's alone: the hot process listens on nothing else.
//
//	client                                      agent
//	a canary, paused, in a cgroup of its own
//	Request ──────────────────────────────────► opens and checks that cgroup, arms a private wire on it
//	the canary begins ◄──────────────── Armed
//	crosses the wire                            sees it, decides, strikes, as with any victim
//	cleans up ◄───────────────────────── Done, with the journal's line
package drill

import (
	"path"
	"regexp"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// Parent is the cgroup of all canaries. It is made for a drill and removed after it.
const Parent = "/ebpf-evict-drill"

// What a canary's cgroup may hold at most, by its own limits.
const (
	MaxMemoryBytes = 32 << 20
	MaxTasks       = 32
)

// How far a canary's wire is away from what it holds when it is armed: it is a small Go
// program that holds 5 to 10 MiB and as many threads.
const (
	MemoryDistanceBytes = 8 << 20
	TaskDistance        = 8
)

// Schema is that of requests and replies.
const Schema = "ebpf-evict/drill/v1"

// Request asks for a private wire on a canary's cgroup.
type Request struct {
	Schema string `json:"schema"`
	// ID is the drill's: one drill tries several signals.
	ID record.ID `json:"id"`
	// Signal is allocatableMemory.available or allocatablePID.available, of the canary's
	// cgroup against its own limit.
	Signal string `json:"signal"`
	// Cgroup is Parent and a name that CgroupOf could have made.
	Cgroup string `json:"cgroup"`
}

// State says how far a request has come.
type State string

const (
	// Refused: the canary is none, and nothing was done about it.
	Refused State = "refused"
	// Skipped: the node has more urgent things to do, or has too little left for a canary.
	Skipped State = "skipped"
	// Armed: the canary may begin.
	Armed State = "armed"
	// Done: Line says how it ended.
	Done State = "done"
)

// Reply is the agent's answer. A later one replaces the earlier.
type Reply struct {
	Schema string       `json:"schema"`
	State  State        `json:"state"`
	Reason string       `json:"reason,omitempty"`
	Line   *record.Line `json:"line,omitempty"`
	// ByClock: there is a hook for the signal, and it has not seen the canary.
	ByClock bool `json:"byClock,omitempty"`
}

// Result is what became of a drill, and what `drill -o json` prints.
type Result struct {
	ID record.ID `json:"id"`
	OK bool      `json:"ok"`
	// Skipped: it was not held, which says nothing about the node.
	Skipped bool `json:"skipped,omitempty"`
	// Stage is the one that a failed drill did not reach, Reason why.
	Stage  string `json:"stage,omitempty"`
	Reason string `json:"reason,omitempty"`
	// AtStart: it was the first one of a `run`.
	AtStart bool `json:"atStart,omitempty"`
	// Drills are the journal's lines, one a signal.
	Drills []record.Line `json:"drills"`
}

// Stages of a drill, in their order: canary and request are the client's, the others those
// of the journal's timeline.
const (
	StageCanary    = "canary"
	StageRequest   = "request"
	StageArmed     = "armed"
	StageCrossed   = "crossed"
	StageDecided   = "decided"
	StageSignalled = "signalled"
	StageDead      = "dead"
)

// MissedStage is the first stage that a line's timeline lacks, empty when it has all.
func MissedStage(l *record.Line) string {
	t := l.Timeline
	switch {
	case t == nil || t.Crossed == 0:
		return StageCrossed
	case t.Decided == 0:
		return StageDecided
	case t.Signalled == 0:
		return StageSignalled
	case t.Dead == 0:
		return StageDead
	}
	return ""
}

// names are those of canaries' cgroups: the client's pid, the drill, the number of the canary.
var names = regexp.MustCompile(`^[0-9]{1,10}-[0-9A-Z]{26}-[0-9]{1,2}$`)

// IsCanary reports whether a cgroup path is one that a client of a drill makes.
func IsCanary(cgroup string) bool {
	return path.Dir(cgroup) == Parent && path.Clean(cgroup) == cgroup && names.MatchString(path.Base(cgroup))
}
