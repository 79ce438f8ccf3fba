package cgroupfs

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// hostNamespace is the inode of the host's cgroup namespace: PROC_CGROUP_INIT_INO of
	// include/linux/proc_ns.h, since 4.6.
	hostNamespace = 0xEFFFFFFB
	// topID is the id, which is the inode, of a hierarchy's top: the first that kernfs gives
	// out (fs/kernfs/dir.c, kernfs_create_root).
	topID = 1
)

// InHostNamespace reports whether this process is in the host's cgroup namespace. From one of
// its own, as of a container, /proc names its cgroup by another path than the mount has.
func InHostNamespace() (bool, error) {
	own, err := inodeOf("/proc/self/ns/cgroup")
	return own == hostNamespace, err
}

// JoinHostNamespace moves the calling thread, to which the caller is locked, to the cgroup
// namespace of PID 1. It takes the host's PIDs, CAP_SYS_ADMIN and CAP_SYS_PTRACE.
func JoinHostNamespace() error {
	own, err := inodeOf("/proc/self/ns/cgroup")
	if err != nil {
		return err
	}
	const path = "/proc/1/ns/cgroup"
	first, err := inodeOf(path)
	if err != nil {
		return err
	}
	if first == own {
		return errors.New("it is that of PID 1, too")
	}
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("join %s: %w", path, err)
	}
	return nil
}

// Whole reports whether the mounts begin at the top of their hierarchies, and not at a cgroup
// that was delegated: of that, others are not seen.
func (f *FS) Whole() bool {
	for _, mount := range f.mounts() {
		if id, err := inodeOf(mount); err == nil && id != topID {
			return false
		}
	}
	return true
}

func inodeOf(path string) (uint64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Ino, nil
}
