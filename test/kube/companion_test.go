package kube

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// companion is the tested program's second process, without any privilege on the node and
// with those of its account in the cluster.
type companion struct {
	t testing.TB
	*daemon
	n *node
}

// Companion starts the companion beside an agent, and waits until it has written the table.
// The test's end stops it when the pressure is over, since no one else takes the taints away.
func (a *agent) Companion(t testing.TB) *companion {
	t.Helper()
	program, kubeconfig := a.n.companionFiles(t)
	c := &companion{t: t, n: a.n, daemon: &daemon{
		name: "companion", uid: companionUID, log: filepath.Join(a.n.logs, "companion.log"),
		args: []string{program, "kube", "--config", agentConfig, "--kubeconfig", kubeconfig, "--node", nodeName, "--log-format", "json"},
	}}
	must(t, c.start())
	t.Cleanup(c.end)
	c.await("workload table", func() bool { return exists(tableFile) })
	return c
}

// await fails as soon as the companion has ended.
func (c *companion) await(what string, done func() bool) {
	c.t.Helper()
	if err := c.n.await(what, func() bool {
		if !c.alive() {
			c.t.Fatalf("no %s: the companion has ended:\n%s", what, c.lastLines(20))
		}
		return done()
	}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *companion) end() {
	if err := c.n.await("end of the pressure", c.n.isReady); err != nil {
		c.t.Error(err)
		c.n.untaint(c.t)
	}
	c.stop()
	if c.t.Failed() {
		c.t.Logf("the companion's last lines:\n%s", c.lastLines(20))
	}
}

// untaint takes the node's taints away, for the scenes that follow.
func (n *node) untaint(t testing.TB) {
	_, err := n.call("PATCH", "/api/v1/nodes/"+nodeName, map[string]any{"spec": map[string]any{"taints": nil}})
	must(t, err)
}

// said is what the companion says of an eviction.
type said struct {
	Message  string    `json:"message"`
	ID       record.ID `json:"id"`
	Result   string    `json:"result"`
	Attempts int       `json:"attempts"`
	AfterMs  float64   `json:"after_ms"`
}

// Reports are the lines of one message.
func (c *companion) Reports(message string) (found []said) {
	c.t.Helper()
	data, err := os.ReadFile(c.log)
	must(c.t, err)
	for line := range bytes.Lines(data) {
		var r said
		if json.Unmarshal(line, &r) == nil && r.Message == message {
			found = append(found, r)
		}
	}
	return found
}

// AwaitReport waits until an eviction is called done, which is when its record has held.
func (c *companion) AwaitReport(id record.ID) said {
	c.t.Helper()
	return c.awaitLine("eviction reported", id)
}

func (c *companion) awaitLine(message string, id record.ID) (found said) {
	c.t.Helper()
	c.await(message, func() bool {
		reports := c.Reports(message)
		at := slices.IndexFunc(reports, func(r said) bool { return r.ID == id })
		if at >= 0 {
			found = reports[at]
		}
		return at >= 0
	})
	return found
}
