package record

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Position is a place between two lines of a journal. It stays good when the journal is
// rotated and when its reader starts anew.
type Position struct {
	// Inode is the file's, 0 for the start of the oldest file there is.
	Inode uint64 `json:"inode"`
	// Offset is in bytes.
	Offset int64 `json:"offset"`
	// Head is a checksum of the file's first bytes, up to Offset: filesystems use inodes anew.
	Head uint64 `json:"head"`
}

// headBytes hold a line's id and time, which no two files have in common.
const headBytes = 256

// tailBlock is how much is read at a time.
const tailBlock = 64 << 10

// Tail reads a journal that grows, through its rotations. It belongs to one goroutine. It
// misses no line as long as it is asked before Keep rotations have passed.
type Tail struct {
	path   string
	f      *os.File // nil before the first file is there
	inode  uint64
	offset int64 // of the first byte that is in no line that was returned
	unread []byte
	zeros  int // of unread that are known to hold no newline
	// Skipped counts the lines that were torn, not JSON, or of another schema.
	Skipped int
}

// ErrCut means that the file is shorter than what was read of it: somebody truncated it in place.
// It is read from its start next.
var ErrCut = errors.New("cut in place, begun anew at its start")

// NewTail goes on at a position; the zero one is before the oldest line. Where its file is gone, it begins with the oldest there is.
func NewTail(path string, from Position) (*Tail, error) {
	t := &Tail{path: path}
	if from.Inode == 0 || from.Offset < 0 {
		return t, nil
	}
	files, err := openAll(path)
	defer func() {
		for _, f := range files {
			if f != t.f {
				f.Close()
			}
		}
	}()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	for _, f := range files {
		inode, size, err := stat(f)
		if err != nil || inode != from.Inode || size < from.Offset {
			continue
		}
		if head, err := headOf(f, from.Offset); err == nil && head == from.Head {
			t.f, t.inode, t.offset = f, inode, from.Offset
		}
	}
	return t, nil
}

// Next returns the next line, nil when there is none yet: a last line without its newline
// is still being written. After an error it may be asked again.
func (t *Tail) Next() (*Entry, error) {
	for {
		if text, ok := t.line(); ok {
			if e, ok := parse(text, int64(len(text))); ok {
				return &e, nil
			}
			if len(text) > 0 {
				t.Skipped++
			}
			continue
		}
		more, err := t.more()
		if err != nil {
			return nil, fmt.Errorf("read journal %s: %w", t.path, err)
		}
		if !more {
			return nil, nil
		}
	}
}

// Position is after the line that Next returned last.
func (t *Tail) Position() (Position, error) {
	if t.f == nil {
		return Position{}, nil
	}
	head, err := headOf(t.f, t.offset)
	return Position{Inode: t.inode, Offset: t.offset, Head: head}, err
}

// Close closes the file.
func (t *Tail) Close() error {
	if t.f == nil {
		return nil
	}
	return t.f.Close()
}

// line cuts a whole line from what was read.
func (t *Tail) line() (text []byte, ok bool) {
	n := bytes.IndexByte(t.unread[t.zeros:], '\n')
	if n < 0 {
		t.zeros = len(t.unread)
		return nil, false
	}
	n += t.zeros + 1
	// A crash may leave zeros of allocated blocks before or after a line.
	text = trim(bytes.Clone(t.unread[:n]))
	t.unread, t.zeros = t.unread[n:], 0
	t.offset += int64(n)
	return text, true
}

// more reads on, in the next file when this one has ended.
func (t *Tail) more() (bool, error) {
	if t.f == nil {
		return t.first()
	}
	// Asked before the file is read to its end: what is renamed is not written to any more.
	newer, err := t.newer()
	if err != nil {
		return false, err
	}
	if n, err := t.read(); n > 0 || err != nil {
		closeAll(newer)
		return n > 0, err
	}
	if len(newer) == 0 {
		return false, nil
	}
	if !isBlank(t.unread) {
		t.Skipped++ // torn, and nobody writes the rest
	}
	return true, t.enter(newer)
}

func (t *Tail) read() (int, error) {
	if err := t.recut(); err != nil {
		return 0, err
	}
	if len(t.unread) > maxLineBytes { // no line of ours: on to the next newline
		t.offset += int64(len(t.unread))
		t.unread, t.zeros = nil, 0
	}
	block := make([]byte, tailBlock)
	n, err := t.f.ReadAt(block, t.offset+int64(len(t.unread)))
	t.unread = append(t.unread, block[:n]...)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// recut begins anew, or forgets the line that is half there, where the file ends before.
func (t *Tail) recut() error {
	_, size, err := stat(t.f)
	if err != nil || size >= t.offset+int64(len(t.unread)) {
		return err
	}
	t.unread, t.zeros = nil, 0
	if size < t.offset {
		t.offset = 0
		return ErrCut
	}
	return nil
}

// first opens the oldest file, if there is one.
func (t *Tail) first() (bool, error) {
	files, err := openAll(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		closeAll(files)
		return false, err
	}
	return true, t.enter(files)
}

// newer are the files after the one that is read, oldest first. All there are when that
// one is gone.
func (t *Tail) newer() ([]*os.File, error) {
	var st unix.Stat_t
	switch err := unix.Stat(t.path, &st); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil // between two renames
	case err != nil:
		return nil, err
	case st.Ino == t.inode:
		return nil, nil
	}
	files, err := openAll(t.path)
	if err != nil {
		closeAll(files)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	for i, f := range files {
		if inode, _, err := stat(f); err == nil && inode == t.inode {
			closeAll(files[:i+1])
			return files[i+1:], nil
		}
	}
	return files, nil
}

// enter goes on at the start of the first of files, and closes the rest.
func (t *Tail) enter(files []*os.File) error {
	closeAll(files[1:])
	inode, _, err := stat(files[0])
	if err != nil {
		files[0].Close()
		return err
	}
	if t.f != nil {
		t.f.Close()
	}
	t.f, t.inode, t.offset, t.unread, t.zeros = files[0], inode, 0, nil, 0
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func stat(f *os.File) (inode uint64, size int64, err error) {
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	return st.Ino, st.Size, err
}

func headOf(f *os.File, offset int64) (uint64, error) {
	head := make([]byte, min(offset, headBytes))
	if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, err
	}
	sum := fnv.New64a()
	_, _ = sum.Write(head) // a hash does not fail
	return sum.Sum64(), nil
}
