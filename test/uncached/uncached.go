// Package uncached makes files and directories on a disk, for the page cache that they have.
package uncached

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/loopfs"
)

// diskEnv names the disk of the VM, whose files are all in memory.
const diskEnv = "EBPF_EVICT_DISK"

// Dir is a directory of the test's own on a disk: the one that EBPF_EVICT_DISK names, or a loop
// device's, where temporary files are in memory.
func Dir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
		return dir
	}
	disk := os.Getenv(diskEnv)
	if disk == "" {
		return loopfs.New(t, 256, "", "mkfs.ext4", "-q")
	}
	loopfs.Make(t, disk, "mkfs.ext4", "-q", "-F")
	if err := unix.Mount(disk, dir, "ext4", 0, ""); err != nil {
		t.Fatalf("mount %s: %v", disk, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// File is a file of at least so many bytes of which nothing is in the page cache: the disk
// itself where EBPF_EVICT_DISK names one.
func File(t *testing.T, bytes int) string {
	t.Helper()
	name := os.Getenv(diskEnv)
	if name == "" {
		name = filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, make([]byte, bytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // a disk forgets its page cache when nobody has it open
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
	return name
}
