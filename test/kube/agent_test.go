package kube

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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

// Thresholds of the agent, both of what pods have in all: crossed long before the kubelet's.
const (
	agentMemory = 1 << 30
	agentTasks  = 600
)

// Agent starts the agent in enforce mode over all pods, with further configuration, and waits
// until it watches. The test's end stops it.
func (n *node) Agent(t testing.TB, extra string) *agent {
	t.Helper()
	program, err := built("ebpf-evict")
	must(t, err)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	a := &agent{t: t, n: n, Journal: file("journal.jsonl"), daemon: &daemon{
		name: "ebpf-evict", args: []string{program, "run", "--config", file("config.yaml"), "--log-level", "warn"},
		log: filepath.Join(n.logs, "ebpf-evict.log"),
	}}
	must(t, os.WriteFile(file("config.yaml"), fmt.Appendf(nil, `mode: enforce
roots: [%q]
enforceNodeAllocatable: []
evictionHard: {"allocatableMemory.available": "%d", "allocatablePID.available": "%d"}
evictionPressureTransitionPeriod: 5s
journal: %q
state: %q
workloads: %q
budget: {killsPerMinute: 256, killsPerHour: 256}
%s`, podsCgroup, agentMemory, agentTasks, a.Journal, file("state.json"), file("workloads.json"), extra), 0o600))
	must(t, a.start())
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Logf("the agent's last lines:\n%s", a.lastLines(20))
		}
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
	if err := a.n.await("kill", func() bool { return len(a.Lines(record.KindKill)) > 0 }); err != nil {
		a.t.Fatalf("%v; evictions %+v", err, a.Lines(record.KindEviction))
	}
	return a.Lines(record.KindKill)[0]
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
