package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

func TestTableOnAFullFilesystem(t *testing.T) { mountns.Run(t, testTableOnAFullFilesystem) }

// Where the table lies on the disk that is full, it goes on, by what was kept for it. Without
// that it is said once, and heals.
func testTableOnAFullFilesystem(t *testing.T) {
	for fs, mkfs := range map[string][]string{"ext4": {"mkfs.ext4", "-q", "-m", "0"}, "xfs": {"mkfs.xfs", "-q"}} {
		t.Run(fs, func(t *testing.T) {
			dir, n, log := mountImage(t, fs, "", mkfs), newNode(t), new(said)
			n.Table, n.Log = filepath.Join(dir, "disk.json"), zerolog.New(log)
			full := filepath.Join(dir, "full")
			w := newWorker(n.Options)
			w.find()
			last := uint64(0)
			isNew := func() bool {
				t.Helper()
				table, err := workload.LoadDisk(n.Table, uint32(os.Geteuid()))
				if err != nil {
					t.Fatal(err)
				}
				isNew := table.WrittenNs > last
				last = table.WrittenNs
				return isNew
			}
			for i := range 6 {
				if i == 2 {
					fillUp(t, full)
				}
				if err := w.write(); err != nil || !isNew() {
					t.Fatalf("table %d: %v", i, err)
				}
			}
			for _, name := range []string{".reserve0", ".reserve1"} {
				if err := os.Remove(n.Table + name); err != nil {
					t.Fatal(err)
				}
			}
			fillUp(t, full)
			if err := w.write(); !errors.Is(err, unix.ENOSPC) || isNew() {
				t.Fatalf("without what was kept: %v", err)
			}
			go w.writes(t.Context())
			often := func() {
				for range 5 { // each but the last is over when the next is taken
					w.answered <- struct{}{}
				}
			}
			often()
			if got := log.count("can't be written"); got != 1 {
				t.Errorf("said %d times, want once:\n%s", got, log)
			}
			if err := os.Remove(full); err != nil {
				t.Fatal(err)
			}
			often()
			if got := log.count("can be written again"); got != 1 || !isNew() {
				t.Errorf("said %d times that it is well, want once:\n%s", got, log)
			}
		})
	}
}

// fillUp takes all that a filesystem has left for a file.
func fillUp(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	end := info.Size()
	for size := int64(64 << 20); size >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, end, size); err {
		case nil:
			end += size
		case unix.EINTR:
		case unix.ENOSPC:
			size /= 2
		default:
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file+".more", make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling up: %v, want ENOSPC", err)
	}
}
