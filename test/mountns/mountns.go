// Package mountns runs a test in a mount namespace of its own: whatever becomes of the test,
// the kernel unmounts what it mounted and frees its loop devices.
package mountns

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv is set in the test binary that runs the test alone.
const insideEnv = "TEST_IN_MOUNT_NAMESPACE"

// Run runs test, t's whole body, as root in the namespace; t skips and fails as it does.
func Run(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
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
	cmd.Env = append(os.Environ(), insideEnv+"=1", "TMPDIR="+t.TempDir()) // its files go when this test does
	runtime.LockOSThread()                                                // Pdeathsig is about the thread that forks
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
