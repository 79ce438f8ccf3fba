package cgroupfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrGone means that the cgroup no longer exists: normal life.
	ErrGone = errors.New("cgroup is gone")
	// ErrUnsupported means that the kernel can't do this with this cgroup: cgroup.kill
	// before 5.14, on v1 or of a threaded cgroup.
	ErrUnsupported = errors.New("not supported for this cgroup")
	// ErrNoKey means that the kernel does not tell this figure of this cgroup: the file or
	// the key in it is absent, or the controller is not enabled. It is never zero.
	ErrNoKey = errors.New("figure is absent")
)

// Version is the cgroup version of the memory controller.
type Version int

const (
	// V1 has each controller on a hierarchy of its own. A hybrid host is V1 when its
	// memory controller is.
	V1 Version = iota + 1
	// V2 has all controllers on the unified hierarchy.
	V2
)

// FS is a cgroup tree. It may be shared by goroutines.
type FS struct {
	version     Version
	controllers []string
	// memory, pids and freezer are the mounts of the hierarchies, empty where there is
	// none. On V2 memory and pids are the same and freezer is empty.
	memory, pids, freezer string
}

// New looks at root (as a rule /sys/fs/cgroup) and finds which version it is and where the
// memory, pids and freezer hierarchies are. No memory controller is an error.
func New(root string) (*FS, error) {
	data, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	switch {
	case err == nil:
		return newV2(root, parseControllers(data))
	case errors.Is(err, fs.ErrNotExist):
		return newV1(root)
	default:
		return nil, fmt.Errorf("find cgroup version: %w", err)
	}
}

func newV2(root string, controllers []string) (*FS, error) {
	if !slices.Contains(controllers, "memory") {
		return nil, fmt.Errorf("no memory controller in %s/cgroup.controllers", root)
	}
	return &FS{version: V2, controllers: controllers, memory: root, pids: root}, nil
}

func newV1(root string) (*FS, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	f := &FS{version: V1}
	for _, e := range entries {
		// systemd's links (cpu -> cpu,cpuacct) are no directories and drop out here.
		if !e.IsDir() || e.Name() == "systemd" || e.Name() == "unified" {
			continue
		}
		for controller := range strings.SplitSeq(e.Name(), ",") {
			f.controllers = append(f.controllers, controller)
			f.mount(controller, filepath.Join(root, e.Name()))
		}
	}
	if f.memory == "" {
		return nil, fmt.Errorf("no memory controller below %s", root)
	}
	return f, nil
}

func (f *FS) mount(controller, dir string) {
	switch controller {
	case "memory":
		f.memory = dir
	case "pids":
		f.pids = dir
	case "freezer":
		f.freezer = dir
	}
}

// Version is the version of the memory controller.
func (f *FS) Version() Version { return f.version }

// Controllers are the names of the controllers found.
func (f *FS) Controllers() []string { return slices.Clone(f.controllers) }

// MemoryDir is the absolute directory of a cgroup in the memory hierarchy.
func (f *FS) MemoryDir(path string) string { return below(f.memory, path) }

// PidsDir is the absolute directory of a cgroup in the pids hierarchy, empty without one.
func (f *FS) PidsDir(path string) string { return below(f.pids, path) }

// Own opens the memory cgroup that this process is in. ErrGone where the mount shows other
// paths than /proc does, as in a cgroup namespace.
func (f *FS) Own() (*Cgroup, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find own cgroup: %w", err)
	}
	path, ok := ownPath(data, f.version)
	if !ok {
		return nil, ErrGone
	}
	return f.Open(path)
}

// ProcsFiles are the cgroup.procs files to which a process writes "0" to join a cgroup in
// all hierarchies.
func (f *FS) ProcsFiles(path string) []string {
	var files []string
	for _, mount := range f.mounts() {
		files = append(files, below(mount, path)+"/cgroup.procs")
	}
	return files
}

// Children are the names of the direct child cgroups, sorted; on V1 those of the memory and
// pids hierarchies together. ErrGone when the cgroup is in neither.
func (f *FS) Children(path string) ([]string, error) {
	c, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	names, err := c.memory.children()
	if c.pids != c.memory {
		more, pidsErr := c.pids.children()
		names, err = append(names, more...), bothGone(err, pidsErr)
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", c.path, err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// mounts are the hierarchies a process belongs to.
func (f *FS) mounts() []string {
	if f.version == V2 {
		return []string{f.memory}
	}
	return slices.DeleteFunc([]string{f.memory, f.pids, f.freezer}, func(m string) bool { return m == "" })
}

func below(mount, path string) string {
	if mount == "" {
		return ""
	}
	return filepath.Join(mount, filepath.Clean("/"+path))
}

// relative cleans a cgroup path to one below a mount. A ".." is refused rather than
// resolved: no honest path has one.
func relative(path string) (string, error) {
	if slices.Contains(strings.Split(path, "/"), "..") {
		return "", fmt.Errorf("cgroup path %q leaves its root", path)
	}
	return filepath.Clean("./" + path), nil
}

// openBeneath opens a directory below a mount; no link in the path is followed.
func openBeneath(mount, rel string) (dir, error) {
	if mount == "" {
		return noDir, ErrGone
	}
	at, err := unix.Open(mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return noDir, gone(err)
	}
	defer unix.Close(at)
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(at, rel, &how) })
	if err != nil {
		return noDir, gone(err)
	}
	return newDir(fd)
}

// gone turns what the kernel says of a removed cgroup into ErrGone.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}

// goneFile is gone for a file of /proc.
func goneFile(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}

// bothGone joins the results of two hierarchies: a cgroup is gone when it is in neither.
func bothGone(a, b error) error {
	switch {
	case errors.Is(a, ErrGone):
		return b
	case errors.Is(b, ErrGone):
		return a
	default:
		return errors.Join(a, b)
	}
}

// retry repeats a system call that a signal interrupted. v1 fails a write to
// memory.limit_in_bytes with EINTR (mm/memcontrol.c), and Go's preemption is a signal.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
