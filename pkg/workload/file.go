package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// readFile reads what another process wrote for us, whatever lies at path: it neither
// follows a symbolic link nor waits for a fifo's writer. What is no regular file of owner
// and of at most most bytes is refused; no file is os.ErrNotExist. One that is no longer at
// path when it was read may have been written over meanwhile, and the other one is read.
func readFile(path string, owner uint32, most int64, refused error) ([]byte, error) {
	for tries := 1; ; tries++ {
		data, read, err := readOnce(path, owner, most, refused)
		if err != nil {
			return nil, err
		}
		var there unix.Stat_t
		if err := unix.Lstat(path, &there); err != nil || there.Ino == read.Ino && there.Dev == read.Dev || tries == mostTries {
			return data, nil
		}
	}
}

// mostTries keeps a writer without rest from holding a reader up.
const mostTries = 3

func readOnce(path string, owner uint32, most int64, refused error) (_ []byte, st unix.Stat_t, _ error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, st, fmt.Errorf("%w: %s is a symbolic link", refused, path)
	}
	if err != nil {
		return nil, st, err // names the path
	}
	defer func() { _ = f.Close() }()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, st, fmt.Errorf("stat %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, st, fmt.Errorf("%w: %s is no regular file", refused, path)
	case st.Uid != owner:
		return nil, st, fmt.Errorf("%w: %s belongs to uid %d, not %d", refused, path, st.Uid, owner)
	case st.Size > most:
		return nil, st, fmt.Errorf("%w: %s has %d bytes, more than %d", refused, path, st.Size, most)
	}
	// It may grow while it is read. Room for all of it at once leaves no garbage behind.
	var data bytes.Buffer
	data.Grow(int(st.Size) + bytes.MinRead)
	if _, err := data.ReadFrom(io.LimitReader(f, most+1)); err != nil {
		return nil, st, err
	}
	if int64(data.Len()) > most {
		return nil, st, fmt.Errorf("%w: %s has more than %d bytes", refused, path, most)
	}
	return data.Bytes(), st, nil
}

// ReplaceFile writes a file that readers see whole, the former or this one, mode 0644. It uses
// one temporary name, so that crashes can't fill the directory; O_EXCL refuses a link that is
// put there after the removal.
func ReplaceFile(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close()) // the umask must not hide it
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}
