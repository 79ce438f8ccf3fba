package kube

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// The agent needs nobody for a kill. What happened meanwhile is on record once.
func TestAnOutageOfTheAPIServerLosesNothing(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	before, during := n.Pod(t, "before", hog(), onCall), n.Pod(t, "during", hog("-ignore-term"), onCall)
	before.Call()
	usual := a.KillOf(before)
	t.Log(timesOf(a.Eviction(usual.ID)))

	n.WithoutAPIServer(t, func() {
		during.Call()
		kill := a.KillOf(during)
		t.Log(timesOf(a.Eviction(kill.ID)))
		c.await("try that failed", func() bool {
			return slices.ContainsFunc(c.Reports("eviction not reported yet"), func(r said) bool { return r.ID == kill.ID })
		})
	})
	before.isOnRecordOnce(c, usual)
	during.isOnRecordOnce(c, a.KillOf(during))
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// A kubelet that can't learn of the eviction starts the container again. It is killed again,
// though nothing is short by then, and that is the same eviction: one kill line, one record.
func TestAPodThatComesBackBeforeItsRecordIsKilledAgain(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	h := n.Pod(t, "hog", hog("-ignore-term"), onCall) // started again it waits for another call
	other := n.Pod(t, "other", []string{"wait"})
	must(t, n.await("ranking that knows the pod's name", func() bool { return a.ranks(h) }))
	var kill record.Line
	n.WithoutAPIServer(t, func() {
		h.Call()
		kill = a.KillOf(h)
		c.await("second kill", func() bool { return a.Eviction(kill.ID).Attempts > 1 })
	})
	h.isOnRecordOnce(c, kill)
	closed := a.Eviction(kill.ID)
	t.Logf("%s; %d attempts, %d processes killed: %s", timesOf(closed), closed.Attempts, closed.ProcessesKilled, closed.Reason)
	if closed.Outcome != record.OutcomeKilled || closed.ProcessesKilled < closed.Attempts || len(a.Lines(record.KindKill)) != 1 {
		t.Errorf("closed as %+v after the kill lines %+v", closed, a.Lines(record.KindKill))
	}
	for _, l := range a.Lines(record.KindEviction) {
		if l.ID != kill.ID {
			t.Errorf("another eviction: %+v", l)
		}
	}
	append(bs, other).AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// WithoutAPIServer kills the API server, and starts it again afterwards.
func (n *node) WithoutAPIServer(t *testing.T, during func()) {
	t.Helper()
	server := n.Daemon("kube-apiserver")
	server.kill()
	defer func() {
		must(t, server.start())
		must(t, n.await("ready API server", func() bool {
			_, err := n.call(http.MethodGet, "/readyz", nil)
			return err == nil
		}))
	}()
	during()
}

// isOnRecordOnce waits for the record of an eviction that came late. The container may have
// been started again before.
func (p *pod) isOnRecordOnce(c *companion, kill record.Line) {
	p.t.Helper()
	if r := c.AwaitReport(kill.ID); r.Result != "done" {
		p.t.Errorf("report %+v", r)
	}
	want := evictedForMemory()
	want.Restarts = p.Restarts()
	p.IsLeftAs(want)
	p.tellsOf(kill)
	reports := slices.DeleteFunc(c.Reports("eviction reported"), func(r said) bool { return r.ID != kill.ID })
	if len(reports) != 1 {
		p.t.Errorf("reported %d times: %+v", len(reports), reports)
	}
	p.t.Logf("record written %.0f ms after the kill, restarts %d", c.awaitLine("pod status written", kill.ID).AfterMs, want.Restarts)
}

// A companion that dies between kill and report goes on where it was.
func TestACompanionKilledBeforeItsReportLosesNothing(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	h := n.Pod(t, "hog", hog(), onCall)
	must(t, c.cmd.Process.Signal(unix.SIGSTOP))
	h.Call()
	kill := a.KillOf(h)
	t.Log(timesOf(a.Eviction(kill.ID)))
	c.kill()
	must(t, c.start())
	h.isOnRecordOnce(c, kill)
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// A table that is none, or an older one, or not the companion's is refused, and what the last
// good one says of the pods still holds.
func TestABadTableIsRefused(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	h := n.Pod(t, "hog", hog(), onCall)
	must(t, n.await("ranking that knows the pod's name", func() bool { return a.ranks(h) }))
	must(t, c.cmd.Process.Signal(unix.SIGSTOP)) // it would replace the table

	data, err := os.ReadFile(tableFile)
	must(t, err)
	var good workload.Table
	must(t, json.Unmarshal(data, &good))
	for _, tc := range []struct {
		name  string
		place func(path string)
		says  string
	}{
		{"half of it", func(path string) { placeTable(t, path, data[:len(data)/2], companionUID) }, "JSON"},
		{"older", func(path string) { placeTable(t, path, sparing(t, good, 1), companionUID) }, "generation"},
		{"root's", func(path string) { placeTable(t, path, sparing(t, good, good.Generation+1), 0) }, "belongs to uid 0"},
		{"symbolic link", func(path string) {
			other := filepath.Join(filepath.Dir(path), "other.json")
			placeTable(t, other, sparing(t, good, good.Generation+1), companionUID)
			must(t, os.Symlink(other, path+".link"))
			must(t, os.Rename(path+".link", path))
		}, "symbolic link"},
	} {
		tc.place(tableFile)
		if err := n.await("refusal", func() bool {
			lines := a.Lines(record.KindDegraded)
			return len(lines) > 0 && strings.Contains(lines[len(lines)-1].Reason, tc.says)
		}); err != nil {
			t.Fatalf("%s: %v: %+v", tc.name, err, a.Lines(record.KindDegraded))
		}
		t.Logf("%s: %s", tc.name, a.Lines(record.KindDegraded)[len(a.Lines(record.KindDegraded))-1].Reason)
	}
	h.Call()
	kill := a.KillOf(h)
	if v := kill.Victim; v.Name != h.Name || v.Namespace != namespace {
		t.Errorf("victim %+v, want it by the name in the last good table", v)
	}
	must(t, c.cmd.Process.Signal(unix.SIGCONT))
	h.isOnRecordOnce(c, kill)
	must(t, n.await("good table again", func() bool {
		lines := a.Lines(record.KindDegraded)
		return strings.Contains(lines[len(lines)-1].Reason, "good again")
	}))
	bs.AreUntouched(t)
}

// ranks reports whether the agent knows a pod by its name, which only the table tells.
func (a *agent) ranks(p *pod) bool {
	s, err := record.ReadState(filepath.Join(runDir, "agent/state.json"))
	return err == nil && slices.ContainsFunc(s.Ranking, func(r record.Ranked) bool { return r.UID == p.UID && r.Name == p.Name })
}

// sparing is a table by which nobody is to be evicted.
func sparing(t *testing.T, table workload.Table, generation uint64) []byte {
	t.Helper()
	table.Generation, table.Workloads = generation, slices.Clone(table.Workloads)
	for i := range table.Workloads {
		table.Workloads[i].Evict, table.Workloads[i].Name = "never", "spared"
	}
	data, err := json.Marshal(table)
	must(t, err)
	return data
}

func placeTable(t *testing.T, path string, data []byte, owner int) {
	t.Helper()
	must(t, os.WriteFile(path+".tmp", data, 0o644))
	must(t, os.Chown(path+".tmp", owner, owner))
	must(t, os.Rename(path+".tmp", path))
}
