package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// node is a bed with the agent and the disk process on it.
type node struct {
	*bed
	table []map[string]any
	disk  *exec.Cmd
	// agents counts those that ran, each with a journal of its own.
	agents int
}

func newNode(t testing.TB, f filesystems) *node {
	t.Helper()
	n := &node{bed: newBed(t, f)}
	n.Kubelet()
	must(t, os.WriteFile(n.file("disk.yaml"), []byte(n.diskConfig()), 0o600))
	n.disk = n.run("disk", "--config", n.file("disk.yaml"))
	return n
}

func (n *node) diskConfig() string {
	return n.AgentConfig() + fmt.Sprintf("disk: %q\nreclaim: %q\nworkloads: %q\npodLogsDir: %q\ncontainerRuntimeEndpoint: %q\nimageMinimumGCAge: 1s\n",
		n.file("disk.json"), n.file("reclaim.json"), n.file("workloads.json"), n.PodLogs, "unix://"+n.Socket)
}

// run starts a command of the program until the test ends.
func (n *node) run(args ...string) *exec.Cmd {
	n.t.Helper()
	log, err := os.OpenFile(n.file(args[0]+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(n.t, err)
	defer log.Close()
	cmd := exec.Command("../../bin/ebpf-evict", args...)
	cmd.Stdout, cmd.Stderr = log, log
	must(n.t, cmd.Start())
	n.t.Cleanup(func() {
		n.end(cmd)
		if said, _ := os.ReadFile(log.Name()); n.t.Failed() {
			n.t.Logf("%s said:\n%s", args[0], said)
		}
	})
	return cmd
}

func (n *node) end(cmd *exec.Cmd) {
	if cmd.ProcessState != nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
}

// knows tells the agent and the disk process of a pod what a cluster would.
func (n *node) knows(p *pod, more map[string]any) {
	n.t.Helper()
	entry := map[string]any{"uid": p.UID, "namespace": namespace, "name": p.Name}
	for key, v := range more {
		entry[key] = v
	}
	n.table = append(n.table, entry)
	data, err := json.Marshal(map[string]any{
		"schema": "ebpf-evict/workloads/v1", "node": "bed", "generation": len(n.table), "workloads": n.table,
	})
	must(n.t, err)
	must(n.t, os.WriteFile(n.file("workloads.new"), data, 0o600))
	must(n.t, os.Rename(n.file("workloads.new"), n.file("workloads.json")))
}

// watch gives the disk process and a new agent one threshold, and returns when the agent watches.
func (n *node) watch(signal string, threshold int64) *exec.Cmd {
	n.t.Helper()
	n.agents++
	hard := fmt.Sprintf("evictionHard: {%q: %q}\n", signal, fmt.Sprint(threshold))
	n.diskKnows(hard)
	must(n.t, os.WriteFile(n.file("run.yaml"), fmt.Appendf(nil, "%s%smode: enforce\njournal: %q\nstate: %q\nenforceNodeAllocatable: []\ndrill: {atStart: false, every: 0}\n",
		n.diskConfig(), hard, n.journal(), n.file("state.json")), 0o600))
	agent := n.run("run", "--config", n.file("run.yaml"))
	n.await("start of the agent", func() bool { return n.count(record.KindStart) > 0 })
	return agent
}

// diskKnows gives the disk process the agent's thresholds, as on a node: near one it looks harder.
func (n *node) diskKnows(hard string) {
	n.t.Helper()
	config, err := os.ReadFile(n.file("disk.yaml"))
	must(n.t, err)
	config, _, _ = bytes.Cut(config, []byte("evictionHard"))
	must(n.t, os.WriteFile(n.file("disk.yaml"), append(config, hard...), 0o600))
	if n.disk.ProcessState != nil {
		return
	}
	n.await("the disk process", func() bool { _, err := os.Stat(n.file("disk.json")); return err == nil }) // until then SIGHUP ends it
	var since unix.Timespec
	must(n.t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &since))
	must(n.t, n.disk.Process.Signal(syscall.SIGHUP))
	n.await("figures by the new configuration", func() bool {
		t, err := workload.LoadDisk(n.file("disk.json"), 0)
		return err == nil && t.WrittenNs > uint64(since.Nano()) && !t.Measuring
	})
}

func (n *node) journal() string { return n.file(fmt.Sprintf("journal-%d.jsonl", n.agents)) }

func (n *node) lines(kind record.Kind) (found []record.Line) {
	n.t.Helper()
	lines, _, err := record.ReadJournal(n.journal())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	for _, l := range lines {
		if l.Kind == kind {
			found = append(found, l)
		}
	}
	return found
}

func (n *node) count(kind record.Kind) int { return len(n.lines(kind)) }

// measured waits until the disk process knows that a pod holds so much.
func (n *node) measured(p *pod, least int64) {
	n.t.Helper()
	n.await("figures of "+p.Name, func() bool {
		t, err := workload.LoadDisk(n.file("disk.json"), 0)
		if err != nil {
			return false
		}
		e := t.Entry(p.UID)
		return e != nil && e.EphemeralStorage != nil && e.EphemeralStorage.UsedBytes != nil && *e.EphemeralStorage.UsedBytes >= least
	})
}

// asksRuntime waits until the disk process has asked the runtime anew: it alone tells the name
// of a container with what its layer holds.
func (n *node) asksRuntime(p *pod, name string) {
	n.t.Helper()
	p.Run(name, writerImage, "wait")
	n.await("figures of container "+name, func() bool {
		t, err := workload.LoadDisk(n.file("disk.json"), 0)
		if err != nil {
			return false
		}
		e := t.Entry(p.UID)
		return e != nil && slices.ContainsFunc(e.Containers, func(c workload.ContainerDisk) bool { return c.Name == name && c.RootfsBytes != nil })
	})
}

// evicted waits for the one eviction of a pod and tells of it.
func (n *node) evicted(p *pod) record.Line {
	n.t.Helper()
	n.await("eviction of "+p.Name, func() bool { return n.count(record.KindEviction) > 0 })
	l := n.lines(record.KindEviction)[0]
	n.told(l)
	if l.Victim == nil || l.Victim.UID != p.UID || l.Outcome != record.OutcomeKilled {
		n.t.Fatalf("%s: %s, want %s killed", l.Outcome, l.Reason, p.Name)
	}
	return l
}

// killed waits for the kill of a pod, whose eviction may go on.
func (n *node) killed(p *pod) {
	n.t.Helper()
	n.await("kill of "+p.Name, func() bool { return n.count(record.KindKill) > 0 })
	if l := n.lines(record.KindKill)[0]; l.Victim == nil || l.Victim.UID != p.UID {
		n.t.Fatalf("killed is %+v, want %s", l.Victim, p.Name)
	}
}

// ended waits for a killed pod's end: a runtime that is asked to stop a container that is dying
// says that it can't.
func (n *node) ended(p *pod) {
	n.t.Helper()
	n.await("end of "+p.Name, func() bool { return !n.HasCgroup(p.UID) })
}

// told logs what explain says.
func (n *node) told(l record.Line) {
	n.t.Helper()
	out, err := exec.Command("../../bin/ebpf-evict", "explain", l.ID.String(), "--journal", n.journal()).CombinedOutput()
	must(n.t, err)
	n.t.Log(strings.TrimSpace(string(out)))
}

// nobodyElse wants that this many died by the agent, and these live.
func (n *node) nobodyElse(kills int, alive ...*container) {
	n.t.Helper()
	time.Sleep(time.Second) // whoever would follow has done so
	if got := n.count(record.KindKill); got != kills {
		n.t.Errorf("%d kills, want %d: %+v", got, kills, n.lines(record.KindKill))
	}
	for _, c := range alive {
		if !c.isRunning() {
			n.t.Errorf("container of %s is dead", c.p.Name)
		}
	}
}

// degraded are the agent's alarms.
func (n *node) degraded() (reasons []string) {
	for _, l := range n.lines(record.KindDegraded) {
		reasons = append(reasons, l.Reason)
	}
	return reasons
}

func (n *node) nodeLeft(signal string) int64 {
	bytes, inodes := n.available(n.NodeFs)
	if strings.HasSuffix(signal, "inodesFree") {
		return inodes
	}
	return bytes
}

// sleeps has a process sleep in a new cgroup, at most for the time that a test may take.
func (n *node) sleeps(cgroup string) *exec.Cmd {
	n.t.Helper()
	all, err := cgroupfs.New("/sys/fs/cgroup")
	must(n.t, err)
	must(n.t, all.Create(cgroup))
	cmd := exec.Command("sleep", "1800")
	must(n.t, cmd.Start())
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, procs := range all.ProcsFiles(cgroup) {
		must(n.t, os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)), 0))
	}
	return cmd
}
