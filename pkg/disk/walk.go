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
	// maxDepth is how deep a walk goes: 40 bytes a level, 10 MiB.
	maxDepth = 1 << 18
	// A directory is read in chunks: small ones where subdirectories make us come back to
	// it, larger ones while there are none. 32 KiB are some 1,000 names, a millisecond, and as
	// many as one rename can't pass by: a chunk is read under the directory's lock.
	minChunk, maxChunk = 2 << 10, 32 << 10
	// maxPasses is how often a directory is read again for what was renamed between a chunk
	// and a look at it. Of a loop of renames that does nothing else each finds most.
	maxPasses = 16
	// largeFile is from which size a file is remembered, lest it count twice by a rename.
	largeFile = 1 << 20
)

// level is a directory on the way from the root of a walk to where it is. It is read for its
// files, and then for its directories.
type level struct {
	key    uint64
	fd     int   // -1: closed meanwhile
	next   int64 // where the directory goes on
	chunk  int32
	before int32 // directories that were to be met when the reading began
	pass   int8
	dirs   bool // it is read for its directories
	within bool // it has some
	again  bool // something was renamed or removed before it was looked at
	moved  bool // the file offset is not at next
}

// walk adds up one tree, a step at a time; it can be left and taken up again. It stays on
// one mount, follows no link and opens directories alone. What is renamed meanwhile is looked for
// again in its directory; a tally that fell, or for the first one a directory that was lost, is
// a reason to walk once more.
type walk struct {
	levels []level
	root   unix.Statx_t
	flat   bool // only the files directly in the root count
	// subvolumes: on btrfs any user makes some, with devices and inode numbers of their own.
	subvolumes bool
	// hasInos: an entry and statx name the same inode, as overlayfs doesn't promise.
	hasInos bool
	links   linkSet
	// listed are the directories that are to be met. Apart from those that were: the entry of a
	// subvolume has a number that is another inode's beside it.
	listed linkSet
	room   *linkRoom
	// vanished are the files that had another name when they were looked at, of the directory
	// that is read.
	vanished linkSet
	// lost are directories that had none any more, as far as they are not met elsewhere.
	lost  int
	tally Tally
	// shares are the inodes that count by their share.
	shares float64
	// former is the last whole figure, nil before there is one.
	former *figure
	// first is what the first of two walks found, and listedThen what it listed.
	first      Tally
	listedThen linkSet
	isSecond   bool
	// missed says why the tally is less than what is there; nil when it is all.
	missed error
	buf    []byte
	st     unix.Statx_t
}

// errMoved: a directory was moved away while the walk was deep below it, or again and again
// something was renamed just before it was looked at.
var errMoved = errors.New("moved during the walk")

// newWalk starts at an open directory, which it closes at its end. buf, of maxChunk bytes, is
// used during each step.
func newWalk(fd int, flat bool, room *linkRoom, buf []byte) (*walk, error) {
	w := &walk{flat: flat, room: room, buf: buf}
	var fs unix.Statfs_t
	err := unix.Fstatfs(fd, &fs)
	if err == nil {
		err = statOf(fd, &w.root)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("stat the top directory: %w", err)
	}
	switch fs.Type {
	case unix.BTRFS_SUPER_MAGIC:
		w.subvolumes, w.hasInos = true, true
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		w.hasInos = true
	}
	w.push(fd, w.key(&w.root))
	w.begin()
	return w, nil
}

// begin counts the root.
func (w *walk) begin() {
	if !w.flat {
		w.isNewDir(&w.root)
	}
}

// goneSubvolume is the inode of each empty directory that a snapshot has in place of a subvolume
// (BTRFS_EMPTY_SUBVOL_DIR_OBJECTID).
const goneSubvolume = 2

// inoBits are an inode number's in a key. Those of btrfs count up from 256.
const inoBits = 43

// key tells inodes of the walk apart: on btrfs each subvolume has a device of its own, with a minor
// number of 20 bits.
func (w *walk) key(st *unix.Statx_t) uint64 {
	if !w.subvolumes {
		return st.Ino &^ isAwaited
	}
	return uint64(st.Dev_minor^w.root.Dev_minor)<<inoBits | st.Ino&(1<<inoBits-1)
}

// entryKey is the key of an entry of a directory.
func (w *walk) entryKey(of *level, e dirent) uint64 {
	if !w.subvolumes {
		return e.ino &^ isAwaited
	}
	return of.key&^(1<<inoBits-1) | e.ino&(1<<inoBits-1)
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
		if err != nil || !w.again(l) {
			w.leave()
		}
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
		if !l.dirs {
			w.lookAt(l, e)
		} else if w.enter(l, e) { // l may lie elsewhere in memory now
			if l := &w.levels[len(w.levels)-2]; len(data) > 0 {
				l.moved, l.chunk = true, minChunk
			}
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
		l.moved = false
	}
	for {
		n, err := unix.Getdents(l.fd, buf[:l.chunk])
		if err != unix.EINTR {
			return buf[:max(n, 0)], err
		}
	}
}

// again reports whether the directory is to be read once more: for its directories, or for what
// was renamed. What is not in it any more was removed, or lies in another one.
func (w *walk) again(l *level) bool {
	more := l.again
	if l.dirs {
		more = w.unmet(l) > 0 && (l.again || l.pass == 0)
	}
	if more && l.again && l.pass == maxPasses {
		w.miss(errMoved)
		more = false
	}
	switch {
	case more:
		l.pass++
		l.rewind(maxChunk)
		return true
	case l.dirs:
		return false
	}
	w.vanished.release(w.room)
	l.dirs, l.pass = true, 0
	l.rewind(minChunk)
	return l.within
}

// unmet is how many directories of this one were not met.
func (w *walk) unmet(l *level) int { return w.listed.awaited - w.lost - int(l.before) }

func (l *level) rewind(chunk int32) { l.next, l.moved, l.again, l.chunk = 0, true, false, chunk }

// leave goes up from a directory that was read, or walks once more from the root.
func (w *walk) leave() {
	w.vanished.release(w.room) // of one that was removed
	w.lost += max(w.unmet(&w.levels[len(w.levels)-1]), 0)
	if len(w.levels) == 1 && w.isInDoubt() {
		if !w.isSecond {
			w.restart()
			return
		}
		if w.listed.awaitsWith(&w.listedThen) {
			w.miss(errMoved)
		}
	}
	w.pop()
}

// isInDoubt: what moves between two directories may have been in neither when they were read.
// Where directories come and go, the figure stays.
func (w *walk) isInDoubt() bool {
	switch {
	case w.missed != nil:
		return false
	case w.former == nil:
		return w.listed.awaited > 0
	}
	return w.total().isBelow(w.former.Tally)
}

// isBelow: by more than 1 %, and some slack for small ones.
func (t Tally) isBelow(o Tally) bool {
	return t.Bytes < o.Bytes-o.Bytes/100-1<<20 || t.Inodes < o.Inodes-o.Inodes/100-16
}

func (w *walk) restart() {
	w.first, w.isSecond = w.total(), true
	w.listedThen, w.listed = w.listed, linkSet{}
	w.links.release(w.room)
	w.tally, w.shares, w.lost = Tally{}, 0, 0
	l := &w.levels[0]
	*l = level{key: l.key, fd: l.fd}
	l.rewind(maxChunk)
	w.begin()
}

// lookAt counts a file, and remembers a directory, which is entered later. Of what is known to be
// one nothing is asked before it is opened: a mount is not even looked at.
func (w *walk) lookAt(l *level, e dirent) {
	key := w.entryKey(l, e)
	if l.pass > 0 && (!w.vanished.has(key) || w.links.has(key)) {
		return
	}
	if e.kind == unix.DT_DIR {
		w.expect(l, key)
		return
	}
	if err := statAt(l.fd, &e.name[0], 0, &w.st); err != nil {
		if w.isGone(err) {
			w.vanish(l, key)
		}
		return
	}
	if !w.onMount(&w.st) {
		return
	}
	isAnother := w.hasInos && w.key(&w.st) != key
	if isAnother {
		w.vanish(l, key)
	}
	if w.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		w.expect(l, w.key(&w.st))
		return
	}
	w.count(&w.st, isAnother || l.pass > 0)
}

// expect remembers that a directory is to be entered.
func (w *walk) expect(l *level, key uint64) {
	if w.flat {
		return
	}
	l.within = true
	if w.hasInos && !w.links.has(key) {
		w.listed.await(key, w.room)
	}
}

// vanish remembers a file that was not there any more by its name.
func (w *walk) vanish(l *level, key uint64) {
	if !w.hasInos || w.links.has(key) {
		return
	}
	w.vanished.meet(key, w.room)
	l.again = true
}

// enter goes into a directory and counts it, unless it was met before.
func (w *walk) enter(l *level, e dirent) (entered bool) {
	key := w.entryKey(l, e)
	if e.kind != unix.DT_DIR && e.kind != unix.DT_UNKNOWN || l.pass > 0 && !w.listed.awaits(key) {
		return false
	}
	if e.kind == unix.DT_UNKNOWN && (statAt(l.fd, &e.name[0], 0, &w.st) != nil || w.st.Mode&unix.S_IFMT != unix.S_IFDIR) {
		return false
	}
	fd, err := openDir(l.fd, string(e.name[:len(e.name)-1]), beneath|unix.RESOLVE_NO_XDEV)
	if err != nil {
		if w.isGone(err) {
			l.again = l.again || w.listed.awaits(key)
		} else {
			w.listed.forget(key)
		}
		return false
	}
	if err := statOf(fd, &w.st); err != nil || !w.onMount(&w.st) {
		w.listed.forget(key)
		unix.Close(fd)
		return false
	}
	own := w.key(&w.st)
	switch {
	case w.subvolumes && w.st.Ino == goneSubvolume:
		w.listed.forget(key)
		w.tally.Inodes++
		unix.Close(fd)
		return false
	case w.subvolumes && own>>inoBits != key>>inoBits:
		w.listed.forget(key)
	case own != key && w.listed.awaits(key):
		l.again = true
	}
	if !w.isNewDir(&w.st) {
		unix.Close(fd)
		return false
	}
	if len(w.levels) == maxDepth {
		unix.Close(fd)
		w.miss(fmt.Errorf("more than %d levels deep", maxDepth))
		return false
	}
	w.push(fd, own)
	return true
}

// isNewDir counts a directory that was not met before.
func (w *walk) isNewDir(st *unix.Statx_t) bool {
	key := w.key(st)
	w.listed.forget(key)
	if !w.links.meet(key, w.room) {
		return false
	}
	w.tally = w.tally.plus(Tally{int64(st.Blocks) * blockSize, 1})
	return true
}

// onMount: a subvolume lies on the mount that it was made on.
func (w *walk) onMount(st *unix.Statx_t) bool {
	return st.Mnt_id == w.root.Mnt_id && (w.subvolumes || st.Dev_major == w.root.Dev_major && st.Dev_minor == w.root.Dev_minor)
}

// count adds a file, once if it has several links, is large, or is known to be renamed. One with
// several links that can't be remembered counts by its share each time it is met: right where all
// its links are in the tree.
func (w *walk) count(st *unix.Statx_t, isRenamed bool) {
	bytes := int64(st.Blocks) * blockSize
	if st.Nlink < 2 {
		if isRenamed || bytes >= largeFile {
			if !w.links.meet(w.key(st), w.room) {
				return
			}
		}
		w.tally = w.tally.plus(Tally{bytes, 1})
		return
	}
	isNew, ok := w.links.add(w.key(st), w.room)
	switch {
	case !ok:
		w.miss(fmt.Errorf("more than %d files with several links", maxLinks))
		w.tally.Bytes += bytes / int64(st.Nlink)
		w.shares += 1 / float64(st.Nlink)
	case isNew:
		w.tally = w.tally.plus(Tally{bytes, 1})
	}
}

func (w *walk) push(fd int, key uint64) {
	w.levels = append(w.levels, level{key: key, fd: fd, chunk: maxChunk, before: int32(w.listed.awaited - w.lost)})
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
	if w.key(&w.st) != w.levels[of-1].key || !w.onMount(&w.st) {
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

// isGone: what has no such name any more is looked for. What is another kind of file now is as
// little there, and a mount is not the tree's (EXDEV); all else is missed.
func (w *walk) isGone(err error) bool {
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return true
	case unix.EXDEV:
	default:
		w.miss(err)
	}
	return false
}

// total is what was found so far, or before: the larger, as nothing counts twice.
func (w *walk) total() Tally {
	t := w.tally.plus(Tally{Inodes: int64(w.shares)})
	return Tally{max(t.Bytes, w.first.Bytes), max(t.Inodes, w.first.Inodes)}
}

// end closes what is open.
func (w *walk) end() {
	for len(w.levels) > 0 {
		w.drop()
	}
	w.links.release(w.room)
	w.listed.release(w.room)
	w.vanished.release(w.room)
	w.listedThen.release(w.room)
}

// Measure walks a directory to its end. The error says why the tally is less than what is
// there. A link at dir itself is followed.
func Measure(dir string) (Tally, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Tally{}, fmt.Errorf("open %s: %w", dir, err)
	}
	w, err := newWalk(fd, false, &linkRoom{left: maxLinks}, make([]byte, maxChunk))
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
