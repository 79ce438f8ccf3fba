package cgroupfs

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Figures are the counters of a cgroup, kept open: a reading is one pread and allocates
// nothing. For one goroutine at a time. Errors: ErrGone, ErrNoKey.
type Figures struct {
	// MemoryID and PidsID are those of the cgroup.
	MemoryID, PidsID uint64

	usage, stat, tasks int // -1 where the cgroup has no such file
	inactive           string
	buf                [32]byte
}

// Scratch is where memory.stat is read to (2 KiB on v1): one for all that a goroutine reads.
type Scratch [8192]byte

// Figures opens what the cgroup has of memory.current, memory.stat and pids.current (v1:
// memory.usage_in_bytes). They outlive the Cgroup and are closed on their own.
func (c *Cgroup) Figures() (*Figures, error) {
	f := &Figures{MemoryID: c.MemoryID(), PidsID: c.PidsID(), usage: -1, stat: -1, tasks: -1,
		inactive: c.name("total_inactive_file", "inactive_file")}
	for _, file := range []struct {
		into *int
		in   dir
		name string
	}{
		{&f.usage, c.memory, c.name("memory.usage_in_bytes", "memory.current")},
		{&f.stat, c.memory, "memory.stat"},
		{&f.tasks, c.pids, "pids.current"},
	} {
		fd, err := file.in.openFile(file.name, unix.O_RDONLY)
		switch {
		case errors.Is(err, ErrNoKey):
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("open %s of %s: %w", file.name, c.path, err)
		default:
			*file.into = fd
		}
	}
	return f, nil
}

// Close closes the files. It may be called twice.
func (f *Figures) Close() {
	for _, fd := range []*int{&f.usage, &f.stat, &f.tasks} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// MemoryCurrentBytes is Cgroup.MemoryCurrentBytes.
func (f *Figures) MemoryCurrentBytes() (int64, error) { return f.value(f.usage) }

// PidsCurrent is Cgroup.PidsCurrent.
func (f *Figures) PidsCurrent() (int64, error) { return f.value(f.tasks) }

// InactiveFileBytes is Cgroup.InactiveFileBytes. It makes the kernel add up what its CPUs
// hold back, and costs some ten times a reading of the others.
func (f *Figures) InactiveFileBytes(s *Scratch) (int64, error) {
	data, err := pread(f.stat, s[:])
	if err != nil {
		return 0, err
	}
	return scanKey(data, f.inactive)
}

func (f *Figures) value(fd int) (int64, error) {
	data, err := pread(fd, f.buf[:])
	if err != nil {
		return 0, err
	}
	return scanValue(data)
}

func pread(fd int, buf []byte) ([]byte, error) {
	if fd < 0 {
		return nil, ErrNoKey
	}
	n, err := retry(func() (int, error) { return unix.Pread(fd, buf, 0) })
	if err != nil {
		return nil, gone(err)
	}
	return buf[:n], nil
}

// scanValue is parseValue without an allocation.
func scanValue(data []byte) (int64, error) {
	var v int64
	for i, c := range data {
		switch {
		case c >= '0' && c <= '9' && v < 1<<59:
			v = v*10 + int64(c-'0')
		case c == '\n' && i > 0:
			return v, nil
		default:
			return 0, ErrNoKey
		}
	}
	return 0, ErrNoKey
}

// scanKey is parseKey without an allocation.
func scanKey(data []byte, key string) (int64, error) {
	for start := 0; start < len(data); {
		end := start
		for end < len(data) && data[end] != '\n' {
			end++
		}
		line := data[start:min(end+1, len(data))]
		if len(line) > len(key) && line[len(key)] == ' ' && string(line[:len(key)]) == key {
			return scanValue(line[len(key)+1:])
		}
		start = end + 1
	}
	return 0, ErrNoKey
}

// NotifyUsage has the kernel signal an eventfd when the usage passes a value, upwards or
// downwards (v1, Documentation/admin-guide/cgroup-v1/memory.rst). It is looked at every 128
// page events of a CPU. Closing the eventfd ends it. The call waits for an RCU grace period,
// as a rule some 10 ms; the value is watched from its beginning on. ErrUnsupported on V2.
func (c *Cgroup) NotifyUsage(eventfd int, bytes int64) error {
	if c.version != V1 {
		return ErrUnsupported
	}
	usage, err := c.memory.openFile("memory.usage_in_bytes", unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("watch the usage of %s: %w", c.path, err)
	}
	defer unix.Close(usage)
	line := strconv.Itoa(eventfd) + " " + strconv.Itoa(usage) + " " + strconv.FormatInt(bytes, 10)
	return c.memory.write("cgroup.event_control", line)
}
