package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// joinHostCgroups executes this program anew in the cgroup namespace of PID 1 where it is in
// one of its own, as in a container without the host's. From there it sees its own cgroup by
// its name, and may move a drill's canary where the mount delegates by namespaces
// (nsdelegate, which systemd sets). Goes on where that can't be done, and says so.
func joinHostCgroups(log zerolog.Logger) {
	if err := leaveCgroupNS(); err != nil {
		log.Warn().Err(err).Msg("degraded: a cgroup namespace of its own, drills may fail and memory.min is not set; " +
			"needs the host's, or the host's PIDs with CAP_SYS_ADMIN and CAP_SYS_PTRACE")
	}
}

// leaveCgroupNS returns on errors alone, or at once where there is nothing to leave. Only the
// calling thread changes over, and the program that it executes has no other.
func leaveCgroupNS() error {
	if host, err := cgroupfs.InHostNamespace(); err != nil || host {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cgroupfs.JoinHostNamespace(); err != nil {
		return err
	}
	return fmt.Errorf("execute this program anew: %w", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}
