package workload

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Bell rings when a file of a directory has changed, as inotify tells. It belongs to one goroutine.
type Bell struct {
	dir string
	// every is the clock beside inotify, deaf the one instead of it.
	every, deaf time.Duration
	rung        chan struct{}
	f           *os.File
	gone        chan struct{} // closed when f tells nothing any more
}

// NewBell is one for a directory that may come later, and be made anew. deaf is how long a wait lasts
// while there is no directory or no inotify: a node may have used up its instances.
func NewBell(dir string, deaf time.Duration) *Bell {
	return &Bell{dir: dir, every: time.Second, deaf: deaf, rung: make(chan struct{}, 1)}
}

// Wait returns at the next change since the last wait, or after a second, or with ctx.
func (b *Bell) Wait(ctx context.Context) {
	every := b.every
	if b.f == nil {
		if b.listen() == nil {
			return // it may have changed before
		}
		every = b.deaf
	}
	if b.rest(ctx, every) {
		b.Close()
		b.rest(ctx, b.deaf) // a watch that ends at once would have us spin
	}
}

// rest waits, and reports whether the watch has ended.
func (b *Bell) rest(ctx context.Context, d time.Duration) (gone bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-b.rung:
	case <-b.gone:
		return true
	}
	return false
}

func (b *Bell) listen() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify") // not blocking, so that Close ends a Read
	const mask = unix.IN_MODIFY | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, b.dir, mask); err != nil {
		return errors.Join(err, f.Close())
	}
	b.f, b.gone = f, make(chan struct{})
	go ring(f, b.rung, b.gone)
	return nil
}

// ring ends with the watch: its directory is gone, or the bell was closed.
func ring(f *os.File, rung, gone chan struct{}) {
	defer close(gone)
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil || ended(buf[:n]) {
			return
		}
		select {
		case rung <- struct{}{}:
		default: // it has rung since the last wait
		}
	}
}

// ended looks for the end of a watch (struct inotify_event, include/uapi/linux/inotify.h).
func ended(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := uint32(events[4]) | uint32(events[5])<<8 | uint32(events[6])<<16 | uint32(events[7])<<24
		if mask&(unix.IN_IGNORED|unix.IN_MOVE_SELF) != 0 {
			return true
		}
		length := int(events[12]) | int(events[13])<<8 | int(events[14])<<16
		events = events[min(len(events), unix.SizeofInotifyEvent+length):]
	}
	return false
}

// Close ends the listening; the next wait begins anew.
func (b *Bell) Close() {
	if b.f != nil {
		_ = b.f.Close()
		b.f, b.gone = nil, nil
	}
}
