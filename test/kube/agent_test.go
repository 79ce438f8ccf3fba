package kube

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// agent is the tested program beside the kubelet.
type agent struct {
	t testing.TB
	*daemon
	n *node
	// Journal is this agent's alone.
	Journal string
}

// The agent's files, where they are by default. The node's /run is its own.
const (
	runDir      = "/run/ebpf-evict"
	agentConfig = runDir + "/config.yaml"
	tableFile   = runDir + "/table/workloads.json"
)

// Thresholds of the agent, both of what pods have in all: crossed long before the kubelet's.
const (
	agentMemory = 1 << 30
	agentTasks  = 600
)

// shortly is a transition period that no scene has to wait for.
const shortly = 5 * time.Second

// Agent starts the agent in enforce mode over all pods, with a transition period, and waits
// until it watches. The test's end stops it.
func (n *node) Agent(t testing.TB, transition time.Duration) *agent {
	t.Helper()
	program, err := built("ebpf-evict")
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(runDir, "agent"), 0o755))
	must(t, os.MkdirAll(filepath.Join(runDir, "table"), 0o755))
	must(t, os.Chown(filepath.Join(runDir, "table"), companionUID, companionUID))
	a := &agent{t: t, n: n, Journal: filepath.Join(runDir, "agent/journal.jsonl"), daemon: &daemon{
		name: "ebpf-evict", args: []string{program, "run", "--config", agentConfig, "--log-level", "warn"},
		log: filepath.Join(n.logs, "ebpf-evict.log"),
	}}
	must(t, os.WriteFile(agentConfig, fmt.Appendf(nil, `mode: enforce
roots: [%q]
enforceNodeAllocatable: []
evictionHard: {"allocatableMemory.available": "%d", "allocatablePID.available": "%d"}
evictionPressureTransitionPeriod: %s
tableOwner: %d
budget: {killsPerMinute: 256, killsPerHour: 256}
`, podsCgroup, agentMemory, agentTasks, transition, companionUID), 0o644))
	must(t, a.start())
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Logf("the agent's last lines:\n%s", a.lastLines(20))
		}
		must(t, os.RemoveAll(runDir))
	})
	if err := n.await("agent that watches", func() bool {
		if !a.alive() {
			t.Fatalf("the agent has ended:\n%s", a.lastLines(20))
		}
		return len(a.Lines(record.KindStart)) > 0
	}); err != nil {
		t.Fatal(err)
	}
	return a
}

// Lines are the journal's of one kind.
func (a *agent) Lines(kind record.Kind) (found []record.Line) {
	a.t.Helper()
	lines, _, err := record.ReadJournal(a.Journal)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.t.Fatal(err)
	}
	for _, l := range lines {
		if l.Kind == kind {
			found = append(found, l)
		}
	}
	return found
}

// Kill waits for the first kill.
func (a *agent) Kill() record.Line {
	a.t.Helper()
	return a.awaitKill(func(record.Line) bool { return true })
}

// KillOf waits for the first kill of a pod.
func (a *agent) KillOf(p *pod) record.Line {
	a.t.Helper()
	return a.awaitKill(func(l record.Line) bool { return l.Victim.UID == p.UID })
}

func (a *agent) awaitKill(is func(record.Line) bool) (kill record.Line) {
	a.t.Helper()
	if err := a.n.await("kill", func() bool {
		lines := a.Lines(record.KindKill)
		at := slices.IndexFunc(lines, is)
		if at >= 0 {
			kill = lines[at]
		}
		return at >= 0
	}); err != nil {
		a.t.Fatalf("%v; evictions %+v", err, a.Lines(record.KindEviction))
	}
	return kill
}

// Eviction waits until an eviction is closed.
func (a *agent) Eviction(id record.ID) (closed record.Line) {
	a.t.Helper()
	if err := a.n.await("closing line", func() bool {
		for _, l := range a.Lines(record.KindEviction) {
			if l.ID == id {
				closed = l
			}
		}
		return closed.ID == id
	}); err != nil {
		a.t.Fatal(err)
	}
	return closed
}
