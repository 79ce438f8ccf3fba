package cgroupfs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// dir is a cgroup's directory in one hierarchy.
type dir struct {
	fd int
	id uint64 // inode
}

var noDir = dir{fd: -1}

func newDir(fd int) (dir, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return noDir, gone(err)
	}
	return dir{fd: fd, id: st.Ino}, nil
}

func (d *dir) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
	}
	d.fd = -1
}

func (d dir) openFile(name string, flags int) (int, error) {
	if d.fd < 0 {
		return -1, ErrNoKey
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err == unix.ENOENT && d.alive() {
		return -1, ErrNoKey
	}
	return fd, gone(err)
}

// alive reports whether the directory still is a cgroup: a removed one has no files.
func (d dir) alive() bool { return unix.Faccessat(d.fd, "cgroup.procs", unix.F_OK, 0) == nil }

// buffers are for the files that are read and parsed at once: a scan of thousands of cgroups
// must not leave a buffer of each to the collector.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// parse has a whole file parsed; what parse is given is gone when it returns. The file is
// opened anew each time: v1 keeps what an open cgroup.procs showed for up to a second
// (kernel/cgroup/cgroup-v1.c).
func (d dir) parse(name string, parse func(data []byte) error) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	data, err := d.read(name, (*buf)[:0])
	if err != nil {
		return err
	}
	*buf = data
	if err := parse(data); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func (d dir) read(name string, data []byte) ([]byte, error) {
	fd, err := d.openFile(name, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer unix.Close(fd)
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, data[len(data):cap(data)]) })
		switch {
		case err == unix.EOPNOTSUPP:
			return nil, fmt.Errorf("read %s: %w", name, ErrUnsupported)
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", name, gone(err))
		case n == 0:
			return data, nil
		}
		data = data[:len(data)+n]
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}

func (d dir) write(name, value string) error {
	fd, err := d.openFile(name, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer unix.Close(fd)
	if _, err := retry(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
		return fmt.Errorf("write %q to %s: %w", value, name, gone(err))
	}
	return nil
}

func (d dir) value(name string, parse func([]byte) (int64, error)) (v int64, err error) {
	err = d.parse(name, func(data []byte) (err error) {
		v, err = parse(data)
		return err
	})
	return v, err
}

// children are the names of the child cgroups.
func (d dir) children() ([]string, error) {
	if d.fd < 0 {
		return nil, ErrGone
	}
	// Two links are "." and the parent's entry: nothing below (fs/kernfs/inode.c). Saves
	// the listing of some fifty files for nearly every container.
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err == nil && st.Nlink == 2 {
		return nil, nil
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, gone(err)
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, gone(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// eachChild calls visit for each child cgroup. One that vanished meanwhile, or that visit
// finds gone, is skipped.
func (d dir) eachChild(visit func(dir) error) error {
	names, err := d.children()
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := d.openFile(name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			child := dir{fd: fd}
			err = visit(child)
			child.close()
		}
		if err != nil && !errors.Is(err, ErrGone) && !errors.Is(err, ErrNoKey) {
			return err
		}
	}
	return nil
}

// procs appends the processes of the cgroup and of all below it, of a threaded cgroup those
// of its threads.
func (d dir) procs(dst []int) ([]int, error) {
	if d.fd < 0 {
		return dst, ErrGone
	}
	dst, err := d.domainProcs(dst)
	if errors.Is(err, ErrUnsupported) {
		return d.threadGroups(dst)
	}
	return dst, err
}

func (d dir) domainProcs(dst []int) ([]int, error) {
	err := d.parse("cgroup.procs", func(data []byte) (err error) {
		dst, err = parsePIDs(dst, data)
		return err
	})
	if err != nil {
		return dst, err
	}
	err = d.eachChild(func(child dir) error {
		var err error
		dst, err = child.domainProcs(dst)
		if errors.Is(err, ErrUnsupported) {
			return nil // threaded: its processes show in the domain above
		}
		return err
	})
	return dst, err
}

// threadGroups lists by threads, which the kernel shows of any v2 cgroup.
func (d dir) threadGroups(dst []int) ([]int, error) {
	var tids []int
	err := d.parse("cgroup.threads", func(data []byte) (err error) {
		tids, err = parsePIDs(nil, data)
		return err
	})
	if err != nil {
		return dst, err
	}
	for _, tid := range tids {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(status), "\nTgid:\t")
		text, _, _ := strings.Cut(rest, "\n")
		if tgid, err := strconv.Atoi(text); err == nil {
			dst = append(dst, tgid)
		}
	}
	err = d.eachChild(func(child dir) (err error) {
		dst, err = child.threadGroups(dst)
		return err
	})
	return dst, err
}

// thaw writes top down: a v1 cgroup thaws only when those above it are thawed.
func (d dir) thaw() error {
	state, err := d.read("freezer.state", make([]byte, 0, 64))
	switch {
	case errors.Is(err, ErrNoKey): // the hierarchy's root has none
	case err != nil:
		return err
	case string(state) != "THAWED\n":
		if err := d.write("freezer.state", "THAWED"); err != nil {
			return err
		}
	}
	return d.eachChild(dir.thaw)
}
