// Package ward runs tests that mount filesystems and start daemons and containers so that
// nothing outlives them. The tests are a child in namespaces of its own, and its parent, the
// warden, collects what outlives it: whatever kills the child, its mounts go with the
// namespace, and its daemons, shims and containers become children of the warden, which ends
// them.
package ward

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Ward is how a package's tests are run.
type Ward struct {
	// Variable of the environment names to the tests their warden's pid.
	Variable string
	// Namespaces are the CLONE_NEW… flags beside CLONE_NEWNS.
	Namespaces uintptr
	// Enter prepares the namespaces, in the child and before the tests.
	Enter func() error
	// Leave removes what lies outside of them, when all processes have ended.
	Leave func(warden int)
}

// Warden is the pid of the tests' warden, 0 where they are run without one.
func (w Ward) Warden() int {
	pid, _ := strconv.Atoi(os.Getenv(w.Variable))
	return pid
}

// Run runs the tests, or starts them and wards them, and returns their exit status. Without
// root there are no namespaces to be had, and they are run as they are.
func (w Ward) Run(tests func() int) int {
	switch {
	case os.Geteuid() != 0:
		return tests()
	case w.Warden() == 0:
		return w.ward()
	}
	if err := w.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "enter the tests' namespaces:", err)
		return 1
	}
	return tests()
}

func (w Ward) ward() int {
	dir, err := os.MkdirTemp("", "evict-") // short: a socket's path has 107 bytes
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	defer w.Leave(os.Getpid())
	defer sweep()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become a subreaper:", err)
		return 1
	}
	runtime.LockOSThread() // PDEATHSIG follows the thread that forked
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), w.Variable+"="+strconv.Itoa(os.Getpid()), "TMPDIR="+dir),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | w.Namespaces, Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the tests:", err)
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
			fmt.Fprintln(os.Stderr, "wait for the tests:", err)
			return 1
		case ended == pid && status.Signaled():
			fmt.Fprintln(os.Stderr, "the tests were ended by", status.Signal())
			return 1
		case ended == pid:
			return status.ExitStatus()
		}
	}
}

// sweep ends all children, and those whom they leave.
func sweep() {
	for {
		for _, pid := range childrenOf(os.Getpid()) {
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
