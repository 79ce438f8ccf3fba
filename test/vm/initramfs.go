package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// File types and the console's device number, as cpio and stat(2) write them.
const (
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeRegular = 0o100000
	typeSymlink = 0o120000

	consoleMajor, consoleMinor = 5, 1
)

// initramfs writes a newc cpio archive, the format of
// Documentation/driver-api/early-userspace/buffer-format.rst. The first error sticks
// and is returned by close.
type initramfs struct {
	w    io.Writer
	err  error
	ino  int
	dirs map[string]bool
}

func newInitramfs(w io.Writer) *initramfs {
	return &initramfs{w: w, dirs: map[string]bool{".": true, "/": true}}
}

// entry is one archive member; name is absolute.
type entry struct {
	name         string
	mode         int
	size         int64
	body         io.Reader
	major, minor int
}

// header is the newc header: the magic, 13 fields of 8 hexadecimal digits, the name.
func header(ino int, e entry) string {
	const nlink, zero = 1, 0
	name := strings.TrimPrefix(e.name, "/")
	fields := []int64{
		int64(ino), int64(e.mode), zero /* uid */, zero /* gid */, nlink, zero /* mtime */, e.size,
		zero, zero /* device of the file */, int64(e.major), int64(e.minor), int64(len(name) + 1), zero, /* checksum */
	}
	var b strings.Builder
	b.WriteString("070701")
	for _, field := range fields {
		fmt.Fprintf(&b, "%08X", field)
	}
	b.WriteString(name + "\x00")
	return b.String() + padding(int64(b.Len()))
}

// padding fills up to the next multiple of four bytes.
func padding(size int64) string {
	return strings.Repeat("\x00", int(-size&3))
}

func (a *initramfs) add(e entry) {
	if a.err != nil {
		return
	}
	a.ino++
	if _, a.err = io.WriteString(a.w, header(a.ino, e)); a.err != nil || e.body == nil {
		return
	}
	if _, a.err = io.CopyN(a.w, e.body, e.size); a.err != nil {
		a.err = fmt.Errorf("archive %s: %w", e.name, a.err)
		return
	}
	_, a.err = io.WriteString(a.w, padding(e.size))
}

// dir adds a directory and its parents, each once: the kernel makes no parents.
func (a *initramfs) dir(name string) {
	if a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.add(entry{name: name, mode: typeDir | 0o755})
}

func (a *initramfs) console() {
	a.dir("/dev")
	a.add(entry{name: "/dev/console", mode: typeChar | 0o600, major: consoleMajor, minor: consoleMinor})
}

func (a *initramfs) bytes(name, body string) {
	a.dir(path.Dir(name))
	a.add(entry{name: name, mode: typeRegular | 0o644, size: int64(len(body)), body: strings.NewReader(body)})
}

// file adds the host's file from with its permissions.
func (a *initramfs) file(name, from string) {
	if a.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close() //nolint:errcheck // opened for reading
	info, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	a.dir(path.Dir(name))
	a.add(entry{name: name, mode: typeRegular | int(info.Mode().Perm()), size: info.Size(), body: f})
}

// tree adds the host's directory from, if there is one: directories, regular files
// and symbolic links.
func (a *initramfs) tree(name, from string) {
	if _, err := os.Stat(from); os.IsNotExist(err) || a.err != nil {
		return
	}
	err := filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := path.Join(name, filepath.ToSlash(strings.TrimPrefix(file, from)))
		switch {
		case d.IsDir():
			a.dir(target)
		case d.Type() == fs.ModeSymlink:
			link, err := os.Readlink(file)
			if err != nil {
				return err
			}
			a.add(entry{name: target, mode: typeSymlink | 0o777, size: int64(len(link)), body: strings.NewReader(link)})
		case d.Type().IsRegular():
			a.file(target, file)
		default:
			return fmt.Errorf("archive %s: neither directory, regular file nor symbolic link", file)
		}
		return a.err
	})
	if a.err == nil {
		a.err = err
	}
}

func (a *initramfs) close() error {
	a.add(entry{name: "TRAILER!!!"})
	return a.err
}
