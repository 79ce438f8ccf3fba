package load

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// run is the load itself. It gets itself ready, says so, and begins when told.
func (o order) run() error {
	time.AfterFunc(o.left(), func() { os.Exit(0) }) // should the keeper be stopped
	_ = os.WriteFile("/proc/self/comm", []byte("load-"+o.Spec.Kind), 0)
	if o.Spec.IgnoreTerm {
		signal.Ignore(unix.SIGTERM)
	}
	c, err := mapCounters(countersFD)
	if err != nil {
		return err
	}
	begin, err := o.prepare(c)
	if err != nil {
		return err
	}
	if err := say(wordReady, ""); err != nil {
		return err
	}
	unix.Close(readyFD)
	if err := awaitGo(); err != nil {
		return err
	}
	time.Sleep(o.Spec.Delay)
	begin()
	for {
		time.Sleep(time.Hour)
	}
}

// prepare does what can fail and returns what can't.
func (o order) prepare(c *counters) (begin func(), err error) {
	switch o.Spec.Kind {
	case Hog:
		mem, err := reserve(o.Spec.Bytes)
		return func() { fill(mem, o.Spec.Rate, &c.done) }, err
	case Sleeper:
		mem, err := reserve(o.Spec.Hold)
		fill(mem, 0, &c.done)
		return func() {}, err
	case Bomb:
		return func() { explode(c, o) }, nil
	case Spinner:
		return spin, nil
	}
	return nil, fmt.Errorf("unknown kind %q", o.Spec.Kind)
}

// awaitGo reports a starter that went away as an error.
func awaitGo() error {
	if _, err := os.NewFile(beginFD, "begin").Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for go: %w", err)
	}
	return nil
}

// reserve maps bytes, rounded down to pages, and touches none. Without huge pages each
// page is an allocation of its own, the most frequent kind.
func reserve(bytes int64) ([]byte, error) {
	pageSize := int64(os.Getpagesize())
	size := bytes / pageSize * pageSize
	if size == 0 {
		return nil, nil
	}
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	// EINVAL: a kernel without transparent huge pages.
	if err := unix.Madvise(mem, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("madvise: %w", err)
	}
	return mem, nil
}

// fill touches mem page by page, never ahead of rate bytes a second; 0 is no limit.
func fill(mem []byte, rate int64, done *int64) {
	begun, pageSize := time.Now(), os.Getpagesize()
	for off := 0; off < len(mem); off += pageSize {
		if rate > 0 {
			due := float64(off+pageSize) / float64(rate) * float64(time.Second)
			time.Sleep(time.Duration(due) - time.Since(begun))
		}
		mem[off] = 1
		atomic.StoreInt64(done, int64(off+pageSize))
	}
}

func spin() {
	for {
	}
}
