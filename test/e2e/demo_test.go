package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

func TestDemoEvictsThreeAndNothingElse(t *testing.T) {
	cmd := exec.Command(binary(t), "demo", "-o", "json", "--log-level", "error")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("demo ended with %v, printed %s", err, out.String())
	}
	var got struct {
		Evictions       []record.Line
		BystandersAlive bool
		CleanedUp       bool
	}
	must(t, json.Unmarshal(out.Bytes(), &got))
	var scenes []string
	for _, l := range got.Evictions {
		scenes = append(scenes, l.Scene)
		if l.Outcome != record.OutcomeKilled || strings.Contains(l.Victim.Name, "bystander") {
			t.Errorf("scene %s: %s %s", l.Scene, l.Victim.Name, l.Outcome)
		}
	}
	if !slices.Equal(scenes, []string{"allocatable", "node", "forkbomb"}) || !got.BystandersAlive || !got.CleanedUp {
		t.Errorf("scenes %v, bystanders alive: %v, cleaned up: %v", scenes, got.BystandersAlive, got.CleanedUp)
	}
	demoLeftNothing(t, cmd.Process.Pid)
}

// Ctrl-C goes to the demo and to its agent at once.
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	cmd := exec.Command(binary(t), "demo", "--log-level", "error")
	tmp := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if !soon(func() bool {
		started, _ := filepath.Glob(filepath.Join(tmp, "*", "journal-1.jsonl"))
		return len(started) > 0
	}) {
		t.Fatal("the demo's agent does not start")
	}
	must(t, unix.Kill(-cmd.Process.Pid, unix.SIGINT))
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("ended with %v, want exit code 1", err)
		}
	case <-time.After(patience):
		t.Fatal("the demo does not end")
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	demoLeftNothing(t, cmd.Process.Pid)
}

// demoLeftNothing looks for cgroups, and with them processes, programs and pins.
func demoLeftNothing(t *testing.T, pid int) {
	t.Helper()
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	if c, err := fs.Open(fmt.Sprintf("/ebpf-evict-demo-%d", pid)); !errors.Is(err, cgroupfs.ErrGone) {
		t.Errorf("the demo's cgroup is left: %v, %v", c, err)
	}
	// The kernel lets go of programs a grace period later.
	if !soon(func() bool { return len(ourPrograms(t)) == 0 }) {
		t.Errorf("programs are left: %v", ourPrograms(t))
	}
	if pins, _ := filepath.Glob("/sys/fs/bpf/ebpf-evict/*"); len(pins) != 0 {
		t.Errorf("pins are left: %v", pins)
	}
}
