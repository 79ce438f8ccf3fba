package fallback

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

func openIntents(t *testing.T, path string) *Intents {
	t.Helper()
	i, err := OpenIntents(path)
	must(t, err)
	return i
}

func TestIntentsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intents")
	first := openIntents(t, path)
	if len(first.Stale()) != 0 {
		t.Fatalf("a new file has %v", first.Stale())
	}
	want := []Intent{
		{ID: [16]byte{1}, Ns: 2, WallNs: 3, MemoryID: 4, PidsID: 5, Seq: 6, Available: -7, ThresholdValue: 8, Capacity: 9,
			Signal: "memory.available", UID: "uid", Cgroup: "/kubepods/a"},
		{ID: [16]byte{2}, Signal: "pid.available", Cgroup: "/kubepods/b", PidsMaxBefore: 100, Signalled: true, Slot: 2},
	}
	first.Store(&want[0])
	done := first.Store(&Intent{Cgroup: "/kubepods/done"})
	braked := first.Store(&Intent{ID: want[1].ID, Signal: want[1].Signal, Cgroup: want[1].Cgroup})
	first.Braked(braked, 100)
	first.Signalled(braked)
	first.Free(done)
	// No Close: the process died.
	second := openIntents(t, path)
	if diff := cmp.Diff(want, second.Stale()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, in := range second.Stale() {
		second.Free(in.Slot)
	}
	must(t, second.Close())
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is open, and the file stays (%v)", err)
	}
	if third := openIntents(t, path); len(third.Stale()) != 0 {
		t.Errorf("freed, and still there: %v", third.Stale())
	}
}

func TestIntentsThatFindNoRoom(t *testing.T) {
	i := openIntents(t, filepath.Join(t.TempDir(), "intents"))
	long := Intent{Cgroup: strings.Repeat("x", 1000)}
	for range intentSlots {
		if slot := i.Store(&long); slot < 0 {
			t.Fatal("no room")
		}
	}
	if slot := i.Store(&long); slot != -1 {
		t.Errorf("got slot %d of none", slot)
	}
	i.Signalled(-1)
	i.Free(-1)
	must(t, i.Close())
	i.Free(3) // its line was written after all
	if slot := i.Store(&long); slot != 3 {
		t.Errorf("got slot %d, want the one that was freed", slot)
	}
}

func TestIntentsOfAnotherLayoutAreReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intents")
	for name, content := range map[string]string{
		"empty": "", "short": "abc", "as long": strings.Repeat("\xff", int(unsafe.Sizeof(intentFile{}))), "too long": strings.Repeat("\x01", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(path, []byte(content), 0o600))
			i := openIntents(t, path)
			if len(i.Stale()) != 0 {
				t.Errorf("got %v", i.Stale())
			}
			if i.Store(&Intent{}) != 0 {
				t.Error("no room in it")
			}
		})
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("elsewhere", path))
	if _, err := OpenIntents(path); err == nil {
		t.Error("a link was followed")
	}
}
