package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// The thread that strikes, the crew that finishes and, where the kernel's timer can't (before
// 5.15), the one that compares the wires are real-time threads, nothing else of the agent is; its pages are locked, and it is the last that the kernel would take.
func TestTheHotProcess(t *testing.T) {
	w := newWorld(t)
	own := w.root + "-agent"
	must(t, w.fs.Create(own))
	t.Cleanup(func() { must(t, w.fs.Remove(own)) })
	w.agent = exec.Command(binary(t), "run", "--config", w.config(map[string]string{"allocatablePID.available": "1"}), "--log-level", "error")
	w.agent.Stderr = os.Stderr
	if w.fs.Version() == cgroupfs.V2 {
		dir, err := os.Open(w.fs.MemoryDir(own))
		must(t, err)
		defer func() { _ = dir.Close() }()
		w.agent.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	must(t, w.agent.Start())
	t.Cleanup(w.stop)
	w.await("the agent's start", func() bool { return w.count(record.KindStart) == 1 })

	pid := w.agent.Process.Pid
	var priorities []int
	w.await("the threads' classes", func() bool {
		priorities = fifoThreads(t, pid)
		return len(priorities) > 8
	})
	slices.Sort(priorities)
	if most := priorities[len(priorities)-1]; most != 50 || slices.Index(priorities, 50) != len(priorities)-1 {
		t.Errorf("priorities %v: want one thread of 50", priorities)
	}
	others := priorities[:len(priorities)-1]
	if !hasBackstop(t) {
		if i := len(others) - 1; others[i] == 45 {
			others = others[:i]
		} else {
			t.Errorf("priorities %v: want one thread of 45", priorities)
		}
	}
	if slices.Min(others) != 40 || slices.Max(others) != 40 {
		t.Errorf("priorities %v: want all others of 40", priorities)
	}
	if procFile(t, pid, "status", "VmLck:") == "0 kB" {
		t.Error("no page is locked")
	}
	if got := procFile(t, pid, "status", "THP_enabled:"); got != "0" {
		t.Errorf("THP_enabled is %s: khugepaged may hold the hot thread up", got)
	}
	if has := procFile(t, os.Getpid(), "status", "CapEff:"); mayLowerOOMScore(t, has) {
		if got := procFile(t, pid, "oom_score_adj", ""); got != "-999" {
			t.Errorf("oom_score_adj is %s", got)
		}
	}
	if w.fs.Version() == cgroupfs.V2 {
		got, err := os.ReadFile(filepath.Join(w.fs.MemoryDir(own), "memory.min"))
		if err != nil || strings.TrimSpace(string(got)) != "67108864" {
			t.Errorf("memory.min is %s, %v", got, err)
		}
	}
}

// fifoThreads are the priorities of a process's threads of class SCHED_FIFO.
func fifoThreads(t *testing.T, pid int) (priorities []int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	must(t, err)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		must(t, err)
		attr, err := unix.SchedGetAttr(tid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		must(t, err)
		if attr.Policy == unix.SCHED_FIFO {
			priorities = append(priorities, int(attr.Priority))
		}
	}
	return priorities
}

// procFile is what follows a key in a file of /proc/PID.
func procFile(t *testing.T, pid int, name, key string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
	must(t, err)
	_, rest, _ := strings.Cut(string(data), key)
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

func mayLowerOOMScore(t *testing.T, capabilities string) bool {
	t.Helper()
	set, err := strconv.ParseUint(capabilities, 16, 64)
	must(t, err)
	return set>>unix.CAP_SYS_RESOURCE&1 == 1
}
