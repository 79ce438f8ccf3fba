package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// DiskWriter writes a disk table. It keeps room for two on the filesystem that the table lies on:
// when that is full the table is needed most. One goroutine of one process may write a table at
// a time.
type DiskWriter struct {
	path string
	// room is how many bytes each reserve has; reserved: both are there. used: one of them is
	// the table now, and what it replaced has less room.
	room           int
	reserved, used bool
}

// leastRoom is for some 200 units.
const leastRoom = 64 << 10

// NewDiskWriter makes a writer; nothing is written yet.
func NewDiskWriter(path string) *DiskWriter { return &DiskWriter{path: path} }

// Write replaces the table (0644) by rename; it sets the schema.
func (w *DiskWriter) Write(t *DiskTable) error {
	stamped := *t
	stamped.Schema = DiskSchema
	data, err := json.Marshal(&stamped)
	if err == nil {
		err = w.replace(append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the disk figures: %w", err)
	}
	return nil
}

// Close gives the room back.
func (w *DiskWriter) Close() error {
	w.reserved = false
	return errors.Join(remove(w.reserve(0)), remove(w.reserve(1)))
}

func (w *DiskWriter) reserve(i int) string { return fmt.Sprintf("%s.reserve%d", w.path, i) }

func (w *DiskWriter) replace(data []byte) error {
	err := ReplaceFile(w.path, data)
	switch {
	case err == nil:
		w.makeRoom(min(2*len(data), maxDiskBytes)) // no reader takes more, blanks included
		return nil
	case errors.Is(err, unix.ENOSPC) && w.reserved && len(data) <= w.room:
		if failed := w.exchange(data); failed != nil {
			return errors.Join(err, failed)
		}
		return nil
	}
	return err
}

// makeRoom is content with less: there is always another try.
func (w *DiskWriter) makeRoom(least int) {
	if w.reserved && !w.used && w.room >= least {
		return
	}
	w.room, w.reserved, w.used = max(least, leastRoom), true, false
	for i := range 2 {
		if err := allocate(w.reserve(i), w.room); err != nil {
			_ = w.Close()
			return
		}
	}
}

// allocate makes a file of blanks, which JSON passes over.
func allocate(path string, size int) error {
	if err := remove(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(bytes.Repeat([]byte{' '}, size))
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

// exchange writes over a reserve, which takes no new space, and gives it the table's place. The
// first table has no room to be written over; the second one and the reserve take turns then.
func (w *DiskWriter) exchange(data []byte) error {
	padded := append(bytes.Repeat([]byte{' '}, w.room-len(data)), data...)
	for i := range 2 {
		f, err := os.OpenFile(w.reserve(i), os.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if info, err := f.Stat(); err != nil || info.Size() != int64(w.room) {
			_ = f.Close()
			continue
		}
		_, err = f.Write(padded)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		w.used = true
		return unix.Renameat2(unix.AT_FDCWD, w.reserve(i), unix.AT_FDCWD, w.path, unix.RENAME_EXCHANGE)
	}
	return unix.ENOSPC
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
