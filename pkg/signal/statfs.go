package signal

import (
	"fmt"
	"math"
	"math/bits"

	"golang.org/x/sys/unix"
)

// fsStat is what the kernel says about the filesystem at a path.
type fsStat struct {
	// device tells filesystems apart.
	device uint64
	// unit is the bytes of a block.
	unit                    int64
	blocks, blocksAvailable uint64
	inodes, inodesFree      uint64
}

// statfs asks the kernel, and waits as long as the filesystem does: a dead NFS server may
// never answer. The device and the figures are of one and the same mount, even if another
// is mounted at the path meanwhile.
func statfs(path string) (fsStat, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fsStat{}, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fsStat{}, fmt.Errorf("fstat: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fsStat{}, fmt.Errorf("fstatfs: %w", err)
	}
	s := fsStat{
		device: st.Dev,
		// Blocks are counted in f_frsize; f_bsize is the size of a good transfer and
		// another one on FUSE. Kernels before 2.6.36 left f_frsize 0.
		unit:   fs.Frsize,
		blocks: fs.Blocks, blocksAvailable: fs.Bavail,
		inodes: fs.Files, inodesFree: fs.Ffree,
	}
	if s.unit == 0 {
		s.unit = fs.Bsize
	}
	if fs.Type == unix.BTRFS_SUPER_MAGIC {
		// Each subvolume has a device of its own. What they share is the first word of
		// f_fsid; the subvolume's id is folded into the second (fs/btrfs/super.c).
		s.device = unix.BTRFS_SUPER_MAGIC<<32 | uint64(uint32(fs.Fsid.Val[0]))
	}
	return s, nil
}

// bytes are what an unprivileged process can still write, of the whole size. The error
// wraps ErrNoData.
func (s fsStat) bytes() (available, capacity int64, err error) {
	if s.unit <= 0 || s.blocks == 0 {
		return 0, 0, fmt.Errorf("no size (%d blocks of %d bytes): %w", s.blocks, s.unit, ErrNoData)
	}
	high, size := bits.Mul64(s.blocks, uint64(s.unit))
	if high != 0 || size > math.MaxInt64 || s.blocksAvailable > s.blocks {
		return 0, 0, fmt.Errorf("implausible: %d of %d blocks of %d bytes: %w", s.blocksAvailable, s.blocks, s.unit, ErrNoData)
	}
	return int64(s.blocksAvailable) * s.unit, int64(size), nil
}

// inodeCounts are the inodes that are free, of all there can be. A filesystem that makes
// inodes as they are needed counts none (btrfs): no data. The error wraps ErrNoData.
func (s fsStat) inodeCounts() (free, all int64, err error) {
	if s.inodes == 0 {
		return 0, 0, fmt.Errorf("the filesystem counts no inodes: %w", ErrNoData)
	}
	if s.inodes > math.MaxInt64 || s.inodesFree > s.inodes {
		return 0, 0, fmt.Errorf("implausible: %d of %d inodes: %w", s.inodesFree, s.inodes, ErrNoData)
	}
	return int64(s.inodesFree), int64(s.inodes), nil
}
