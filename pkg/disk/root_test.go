package disk

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

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
