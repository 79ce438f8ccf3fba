package record

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Follower reads a journal from its oldest line on, and then what is appended, across
// rotations. One goroutine may use it.
type Follower struct {
	path string
	// reading is the newest file seen so far, nil before the first; it is kept open, so that
	// what was appended before its rotation is still read. All lines before offset are read.
	reading *os.File
	offset  int64
}

// NewFollower makes a follower of the journal at path, which need not exist yet.
func NewFollower(path string) *Follower { return &Follower{path: path} }

// Poll calls each for every line since the last call, and says how many were skipped: torn,
// not JSON, or of another schema. A last line without its newline is left to the next call:
// it may still be being written. Without a journal there are no lines, which is no error.
// After an error the next call goes on where this one ended.
func (f *Follower) Poll(each func(*Line)) (skipped int, err error) {
	newer, err := f.newer()
	defer func() { closeAll(newer) }() // those that were not reached
	for err == nil && len(newer) > 0 {
		var n int
		if n, err = f.read(true, each); err == nil {
			f.turnTo(newer[0])
			newer = newer[1:]
		}
		skipped += n
	}
	if err == nil {
		var n int
		n, err = f.read(false, each)
		skipped += n
	}
	if err != nil {
		return skipped, fmt.Errorf("follow journal: %w", err)
	}
	return skipped, nil
}

// newer opens the files that are newer than the one being read, oldest first. They are listed
// before that one is read: if there are any, nothing is appended to it any more.
func (f *Follower) newer() ([]*os.File, error) {
	files, err := openAll(f.path)
	if err != nil {
		closeAll(files)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	at := slices.IndexFunc(files, func(file *os.File) bool { return f.reading != nil && seen([]*os.File{f.reading}, file) })
	closeAll(files[:at+1])
	return files[at+1:], nil
}

func (f *Follower) turnTo(next *os.File) {
	_ = f.Close()
	f.reading, f.offset = next, 0
}

// read reads on in the present file. In a former one the last line counts as it is.
func (f *Follower) read(isFormer bool, each func(*Line)) (skipped int, err error) {
	if f.reading == nil {
		return 0, nil
	}
	fi, err := f.reading.Stat()
	if err != nil {
		return 0, err
	}
	if fi.Size() < f.offset {
		f.offset = 0 // somebody has emptied it
	}
	br := bufio.NewReaderSize(io.NewSectionReader(f.reading, f.offset, fi.Size()-f.offset), readAhead)
	for {
		text, size, err := readLine(br)
		if err != nil && err != io.EOF {
			return skipped, err
		}
		if err == io.EOF && !isFormer {
			return skipped, nil
		}
		f.offset += size
		if e, ok := parse(text, size); ok {
			each(&e.Line)
		} else if !isBlank(text) {
			skipped++
		}
		if err == io.EOF {
			return skipped, nil
		}
	}
}

// Close closes the file that is read.
func (f *Follower) Close() error {
	if f.reading == nil {
		return nil
	}
	return f.reading.Close()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
