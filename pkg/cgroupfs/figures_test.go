package cgroupfs

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func openFigures(t *testing.T, f *FS, path string) *Figures {
	t.Helper()
	c := mustOpen(t, f, path)
	figures, err := c.Figures()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(figures.Close)
	return figures
}

func TestFiguresFollowTheFiles(t *testing.T) {
	for _, tc := range []struct {
		name, memory, pids, usage, stat, key string
	}{
		{"v1, each controller on its own", "memory/a", "pids/a", "memory.usage_in_bytes", "inactive_file 7\ntotal_inactive_file ", "v1"},
		{"v2", "a", "a", "memory.current", "anon 5\ninactive_file_x 3\ninactive_file ", "v2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			if tc.key == "v2" {
				put(t, filepath.Join(root, "cgroup.controllers"), "memory pids\n")
			}
			set := func(usage, inactive, tasks int64) {
				put(t, filepath.Join(root, tc.memory, tc.usage), strconv.FormatInt(usage, 10)+"\n")
				put(t, filepath.Join(root, tc.memory, "memory.stat"), tc.stat+strconv.FormatInt(inactive, 10)+"\nlast 1\n")
				put(t, filepath.Join(root, tc.pids, "pids.current"), strconv.FormatInt(tasks, 10)+"\n")
			}
			set(1, 1, 1)
			figures := openFigures(t, mustNew(t, root), "/a")
			for range 20 {
				want := [3]int64{rand.Int64N(1 << 58), rand.Int64N(1 << 58), rand.Int64N(1 << 22)}
				set(want[0], want[1], want[2])
				usage, err1 := figures.MemoryCurrentBytes()
				inactive, err2 := figures.InactiveFileBytes(new(Scratch))
				tasks, err3 := figures.PidsCurrent()
				if got := [3]int64{usage, inactive, tasks}; got != want || errors.Join(err1, err2, err3) != nil {
					t.Fatalf("got %v (%v), want %v", got, errors.Join(err1, err2, err3), want)
				}
			}
		})
	}
}

func TestFiguresThatAreNoneAreRefused(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "cgroup.controllers"), "memory pids\n")
	for name, text := range map[string]string{
		"empty": "", "no newline": "12", "a word": "max\n", "negative": "-1\n", "too large": "99999999999999999999\n",
	} {
		t.Run(name, func(t *testing.T) {
			put(t, filepath.Join(root, "a", "cgroup.procs"), "")
			put(t, filepath.Join(root, "a", "memory.current"), text)
			put(t, filepath.Join(root, "a", "memory.stat"), "anon 1\ninactive_file "+text)
			figures := openFigures(t, mustNew(t, root), "/a")
			if v, err := figures.MemoryCurrentBytes(); !errors.Is(err, ErrNoKey) {
				t.Errorf("memory.current: got %d, %v", v, err)
			}
			if v, err := figures.InactiveFileBytes(new(Scratch)); !errors.Is(err, ErrNoKey) {
				t.Errorf("memory.stat: got %d, %v", v, err)
			}
			if v, err := figures.PidsCurrent(); !errors.Is(err, ErrNoKey) {
				t.Errorf("pids.current, which is not there: got %d, %v", v, err)
			}
		})
	}
}

func TestFiguresOfALiveCgroup(t *testing.T) {
	f, path := machine(t)
	figures := openFigures(t, f, path)
	procs := f.ProcsFiles(path)
	start(t, "sleep", procs...)
	eventually(t, "the sleeper is counted", func() bool {
		tasks, err := figures.PidsCurrent()
		if err != nil {
			t.Fatal(err)
		}
		return tasks > 0
	})
	scratch := new(Scratch)
	text, err := os.ReadFile(filepath.Join(f.MemoryDir(path), "memory.stat"))
	if err != nil || len(text) > len(scratch)/2 { // it grows from version to version
		t.Errorf("memory.stat of %d bytes, %v: want room for twice as many", len(text), err)
	}
	if v, err := figures.InactiveFileBytes(scratch); err != nil || v < 0 {
		t.Errorf("inactive file %d, %v: want the figure that every kernel tells", v, err)
	}
	for name, read := range map[string]func() (int64, error){
		"memory.current": figures.MemoryCurrentBytes,
		"memory.stat":    func() (int64, error) { return figures.InactiveFileBytes(scratch) },
		"pids.current":   figures.PidsCurrent,
	} {
		if n := testing.AllocsPerRun(100, func() { _, _ = read() }); n != 0 {
			t.Errorf("%s: %.0f allocations a reading", name, n)
		}
	}
}

func TestFiguresOfARemovedCgroupAreGone(t *testing.T) {
	f, path := machine(t)
	figures := openFigures(t, f, path)
	if err := f.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, read := range []func() (int64, error){figures.MemoryCurrentBytes, figures.PidsCurrent, func() (int64, error) { return figures.InactiveFileBytes(new(Scratch)) }} {
		if v, err := read(); !errors.Is(err, ErrGone) {
			t.Errorf("got %d, %v, want ErrGone", v, err)
		}
	}
}

func TestNotifyUsage(t *testing.T) {
	f, path := machine(t)
	c := mustOpen(t, f, path)
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const watched = 1 << 20
	err = c.NotifyUsage(fd, watched)
	if f.Version() == V2 {
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("got %v on v2, want ErrUnsupported", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 8)
	fired := func() bool { _, err := unix.Read(fd, word); return err == nil }
	start(t, "sleep", f.ProcsFiles(path)...) // moved: its memory stays where it was charged
	if fired() {
		t.Fatal("fired though nothing was charged")
	}
	start(t, "grow", f.ProcsFiles(path)...)
	eventually(t, "the usage passes the value", fired)
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
