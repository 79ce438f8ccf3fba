// Package uncached makes files that are to be read from a disk.
package uncached

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// File is a file of at least so many bytes of which nothing is in the page cache: the disk
// itself where EBPF_EVICT_DISK names one, as in the VM, whose files are all in memory.
func File(t *testing.T, bytes int) string {
	t.Helper()
	name := os.Getenv("EBPF_EVICT_DISK")
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
