package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// growth is how fast a unit fills disks.
type growth struct {
	last      writes
	atNs      uint64
	perSecond float64
	// grewNs is when it last wrote fast enough to be looked at at once.
	grewNs uint64
	// readNs is when counters were first read, 0 before; bornBefore: the unit was there already.
	readNs     uint64
	bornBefore bool
	// written is what it wrote in all, madeMemory what its inodes took, since it is known.
	written, madeMemory int64
	// filledNs is when another fastWrites had been written since the time before, at marked; 0: never.
	filledNs uint64
	marked   int64
}

// writes are counters of a unit: bytes written to files in its life, and what its inodes
// take in memory, which shows files that are made and hardly written to.
type writes struct {
	bytes, inodeMemory int64
	// whole: bytes are all that was written in it, by those too that have ended.
	whole bool
}

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
	g.addUp(now, nowNs)
	g.last, g.atNs = now, nowNs
	if g.perSecond >= fastWrites {
		g.grewNs = nowNs
	}
}

// addUp keeps account of what the unit can have filled.
func (g *growth) addUp(now writes, nowNs uint64) {
	if g.readNs == 0 {
		g.readNs, g.bornBefore = nowNs, g.atNs == 0
	}
	if now.whole {
		g.written = max(g.written, now.bytes)
	} else {
		g.written += max(now.bytes-g.last.bytes, 0)
	}
	g.madeMemory += max(now.inodeMemory-g.last.inodeMemory, 0)
	if filled := g.written + g.madeMemory; filled-g.marked >= fastWrites {
		g.filledNs, g.marked = nowNs, filled
	}
}

// leastInodeMemory is what a new file takes in the kernel's memory at least, as a rule 1,300 bytes.
const leastInodeMemory = 500

// countsAfter is how long a unit must be known until its counters tell that it wrote nothing:
// cgroup v2's memory.stat may be two seconds old (mm/memcontrol.c, FLUSH_TIME).
const countsAfter = 3 * time.Second

// atMost is what the unit can have filled; no data where counters don't tell. Those of living
// processes leave out who ended, and memory of inodes what was reclaimed: they can tell of little,
// and not of how much. Kernel memory that is zero is not counted at all, by nokmem.
func (g *growth) atMost(nowNs uint64) Tally {
	t := Tally{workload.NoData, workload.NoData}
	switch {
	case g.readNs == 0 || nowNs < g.readNs+uint64(countsAfter):
		return t
	case g.last.whole || g.written < fastWrites:
		t.Bytes = g.written
	}
	if !g.bornBefore && g.last.inodeMemory > 0 && g.madeMemory < fastWrites {
		t.Inodes = g.madeMemory / leastInodeMemory
	}
	return t
}

// grows reports whether the unit wrote fast in the last seconds.
func (g *growth) grows(nowNs uint64) bool {
	return g.grewNs > 0 && nowNs-g.grewNs <= uint64(growsFor)
}

// gauges keep the units' counters open. They belong to one goroutine.
type gauges struct {
	fs      *cgroupfs.FS
	procfs  string
	open    map[string]*gauge // by cgroup
	scratch cgroupfs.Scratch
	// unattributed: the filesystems don't tell whose page they write back.
	unattributed bool
	vmstat       *os.File
}

// gauge is one unit's: on cgroup v2 what its io.stat counts and what is still to be written;
// elsewhere what /proc counts for its processes when they make a page dirty. cgroup v1's
// blkio counters don't know whose page is written back: of 40 MiB written and synced they
// count none (6.18).
type gauge struct {
	writes *cgroupfs.Writes
	// io are /proc/PID/io of the processes listed at listedNs, when the unit had tasks of
	// them, threads included; io is empty where the cgroup itself tells.
	io       []int
	counts   *cgroupfs.Figures
	tasks    int64
	listedNs uint64
}

// listEvery is how long a list of processes is believed whose number of tasks stays, and of
// which none ends: one may have come as a thread of another went.
const listEvery = 30 * time.Second

func newGauges(fs *cgroupfs.FS, procfs string) *gauges {
	return &gauges{fs: fs, procfs: procfs, open: map[string]*gauge{}}
}

// read reads a unit's counters.
func (g *gauges) read(cgroup string, nowNs uint64) (writes, error) {
	u := g.open[cgroup]
	if u == nil {
		var err error
		if u, err = g.newGauge(cgroup); err != nil {
			return writes{}, err
		}
		g.open[cgroup] = u
	}
	written, inodes, err := u.writes.Read(&g.scratch)
	whole := written >= 0 && !g.unattributed
	if err == nil && !whole {
		written, err = g.byProcesses(cgroup, u, nowNs)
	}
	if err != nil { // it has ended, or was made again
		u.close()
		delete(g.open, cgroup)
	}
	return writes{written, inodes, whole}, err
}

func (g *gauges) newGauge(cgroup string) (*gauge, error) {
	c, err := g.fs.OpenToRead(cgroup)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	u := new(gauge)
	if u.writes, err = c.Writes(); err != nil {
		return nil, err
	}
	if u.counts, err = c.Figures(); err != nil {
		u.writes.Close()
		return nil, err
	}
	return u, nil
}

// byProcesses lists the processes anew when their number changed or one ended.
func (g *gauges) byProcesses(cgroup string, u *gauge, nowNs uint64) (int64, error) {
	tasks, err := u.counts.PidsCurrent()
	if err != nil && !errors.Is(err, cgroupfs.ErrNoKey) {
		return 0, err
	}
	if u.listedNs != 0 && tasks == u.tasks && nowNs-u.listedNs < uint64(listEvery) {
		if sum, ok := g.sum(u.io); ok {
			return sum, nil
		}
	}
	if err := g.list(cgroup, u); err != nil {
		return 0, err
	}
	u.tasks, u.listedNs = tasks, nowNs
	sum, _ := g.sum(u.io)
	return sum, nil
}

func (g *gauges) list(cgroup string, u *gauge) error {
	c, err := g.fs.OpenToRead(cgroup)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	pids, err := c.Procs(nil)
	if err != nil {
		return err
	}
	u.closeIO()
	missing := error(nil)
	for _, pid := range pids {
		name := filepath.Join(g.procfs, strconv.Itoa(pid), "io")
		switch fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err {
		case nil:
			u.io = append(u.io, fd)
		case unix.ENOENT, unix.ESRCH: // it has ended, or the kernel keeps no account
			missing = errNoAccount
		default:
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
	if len(u.io) == 0 {
		return missing
	}
	return nil
}

// errNoAccount: CONFIG_TASK_IO_ACCOUNTING is off, as a rule, or all have ended.
var errNoAccount = errors.New("no process has a file io")

// sum adds up what processes wrote; ok is false when one of them has ended.
func (g *gauges) sum(io []int) (sum int64, ok bool) {
	ok = true
	for _, fd := range io {
		n, err := unix.Pread(fd, g.scratch[:], 0)
		if err != nil {
			ok = false
			continue
		}
		sum += processWritten(g.scratch[:n])
	}
	return sum, ok
}

func (u *gauge) closeIO() {
	for _, fd := range u.io {
		unix.Close(fd)
	}
	u.io = u.io[:0]
}

func (u *gauge) close() {
	u.closeIO()
	u.writes.Close()
	u.counts.Close()
}

// close closes all; a new use begins anew.
func (g *gauges) close() {
	g.keep(nil)
	_ = g.vmstat.Close() // of nil: an error
	g.vmstat = nil
}

// keep closes the gauges of all other cgroups.
func (g *gauges) keep(cgroups map[string]bool) {
	for cgroup, u := range g.open {
		if !cgroups[cgroup] {
			u.close()
			delete(g.open, cgroup)
		}
	}
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
func (g *gauges) nodeDirtied() (int64, error) {
	if g.vmstat == nil {
		f, err := os.Open(filepath.Join(g.procfs, "vmstat"))
		if err != nil {
			return 0, err
		}
		g.vmstat = f
	}
	n, err := g.vmstat.ReadAt(g.scratch[:], 0)
	if v := procKey(g.scratch[:n], "\nnr_dirtied "); v > 0 {
		return v, nil
	}
	return 0, fmt.Errorf("no nr_dirtied in vmstat: %w", err)
}
