package snapshot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
)

// maxLine is far above a snapshot of 10,000 pods with all their containers (10 MiB).
const maxLine = 64 << 20

// ErrLine means that the input can't be read any further.
var ErrLine = errors.New("line is longer than 64 MiB")

// Line is one line of the input: a snapshot, or what is wrong with it.
type Line struct {
	Number   int
	Snapshot *Snapshot
	Err      error
}

// Read reads snapshots, one a line; empty lines are skipped. An error that is no *Error is
// the last of it.
func Read(r io.Reader) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 0, 64<<10), maxLine)
		number := 0
		for lines.Scan() {
			number++
			text := bytes.TrimSpace(lines.Bytes())
			if len(text) == 0 {
				continue
			}
			s, err := Parse(text)
			if !yield(Line{number, s, err}) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(Line{Number: number + 1, Err: ErrLine})
		case err != nil:
			yield(Line{Number: number + 1, Err: fmt.Errorf("read snapshots: %w", err)})
		}
	}
}
