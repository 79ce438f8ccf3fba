package workload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another process holds a lock; the error says which.
var ErrLocked = errors.New("locked")

// Lock makes sure that one process of its kind runs: it holds the file (0600), which has its pid,
// until it is closed. The kernel gives it back when the process dies.
func Lock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	if err := f.Chmod(0o600); err != nil { // whoever may read it may lock it
		return nil, errors.Join(fmt.Errorf("protect the lock file: %w", err), f.Close())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		return nil, errors.Join(fmt.Errorf("%w: pid %s holds %s", ErrLocked, strings.TrimSpace(string(holder[:n])), path), f.Close())
	}
	// Its pid is for people: on a full filesystem it is left out.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	return f, nil
}
