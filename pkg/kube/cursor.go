package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

const cursorSchema = "ebpf-evict/cursor/v1"

// cursor is how far the journal has been brought to the cluster, as it is kept.
type cursor struct {
	Schema   string          `json:"schema"`
	Position record.Position `json:"position"`
	Pressure map[string]hold `json:"pressure,omitempty"`
}

// cursorMost is far more than a cursor has.
const cursorMost = 64 << 10

// errCursor means that what is there is no cursor of ours.
var errCursor = errors.New("cursor refused")

// loadCursor returns a cursor without a schema where there is none. What is not one is errCursor.
func loadCursor(path string) (cursor, error) {
	data, err := readCursor(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cursor{}, nil
	}
	var c cursor
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	switch {
	case err != nil:
	case c.Schema != cursorSchema:
		err = fmt.Errorf("schema %q, want %q", c.Schema, cursorSchema)
	case c.Position.Offset < 0:
		err = fmt.Errorf("offset %d", c.Position.Offset)
	}
	if err != nil {
		return cursor{}, fmt.Errorf("%w: %w", errCursor, err)
	}
	return c, nil
}

// readCursor waits for no fifo and follows no link.
func readCursor(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > cursorMost {
		return nil, fmt.Errorf("%s of %d bytes", fi.Mode(), fi.Size())
	}
	return io.ReadAll(io.LimitReader(f, cursorMost))
}

func (c cursor) equal(d cursor) bool {
	return c.Schema == d.Schema && c.Position == d.Position && maps.EqualFunc(c.Pressure, d.Pressure, func(x, y hold) bool {
		return x.Asserted == y.Asserted && x.Until.Equal(y.Until)
	})
}

// save replaces the file, and has it on disk before the name leads to it.
func (c cursor) save(path string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write cursor: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EEXIST) { // somebody's directory
		err = errors.Join(os.Rename(path, path+".refused"), os.Rename(tmp, path))
	}
	if err != nil {
		return fmt.Errorf("write cursor: %w", err)
	}
	return nil
}

// ledger knows which lines are still to be brought to the cluster. Goroutines may share it.
type ledger struct {
	mu   sync.Mutex
	open []*ticket // in the order of the journal
	end  record.Position
}

// ticket is a line under way.
type ticket struct {
	before record.Position
	done   bool
}

func (l *ledger) begin(before record.Position) *ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &ticket{before: before}
	l.open = append(l.open, t)
	return t
}

func (l *ledger) finish(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.done = true
	for len(l.open) > 0 && l.open[0].done {
		l.open = l.open[1:]
	}
}

func (l *ledger) read(end record.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
}

// low is where a new start has to begin: before the first line that is not done.
func (l *ledger) low() record.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) > 0 {
		return l.open[0].before
	}
	return l.end
}

// backlog is how many lines are under way.
func (l *ledger) backlog() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.open {
		if !t.done {
			n++
		}
	}
	return n
}
