package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

func TestWalkCountsWhatDuCounts(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), 100_000)
	write(t, filepath.Join(dir, "line\nbreak"), 5000)
	write(t, filepath.Join(dir, "sub", "deeper", "c"), 3<<20)
	link(t, filepath.Join(dir, "a"), filepath.Join(dir, "sub", "a-again"))
	if err := os.Symlink("/usr", filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(write(t, filepath.Join(dir, "sparse"), 4096), 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 { // several chunks, with directories among the files
		name := filepath.Join(dir, "wide", strconv.Itoa(i))
		if i%7 == 0 {
			name = filepath.Join(name, "f")
		}
		write(t, name, i%3*4096)
	}
	wantDu(t, dir)
}

func TestHardLinksCountOnceAndByTheirShareWhenTheyAreTooMany(t *testing.T) {
	dir := t.TempDir()
	for i := range 400 {
		name := filepath.Join(dir, strconv.Itoa(i))
		write(t, name, 8192)
		link(t, name, filepath.Join(dir, "again", strconv.Itoa(i)))
	}
	wantDu(t, dir)

	room := linkRoom{left: 100}
	w := open(t, dir, &room)
	finish(w)
	bytes, inodes := du(t, dir)
	if got := w.total(); got.Bytes != bytes || got.Inodes != inodes {
		t.Errorf("with room for 100: got %+v, want %d bytes and %d inodes: all links are in the tree", got, bytes, inodes)
	}
	if w.missed == nil {
		t.Error("with room for 100: the figure is called whole")
	}
	if w.end(); room.left != 100 {
		t.Errorf("room for %d links after the walk, want 100", room.left)
	}
}

func TestNestingCostsNeitherDescriptorsNorFigures(t *testing.T) {
	dir := t.TempDir()
	const depth = 3000 // its path is longer than PATH_MAX
	nest(t, dir, strings.Repeat("d", 40), depth)
	w := open(t, dir, &linkRoom{left: maxLinks})
	defer w.end()
	most := 0
	for !w.step() {
		opened := 0
		for _, l := range w.levels {
			if l.fd >= 0 {
				opened++
			}
		}
		most = max(most, opened)
	}
	if w.missed != nil {
		t.Error(w.missed)
	}
	if got := w.total().Inodes; got != 2*depth+1 {
		t.Errorf("%d inodes, want %d", got, 2*depth+1)
	}
	if most > topOpen+deepOpen+1 {
		t.Errorf("%d directories open at a time", most)
	}
}

// A directory that is moved out of the tree while the walk is deep below it must not lead
// the walk after it, and the figure must not pass for whole.
func TestWalkDoesNotFollowADirectoryThatIsMovedAway(t *testing.T) {
	base := t.TempDir()
	dir, outside := filepath.Join(base, "tree"), filepath.Join(base, "outside")
	nest(t, dir, "d", 100)
	for i := range 50 {
		write(t, filepath.Join(outside, "big"+strconv.Itoa(i)), 1<<20)
	}
	moved := filepath.Join(dir, strings.Repeat("d/", 30))
	w := open(t, dir, &linkRoom{left: maxLinks})
	defer w.end()
	for len(w.levels) < 80 {
		if w.step() {
			t.Fatal("the walk ended early")
		}
	}
	if err := os.Rename(moved, filepath.Join(outside, "d")); err != nil {
		t.Fatal(err)
	}
	finish(w)
	if !errors.Is(w.missed, errMoved) {
		t.Errorf("missed %v, want that a directory moved", w.missed)
	}
	if got := w.total().Bytes; got > 1<<20 {
		t.Errorf("%d bytes: what lies outside was counted", got)
	}
}

func TestWalkHoldsItsGroundWhileTheTreeMoves(t *testing.T) {
	dir := t.TempDir()
	for i := range 60 {
		for j := range 20 {
			write(t, filepath.Join(dir, strconv.Itoa(i), "x", strconv.Itoa(j)), 4096)
		}
	}
	grow, err := os.Create(filepath.Join(dir, "growing"))
	if err != nil {
		t.Fatal(err)
	}
	defer grow.Close()
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; !stop.Load(); n++ {
			from := filepath.Join(dir, strconv.Itoa(n%60), "x")
			_ = os.Rename(from, from+"y")
			_ = os.Rename(from+"y", from)
			_, _ = grow.Write(make([]byte, 512))
		}
	}()
	for range 50 {
		if got, err := Measure(dir); err != nil || got.Inodes < 60*20 {
			t.Errorf("got %+v, %v: shallow moves cost a walk nothing", got, err)
			break
		}
	}
	stop.Store(true)
	<-done
	wantDu(t, dir)
}

func TestMountsInATreeAreNotEntered(t *testing.T) {
	mountns.Run(t, testMountsInATree)
}

func testMountsInATree(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "own", "f"), 8192)
	big := write(t, filepath.Join(t.TempDir(), "big"), 4<<20)
	mount(t, dir, filepath.Join(dir, "own", "loop"), "", unix.MS_BIND, "")                       // the tree in itself
	mount(t, "tmpfs", filepath.Join(dir, "memory"), "tmpfs", 0, "")                              // another filesystem
	mount(t, big, write(t, filepath.Join(dir, "own", "file-mount"), 4096), "", unix.MS_BIND, "") // the same filesystem, a file
	got, err := Measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Inodes != 3 || got.Bytes > 64<<10 {
		t.Errorf("got %+v, want the tree, its directory and its file", got)
	}
}

func TestVisitStaysBelowThePodsDirectory(t *testing.T) {
	base, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, "f"), 1<<20)
	if err := os.Symlink(elsewhere, filepath.Join(base, "volume")); err != nil {
		t.Fatal(err)
	}
	for _, rel := range []string{"volume", "../" + filepath.Base(elsewhere), "volume/."} {
		p := &part{place: place{base, rel}, kind: localVolume}
		if out := conclude(newVisitor(monotonicNs), p); out.err == nil && out.figure.Bytes > 0 {
			t.Errorf("%s: got %+v: a link led the walk away", rel, out.figure)
		}
	}
}

// What was missed must not make a figure younger, nor lower.
func TestLastWholeFigureStaysWithItsAge(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "v")
	for i := range 300 {
		write(t, filepath.Join(dir, strconv.Itoa(i)), 4096)
		link(t, filepath.Join(dir, strconv.Itoa(i)), filepath.Join(dir, "again", strconv.Itoa(i)))
	}
	now := uint64(1000)
	v := newVisitor(func() uint64 { return now })
	p := &part{place: place{base, "v"}, kind: localVolume}
	p.figure = conclude(v, p).figure
	whole := *p.figure
	if whole.readNs != 1000 {
		t.Errorf("read at %d, want the begin of the walk", whole.readNs)
	}
	now, v.room = 2000, linkRoom{left: 10}
	write(t, filepath.Join(dir, "more"), 1<<20)
	out := conclude(v, p)
	if out.err == nil || out.figure.readNs != 1000 || out.figure.Bytes < whole.Bytes+1<<20 {
		t.Errorf("got %+v, %v: want more bytes, as old as the last whole figure", out.figure, out.err)
	}
	if out := conclude(v, &part{place: place{base, "v"}, kind: localVolume}); out.figure != nil {
		t.Errorf("got %+v without a whole figure", out.figure)
	}
}

func TestWalkWithoutAnEndIsCut(t *testing.T) {
	base := t.TempDir()
	for i := range 3000 {
		write(t, filepath.Join(base, "v", strconv.Itoa(i)), 0)
	}
	now := second
	v := newVisitor(func() uint64 { now += uint64(walkDeadline) * 2 / 3; return now })
	p := &part{place: place{base, "v"}, kind: localVolume}
	if out := conclude(v, p); out.err != errEndless || out.figure != nil || p.walk != nil {
		t.Errorf("got %+v, want no figure and no walk", out)
	}
}

func TestWalksTakeTurns(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	room := linkRoom{left: maxLinks}
	var walks []*walk
	for i, dir := range dirs {
		for j := range 50 * (i + 1) {
			name := write(t, filepath.Join(dir, strconv.Itoa(j%7), strconv.Itoa(j)), 4096)
			link(t, name, filepath.Join(dir, "again", strconv.Itoa(j)))
		}
		walks = append(walks, open(t, dir, &room))
	}
	for done := 0; done < len(walks); {
		for _, w := range walks {
			if len(w.levels) > 0 && w.step() {
				done++
			}
		}
	}
	for i, w := range walks {
		bytes, inodes := du(t, dirs[i])
		if got := w.total(); got != (Tally{bytes, inodes}) || w.missed != nil {
			t.Errorf("got %+v, %v, want %d bytes and %d inodes", got, w.missed, bytes, inodes)
		}
		w.end()
	}
	if room.left != maxLinks {
		t.Errorf("%d links are still remembered", maxLinks-room.left)
	}
}

func TestFilesAloneOfAPodsLogDirectory(t *testing.T) {
	base := t.TempDir()
	write(t, filepath.Join(base, "ns_pod_uid", "rotated.log"), 8192)
	write(t, filepath.Join(base, "ns_pod_uid", "container", "0.log"), 1<<20)
	out := conclude(newVisitor(monotonicNs), &part{place: place{base, "ns_pod_uid"}, kind: podLogs})
	if out.err != nil || out.figure.Tally != (Tally{8192, 1}) {
		t.Errorf("got %+v, want 8192 bytes of one file", out)
	}
}

func TestWhatIsNotThereHoldsNothing(t *testing.T) {
	for name, k := range map[string]kind{"a directory": localVolume, "a file": hostsFile} {
		out := conclude(newVisitor(monotonicNs), &part{place: place{t.TempDir(), "gone"}, kind: k})
		if out.err != nil || out.figure.Tally != (Tally{}) {
			t.Errorf("%s: got %+v", name, out)
		}
	}
}

func TestVolumeInMemoryIsNotWalked(t *testing.T) {
	mountns.Run(t, testVolumeInMemory)
}

func testVolumeInMemory(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "v")
	mount(t, "tmpfs", dir, "tmpfs", 0, "")
	write(t, filepath.Join(dir, "f"), 1<<20)
	v := newVisitor(monotonicNs)
	p := &part{place: place{base, "v"}, kind: emptyDir}
	out := v.visit(p)
	if out == nil || out.medium != "Memory" || out.figure.Tally != (Tally{1 << 20, 2}) {
		t.Errorf("got %+v, want 1 MiB and two inodes in memory at the first step", out)
	}
}

// A million files are for a machine with time: EBPF_EVICT_FILES=1000000, and EBPF_EVICT_DIR
// for where. Without them it is a tree of 20,000.
func TestManyFilesInBoundedMemory(t *testing.T) {
	files, base := 20_000, os.Getenv("EBPF_EVICT_DIR")
	if s := os.Getenv("EBPF_EVICT_FILES"); s != "" {
		var err error
		if files, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	if base == "" {
		base = t.TempDir()
	}
	dir, err := os.MkdirTemp(base, "many")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for i := range files {
		name := filepath.Join(dir, strconv.Itoa(i%100), strconv.Itoa(i/100%10), strconv.Itoa(i))
		if i < 1000 {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if i%10 == 9 {
			link(t, filepath.Join(dir, strconv.Itoa((i-1)%100), strconv.Itoa((i-1)/100%10), strconv.Itoa(i-1)), name)
			continue
		}
		if err := os.WriteFile(name, []byte("x")[:max(i%5-3, 0)], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, cpu := time.Now(), clock(threadClock)
	got, err := Measure(dir)
	took, used := time.Since(began), clock(threadClock)-cpu
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	bytes, inodes := du(t, dir)
	t.Logf("%d files: %s, CPU of one thread %s, %d KiB allocated, %+v (du: %d bytes, %d inodes)",
		files, took, used, (after.TotalAlloc-before.TotalAlloc)>>10, got, bytes, inodes)
	if got.Bytes != bytes || got.Inodes != inodes {
		t.Errorf("got %+v, want %d bytes and %d inodes", got, bytes, inodes)
	}
	// The names of directories, and sets of 8 bytes a link at least a quarter full.
	if most := uint64(1<<20 + files/10*64); after.TotalAlloc-before.TotalAlloc > most {
		t.Errorf("%d bytes allocated, want at most %d", after.TotalAlloc-before.TotalAlloc, most)
	}
}

func conclude(v *visitor, p *part) *outcome {
	for {
		if out := v.visit(p); out != nil {
			return out
		}
	}
}

func open(t *testing.T, dir string, room *linkRoom) *walk {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWalk(fd, false, room, make([]byte, maxChunk))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func finish(w *walk) {
	for !w.step() {
	}
}

func write(t testing.TB, name string, size int) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func link(t *testing.T, old, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(old, name); err != nil {
		t.Fatal(err)
	}
}

// nest makes directories in each other, each with a file.
func nest(t *testing.T, dir, name string, depth int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = next
		fd, err := unix.Openat(at, "z", unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	unix.Close(at)
}

func wantDu(t *testing.T, dir string) {
	t.Helper()
	got, err := Measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if bytes, inodes := du(t, dir); got.Bytes != bytes || got.Inodes != inodes {
		t.Errorf("got %+v, want du's %d bytes and %d inodes", got, bytes, inodes)
	}
}

// du is what the command says of a directory.
func du(t *testing.T, dir string) (bytes, inodes int64) {
	t.Helper()
	return runDu(t, dir, "-x", "-B1"), runDu(t, dir, "-x", "--inodes")
}

func runDu(t *testing.T, dir string, flags ...string) int64 {
	t.Helper()
	out, err := exec.Command("du", append(flags, "-s", dir)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(string(bytes.Fields(out)[0]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mount mounts on a directory, which it makes where nothing is.
func mount(t *testing.T, source, target, fs string, flags uintptr, options string) {
	t.Helper()
	if _, err := os.Stat(target); err != nil {
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(source, target, fs, flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
