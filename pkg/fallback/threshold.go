package fallback

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// threshold is what the kernel compares a wire's usage with, on cgroup v1.
//
// The wire is about available memory, the kernel compares usage. What lies between the two,
// the inactive file and the limit, is constant while neither moves, so the wire is crossed
// at
//
//	usage + distance, both of one reading
//
// for a cgroup (usage = its page counter) and for the node (usage of the root = anonymous
// and file pages: mm/memcontrol.c:mem_cgroup_usage) alike. Where file pages become inactive,
// the kernel calls too early: that reading crosses nothing, and the threshold is set again.
// Where inactive pages become active, or are reclaimed, it calls too late; so readings go
// on, and as soon as one shows that the threshold is off by more than thresholdSlack the
// wire counts as not watched, and is polled until it is set again.
type threshold struct {
	// at is the value that the kernel compares, 0 for none, and of which cgroup.
	at    atomic.Int64
	place atomic.Pointer[place]
	// failed is why the last one could not be set.
	failed atomic.Pointer[error]
	// asked: a new one is on its way. It takes an RCU grace period.
	asked   atomic.Bool
	askedNs uint64 // of the thread of Next
	eventfd int    // of the registrar; 0 for none
}

const (
	// thresholdSlack is how late the kernel may call: as much as it does anyway, looking at
	// each 128 page events of a CPU, on four CPUs.
	thresholdSlack = 2 << 20
	// thresholdWithin is how near a wire must be, in time at the fastest fill, to be watched
	// by the kernel; and thresholdEvery how often it is set anew.
	thresholdWithin = 100 * time.Millisecond
	thresholdEvery  = 100 * time.Millisecond
)

func (t *threshold) close() {
	if t.eventfd > 0 {
		unix.Close(t.eventfd)
	}
	t.eventfd = 0
}

// registrar sets thresholds on a goroutine of its own: each takes some 10 ms, as the kernel
// waits for RCU.
type registrar struct {
	w       *Watcher
	orders  chan order
	workers sync.WaitGroup
}

type order struct {
	wire  int
	place *place
	at    int64
}

// rootID is the inode of each hierarchy's root (fs/kernfs/dir.c: the first id of its idr).
const rootID = 1

// openRegistrar tries a threshold on the root.
func (w *Watcher) openRegistrar() (*registrar, error) {
	if w.fs.Version() != cgroupfs.V1 {
		return nil, errors.New("cgroup v2 has no memory thresholds")
	}
	root, err := w.fs.Open("/")
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if root.MemoryID() != rootID {
		return nil, errors.New("the mount of the memory hierarchy does not show its root")
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	defer unix.Close(fd)
	if err := root.NotifyUsage(fd, 1<<60); err != nil { // EOPNOTSUPP with PREEMPT_RT
		return nil, err
	}
	g := &registrar{w: w, orders: make(chan order, maxWires)}
	g.workers.Go(g.work)
	return g, nil
}

func (g *registrar) close() {
	close(g.orders)
	g.workers.Wait()
}

// watches reports whether the kernel calls when this wire is crossed, and sees to it where
// it does not. For the thread of Next.
func (g *registrar) watches(r *wire, index int, usage int64, p pace, ns uint64) bool {
	t, want := &r.threshold, usage+r.distance+int64(os.Getpagesize())
	if usage <= 0 || r.distance > p.within(thresholdWithin) {
		return false // far: it moves with every file that is read, and there is time
	}
	at := t.at.Load()
	off := max(at-want, want-at)
	if at > usage && off <= thresholdSlack && t.place.Load() == r.at {
		return true
	}
	if ns-t.askedNs < uint64(thresholdEvery) || t.asked.Swap(true) {
		return false
	}
	t.askedNs = ns
	g.orders <- order{index, r.at, want} // one a wire: there is room
	return false
}

func (g *registrar) work() {
	for o := range g.orders {
		t := &g.w.wires[o.wire].threshold
		if err := g.set(t, o); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			t.failed.Store(&err) // polled, and tried again
		} else {
			t.failed.Store(nil)
		}
		t.asked.Store(false)
	}
}

// set replaces the threshold of a wire. The former one goes when its eventfd is closed.
func (g *registrar) set(t *threshold, o order) error {
	t.at.Store(0)
	c, err := g.w.fs.Open(orRoot(o.place.path))
	if err != nil {
		return err
	}
	defer c.Close()
	if c.MemoryID() != o.place.figures.MemoryID {
		return cgroupfs.ErrGone
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	if err := errors.Join(g.w.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, o.wire), c.NotifyUsage(fd, o.at)); err != nil {
		unix.Close(fd)
		return err
	}
	t.close()
	t.eventfd = fd
	t.place.Store(o.place)
	t.at.Store(o.at)
	// It may have been passed before it stood, which calls nobody.
	if usage, err := c.MemoryCurrentBytes(); err != nil || usage >= o.at {
		g.w.wake()
	}
	return nil
}

func orRoot(path string) string {
	if path == "" {
		return "/"
	}
	return path
}
