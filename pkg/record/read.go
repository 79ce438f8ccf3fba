package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// maxLineBytes is far above a line with MaxRanked units, which has about 5 KiB.
const maxLineBytes = 1 << 20

// Entry is a line as it was read.
type Entry struct {
	Line
	// Raw is the JSON as it stands in the file, with keys that Line does not know.
	Raw json.RawMessage
}

// ReadJournal returns every line of a journal, the former files first, and how many were
// skipped: torn, not JSON, or of another schema. Unknown keys are ignored. A journal of
// which no file exists is fs.ErrNotExist.
func ReadJournal(path string) (lines []Line, skipped int, err error) {
	skipped, err = ScanJournal(path, func(e Entry) error {
		lines = append(lines, e.Line)
		return nil
	})
	return lines, skipped, err
}

// ScanJournal is ReadJournal that calls each for a line at a time and ends with the first
// error of each.
func ScanJournal(path string, each func(Entry) error) (skipped int, err error) {
	files, err := openAll(path)
	defer closeAll(files)
	if err != nil {
		return 0, fmt.Errorf("read journal: %w", err)
	}
	for _, f := range files {
		n, err := scan(f, each)
		skipped += n
		if err != nil {
			return skipped, fmt.Errorf("read journal %s: %w", f.Name(), err)
		}
	}
	return skipped, nil
}

// openAll opens the files of a journal, oldest first. The newest is opened first: a
// rotation meanwhile then shows a file under two names, which is noticed, and hides none.
func openAll(path string) ([]*os.File, error) {
	var files []*os.File
	for n := 0; ; n++ {
		name := path
		if n > 0 {
			name = former(path, n)
		}
		f, err := openRegular(name)
		switch {
		case err == nil && seen(files, f):
			f.Close()
		case err == nil:
			files = append(files, f)
		case !errors.Is(err, fs.ErrNotExist):
			return files, err
		case n > 0: // between two renames path itself may be missing for a moment
			if len(files) == 0 {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			slices.Reverse(files)
			return files, nil
		}
	}
}

// openRegular does not hang on a fifo.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func seen(files []*os.File, f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && slices.ContainsFunc(files, func(g *os.File) bool {
		gi, err := g.Stat()
		return err == nil && os.SameFile(fi, gi)
	})
}

func scan(r io.Reader, each func(Entry) error) (skipped int, err error) {
	br := bufio.NewReaderSize(r, readAhead)
	for {
		text, size, err := readLine(br)
		if e, ok := parse(text, size); ok {
			if err := each(e); err != nil {
				return skipped, err
			}
		} else if !isBlank(text) {
			skipped++
		}
		if err == io.EOF {
			return skipped, nil
		}
		if err != nil {
			return skipped, err
		}
	}
}

// readAhead is a dozen lines of a full ranking.
const readAhead = 64 << 10

// readLine returns a line of its own memory, with its newline, and how long it is. Of one
// that is longer than maxLineBytes it keeps the start.
func readLine(br *bufio.Reader) (text []byte, size int64, err error) {
	for {
		part, err := br.ReadSlice('\n')
		size += int64(len(part))
		if size <= maxLineBytes {
			text = append(text, part...)
		}
		if err != bufio.ErrBufferFull {
			return text, size, err
		}
	}
}

func parse(text []byte, size int64) (Entry, bool) {
	e := Entry{Raw: trim(text)}
	if size > maxLineBytes || len(e.Raw) == 0 || json.Unmarshal(e.Raw, &e.Line) != nil {
		return Entry{}, false
	}
	return e, e.Schema == Schema && e.Kind != ""
}

func isBlank(text []byte) bool { return len(trim(text)) == 0 }

// trim removes the newline and what a crash may leave before or after a line: zeros of
// allocated blocks.
func trim(text []byte) []byte { return bytes.Trim(text, "\x00\r\n\t ") }
