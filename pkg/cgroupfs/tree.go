package cgroupfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// removeTimeout bounds how long Remove waits for processes that are still ending.
const removeTimeout = 2 * time.Second

// Create makes a cgroup, and its parents where they are missing, in the memory, pids and
// freezer hierarchies. On V2 it enables the memory and pids controllers for it in each
// cgroup above where that is allowed. One that exists is an error (fs.ErrExist); after an
// error nothing is left behind.
func (f *FS) Create(path string) (err error) {
	rel, err := relative(path)
	if err != nil {
		return err
	}
	var made []string
	defer func() {
		if err != nil {
			for _, d := range slices.Backward(made) {
				_ = unix.Rmdir(d)
			}
		}
	}()
	for _, mount := range f.mounts() {
		at := mount
		for name := range strings.SplitSeq(rel, "/") {
			if f.version == V2 {
				enable(at)
			}
			at = filepath.Join(at, name)
			mkdirErr := os.Mkdir(at, 0o755)
			if mkdirErr == nil {
				made = append(made, at)
			} else if at == filepath.Join(mount, rel) || !errors.Is(mkdirErr, fs.ErrExist) {
				return fmt.Errorf("create cgroup: %w", mkdirErr)
			}
		}
	}
	return nil
}

// enable gives a cgroup's children the memory and pids controllers. Where it is refused (the
// cgroup has processes, the controller is not ours to give) the children do without.
func enable(dir string) {
	file := filepath.Join(dir, "cgroup.subtree_control")
	data, err := os.ReadFile(file)
	if err != nil {
		return
	}
	have := parseControllers(data)
	for _, controller := range []string{"memory", "pids"} {
		if !slices.Contains(have, controller) {
			_ = os.WriteFile(file, []byte("+"+controller), 0)
		}
	}
}

// Remove removes a cgroup and all below it in every hierarchy, waiting up to two seconds for
// processes that are still ending. One that does not exist is no error.
func (f *FS) Remove(path string) error {
	rel, err := relative(path)
	if err != nil {
		return err
	}
	if rel == "." {
		return errors.New("remove cgroup: the root stays")
	}
	deadline := time.Now().Add(removeTimeout)
	var errs []error
	for _, mount := range f.mounts() {
		errs = append(errs, removeTree(filepath.Join(mount, rel), deadline))
	}
	return errors.Join(errs...)
}

func removeTree(dir string, deadline time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil && gone(err) != ErrGone {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name()), deadline); err != nil {
				return err
			}
		}
	}
	for {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || gone(err) == ErrGone:
			return nil
		case err != unix.EBUSY || time.Now().After(deadline):
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
