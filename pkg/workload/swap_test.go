package workload

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A file that is a fifo at one moment, a table at the next, a link or nothing after that, holds
// up no reader, and none takes anything but a table.
func TestReadersOutliveWhatReplacesTheirFile(t *testing.T) {
	dir := t.TempDir()
	path, next := filepath.Join(dir, "disk.json"), filepath.Join(dir, "next")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			var err error
			switch i % 4 {
			case 0:
				err = syscall.Mkfifo(next, 0o600)
			case 1, 3:
				err = os.WriteFile(next, []byte(goodDisk), 0o600)
			case 2:
				err = os.Symlink(filepath.Join(dir, "fifo"), next)
			}
			if err = errors.Join(err, os.Rename(next, path)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	read := make(chan struct{})
	go func() {
		defer close(read)
		r := NewDiskReader(path, uint32(os.Getuid()), time.Hour)
		for range 5000 {
			if _, err := r.Read(90 * second); err != nil && !errors.Is(err, ErrDisk) && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("disk figures: %v", err)
			}
			if _, err := LoadReclaim(path, uint32(os.Getuid())); !errors.Is(err, ErrReclaim) && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("request: %v", err)
			}
		}
	}()
	select {
	case <-read:
	case <-time.After(time.Minute):
		t.Error("a reader hangs")
	}
	close(stop)
	<-done
}
