package disk

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// project is a directory's project quota (include/uapi/linux/fs.h): the files made below it
// inherit the id, and the filesystem counts what they occupy, removed but open ones among
// them.
type project struct {
	id uint32
	// dev is the filesystem's.
	dev uint64
}

// fsxattr is struct fsxattr.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

const (
	fsIocFsgetxattr    = 0x801c581f // _IOR('X', 31, struct fsxattr)
	fsXflagProjinherit = 0x200      // FS_XFLAG_PROJINHERIT

	qGetQuota = 0x800007 // Q_GETQUOTA of include/uapi/linux/quota.h
	prjQuota  = 2        // PRJQUOTA
	getQuota  = qGetQuota<<8 | prjQuota
)

// projectOf is the project of an open directory, whose parent has another: the directory is
// then all that the project is about, as the kubelet, docker and the like give ids. The
// zero value is none.
func projectOf(fd int) project {
	own, ok := xattrOf(fd)
	if !ok || own.projid == 0 || own.xflags&fsXflagProjinherit == 0 {
		return project{}
	}
	parent, err := unix.Openat(fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return project{}
	}
	defer unix.Close(parent)
	if above, ok := xattrOf(parent); ok && above.projid == own.projid {
		return project{}
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return project{}
	}
	return project{own.projid, st.Dev}
}

func xattrOf(fd int) (x fsxattr, ok bool) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocFsgetxattr, uintptr(unsafe.Pointer(&x)))
	return x, errno == 0
}

// ifDqblk is struct if_dqblk: bytes and inodes, of which we read what is used.
type ifDqblk struct {
	bhardlimit, bsoftlimit, curspace  uint64
	ihardlimit, isoftlimit, curinodes uint64
	btime, itime                      uint64
	valid, _                          uint32
}

// used is what the filesystem counts for a project; fd is any of its directories. The error
// says that it counts nothing: no project quota, or not on.
func (p project) used(fd int) (Tally, error) {
	var q ifDqblk
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), getQuota, uintptr(p.id), uintptr(unsafe.Pointer(&q)), 0, 0)
	if errno == unix.ENOSYS { // before 5.14
		errno = p.byDevice(&q)
	}
	if errno != 0 {
		return Tally{}, fmt.Errorf("quota of project %d: %w", p.id, errno)
	}
	return Tally{int64(q.curspace), int64(q.curinodes)}, nil
}

func (p project) byDevice(q *ifDqblk) unix.Errno {
	source, err := blockDevice(p.dev)
	if err != nil {
		return unix.ENODEV
	}
	name, err := unix.BytePtrFromString(source)
	if err != nil {
		return unix.ENODEV
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, getQuota, uintptr(unsafe.Pointer(name)), uintptr(p.id), uintptr(unsafe.Pointer(q)), 0, 0)
	runtime.KeepAlive(name)
	return errno
}

// blockDevice is the device file of a mounted filesystem, by /proc/self/mountinfo:
//
//	36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw
func blockDevice(dev uint64) (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		mount, super, _ := strings.Cut(lines.Text(), " - ")
		fields, of := strings.Fields(mount), strings.Fields(super)
		if len(fields) > 2 && fields[2] == number && len(of) > 1 && strings.HasPrefix(of[1], "/") {
			return of[1], nil
		}
	}
	return "", errors.New("no mount of this device")
}
