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
	c, err := mapCounters(countersFD, marksOf(&o.Spec))
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
func (o order) prepare(c shared) (begin func(), err error) {
	switch o.Spec.Kind {
	case Hog:
		if _, err := hold(o.Spec.Hold); err != nil {
			return nil, err
		}
		take, err := taking(o.Spec.Fill, o.Spec.Bytes)
		return func() { fill(take, o.Spec.Bytes, o.Spec.Rate, c) }, err
	case Sleeper:
		held, err := hold(o.Spec.Hold)
		atomic.StoreInt64(&c.done, held)
		return func() {}, err
	case Bomb:
		return func() { explode(c.counters, o) }, nil
	case Spinner:
		return spin, nil
	case Faulter:
		mem, err := reserve(o.Spec.Bytes, unix.MADV_NOHUGEPAGE)
		return func() { fault(mem) }, err
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

// reserve maps bytes, rounded down to pages, and touches none. With MADV_NOHUGEPAGE each
// page is an allocation of its own, the most frequent kind.
func reserve(bytes int64, advice int) ([]byte, error) {
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
	if err := unix.Madvise(mem, advice); err != nil && (advice == unix.MADV_HUGEPAGE || !errors.Is(err, unix.EINVAL)) {
		return nil, fmt.Errorf("madvise: %w", err)
	}
	return mem, nil
}

// hold touches bytes and keeps them for as long as the load lives.
func hold(bytes int64) (held int64, err error) {
	mem, err := reserve(bytes, unix.MADV_NOHUGEPAGE)
	for off := 0; off < len(mem); off += os.Getpagesize() {
		mem[off] = 1
	}
	return int64(len(mem)), err
}

// taker takes the memory from off on and returns up to where.
type taker func(off int64) (end int64)

// taking prepares a fill.
func taking(f Fill, bytes int64) (taker, error) {
	switch f {
	case FillHuge:
		mem, err := reserve(bytes, unix.MADV_HUGEPAGE)
		return touching(mem), err
	case FillShared:
		return writing()
	case FillPopulate:
		mem, err := reserve(bytes, unix.MADV_NOHUGEPAGE)
		return populating(mem), err
	}
	mem, err := reserve(bytes, unix.MADV_NOHUGEPAGE)
	return touching(mem), err
}

func touching(mem []byte) taker {
	pageSize := int64(os.Getpagesize())
	return func(off int64) int64 {
		mem[off] = 1
		return off + pageSize
	}
}

// writing appends to a memfd, which is tmpfs without a name.
func writing() (taker, error) {
	fd, err := unix.MemfdCreate("fill", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	block := make([]byte, MarkBytes)
	return func(off int64) int64 {
		n, err := unix.Pwrite(fd, block, off)
		if err != nil {
			time.Sleep(time.Millisecond) // ENOMEM at the limit: hold what there is, and try again
		}
		return off + int64(max(n, 0))
	}, nil
}

// populateStep is short enough to tell progress, long enough that the call does not count.
const populateStep = 1 << 20

func populating(mem []byte) taker {
	return func(off int64) int64 {
		end := min(off+populateStep, int64(len(mem)))
		if err := populate(mem[off:end]); err != nil {
			time.Sleep(time.Millisecond)
			return off
		}
		return end
	}
}

// populate has the kernel fault ahead, before 5.14 as for memory that is locked.
func populate(mem []byte) error {
	err := unix.Madvise(mem, unix.MADV_POPULATE_WRITE)
	if errors.Is(err, unix.EINVAL) {
		return errors.Join(unix.Mlock(mem), unix.Munlock(mem))
	}
	return err
}

// fill takes bytes, rounded down to pages, never ahead of rate bytes a second; 0 is no limit.
func fill(take taker, bytes, rate int64, c shared) {
	begun, begunNs, pageSize := time.Now(), monotonicNs(), int64(os.Getpagesize())
	marked := 0
	for off := int64(0); off+pageSize <= bytes; {
		if rate > 0 {
			due := float64(off+pageSize) / float64(rate) * float64(time.Second)
			time.Sleep(time.Duration(due) - time.Since(begun))
		}
		off = take(off)
		atomic.StoreInt64(&c.done, off)
		for ; marked < len(c.marks) && off >= int64(marked+1)*MarkBytes; marked++ {
			atomic.StoreInt64(&c.marks[marked], begunNs+int64(time.Since(begun)))
		}
	}
}

// fault does not return. MADV_DONTNEED gives the pages back at once.
func fault(mem []byte) {
	pageSize := os.Getpagesize()
	for {
		for off := 0; off < len(mem); off += pageSize {
			mem[off] = 1
		}
		_ = unix.Madvise(mem, unix.MADV_DONTNEED)
	}
}

func spin() {
	for {
	}
}
