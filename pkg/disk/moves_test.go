package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

// Whoever renames without an end must neither hide what it holds nor seem to hold it twice: its
// figure is right, or old.
func TestWhatIsRenamedInALoopCountsOnceOrTheFigureIsOld(t *testing.T) {
	mountns.Run(t, testWhatIsRenamedInALoop)
}

func testWhatIsRenamedInALoop(t *testing.T) {
	for fs, mkfs := range map[string][]string{"ext4": {"mkfs.ext4", "-q", "-F"}, "xfs": {"mkfs.xfs", "-q", "-f"}} {
		base := mountImage(t, fs, "", mkfs)
		for name, of := range map[string]struct {
			big    string
			rename [][2]string
		}{
			"a directory":                    {"a/f", [][2]string{{"a", "b"}, {"b", "a"}}},
			"a file":                         {"a", [][2]string{{"a", "z"}, {"z", "a"}}},
			"a directory in turns":           {"a/f", [][2]string{{"a", "c"}, {"o", "a"}, {"a", "o"}, {"c", "a"}}},
			"a directory between others":     {"p/a/f", [][2]string{{"p/a", "p/zz"}, {"p/zz", "p/k3x"}, {"p/k3x", "p/a"}}},
			"a file with a second name":      {"a", [][2]string{{"+a", "z"}, {"-a", ""}, {"+z", "a"}, {"-z", ""}}},
			"a directory that is exchanged":  {"a/f", [][2]string{{"=a", "o"}}},
			"a large file among directories": {"p/a", [][2]string{{"p/a", "p/zz"}, {"p/zz", "p/k3x"}, {"p/k3x", "p/a"}}},
		} {
			t.Run(fs+", "+name, func(t *testing.T) {
				dir := filepath.Join(base, "v")
				defer func() { _ = os.RemoveAll(dir) }()
				write(t, filepath.Join(dir, of.big), 64<<20)
				write(t, filepath.Join(dir, "o", "f"), 4096)
				for i := range 30 {
					write(t, filepath.Join(dir, "p", "k"+strconv.Itoa(i), "f"), 4096)
				}
				unix.Sync()
				bytes, _ := du(t, dir)
				stop := inALoop(func() {
					for _, r := range of.rename {
						from, to := filepath.Join(dir, trimmed(r[0])), filepath.Join(dir, r[1])
						switch r[0][0] {
						case '+':
							_ = os.Link(from, to)
						case '-':
							_ = os.Remove(from)
						case '=':
							_ = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
						default:
							_ = os.Rename(from, to)
						}
					}
				})
				defer stop()
				old := 0
				for range 300 {
					switch got, err := Measure(dir); {
					case errors.Is(err, errMoved):
						old++
					case err != nil:
						t.Fatal(err)
					case !agrees(got.Bytes, bytes, bytes, 64<<10):
						t.Fatalf("%d bytes, want %d, or that something moved", got.Bytes, bytes)
					}
				}
				t.Logf("%d of 300 walks found that something moved", old)
				if old > 100 {
					t.Error("the figure would be of an age long past")
				}
			})
		}
	}
}

func trimmed(s string) string {
	if s[0] == '+' || s[0] == '-' || s[0] == '=' {
		return s[1:]
	}
	return s
}

// inALoop does something until it is told to stop.
func inALoop(f func()) (stop func()) {
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stopped.Load() {
			f()
		}
	}()
	return func() { stopped.Store(true); <-done }
}

// Whether a new name comes before or behind where the walk is: some do either.
func TestDirectoryRenamedBetweenStepsCountsOnce(t *testing.T) {
	for name, isEntered := range map[string]bool{"the one that the walk is in": true, "one that comes later": false} {
		t.Run(name, func(t *testing.T) {
			for i := range 30 {
				dir := t.TempDir()
				for _, d := range []string{"a", "b"} {
					write(t, filepath.Join(dir, d, "f"), 100_000)
				}
				bytes, inodes := du(t, dir)
				room := linkRoom{left: maxLinks}
				w := open(t, dir, &room)
				w.former = &figure{} // nothing falls below it: there is one walk
				for len(w.levels) < 2 {
					w.step()
				}
				in, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(w.levels[1].fd))
				if err != nil {
					t.Fatal(err)
				}
				from := filepath.Join(dir, "a")
				if (from == in) != isEntered {
					from = filepath.Join(dir, "b")
				}
				if err := os.Rename(from, filepath.Join(dir, "n"+strconv.Itoa(i))); err != nil {
					t.Fatal(err)
				}
				finish(w)
				if got := w.total(); got != (Tally{bytes, inodes}) || w.missed != nil {
					t.Errorf("n%d: got %+v, %v, want %d bytes and %d inodes", i, got, w.missed, bytes, inodes)
				}
				if w.end(); room != (linkRoom{left: maxLinks}) {
					t.Errorf("%+v after the walk", room)
				}
			}
		})
	}
}

// What is made and removed all the time, inodes used again, is as whole as anything.
func TestFiguresStayYoungWhereThingsComeAndGo(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "v")
	write(t, filepath.Join(dir, "kept", "f"), 8<<20)
	for i := range 30 {
		write(t, filepath.Join(dir, "k"+strconv.Itoa(i), "f"), 4096)
	}
	for name, f := range map[string]func(){
		"one directory": func() {
			_ = os.Mkdir(filepath.Join(dir, "tmp"), 0o700)
			_ = os.Remove(filepath.Join(dir, "tmp"))
		},
		"many directories with files": func() {
			for i := range 50 {
				_ = os.Mkdir(filepath.Join(dir, "tmp"+strconv.Itoa(i)), 0o700)
				_ = os.WriteFile(filepath.Join(dir, "tmp"+strconv.Itoa(i), "f"), nil, 0o600)
			}
			for i := range 50 {
				_ = os.RemoveAll(filepath.Join(dir, "tmp"+strconv.Itoa(i)))
			}
		},
		"files that replace each other": func() {
			_ = os.WriteFile(filepath.Join(dir, "new"), nil, 0o600)
			_ = os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "state"))
		},
		"many files": func() {
			for i := range 50 {
				_ = os.WriteFile(filepath.Join(dir, "t"+strconv.Itoa(i)), nil, 0o600)
			}
			for i := range 50 {
				_ = os.Remove(filepath.Join(dir, "t"+strconv.Itoa(i)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVisitor(monotonicNs)
			p := &part{place: place{base, "v"}, kind: localVolume}
			p.figure = conclude(v, p).figure
			stop := inALoop(f)
			defer stop()
			old, steps := 0, 0
			for range 500 {
				out := v.visit(p)
				for ; out == nil; out = v.visit(p) {
					steps++
				}
				if out.err != nil {
					old++
				} else {
					p.figure = out.figure
				}
			}
			t.Logf("%d of 500 visits without a young figure, %d steps each", old, steps/500)
			if old > 10 {
				t.Errorf("%d of 500 visits without a young figure", old)
			}
		})
	}
}

// A figure that fell is looked at a second time: what moved behind the walk's back is there then.
func TestWalkThatMissedWhatMovedBehindItIsDoneAgain(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "v")
	write(t, filepath.Join(dir, "a", "x", "f"), 8<<20)
	write(t, filepath.Join(dir, "b", "f"), 4096)
	v := newVisitor(monotonicNs)
	p := &part{place: place{base, "v"}, kind: localVolume}
	p.figure = conclude(v, p).figure
	whole := p.figure.Bytes
	for _, side := range []string{"a", "b"} {
		other := map[string]string{"a": "b", "b": "a"}[side]
		// It lies in the directory that comes last, and moves as soon as the first one was left.
		moved := false
		out := v.visit(p)
		for ; out == nil; out = v.visit(p) {
			if !moved && len(p.walk.levels) == 1 && p.walk.total().Inodes == 3 {
				_ = os.Rename(filepath.Join(dir, side, "x"), filepath.Join(dir, other, "x"))
				moved = true
			}
		}
		if out.err != nil || !agrees(out.figure.Bytes, whole, whole, 4096) {
			t.Errorf("got %+v, %v, want %d bytes", out.figure, out.err, whole)
		}
		_ = os.Rename(filepath.Join(dir, other, "x"), filepath.Join(dir, side, "x"))
		_ = os.Rename(filepath.Join(dir, side, "x"), filepath.Join(dir, other, "x"))
	}
	if v.room.met != 0 {
		t.Errorf("%d inodes are still remembered", v.room.met)
	}
}

// Any user may make a subvolume where it may make a directory: it is no mount, and du counts it.
func TestSubvolumesCount(t *testing.T) { mountns.Run(t, testSubvolumesCount) }

func testSubvolumesCount(t *testing.T) {
	base := mountImage(t, "btrfs", "", []string{"mkfs.btrfs", "-q", "-f"})
	dir := filepath.Join(base, "v")
	btrfs(t, "subvolume", "create", dir) // its inode is 256, as is each root's below
	write(t, filepath.Join(dir, "own", "f"), 1<<20)
	far := "own/" + strings.Repeat("d/", 25) + "far" // below what stays open
	nest(t, filepath.Join(dir, "own"), "d", 25)
	for _, name := range []string{"one", "two", "one/within", "one/within-too", far} {
		sub := filepath.Join(dir, name)
		btrfs(t, "subvolume", "create", sub)
		for i := range 20 {
			f := write(t, filepath.Join(sub, "d", strconv.Itoa(i)), 128<<10) // numbers that are in each
			link(t, f, filepath.Join(sub, "again"+strconv.Itoa(i)))
		}
		write(t, filepath.Join(sub, "large"), 4<<20)
		nest(t, filepath.Join(sub, "nested"), "d", 40) // the root is closed, and found again by ".."
	}
	btrfs(t, "subvolume", "snapshot", filepath.Join(dir, "one"), filepath.Join(dir, "snapshot"))
	mount(t, "tmpfs", filepath.Join(dir, "two", "memory"), "tmpfs", 0, "")
	write(t, filepath.Join(dir, "two", "memory", "f"), 1<<20)
	unix.Sync()
	want := [2]int64{}
	for i, flag := range []string{"-B1", "--inodes"} {
		want[i] = runDu(t, dir, flag, "--exclude=memory")
	}
	got, err := Measure(dir)
	if err != nil || got != (Tally{want[0], want[1]}) {
		t.Errorf("got %+v, %v, want du's %d", got, err, want)
	}
}

func btrfs(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("btrfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("btrfs %v: %v\n%s", args, err, out)
	}
}
