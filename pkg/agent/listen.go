package agent

import (
	"context"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// listen kicks the scout when a cgroup is made or removed below a root, so that a young
// unit is known within a millisecond. Where inotify is not to be had, the scan once a
// second and the look at strangers remain.
func (s *scout) listen(ctx context.Context) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		s.log.Warn().Err(err).Msg("degraded: no inotify; new units are found by a scan once a second")
		return
	}
	defer func() { _ = unix.Close(fd) }()
	buf := make([]byte, 4096)
	var watchedAt time.Time
	for ctx.Err() == nil {
		if time.Since(watchedAt) > scanEvery {
			s.watch(fd)
			watchedAt = time.Now()
		}
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		if n <= 0 {
			continue
		}
		for {
			if n, err := unix.Read(fd, buf); n <= 0 || err != nil {
				break
			}
		}
		s.kick()
	}
}

// watch adds the roots, the levels below them that hold units, and pods; adding twice is
// harmless.
func (s *scout) watch(fd int) {
	dirs := map[string]bool{}
	for _, root := range s.wires.roots {
		dirs[root] = true
	}
	s.mu.Lock()
	for i := range s.units {
		dirs[path.Dir(s.units[i].Cgroup)] = true
		if s.units[i].QOSClass != "" {
			dirs[s.units[i].Cgroup] = true // a pod's containers come and go
		}
	}
	s.mu.Unlock()
	for cgroup := range dirs {
		for _, dir := range []string{s.fs.MemoryDir(cgroup), s.fs.PidsDir(cgroup)} {
			_, _ = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
		}
	}
}
