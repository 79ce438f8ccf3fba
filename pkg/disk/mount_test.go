package disk

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inMountsEnv is set in the test binary that runs a test of mounts in a mount namespace of
// its own: whatever becomes of the test, the kernel unmounts what it mounted and frees the
// loop devices.
const inMountsEnv = "DISK_TEST_MOUNTS"

// withMounts runs test in a mount namespace of its own, as root.
func withMounts(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if os.Getenv(inMountsEnv) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		test(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root; `make test` has it")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), inMountsEnv+"=1", "TMPDIR="+t.TempDir())
	runtime.LockOSThread() // Pdeathsig is about the thread that forks
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in a mount namespace of its own:\n%s", out)
	switch {
	case err != nil:
		t.Fatal(err)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skip("see above")
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Fatal("it did not run")
	}
}

// threadWithRoot is a thread with another root directory, until it is released.
func threadWithRoot(t *testing.T, root string) (tid int, release func()) {
	t.Helper()
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never given back
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chroot(root)
		}
		tid = unix.Gettid()
		started <- err
		<-done
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return tid, func() { close(done) }
}
