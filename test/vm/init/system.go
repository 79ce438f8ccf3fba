package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

// cgroupRoot is the unified hierarchy; the command line keeps v1 controllers away.
const cgroupRoot = "/sys/fs/cgroup"

func mountAll() error {
	mounts := []struct{ target, fstype, options string }{
		{"/proc", "proc", ""},
		{"/sys", "sysfs", ""},
		{"/sys/kernel/security", "securityfs", ""},
		{"/dev", "devtmpfs", ""},
		{"/dev/shm", "tmpfs", ""},
		{cgroupRoot, "cgroup2", "nsdelegate,memory_recursiveprot"}, // as systemd does
		{"/sys/fs/bpf", "bpf", ""},
		{"/sys/kernel/tracing", "tracefs", ""},
		{"/run", "tmpfs", ""},
		{"/tmp", "tmpfs", ""},
	}
	for _, m := range mounts {
		// Missing only where the parent is a plain directory; the kernel makes the others.
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, 0, m.options); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.fstype, m.target, err)
		}
	}
	return os.Chmod("/tmp", 0o1777)
}

// delegateControllers lets children of the root cgroup have the files the agent reads.
func delegateControllers() error {
	control := filepath.Join(cgroupRoot, "cgroup.subtree_control")
	return os.WriteFile(control, []byte("+memory +pids"), 0)
}

func loadModules(files []string) error {
	for _, file := range files {
		if err := loadModule(file); err != nil {
			return fmt.Errorf("load %s: %w", file, err)
		}
	}
	return nil
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if strings.HasSuffix(file, guest.CompressedModule) {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}

// loopbackUp brings lo up; the kernel gives it its addresses.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)

	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
