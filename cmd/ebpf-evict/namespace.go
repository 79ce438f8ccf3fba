package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// hostCgroupNS is the inode of the host's cgroup namespace: PROC_CGROUP_INIT_INO of
// include/linux/proc_ns.h, since 4.6.
const hostCgroupNS = 0xEFFFFFFB

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

func leaveCgroupNS() error {
	own, err := inodeOf("/proc/self/ns/cgroup")
	if err != nil || own == hostCgroupNS {
		return err
	}
	first, err := inodeOf("/proc/1/ns/cgroup")
	if err != nil {
		return err
	}
	if first == own {
		return errors.New("it is that of PID 1, too")
	}
	return execInNS("/proc/1/ns/cgroup")
}

// execInNS returns on errors alone. Only the calling thread changes over, and the program
// that it executes has no other.
func execInNS(path string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("join %s: %w", path, err)
	}
	return fmt.Errorf("execute this program anew: %w", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}

func inodeOf(path string) (uint64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Ino, nil
}
