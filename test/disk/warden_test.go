// Package disk plays scenes on real filesystems of their own with a real containerd of its
// own: loop-mounted ext4 and xfs, pods made by CRI, no kubelet. `make test-disk` runs them.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wardedBy names to the process that plays the scenes its warden's own names.
const wardedBy = "EBPF_EVICT_DISK_WARDEN"

// The scenes are played by a child in a mount namespace of its own, and its parent, the
// warden, collects what outlives it: whatever kills the child, its mounts go with the
// namespace, and its runtimes, shims and containers become children of the warden, which
// ends them.
func TestMain(m *testing.M) {
	switch {
	case os.Geteuid() != 0:
	case os.Getenv(wardedBy) == "":
		os.Exit(ward())
	default:
		// Shims have their sockets there, wherever containerd has its own.
		if err := unix.Mount("tmpfs", shimDir, "tmpfs", 0, "mode=711"); err != nil {
			fmt.Fprintln(os.Stderr, "mount over", shimDir+":", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const shimDir = "/run/containerd"

func ward() int {
	dir, err := os.MkdirTemp("", "evict-disk-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if os.Mkdir(shimDir, 0o711) == nil {
		defer func() { _ = os.Remove(shimDir) }()
	}
	defer removeCgroups(ownCgroup())
	defer sweep()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become a subreaper:", err)
		return 1
	}
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), wardedBy+"="+strconv.Itoa(os.Getpid()), "TMPDIR="+dir),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the scenes:", err)
		return 1
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	go func() {
		<-asked
		_ = child.Kill()
	}()
	return reapUntil(child.Pid)
}

// reapUntil reaps whoever ends, until it is pid, and returns how that ended.
func reapUntil(pid int) int {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			fmt.Fprintln(os.Stderr, "wait for the scenes:", err)
			return 1
		case ended == pid && status.Signaled():
			fmt.Fprintln(os.Stderr, "the scenes were ended by", status.Signal())
			return 1
		case ended == pid:
			return status.ExitStatus()
		}
	}
}

// sweep ends all children, and those whom they leave.
func sweep() {
	for {
		children := childrenOf(os.Getpid())
		for _, pid := range children {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			return
		}
	}
}

func childrenOf(parent int) []int {
	var children []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		data, _ := os.ReadFile(file)
		_, rest, _ := strings.Cut(string(data), ") ") // "1 (name) S 0 …"
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			children = append(children, pid)
		}
	}
	return children
}

// ownCgroup is the root below which all pods of this run are.
func ownCgroup() string {
	warden := os.Getenv(wardedBy)
	if warden == "" {
		warden = strconv.Itoa(os.Getpid())
	}
	return "/ebpf-evict-disk-" + warden
}

// removeCgroups removes a cgroup with all below it from every hierarchy.
func removeCgroups(dir string) {
	for _, mount := range cgroupMounts() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(mount, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			_ = os.Remove(d)
		}
	}
}

func cgroupMounts() []string {
	var mounts []string
	data, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[2], "cgroup") {
			mounts = append(mounts, f[1])
		}
	}
	return mounts
}
