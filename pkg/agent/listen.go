package agent

import (
	"context"
	"encoding/binary"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// changes are the cgroups that were made or removed below the roots, as inotify tells. Where
// that is not to be had, the number of children of each level tells it once a second, and
// crossings tell of strangers.
type changes struct {
	// deaf: there is no inotify.
	deaf   atomic.Bool
	events *os.File

	mu      sync.Mutex
	watched map[int]string // the cgroup of each watch
	known   map[string]bool
	// names are since the last take, spare is the map of that one; lost: some may be missing.
	names, spare map[string]bool
	lost         bool
}

func (c *changes) open(log zerolog.Logger) {
	c.watched, c.known, c.names, c.spare = map[int]string{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		c.deaf.Store(true)
		log.Warn().Err(err).Msg("degraded: no inotify; new units are found by the number of children, once a second")
		return
	}
	c.events = os.NewFile(uintptr(fd), "inotify")
}

func (c *changes) close() {
	if c.events != nil {
		_ = c.events.Close()
	}
}

// watch has what is made and removed in a cgroup told; twice is harmless.
func (c *changes) watch(fs *cgroupfs.FS, cgroup string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events == nil || c.known[cgroup] {
		return
	}
	raw, err := c.events.SyscallConn()
	if err != nil {
		return // closed
	}
	_ = raw.Control(func(fd uintptr) {
		for _, dir := range []string{fs.MemoryDir(cgroup), fs.PidsDir(cgroup)} {
			wd, err := unix.InotifyAddWatch(int(fd), dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
			if err == nil {
				c.watched[wd], c.known[cgroup] = cgroup, true
			}
		}
	})
}

// take returns the cgroups that were made or removed since the last take, until the next
// one; with lost there may be more.
func (c *changes) take() (names map[string]bool, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names, lost = c.names, c.lost
	clear(c.spare)
	c.names, c.spare, c.lost = c.spare, names, false
	return names, lost
}

// miss has the directories listed soon.
func (c *changes) miss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
}

// listen keeps account of what is made and removed until ctx is done, and has kick called.
func (c *changes) listen(ctx context.Context, kick func()) {
	if c.events == nil {
		return
	}
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		n, err := c.events.Read(buf)
		if err != nil {
			return // closed
		}
		c.note(buf[:n])
		kick()
	}
}

// note reads events (struct inotify_event, include/uapi/linux/inotify.h).
func (c *changes) note(events []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int(int32(binary.NativeEndian.Uint32(events)))
		mask := binary.NativeEndian.Uint32(events[4:])
		end := min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])), len(events))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
		events = events[end:]
		cgroup := c.watched[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			c.lost = true
		case cgroup == "":
		case mask&unix.IN_IGNORED != 0: // it is gone, or was made anew
			delete(c.watched, wd)
			delete(c.known, cgroup)
			c.names[cgroup] = true
		case mask&unix.IN_ISDIR != 0:
			c.names[path.Join(cgroup, name)] = true
		}
	}
}
