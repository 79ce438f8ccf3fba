package cgroupfs

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Writes are the counters of a cgroup and all below it that rise as it fills disks, kept
// open like Figures. For one goroutine at a time. Errors: ErrGone, ErrNoKey.
type Writes struct {
	version   Version
	io, state int // -1 where the cgroup has no such file
}

// Writes opens io.stat and memory.stat (v1 memory.kmem.usage_in_bytes). They outlive the
// Cgroup and are closed on their own.
func (c *Cgroup) Writes() (*Writes, error) {
	w := &Writes{version: c.version, io: -1, state: -1}
	for _, file := range []struct {
		into *int
		name string
	}{{&w.io, c.name("", "io.stat")}, {&w.state, c.name("memory.kmem.usage_in_bytes", "memory.stat")}} {
		if file.name == "" {
			continue
		}
		fd, err := c.memory.openFile(file.name, unix.O_RDONLY)
		switch {
		case errors.Is(err, ErrNoKey):
		case err != nil:
			w.Close()
			return nil, fmt.Errorf("open %s of %s: %w", file.name, c.path, err)
		default:
			*file.into = fd
		}
	}
	return w, nil
}

// Close closes the files. It may be called twice.
func (w *Writes) Close() {
	for _, fd := range []*int{&w.io, &w.state} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// Read returns how much has been written to disks or is about to be: wbytes of io.stat, and
// file_dirty of memory.stat, which may wait for half a minute. It grows but for what is
// thrown away unwritten, and is -1 on V1, whose blkio counters don't know whose page is
// written back, and where the io controller is not enabled. And what the kernel holds in
// memory for inodes and directory entries, some 1,300 bytes for each new file:
// slab_reclaimable of memory.stat (v1 memory.kmem.usage_in_bytes, in which the rest of the
// kernel's memory is), 0 where it is not told.
func (w *Writes) Read(s *Scratch) (writtenBytes, inodeMemoryBytes int64, err error) {
	writtenBytes = -1
	if w.io >= 0 {
		data, err := pread(w.io, s[:])
		if err != nil {
			return 0, 0, err
		}
		writtenBytes = parseWritten(data)
	}
	data, err := pread(w.state, s[:])
	switch {
	case errors.Is(err, ErrNoKey):
		return writtenBytes, 0, nil
	case err != nil:
		return 0, 0, err
	case w.version == V1:
		inodeMemoryBytes, _ = scanValue(data)
		return writtenBytes, inodeMemoryBytes, nil
	}
	inodeMemoryBytes, _ = scanKey(data, "slab_reclaimable")
	if dirty, err := scanKey(data, "file_dirty"); err == nil && writtenBytes >= 0 {
		writtenBytes += dirty
	}
	return writtenBytes, inodeMemoryBytes, nil
}

// parseWritten adds up the wbytes of io.stat, a line a device. The file of a cgroup that has
// done no I/O is empty.
//
//	8:0 rbytes=90112 wbytes=4096 rios=3 wios=1 dbytes=0 dios=0
func parseWritten(data []byte) int64 {
	var sum int64
	for field := range bytes.FieldsSeq(data) {
		if text, ok := bytes.CutPrefix(field, []byte("wbytes=")); ok {
			if v, err := parseValue(text); err == nil && sum+v >= sum {
				sum += v
			}
		}
	}
	return sum
}
