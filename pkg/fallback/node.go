package fallback

import (
	"bytes"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// procfs reads the node's counters from files kept open, without an allocation. For one
// goroutine.
type procfs struct {
	meminfo, loadavg int
	buf              [8192]byte // /proc/meminfo has 1.5 KiB
}

func openProcfs(root string) (*procfs, error) {
	p := &procfs{meminfo: -1, loadavg: -1}
	for name, into := range map[string]*int{"meminfo": &p.meminfo, "loadavg": &p.loadavg} {
		fd, err := unix.Open(filepath.Join(root, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("open %s: %w", name, err)
		}
		*into = fd
	}
	return p, nil
}

func (p *procfs) close() {
	for _, fd := range []int{p.meminfo, p.loadavg} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (p *procfs) read(fd int) []byte {
	for {
		n, err := unix.Pread(fd, p.buf[:], 0)
		if err == unix.EINTR {
			continue
		}
		return p.buf[:max(0, n)]
	}
}

// memory fills in anonymous, file and inactive file bytes; false when the file does not
// tell them.
func (p *procfs) memory(n *sample.Node) bool { return scanMeminfo(p.read(p.meminfo), n) }

// tasks fills in the tasks that exist, zombies included. (sysinfo(2) is cheaper and counts
// in 16 bits.)
func (p *procfs) tasks(n *sample.Node) bool {
	tasks, ok := scanLoadavg(p.read(p.loadavg))
	n.Tasks = tasks
	return ok
}

// scanMeminfo reads five lines; file pages are Cached and what it leaves out
// (fs/proc/meminfo.c: Cached = NR_FILE_PAGES - SwapCached - Buffers).
//
//	Buffers:            1192 kB
//	Cached:            52596 kB
//	SwapCached:            0 kB
//	Inactive(file):    18140 kB
//	AnonPages:          6700 kB
func scanMeminfo(data []byte, n *sample.Node) bool {
	found := 0
	n.AnonBytes, n.FileBytes, n.InactiveFileBytes = 0, 0, 0
	for len(data) > 0 {
		line := firstLine(data)
		data = data[min(len(line)+1, len(data)):]
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			continue
		}
		var into *int64
		switch string(line[:colon]) { // no allocation: the compiler compares in place
		case "Buffers", "Cached", "SwapCached":
			into = &n.FileBytes
		case "Inactive(file)":
			into = &n.InactiveFileBytes
		case "AnonPages":
			into = &n.AnonBytes
		default:
			continue
		}
		kib, ok := scanKiB(line[colon+1:])
		if !ok {
			return false
		}
		*into += kib << 10
		found++
	}
	return found == 5
}

// scanLoadavg returns what stands behind the slash of the fourth field:
//
//	0.00 0.08 0.07 1/88 7298
func scanLoadavg(data []byte) (int64, bool) {
	slash := bytes.IndexByte(data, '/')
	if slash < 0 {
		return 0, false
	}
	v, rest, ok := scanNumber(data[slash+1:])
	return v, ok && len(rest) > 0 && rest[0] == ' '
}

func scanKiB(b []byte) (int64, bool) {
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	v, rest, ok := scanNumber(b)
	return v, ok && v <= maxKiB && string(rest) == " kB"
}

// maxKiB is 2^60 bytes: three of them add up without overflow.
const maxKiB = 1 << 50

func scanNumber(b []byte) (v int64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if v >= 1<<59 {
			return 0, b, false
		}
		v = v*10 + int64(b[i]-'0')
	}
	return v, b[i:], i > 0
}

func firstLine(b []byte) []byte {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i]
	}
	return b
}
