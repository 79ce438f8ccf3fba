package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// search adds up what the processes of a unit hold open of files that have no name any more, a
// step at a time: no walk meets these, and they take their room until they are closed. It counts
// those of the container's own root, if that is an overlay, and those on the filesystems of the
// unit's volumes that the unit may write: who merely reads another's removed log did not fill the
// disk. Each counts once, however often it is open.
type search struct {
	cgroup *cgroupfs.Cgroup
	procfs string
	// volumes are the filesystems of the unit's volumes.
	volumes []dev
	pids    []int
	// fds are the descriptors of the process that is looked at, root is what its root lies on.
	fds  level
	root dev
	// met are the inodes that were counted.
	met       map[dev]*linkSet
	room      *linkRoom
	buf, link []byte
	st        unix.Statx_t

	inLayers, inVolumes Tally
	// missed says why the tallies are less than what is held; nil when they are all.
	missed error
}

// dev is a filesystem's device number; the zero value is none's.
type dev struct{ major, minor uint32 }

func devOf(st *unix.Statx_t) dev { return dev{st.Dev_major, st.Dev_minor} }

// newSearch lists the unit's processes. buf and link, of minChunk and PATH_MAX bytes, are used
// during each step.
func newSearch(c *cgroupfs.Cgroup, procfs string, volumes []dev, room *linkRoom, buf, link []byte) (*search, error) {
	pids, err := c.Procs(nil)
	if err != nil {
		return nil, err
	}
	return &search{cgroup: c, procfs: procfs, volumes: volumes, pids: pids, fds: level{fd: -1},
		met: map[dev]*linkSet{}, room: room, buf: buf, link: link}, nil
}

// step turns to the next process, or looks at a chunk of its descriptors, and reports whether
// the search is at its end.
func (s *search) step() (done bool) {
	if s.fds.fd < 0 {
		if len(s.pids) == 0 {
			return true
		}
		s.enter(s.pids[0])
		s.pids = s.pids[1:]
		return false
	}
	data, err := s.fds.read(s.buf)
	if err != nil && err != unix.ENOENT { // ENOENT: it has ended
		s.miss(err)
	}
	if err != nil || len(data) == 0 {
		s.fds.close()
		return len(s.pids) == 0
	}
	for len(data) > 0 {
		e, rest, ok := nextDirent(data)
		if !ok {
			s.miss(errors.New("unreadable directory entry"))
			break
		}
		data = rest
		if !e.isSelfOrParent() {
			s.look(e)
		}
	}
	return false
}

// enter opens a process's descriptors. Once they are open its pid can't be another process's;
// that it is the unit's is looked at after that.
func (s *search) enter(pid int) {
	of := filepath.Join(s.procfs, strconv.Itoa(pid))
	fd, err := unix.Open(of+"/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		if err != unix.ENOENT && err != unix.ESRCH {
			s.miss(&os.PathError{Op: "open", Path: of + "/fd", Err: err})
		}
		return
	}
	if holds, err := s.cgroup.Holds(pid); err != nil || !holds {
		unix.Close(fd)
		return
	}
	s.fds, s.root = level{fd: fd, chunk: minChunk}, overlayAt(of+"/root")
}

// overlayAt is the overlay that a directory lies on, the zero value where it lies on none: a root
// that is no overlay is a whole filesystem, of which others have their parts.
func overlayAt(dir string) dev {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return dev{}
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	var st unix.Statx_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.OVERLAYFS_SUPER_MAGIC || statOf(fd, &st) != nil {
		return dev{}
	}
	return devOf(&st)
}

// look counts what a descriptor holds open, if it has no name any more.
func (s *search) look(e dirent) {
	if !isUnnamed(s.fds.fd, &e.name[0], s.link) {
		return
	}
	// Nothing is opened, and no server is asked.
	if err := statx(s.fds.fd, &e.name[0], unix.AT_STATX_DONT_SYNC, &s.st); err != nil {
		return // closed meanwhile
	}
	on := devOf(&s.st)
	isLayers := s.root != dev{} && on == s.root
	switch {
	case s.st.Nlink != 0 || s.st.Mode&unix.S_IFMT != unix.S_IFREG:
	case !isLayers && !(slices.Contains(s.volumes, on) && isWritable(s.fds.fd, &e.name[0])):
	case !s.meet(on, s.st.Ino):
	case isLayers:
		s.inLayers = s.inLayers.plus(Tally{int64(s.st.Blocks) * blockSize, 1})
	default:
		s.inVolumes = s.inVolumes.plus(Tally{int64(s.st.Blocks) * blockSize, 1})
	}
}

// isUnnamed reports whether the kernel calls the file of a descriptor deleted. The name of a file
// may end so too: its links tell. Of a path that is too long nothing can be told by its name.
func isUnnamed(at int, name *byte, link []byte) bool {
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(at), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(&link[0])), uintptr(len(link)), 0, 0)
	return errno == unix.ENAMETOOLONG || errno == 0 && bytes.HasSuffix(link[:n], []byte(" (deleted)"))
}

// isWritable reports whether a descriptor is open for writing: the link's mode says so (fs/proc/fd.c,
// tid_fd_update_inode).
func isWritable(at int, name *byte) bool {
	var st unix.Statx_t
	return statAt(at, name, 0, &st) == nil && st.Mode&unix.S_IWUSR != 0
}

// meet reports whether an inode was not met before. One that can't be remembered is left out.
func (s *search) meet(on dev, ino uint64) bool {
	if s.met[on] == nil {
		s.met[on] = new(linkSet)
	}
	isNew, ok := s.met[on].add(ino, s.room)
	if !ok {
		s.miss(fmt.Errorf("more than %d files with no link or several", maxLinks))
	}
	return isNew && ok
}

// miss remembers the first reason why the tallies are not all.
func (s *search) miss(err error) {
	if s.missed == nil {
		s.missed = err
	}
}

// end closes what is open.
func (s *search) end() {
	s.fds.close()
	for _, set := range s.met {
		set.release(s.room)
	}
	_ = s.cgroup.Close()
}
