package disk

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Tally is what a directory tree occupies: blocks, not lengths, and inodes, its own among
// them. A file with several links counts once.
type Tally struct{ Bytes, Inodes int64 }

func (t Tally) plus(o Tally) Tally { return Tally{t.Bytes + o.Bytes, t.Inodes + o.Inodes} }

const (
	// topOpen first levels of a tree and deepOpen last ones stay open, so that a directory
	// that is moved while we are in it is still counted. Those between are found again by
	// "..", or not at all where they were moved.
	topOpen, deepOpen = 16, 16
	// maxDepth is how deep a walk goes: 32 bytes a level, 8 MiB.
	maxDepth = 1 << 18
	// A directory is read in chunks: small ones where subdirectories make us come back to
	// it, larger ones while there are none. 32 KiB are some 1,000 names, a millisecond.
	minChunk, maxChunk = 2 << 10, 32 << 10
)

// level is a directory on the way from the root of a walk to where it is.
type level struct {
	ino   uint64
	fd    int   // -1: closed meanwhile
	next  int64 // where the directory goes on
	chunk int32
	moved bool // the file offset is not at next
}

// walk adds up one tree, a step at a time; it can be left and taken up again. It stays on
// one mount, follows no link and opens directories alone.
type walk struct {
	levels []level
	root   unix.Statx_t
	flat   bool // only the files directly in the root count
	links  linkSet
	room   *linkRoom
	tally  Tally
	// shares are the inodes that count by their share.
	shares float64
	// missed says why the tally is less than what is there; nil when it is all.
	missed error
	buf    []byte
	st     unix.Statx_t
}

// errMoved: a directory was moved away while the walk was deep below it.
var errMoved = errors.New("moved during the walk")

// newWalk starts at an open directory, which it closes at its end. buf, of maxChunk bytes, is
// used during each step.
func newWalk(fd int, flat bool, room *linkRoom, buf []byte) (*walk, error) {
	w := &walk{flat: flat, room: room, buf: buf}
	if err := statOf(fd, &w.root); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("stat the top directory: %w", err)
	}
	w.push(fd, w.root.Ino)
	if !flat {
		w.count(&w.root)
	}
	return w, nil
}

// step reads a chunk of a directory, a millisecond's work as a rule, and reports whether the
// walk is at its end.
func (w *walk) step() (done bool) {
	l := &w.levels[len(w.levels)-1]
	data, err := l.read(w.buf)
	if err != nil && err != unix.ENOENT { // ENOENT: removed while we are in it
		w.miss(err)
	}
	if err != nil || len(data) == 0 {
		w.pop()
		return len(w.levels) == 0
	}
	for len(data) > 0 {
		e, rest, ok := nextDirent(data)
		if !ok {
			w.miss(errors.New("unreadable directory entry"))
			break
		}
		data, l.next = rest, e.next
		if e.isSelfOrParent() {
			continue
		}
		if w.visit(l.fd, e) { // l may lie elsewhere in memory now
			w.levels[len(w.levels)-2].moved = len(data) > 0
			return false
		}
	}
	l.chunk = min(2*l.chunk, maxChunk)
	return false
}

// read returns the next chunk of the directory.
func (l *level) read(buf []byte) ([]byte, error) {
	if l.moved {
		if _, err := unix.Seek(l.fd, l.next, unix.SEEK_SET); err != nil {
			return nil, err
		}
		l.moved, l.chunk = false, minChunk
	}
	for {
		n, err := unix.Getdents(l.fd, buf[:l.chunk])
		if err != unix.EINTR {
			return buf[:max(n, 0)], err
		}
	}
}

// visit counts an entry, and enters it where it is a directory. Of what is known to be one
// nothing is asked before it is opened: a mount is not even looked at.
func (w *walk) visit(at int, e dirent) (entered bool) {
	if e.kind == unix.DT_DIR {
		return !w.flat && w.enter(at, e.name)
	}
	if err := statAt(at, &e.name[0], 0, &w.st); err != nil {
		w.missUnlessGone(err)
		return false
	}
	switch {
	case !w.onMount(&w.st):
		return false
	case w.st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return !w.flat && w.enter(at, e.name)
	}
	w.count(&w.st)
	return false
}

func (w *walk) enter(at int, name []byte) bool {
	fd, err := openDir(at, string(name[:len(name)-1]), beneath|unix.RESOLVE_NO_XDEV)
	if err != nil {
		w.missUnlessGone(err)
		return false
	}
	if err := statOf(fd, &w.st); err != nil || !w.onMount(&w.st) {
		unix.Close(fd)
		return false
	}
	w.count(&w.st)
	if len(w.levels) == maxDepth {
		unix.Close(fd)
		w.miss(fmt.Errorf("more than %d levels deep", maxDepth))
		return false
	}
	w.push(fd, w.st.Ino)
	return true
}

func (w *walk) onMount(st *unix.Statx_t) bool {
	return st.Mnt_id == w.root.Mnt_id && st.Dev_major == w.root.Dev_major && st.Dev_minor == w.root.Dev_minor
}

// count adds an inode. One with several links that can't be remembered counts by its share
// each time it is met: right where all its links are in the tree.
func (w *walk) count(st *unix.Statx_t) {
	bytes := int64(st.Blocks) * blockSize
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		w.tally = w.tally.plus(Tally{bytes, 1})
		return
	}
	isNew, ok := w.links.add(st.Ino, w.room)
	switch {
	case !ok:
		w.miss(fmt.Errorf("more than %d files with several links", maxLinks))
		w.tally.Bytes += bytes / int64(st.Nlink)
		w.shares += 1 / float64(st.Nlink)
	case isNew:
		w.tally = w.tally.plus(Tally{bytes, 1})
	}
}

func (w *walk) push(fd int, ino uint64) {
	w.levels = append(w.levels, level{ino: ino, fd: fd, chunk: minChunk})
	if i := len(w.levels) - 1 - deepOpen; i >= topOpen {
		w.levels[i].close()
	}
}

func (l *level) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
	l.fd, l.moved = -1, true
}

// pop goes up, to the next level that is still where it was.
func (w *walk) pop() {
	last := len(w.levels) - 1
	if last > 0 && w.levels[last-1].fd < 0 {
		if fd, err := w.parent(last); err == nil {
			w.levels[last-1].fd = fd
		} else {
			w.miss(err)
		}
	}
	w.drop()
	for len(w.levels) > 0 && w.levels[len(w.levels)-1].fd < 0 {
		w.drop()
	}
}

func (w *walk) drop() {
	last := len(w.levels) - 1
	w.levels[last].close()
	w.levels = w.levels[:last]
}

// parent opens the directory above a level again. It is looked at only when it is the one
// that it was: of a directory that was moved ".." may be anywhere.
func (w *walk) parent(of int) (int, error) {
	path, err := unix.Openat(w.levels[of].fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("go up: %w", err)
	}
	defer unix.Close(path)
	if err := statOf(path, &w.st); err != nil {
		return -1, fmt.Errorf("go up: %w", err)
	}
	if w.st.Ino != w.levels[of-1].ino || !w.onMount(&w.st) {
		return -1, errMoved
	}
	return openDir(path, ".", beneath|unix.RESOLVE_NO_XDEV)
}

// miss remembers the first reason why the tally is not all.
func (w *walk) miss(err error) {
	if w.missed == nil {
		w.missed = err
	}
}

// missUnlessGone: what was removed or replaced meanwhile is as little there as what du finds
// removed, and a mount is not the tree's (EXDEV).
func (w *walk) missUnlessGone(err error) {
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV:
	default:
		w.miss(err)
	}
}

// total is what was found so far.
func (w *walk) total() Tally { return w.tally.plus(Tally{Inodes: int64(w.shares)}) }

// end closes what is open.
func (w *walk) end() {
	for len(w.levels) > 0 {
		w.drop()
	}
	w.links.release(w.room)
}

// Measure walks a directory to its end. The error says why the tally is less than what is
// there. A link at dir itself is followed.
func Measure(dir string) (Tally, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Tally{}, fmt.Errorf("open %s: %w", dir, err)
	}
	w, err := newWalk(fd, false, &linkRoom{maxLinks}, make([]byte, maxChunk))
	if err != nil {
		return Tally{}, fmt.Errorf("walk %s: %w", dir, err)
	}
	defer w.end()
	for !w.step() {
	}
	if w.missed != nil {
		return w.total(), fmt.Errorf("walk %s: %w", dir, w.missed)
	}
	return w.total(), nil
}
