package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// growth is how fast a unit fills disks.
type growth struct {
	last      writes
	atNs      uint64
	perSecond float64
	// grewNs is when it last wrote fast enough to be looked at at once.
	grewNs uint64
}

// writes are counters of a unit: bytes written to files in its life, and what its inodes
// take in memory, which shows files that are made and hardly written to.
type writes struct{ bytes, inodeMemory int64 }

const (
	// fastWrites is from which rate on a unit's figures are soon wrong: at 1 MiB/s those of
	// half a minute ago by 30 MiB, or by some 25,000 inodes.
	fastWrites = 1 << 20
	// growsFor is how long a unit counts as growing after it last wrote fast: what is
	// written in bursts is seen.
	growsFor = 5 * time.Second
)

// seen takes the counters over. They fall when a process ends before its parent has fetched
// its share, or when memory is reclaimed.
func (g *growth) seen(now writes, nowNs uint64) {
	if g.atNs > 0 && nowNs > g.atNs {
		more := max(now.bytes-g.last.bytes, 0) + max(now.inodeMemory-g.last.inodeMemory, 0)
		g.perSecond = float64(more) / time.Duration(nowNs-g.atNs).Seconds()
	}
	g.last, g.atNs = now, nowNs
	if g.perSecond >= fastWrites {
		g.grewNs = nowNs
	}
}

// grows reports whether the unit wrote fast in the last seconds.
func (g *growth) grows(nowNs uint64) bool {
	return g.grewNs > 0 && nowNs-g.grewNs <= uint64(growsFor)
}

// counters read how much units have written.
type counters struct {
	fs     *cgroupfs.FS
	procfs string
}

// read reads a unit's counters. On cgroup v2 written is what io.stat counts and what is still
// to be written; elsewhere what /proc counts for its processes when they make a page dirty.
// cgroup v1's blkio counters don't know whose page is written back: of 40 MiB written and
// synced they count none (6.18).
func (c counters) read(cgroup string) (writes, error) {
	g, err := c.fs.OpenToRead(cgroup)
	if err != nil {
		return writes{}, err
	}
	defer func() { _ = g.Close() }()
	var w writes
	w.inodeMemory, _ = g.InodeMemoryBytes() // kernel memory may not be accounted
	w.bytes, err = g.WrittenBytes()
	if errors.Is(err, cgroupfs.ErrNoKey) {
		w.bytes, err = c.byProcesses(g)
	}
	return w, err
}

func (c counters) byProcesses(g *cgroupfs.Cgroup) (int64, error) {
	pids, err := g.Procs(nil)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join(c.procfs, strconv.Itoa(pid), "io"))
		if err == nil { // else it has ended
			sum += processWritten(data)
		}
	}
	return sum, nil
}

// processWritten is write_bytes less cancelled_write_bytes of /proc/PID/io
// (Documentation/filesystems/proc.rst), children that have been waited for included:
//
//	write_bytes: 41951232
//	cancelled_write_bytes: 0
func processWritten(data []byte) int64 {
	return procKey(data, "\nwrite_bytes: ") - procKey(data, "\ncancelled_write_bytes: ")
}

func procKey(data []byte, key string) int64 {
	_, rest, _ := bytes.Cut(data, []byte(key))
	text, _, _ := bytes.Cut(rest, []byte("\n"))
	v, _ := strconv.ParseInt(string(text), 10, 64)
	return v
}

// nodeDirtied is how many pages have been made dirty on the node (nr_dirtied of
// /proc/vmstat): who reads one number may spare reading each unit's.
func (c counters) nodeDirtied() (int64, error) {
	data, err := os.ReadFile(filepath.Join(c.procfs, "vmstat"))
	if err != nil {
		return 0, err
	}
	if v := procKey(data, "\nnr_dirtied "); v > 0 {
		return v, nil
	}
	return 0, errors.New("no nr_dirtied in vmstat")
}
