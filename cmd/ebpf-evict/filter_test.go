package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forbidden are system calls that the exporter's unit forbids: the most telling of @privileged and
// @resources, and openat2, which RestrictSUIDSGID forbids.
var forbidden = []uint32{
	unix.SYS_BPF, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_QUOTACTL, unix.SYS_CHROOT, unix.SYS_SETUID, unix.SYS_SETRESUID,
	unix.SYS_SETGROUPS, unix.SYS_CAPSET, unix.SYS_FANOTIFY_INIT, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT,
	unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SETPRIORITY, unix.SYS_SETRLIMIT,
	unix.SYS_IOPRIO_SET, unix.SYS_MBIND, unix.SYS_SET_MEMPOLICY, unix.SYS_MLOCKALL, unix.SYS_PERF_EVENT_OPEN, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT,
}

const filteredVariable = "EBPF_EVICT_FILTERED"

// TestMain is also the program under a filter: executed once to have it, and once more with it, so
// that it holds before any package's init.
func TestMain(m *testing.M) {
	switch os.Getenv(filteredVariable) {
	case "":
		os.Exit(m.Run())
	case "now":
		main()
	}
	runtime.LockOSThread()
	if err := filter(forbidden); err != nil {
		panic(err)
	}
	panic(unix.Exec("/proc/self/exe", os.Args, []string{filteredVariable + "=now"}))
}

// filter is of the calling thread.
func filter(forbidden []uint32) error {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // seccomp_data.nr
	for i, nr := range forbidden {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(forbidden) - i)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	all := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&all)), 0, 0)
}

func filtered(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = []string{filteredVariable + "=first"}
	return cmd
}

// The unit is deploy/systemd/ebpf-evict-export.service; `make test-systemd` has systemd's own filter.
// The configuration names a kubelet's file that can't be read, as on a node.
func TestTheExporterLivesUnderItsSystemCallFilter(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	text := "kubeletConfig: " + dir + "/none\njournal: " + dir + "/journal\nstate: " + dir + "/state\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := filtered(t.Context(), "history", "--config", config).CombinedOutput(); err != nil {
		t.Errorf("history: %v\n%s", err, out)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	cmd := filtered(ctx, "export", "--config", config, "--listen", "127.0.0.1:0", "--log-format", "json")
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, _ := bufio.NewReader(logs).ReadString('\n')
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(said)
	if address == "" {
		rest, _ := io.ReadAll(logs)
		t.Fatalf("%v: %s%s", cmd.Wait(), said, rest)
	}
	r, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil || !strings.Contains(string(body), "\nebpf_evict_up 0\n") {
		t.Errorf("%v\n%s", err, body)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
