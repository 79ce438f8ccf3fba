package cgroupfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Cgroup is an open cgroup. All methods go through the directories opened by FS.Open, and
// return ErrGone once these are removed. Goroutines may share it until it is closed.
type Cgroup struct {
	path    string
	version Version
	// On V2 memory and pids are the same directory. Where the cgroup is not in a
	// hierarchy, noDir.
	memory, pids, freezer dir
	// kill is cgroup.kill opened for writing, -1 where there is none.
	kill int
	// pidsMax is pids.max opened for both, -1 where HoldPidsMax was not called.
	pidsMax int
}

// Open opens a cgroup by its path below the mounts, with or without a leading slash; links
// are not followed and ".." is refused. ErrGone when it is in neither the memory nor the
// pids hierarchy.
func (f *FS) Open(path string) (*Cgroup, error) {
	c, err := f.OpenToRead(path)
	if err != nil {
		return nil, err
	}
	if err := c.openToKill(f); err != nil {
		c.Close()
		return nil, fmt.Errorf("open cgroup %s: %w", c.path, err)
	}
	return c, nil
}

// OpenToRead is Open for who neither kills nor thaws: half the system calls.
func (f *FS) OpenToRead(path string) (*Cgroup, error) {
	rel, err := relative(path)
	if err != nil {
		return nil, err
	}
	c := &Cgroup{path: below("/", rel), version: f.version, memory: noDir, pids: noDir, freezer: noDir, kill: -1, pidsMax: -1}
	if err := c.open(f, rel); err != nil {
		c.Close()
		return nil, fmt.Errorf("open cgroup %s: %w", c.path, err)
	}
	return c, nil
}

func (c *Cgroup) open(f *FS, rel string) (err error) {
	c.memory, err = openBeneath(f.memory, rel)
	if f.version == V2 {
		c.pids = c.memory
		return err
	}
	var pidsErr error
	c.pids, pidsErr = openBeneath(f.pids, rel)
	return bothGone(err, pidsErr)
}

func (c *Cgroup) openToKill(f *FS) (err error) {
	if f.version == V2 {
		c.openKill()
		return nil
	}
	rel, err := relative(c.path)
	if err != nil {
		return err
	}
	if c.freezer, err = openBeneath(f.freezer, rel); errors.Is(err, ErrGone) {
		err = nil
	}
	return err
}

func (c *Cgroup) openKill() {
	if fd, err := c.memory.openFile("cgroup.kill", unix.O_WRONLY); err == nil {
		c.kill = fd
	}
}

// Close releases the directories. It may be called twice.
func (c *Cgroup) Close() error {
	if c.pids == c.memory {
		c.pids = noDir
	}
	for _, d := range []*dir{&c.memory, &c.pids, &c.freezer} {
		d.close()
	}
	for _, fd := range []*int{&c.kill, &c.pidsMax} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
	return nil
}

// Path is the cleaned path below the mounts, with a leading slash.
func (c *Cgroup) Path() string { return c.path }

// MemoryID is the inode of the directory in the memory hierarchy, which is the kernel's
// cgroup id; 0 where it has none.
func (c *Cgroup) MemoryID() uint64 { return c.memory.id }

// PidsID is MemoryID for the pids hierarchy.
func (c *Cgroup) PidsID() uint64 { return c.pids.id }

// Exists reports whether the directories are still there: not removed, and not removed and
// made again under the same name.
func (c *Cgroup) Exists() bool {
	return c.memory.fd >= 0 && c.memory.alive() || c.pids.fd >= 0 && c.pids.alive()
}

// Holds reports whether a process is in the cgroup or below it, of the memory or of the
// pids hierarchy, by /proc/PID/cgroup: one small file where Procs reads a list. ErrGone
// when process or cgroup are gone. A cgroup namespace or mount that shows other paths than
// /proc does makes it say false.
func (c *Cgroup) Holds(pid int) (bool, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return false, fmt.Errorf("find cgroup of process %d: %w", pid, goneFile(err))
	}
	if !c.Exists() { // the path may be another cgroup's by now
		return false, ErrGone
	}
	return inPath(data, c.version, c.path), nil
}

// name picks the name of a file by version.
func (c *Cgroup) name(v1, v2 string) string {
	if c.version == V2 {
		return v2
	}
	return v1
}

// MemoryCurrentBytes is memory.current (v1 memory.usage_in_bytes). The root of v2 has none:
// ErrNoKey.
func (c *Cgroup) MemoryCurrentBytes() (int64, error) {
	return c.memory.value(c.name("memory.usage_in_bytes", "memory.current"), parseValue)
}

// MemoryMaxBytes is memory.max (v1 memory.limit_in_bytes), or Unlimited.
func (c *Cgroup) MemoryMaxBytes() (int64, error) {
	return c.memory.value(c.name("memory.limit_in_bytes", "memory.max"), parseLimit)
}

// InactiveFileBytes is inactive_file (v1 total_inactive_file) of memory.stat: of the cgroup
// and all below it. ErrNoKey when memory.stat does not tell it.
func (c *Cgroup) InactiveFileBytes() (int64, error) {
	key := c.name("total_inactive_file", "inactive_file")
	return c.memory.value("memory.stat", func(data []byte) (int64, error) { return parseKey(data, key) })
}

// PidsCurrent is pids.current: threads and unreaped zombies. The root has none: ErrNoKey.
func (c *Cgroup) PidsCurrent() (int64, error) { return c.pids.value("pids.current", parseValue) }

// PidsMax is pids.max, or Unlimited. The root has none: ErrNoKey.
func (c *Cgroup) PidsMax() (int64, error) {
	if c.pidsMax < 0 {
		return c.pids.value("pids.max", parseLimit)
	}
	var text [32]byte
	n, err := retry(func() (int, error) { return unix.Pread(c.pidsMax, text[:], 0) })
	if err != nil {
		return 0, fmt.Errorf("read pids.max: %w", gone(err))
	}
	return parseLimit(text[:n])
}

// HoldPidsMax opens pids.max, so that PidsMax and SetPidsMax take one system call each from
// now on. ErrNoKey for the root.
func (c *Cgroup) HoldPidsMax() (err error) {
	if c.pidsMax >= 0 {
		return nil
	}
	if c.pidsMax, err = c.pids.openFile("pids.max", unix.O_RDWR); err != nil {
		c.pidsMax = -1
	}
	return err
}

// Procs appends the processes (thread group ids) of the cgroup and of all below it, sorted,
// each once. On V1 those of the memory and of the pids hierarchy: a runtime moves a process
// into one after the other. Zombies are not among them (not listed since 5.2), a process
// whose first thread has ended while others run is. Of a threaded cgroup, those of its threads.
func (c *Cgroup) Procs(dst []int) ([]int, error) {
	from := len(dst)
	dst, err := c.memory.procs(dst)
	if c.pids != c.memory {
		var pidsErr error
		dst, pidsErr = c.pids.procs(dst)
		err = bothGone(err, pidsErr)
	}
	slices.Sort(dst[from:])
	dst = dst[:from+len(slices.Compact(dst[from:]))]
	if err != nil {
		return dst, fmt.Errorf("list processes of %s: %w", c.path, err)
	}
	return dst, nil
}

// Populated reports whether the cgroup or one below it has a process that is not a zombie.
func (c *Cgroup) Populated() (bool, error) {
	if c.version == V2 {
		v, err := c.memory.value("cgroup.events", func(data []byte) (int64, error) {
			return parseKey(data, "populated")
		})
		return v != 0, err
	}
	// The state in /proc is no help here: it is Z for a process whose first thread has
	// ended while others still run and hold its memory.
	pids, err := c.Procs(nil)
	return len(pids) > 0, err
}

// CanKill reports whether Kill can work: v2 since 5.14, and cgroup.kill may be written.
func (c *Cgroup) CanKill() bool { return c.kill >= 0 }

var killWord = []byte("1")

// Kill sends SIGKILL to all processes of the cgroup and below, atomically, through
// cgroup.kill. It allocates nothing. ErrUnsupported where CanKill is false.
func (c *Cgroup) Kill() error {
	if c.kill < 0 {
		return ErrUnsupported
	}
	for {
		_, err := unix.Write(c.kill, killWord)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EOPNOTSUPP:
			return ErrUnsupported
		default:
			return gone(err)
		}
	}
}

// Thaw lets frozen processes run, so that they can die of a SIGKILL. On V1 it thaws the
// cgroup of the same path in the freezer hierarchy and all below. On V2 there is nothing to
// do: SIGKILL reaches a frozen process.
func (c *Cgroup) Thaw() error {
	if c.freezer.fd < 0 {
		return nil
	}
	if err := c.freezer.thaw(); err != nil {
		return fmt.Errorf("thaw %s: %w", c.path, err)
	}
	return nil
}

// SetPidsMax writes pids.max; Unlimited lifts the limit. With 0 nothing in the cgroup or
// below it can fork; what exists is left alone.
func (c *Cgroup) SetPidsMax(v int64) error {
	if c.pidsMax < 0 {
		return c.pids.write("pids.max", formatLimit(v, "max"))
	}
	if _, err := retry(func() (int, error) { return unix.Pwrite(c.pidsMax, []byte(formatLimit(v, "max")), 0) }); err != nil {
		return fmt.Errorf("write pids.max: %w", gone(err))
	}
	return nil
}

// SetMemoryMax writes memory.max (v1 memory.limit_in_bytes); Unlimited lifts the limit.
func (c *Cgroup) SetMemoryMax(bytes int64) error {
	name := c.name("memory.limit_in_bytes", "memory.max")
	return c.memory.write(name, formatLimit(bytes, c.name("-1", "max")))
}

// SetMemoryMin writes memory.min, what reclaim leaves alone however scarce memory is.
// ErrUnsupported on V1, which has no such thing.
func (c *Cgroup) SetMemoryMin(bytes int64) error {
	if c.version == V1 {
		return ErrUnsupported
	}
	return c.memory.write("memory.min", formatLimit(bytes, "max"))
}
