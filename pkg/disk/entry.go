package disk

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mountAndUse is what a walk asks statx for; stx_mnt_id since 5.8.
const mountAndUse = unix.STATX_TYPE | unix.STATX_NLINK | unix.STATX_INO | unix.STATX_BLOCKS | unix.STATX_MNT_ID

// blockSize is the unit of stx_blocks, whatever the filesystem's own block size is.
const blockSize = 512

// statAt is statx of which nothing is followed, mounted or opened, and no server asked where the
// name is a mount of FUSE.
func statAt(dirfd int, name *byte, flags int, st *unix.Statx_t) error {
	return statx(dirfd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC|flags, st)
}

// statx takes the name without a copy; it ends with a zero byte.
func statx(dirfd int, name *byte, flags int, st *unix.Statx_t) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(name)),
			uintptr(flags), mountAndUse, uintptr(unsafe.Pointer(st)), 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

var emptyName = [1]byte{}

// statOf is statAt of an open directory.
func statOf(fd int, st *unix.Statx_t) error { return statAt(fd, &emptyName[0], unix.AT_EMPTY_PATH, st) }

// dirent is an entry of getdents64: its inode, where the directory goes on behind it, what it is,
// and its name with a zero byte at the end.
type dirent struct {
	ino  uint64 // of a mount the one below, of a subvolume of btrfs another
	next int64
	kind byte // DT_UNKNOWN on some filesystems
	name []byte
}

// direntName is where the name begins in struct linux_dirent64: ino, off, reclen, type.
const direntName = 8 + 8 + 2 + 1

// nextDirent splits the first entry off what getdents64 wrote.
func nextDirent(data []byte) (e dirent, rest []byte, ok bool) {
	if len(data) < direntName {
		return dirent{}, nil, false
	}
	size := int(binary.NativeEndian.Uint16(data[16:]))
	if size <= direntName || size > len(data) {
		return dirent{}, nil, false
	}
	name := data[direntName:size]
	end := 0
	for end < len(name)-1 && name[end] != 0 {
		end++
	}
	return dirent{binary.NativeEndian.Uint64(data), int64(binary.NativeEndian.Uint64(data[8:])), data[18], name[:end+1]}, data[size:], true
}

// isSelfOrParent: "." and "..".
func (e dirent) isSelfOrParent() bool {
	return e.name[0] == '.' && (len(e.name) == 2 || len(e.name) == 3 && e.name[1] == '.')
}

// beneath is how anything below a pod's directory is opened: not through a link, not out of
// the directory.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openDir opens a directory below another; resolve is beneath, with RESOLVE_NO_XDEV where
// mounts are not to be entered. The time of the last access stays where we may leave it.
func openDir(at int, name string, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOATIME, Resolve: resolve}
	for {
		fd, err := unix.Openat2(at, name, &how)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN: // EAGAIN: a rename on the way
			continue
		case err == unix.EPERM && how.Flags&unix.O_NOATIME != 0:
			how.Flags &^= unix.O_NOATIME
			continue
		}
		return fd, err
	}
}
