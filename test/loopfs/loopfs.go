// Package loopfs makes filesystems of a test's own, each in a file on a loop device.
package loopfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// promised is set where there is all that it takes, as in the VM.
const promised = "EBPF_EVICT_FILESYSTEMS"

// Lacks ends a test that this kernel can't run: it fails where that was promised, and is skipped
// elsewhere.
func Lacks(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(promised) != "" {
		t.Fatalf("kernel lacks %s, and %s is set", what, promised)
	}
	t.Skip("kernel lacks " + what)
}

// New is a directory with a new filesystem, which is mounted with these options until the test
// ends. mkfs is the command that makes it, without the file.
func New(t testing.TB, mebibytes int64, options string, mkfs ...string) string {
	t.Helper()
	_ = freeDevice(t).Close() // says what is missing before mkfs does
	dir := t.TempDir()
	Mount(t, Image(t, mebibytes, mkfs...), dir, strings.TrimPrefix(mkfs[0], "mkfs."), options)
	return dir
}

// Image is a new file of that size with a filesystem in it.
func Image(t testing.TB, mebibytes int64, mkfs ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, mebibytes<<20)); err != nil {
		t.Fatal(err)
	}
	Make(t, image, mkfs...)
	return image
}

// Make makes a filesystem in a file or on a device.
func Make(t testing.TB, file string, mkfs ...string) {
	t.Helper()
	program, err := exec.LookPath(mkfs[0])
	if err != nil {
		program = filepath.Join("/usr/sbin", mkfs[0]) // not in a user's PATH
	}
	if out, err := exec.Command(program, append(mkfs[1:len(mkfs):len(mkfs)], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%s (scripts/deps.sh installs it): %v\n%s", mkfs[0], err, out)
	}
}

// Mount mounts an image until the test ends.
func Mount(t testing.TB, image, dir, fstype, options string) {
	t.Helper()
	device := Attach(t, image)
	defer device.Close()
	err := unix.Mount(device.Name(), dir, fstype, 0, options)
	if errors.Is(err, unix.ENODEV) {
		Lacks(t, fstype)
	}
	if err != nil {
		t.Fatalf("mount %s: %v", fstype, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// Attach makes a block device of a file, which goes when nobody has it open or mounted any more.
func Attach(t testing.TB, image string) *os.File {
	t.Helper()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 10 { // another may take the free one
		device := freeDevice(t)
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device
		}
		_ = device.Close()
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	t.Fatalf("attach %s to a loop device: %v", image, err)
	return nil
}

func freeDevice(t testing.TB) *os.File {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		Lacks(t, "loop devices")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatalf("find a free loop device: %v", err)
	}
	device, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return device
}
