package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// JournalOptions are optional: a zero means the default.
type JournalOptions struct {
	// MaxBytes is the size from which Sync starts a new file. Default 16 MiB.
	MaxBytes int64
	// PreallocBytes is how much space is allocated ahead at a time. Default 1 MiB, some
	// 300 evictions; negative means none.
	PreallocBytes int64
	// Keep is how many former files stay, as path.1 (the newest) and so on. Default 2.
	Keep int
}

func (o JournalOptions) withDefaults() JournalOptions {
	if o.MaxBytes == 0 {
		o.MaxBytes = 16 << 20
	}
	if o.PreallocBytes == 0 {
		o.PreallocBytes = 1 << 20
	}
	if o.Keep == 0 {
		o.Keep = 2
	}
	return o
}

// Journal appends lines to a file. Goroutines may share it: an Append does not wait for
// the disk while another goroutine is in Sync. One process writes a journal at a time.
type Journal struct {
	path string
	opts JournalOptions

	syncing sync.Mutex // held by one Sync or Close, taken before mu

	mu        sync.Mutex // guards what follows
	f         *os.File
	size      int64
	allocated int64 // space is allocated up to here
	torn      bool  // the last line has no newline
}

// OpenJournal opens or creates a journal (0644) and the directory it lies in (0755). It
// follows no symbolic link at path and refuses what is not a regular file. If the last
// line is torn, by a crash or a full disk, the next Append starts a new one after it.
func OpenJournal(path string, o JournalOptions) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	f, err := openAppend(path, 0)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{path: path, opts: o.withDefaults(), f: f}
	if err := j.examine(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j.allocated, _ = fallocate(f, j.size, j.opts.PreallocBytes)
	return j, nil
}

// openAppend sets the mode by fchmod: the umask must not hide the journal from its readers.
// O_NONBLOCK keeps a fifo from blocking the start.
func openAppend(path string, flags int) (*os.File, error) {
	const common = os.O_CREATE | os.O_APPEND | os.O_RDWR | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	f, err := os.OpenFile(path, common|flags, 0o644)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", path)
	case fi.Size() == 0:
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (j *Journal) examine() error {
	fi, err := j.f.Stat()
	if err != nil {
		return err
	}
	j.size = fi.Size()
	if j.size == 0 {
		return nil
	}
	var last [1]byte
	if _, err := j.f.ReadAt(last[:], j.size-1); err != nil {
		return err
	}
	j.torn = last[0] != '\n'
	return nil
}

// fallocate makes sure of the space from size on and returns how far it is sure of it.
// Errors only say that there is no such space: a filesystem that can't (EOPNOTSUPP) or a
// full one (ENOSPC). Appending may still work, and the next Sync tries again.
func fallocate(f *os.File, size, ahead int64) (int64, error) {
	if ahead <= 0 {
		return size, nil
	}
	for { // tmpfs gives up when a signal comes, and the Go runtime sends itself signals
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, size, ahead)
		switch err {
		case nil:
			return size + ahead, nil
		case unix.EINTR:
			continue
		}
		return size, err
	}
}

// Append writes a line with one write(2) and returns; the line is in the page cache then.
// Call Sync afterwards, off the hot path. After an error the line may be there in part;
// readers skip it, and it can be appended again.
func (j *Journal) Append(l *Line) error {
	data, err := encode(l)
	if err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.torn {
		data = append([]byte{'\n'}, data...)
	}
	n, err := j.f.Write(data)
	j.size += int64(n)
	if err != nil {
		j.torn = j.torn || n > 0
		return fmt.Errorf("append to journal: %w", err)
	}
	j.torn = false
	return nil
}

// encode leaves "<" as it is: thresholds are written with it.
func encode(l *Line) ([]byte, error) {
	stamped := *l
	stamped.Schema = Schema
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(&stamped) // ends with a newline
	return b.Bytes(), err
}

// Sync brings what was appended to the disk, allocates space ahead, and starts a new file
// when this one has grown beyond MaxBytes. Append goes on meanwhile.
func (j *Journal) Sync() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	f, size := j.f, j.size
	j.mu.Unlock()
	err := f.Sync()
	if size > j.opts.MaxBytes {
		err = errors.Join(err, j.rotate())
	}
	j.topUp()
	if err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	return nil
}

// topUp holds at least half of PreallocBytes ready.
func (j *Journal) topUp() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.allocated-j.size < j.opts.PreallocBytes/2 {
		end, _ := fallocate(j.f, j.size, j.opts.PreallocBytes)
		j.allocated = max(j.allocated, end)
	}
}

// rotate makes the next file ready first and changes to it under the lock, which is three
// renames long. Without space for it the present file grows on: a large journal is better
// than none.
func (j *Journal) rotate() error {
	next, allocated, err := j.nextFile()
	if err != nil {
		return err
	}
	former, err := j.swap(next, allocated)
	if err != nil {
		next.Close()
		return err
	}
	fi, err := former.Stat()
	if err == nil {
		err = former.Truncate(fi.Size()) // gives back what was allocated beyond the end
	}
	return errors.Join(err, former.Sync(), former.Close(), syncDir(filepath.Dir(j.path)))
}

// nextFile returns an empty file and how much space it has. On a full disk the oldest
// former file makes room.
func (j *Journal) nextFile() (*os.File, int64, error) {
	name := j.path + ".next"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	f, err := openAppend(name, os.O_EXCL)
	if err != nil {
		return nil, 0, err
	}
	allocated, err := fallocate(f, 0, j.opts.PreallocBytes)
	if errors.Is(err, unix.ENOSPC) && j.dropOldest() {
		allocated, err = fallocate(f, 0, j.opts.PreallocBytes)
	}
	if errors.Is(err, unix.ENOSPC) {
		return nil, 0, errors.Join(err, os.Remove(name), f.Close())
	}
	return f, allocated, nil
}

// dropOldest removes the oldest former file and reports whether there was one.
func (j *Journal) dropOldest() bool {
	for n := j.opts.Keep; n > 0; n-- {
		if os.Remove(former(j.path, n)) == nil {
			return true
		}
	}
	return false
}

// swap returns the file it has replaced.
func (j *Journal) swap(next *os.File, allocated int64) (*os.File, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for n := j.opts.Keep; n > 1; n-- {
		if err := os.Rename(former(j.path, n-1), former(j.path, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := os.Rename(j.path, former(j.path, 1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.Rename(j.path+".next", j.path); err != nil {
		return nil, err
	}
	old := j.f
	j.f, j.size, j.allocated, j.torn = next, 0, allocated, false
	return old, nil
}

// former is the name of the n-th newest former file.
func former(path string, n int) string { return path + "." + strconv.Itoa(n) }

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the file without syncing it.
func (j *Journal) Close() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.f.Close()
}
