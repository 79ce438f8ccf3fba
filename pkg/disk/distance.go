package disk

import (
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mark is a threshold of a filesystem that the agent evicts by.
type Mark struct {
	// Signal is the kubelet's name, such as nodefs.inodesFree.
	Signal string
	// Value is the threshold for a capacity.
	Value func(capacity int64) int64
}

const (
	// nearWithin is how soon a mark must be in reach for the filesystem to be near it: ten
	// visits of a tree that takes seconds.
	nearWithin = time.Minute
	// quietFill is how long a filesystem takes to be full that nothing fills to speak of.
	quietFill = 6 * time.Hour
	// never is the horizon without marks.
	never = time.Duration(math.MaxInt64)
)

// distances tell how soon the nearest mark may be reached. They belong to one goroutine.
type distances struct {
	marks []Mark
	last  []available
	// stat asks the filesystem of a signal.
	stat func(signal string) (unix.Statfs_t, error)
}

type available struct {
	value int64
	atNs  uint64
	// fellNs is when it last fell faster than quietFill, by perSecond.
	fellNs    uint64
	perSecond float64
}

// horizon is how soon the nearest mark may be reached as things go; one that nothing goes
// towards is not near, even where it is passed: who looks hard there would do so for days.
// fell reports whether anything became less available. A filesystem that can't be read has
// no say.
func (d *distances) horizon(nowNs uint64) (soonest time.Duration, fell bool) {
	soonest = never
	if d.last == nil {
		d.last = make([]available, len(d.marks))
	}
	for i, m := range d.marks {
		st, err := d.stat(m.Signal)
		if err != nil {
			continue
		}
		now, capacity := room(m.Signal, &st)
		if capacity == 0 {
			continue // btrfs counts no inodes
		}
		fell = fell || d.last[i].atNs > 0 && now < d.last[i].value
		soonest = min(soonest, d.last[i].reach(now, nowNs, capacity, m.Value(capacity)))
	}
	return soonest, fell
}

// reach takes a reading over and is how soon the mark is reached.
func (a *available) reach(now int64, nowNs uint64, capacity, mark int64) time.Duration {
	quiet := float64(capacity) / quietFill.Seconds()
	if a.atNs > 0 && nowNs > a.atNs {
		if rate := float64(a.value-now) / time.Duration(nowNs-a.atNs).Seconds(); rate > quiet {
			a.perSecond, a.fellNs = rate, nowNs
		}
	}
	a.value, a.atNs = now, nowNs
	rate, least := quiet, nearWithin
	if a.fellNs > 0 && nowNs-a.fellNs < uint64(nearWithin) {
		rate, least = a.perSecond, 0
	}
	seconds := min(float64(max(now-mark, 0))/rate, quietFill.Seconds())
	return max(time.Duration(seconds*float64(time.Second)), least)
}

// room is what is available of what a signal counts, and of how much: the kubelet's f_bavail.
func room(signal string, st *unix.Statfs_t) (available, capacity int64) {
	if isInodes(signal) {
		return int64(st.Ffree), int64(st.Files)
	}
	return int64(st.Bavail) * st.Frsize, int64(st.Blocks) * st.Frsize
}

func isInodes(signal string) bool { return strings.HasSuffix(signal, ".inodesFree") }

// attributing are the filesystems that tell whose page they write back (SB_I_CGROUPWB), so that
// cgroup v2 counts it: the kernel's fs/, 6.18. Elsewhere io.stat has direct I/O alone.
var attributing = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC}

// isAttributing reports whether a directory's filesystem is one of these.
func isAttributing(dir string) bool {
	st, err := statfs(dir)
	return err == nil && slices.Contains(attributing, int64(st.Type))
}

func statfs(dir string) (st unix.Statfs_t, err error) {
	for {
		if err = unix.Statfs(dir, &st); err != unix.EINTR {
			return st, err
		}
	}
}
