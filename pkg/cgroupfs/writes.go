package cgroupfs

import (
	"bytes"
	"errors"
	"fmt"
)

// WrittenBytes is how much the cgroup and all below it have written to disks or are about
// to: wbytes of io.stat, and file_dirty of memory.stat, which may wait for half a minute. It
// grows but for what is thrown away unwritten. ErrNoKey on V1, whose blkio counters don't
// know whose page is written back, and where the io controller is not enabled.
func (c *Cgroup) WrittenBytes() (int64, error) {
	if c.version != V2 {
		return 0, fmt.Errorf("io.stat: %w", ErrNoKey)
	}
	written, err := c.memory.value("io.stat", func(data []byte) (int64, error) { return parseWritten(data), nil })
	if err != nil {
		return 0, err
	}
	dirty, err := c.memory.value("memory.stat", func(data []byte) (int64, error) { return parseKey(data, "file_dirty") })
	if errors.Is(err, ErrNoKey) {
		return written, nil
	}
	return written + dirty, err
}

// InodeMemoryBytes is what the kernel holds in memory for the cgroup's inodes and directory
// entries, and rises by some 1,300 bytes for each new file: slab_reclaimable of memory.stat
// (v1 memory.kmem.usage_in_bytes, in which the rest of the kernel's memory is).
func (c *Cgroup) InodeMemoryBytes() (int64, error) {
	if c.version == V2 {
		return c.memory.value("memory.stat", func(data []byte) (int64, error) { return parseKey(data, "slab_reclaimable") })
	}
	return c.memory.value("memory.kmem.usage_in_bytes", parseValue)
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
