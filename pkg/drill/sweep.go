package drill

import (
	"errors"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Sweep removes the cgroups of canaries whose client died before it could, and Parent where
// nothing else is in it. One in which somebody runs stays.
func Sweep(fs *cgroupfs.FS) error {
	children, err := fs.Children(Parent)
	if errors.Is(err, cgroupfs.ErrGone) {
		return nil
	}
	for _, name := range children {
		if cgroup := path.Join(Parent, name); IsCanary(cgroup) && isEmpty(fs, cgroup) {
			err = errors.Join(err, fs.Remove(cgroup))
		}
	}
	for _, procs := range fs.ProcsFiles(Parent) {
		_ = unix.Rmdir(filepath.Dir(procs)) // not empty: another drill's, or somebody runs in it
	}
	return err
}

func isEmpty(fs *cgroupfs.FS, cgroup string) bool {
	c, err := fs.Open(cgroup)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	populated, err := c.Populated()
	return err == nil && !populated
}
