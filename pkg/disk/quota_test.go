package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/loopfs"
	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

func TestQuotaReplacesWalks(t *testing.T) { mountns.Run(t, testQuotaReplacesWalks) }

func testQuotaReplacesWalks(t *testing.T) {
	for name, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"},
		"xfs":  {"mkfs.xfs", "-q", "-f"},
	} {
		t.Run(name, func(t *testing.T) { quotaReplacesWalks(t, mountImage(t, name, "prjquota", mkfs)) })
	}
}

func quotaReplacesWalks(t *testing.T, base string) {
	giveProject(t, base, "a", 77)
	giveProject(t, base, "b", 78)
	for i := range 100 {
		write(t, filepath.Join(base, "a", "sub", strconv.Itoa(i)), 10000)
		write(t, filepath.Join(base, "b", strconv.Itoa(i)), 5000)
	}
	unix.Sync() // what is not yet allocated is in neither figure of XFS alike
	now := second
	v := newVisitor(func() uint64 { now++; return now })
	a, b := &part{place: place{base, "a"}, kind: localVolume}, &part{place: place{base, "b"}, kind: localVolume}
	first := conclude(v, a)
	conclude(v, b)
	if out := v.visit(a); out == nil || out.err != nil || out.figure.Tally != first.figure.Tally {
		t.Errorf("after a walk: got %+v, want %+v without another", out, first.figure)
	}
	wantTally(t, base, "a", first.figure.Tally)

	// A removed file that is open occupies space: the filesystem knows.
	open, err := os.OpenFile(write(t, filepath.Join(base, "a", "open"), 4<<20), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(open.Sync(), os.Remove(open.Name())); err != nil {
		t.Fatal(err)
	}
	if out := v.visit(a); out == nil || out.figure.Bytes < first.figure.Bytes+4<<20 {
		t.Errorf("got %+v, want 4 MiB more of a file that is open", out)
	}
	_ = open.Close()

	// Files that their owner gives to another project: found out by the next walk.
	for i := range 100 {
		setProject(t, filepath.Join(base, "a", "sub", strconv.Itoa(i)), 78, 0)
	}
	now += uint64(verifyEvery)
	if out := conclude(v, a); out.figure.Bytes < first.figure.Bytes {
		t.Errorf("got %+v of files of another project, want all that lies there", out.figure)
	}
	conclude(v, b)
	if out := v.visit(b); out != nil {
		t.Errorf("got %+v: what others were made to hold was believed", out.figure)
	}
	v.forget(b)
}

// A directory that shares its project with the one above has no figure of its own.
func TestProjectOfAParentIsNoFigure(t *testing.T) { mountns.Run(t, testProjectOfAParent) }

func testProjectOfAParent(t *testing.T) {
	base := mountImage(t, "ext4", "prjquota", []string{"mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"})
	giveProject(t, base, "pods", 5)
	write(t, filepath.Join(base, "pods", "one", "f"), 5000)
	write(t, filepath.Join(base, "pods", "two", "f"), 1<<20)
	v := newVisitor(monotonicNs)
	p := &part{place: place{base, "pods/one"}, kind: localVolume}
	for range 2 {
		wantTally(t, base, "pods/one", conclude(v, p).figure.Tally)
	}
}

func wantTally(t *testing.T, base, rel string, got Tally) {
	t.Helper()
	want, err := Measure(filepath.Join(base, rel))
	if err != nil || got != want {
		t.Errorf("%s: got %+v, want %+v, %v", rel, got, want, err)
	}
}

// mountImage mounts a new filesystem from an image of 300 MiB, in the mount namespace of the
// test.
func mountImage(t *testing.T, fs, options string, mkfs []string) string {
	t.Helper()
	loop := loopfs.Attach(t, loopfs.Image(t, 300, mkfs...))
	t.Cleanup(func() { loop.Close() })
	device := loop.Name()
	dir := t.TempDir()
	err := unix.Mount(device, dir, fs, 0, options)
	switch {
	case err == unix.ENODEV:
		loopfs.Lacks(t, fs)
	case err != nil && options != "" && !hasQuota(t, device, dir, fs):
		loopfs.Lacks(t, "project quotas of "+fs+" (CONFIG_QFMT_V2, CONFIG_XFS_QUOTA)")
	case err != nil:
		t.Fatalf("mount %s with options %q: %v", fs, options, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// hasQuota reports whether it can't be the quotas that a mount failed for: it fails without
// them too, where the filesystem allows that.
func hasQuota(t *testing.T, device, dir, fs string) bool {
	t.Helper()
	flags, options := uintptr(0), "noquota"
	if fs == "ext4" { // with the feature quota it is read only on a kernel without
		flags, options = unix.MS_RDONLY, ""
	}
	if err := unix.Mount(device, dir, fs, flags, options); err != nil {
		return true
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	return false
}

func giveProject(t *testing.T, base, rel string, id uint32) {
	t.Helper()
	dir := filepath.Join(base, rel)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	setProject(t, dir, id, fsXflagProjinherit)
}

func setProject(t *testing.T, name string, id, flags uint32) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const fsIocFssetxattr = 0x401c5820 // _IOW('X', 32, struct fsxattr)
	x, ok := xattrOf(int(f.Fd()))
	if !ok {
		t.Fatal("no extended flags")
	}
	x.projid, x.xflags = id, x.xflags|flags
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFssetxattr, uintptr(unsafe.Pointer(&x))); errno != 0 {
		t.Fatalf("set project %d of %s: %v", id, name, errno)
	}
}
