package cgroupfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileIDKernfs is FILEID_KERNFS (linux 5.5): a file handle that is the
// 64-bit id of a kernfs node, which is the cgroup's.
const fileIDKernfs = 0xfe

// PathOfMemoryID finds the path of a cgroup by its id in the memory hierarchy, without a
// look at any other: five system calls. ErrGone when there is none of that id. It needs
// CAP_DAC_READ_SEARCH in the initial user namespace. The path is as of now: who opens it
// compares the id.
func (f *FS) PathOfMemoryID(id uint64) (string, error) { return pathOf(f.memory, id) }

// PathOfPidsID is PathOfMemoryID for the pids hierarchy.
func (f *FS) PathOfPidsID(id uint64) (string, error) { return pathOf(f.pids, id) }

func pathOf(mount string, id uint64) (string, error) {
	at, err := unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", mount, gone(err))
	}
	defer unix.Close(at)
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(at, handle, unix.O_PATH|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		err = ErrGone
	}
	if err != nil {
		return "", fmt.Errorf("find cgroup %d: %w", id, gone(err))
	}
	defer unix.Close(fd)
	if !(dir{fd: fd}).alive() { // the handle of a removed one that somebody holds opens on 5.10
		return "", fmt.Errorf("find cgroup %d: %w", id, ErrGone)
	}
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("find cgroup %d: %w", id, goneFile(err))
	}
	rel, ok := strings.CutPrefix(name, mount)
	if !ok {
		return "", fmt.Errorf("find cgroup %d: it is %s, which is not below %s", id, name, mount)
	}
	return below("/", rel), nil
}

// Links counts the child cgroups of a cgroup by its directories' links, one system call a
// hierarchy. It moves when one comes or goes; no listing is as cheap. 0 when it is gone.
func (f *FS) Links(path string) (n uint64) {
	var st unix.Stat_t
	for _, dir := range []string{f.MemoryDir(path), f.PidsDir(path)} {
		if dir != "" && unix.Lstat(dir, &st) == nil {
			n += uint64(st.Nlink) - 2 // "." and the parent's entry (fs/kernfs/inode.c); 32 bits on arm64
		}
	}
	return n
}
