package signal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/test/loopfs"
	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

// The test binary is its own FUSE server.
const (
	roleEnv  = "SIGNAL_TEST_ROLE"
	fuseRole = "fuse"
)

func init() {
	if os.Getenv(roleEnv) == fuseRole {
		serveFuse(os.Args[len(os.Args)-1])
		os.Exit(0)
	}
}

// mountOptions keep xfs from setting aside up to the size of a file that grows: it does
// count as used until the file is closed, and hides what was written.
var mountOptions = map[string]string{"mkfs.xfs": "allocsize=64k"}

// mounted is a directory with a new filesystem.
func mounted(t *testing.T, mebibytes int64, mkfs ...string) string {
	t.Helper()
	return loopfs.New(t, mebibytes, mountOptions[mkfs[0]], mkfs...)
}

var (
	ext4 = []string{"mkfs.ext4", "-q", "-F", "-m", "5"}
	xfs  = []string{"mkfs.xfs", "-q"}
)

// filesystems are those with inodes to count, at the smallest size that their mkfs makes.
var filesystems = map[string]struct {
	mebibytes int64
	mkfs      []string
}{
	"ext4": {64, append(ext4, "-N", "2048")},
	"xfs":  {300, append(xfs, "-i", "maxpct=1")},
}

// step reads once and returns the observation.
func step(t *testing.T, d *Disks, s Signal) Observation {
	t.Helper()
	for _, p := range d.pollers {
		p.poll()
	}
	o, err := d.Observe(s, sample.Now())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Each mebibyte that is written is a mebibyte less, whoever writes it and before it has
// reached the disk; the threshold is met from the one reading on that follows the write
// which crossed it, down to a full disk.
func TestRealBytes(t *testing.T) {
	mountns.Run(t, func(t *testing.T) {
		for name, fs := range filesystems {
			t.Run(name, func(t *testing.T) {
				dir := mounted(t, fs.mebibytes, fs.mkfs...)
				var woken int
				start := step(t, NewDisks(DiskOptions{Paths: DiskPaths{NodeFs: dir}}), NodeFsAvailable)
				if start.Capacity > fs.mebibytes<<20 || start.Capacity < fs.mebibytes<<20*7/10 {
					t.Errorf("capacity %d of an image of %d MiB", start.Capacity, fs.mebibytes)
				}
				limit := start.Capacity / 2
				d := NewDisks(DiskOptions{
					Paths:      DiskPaths{NodeFs: dir},
					Thresholds: []Threshold{{Signal: NodeFsAvailable, Value: Quantity{Percent: 0.5}}},
					Wake:       func() { woken++ },
				})
				file, err := os.Create(filepath.Join(dir, "file"))
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				const chunk = 1 << 20
				data := bytes.Repeat([]byte("disk"), chunk/4)
				var written int64
				for {
					o := step(t, d, NodeFsAvailable)
					// Beside the data there are extents and what is set aside for them.
					if took := start.Available - o.Available; took < written && o.Available > 0 || took > written+4*chunk {
						t.Fatalf("%d bytes written, %d less available", written, took)
					}
					if met := o.Available < limit; met != (woken > 0) {
						t.Fatalf("%d available, limit %d, woken %d times", o.Available, limit, woken)
					}
					n, err := file.Write(data)
					written += int64(n)
					if errors.Is(err, unix.ENOSPC) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if o := step(t, d, NodeFsAvailable); o.Available < 0 || o.Available > 4*chunk {
					t.Errorf("%d available on a full disk", o.Available)
				}
				// Root may write into ext4's reserve, which is available to nobody else.
				if free := written - start.Available; name == "ext4" && free < chunk {
					t.Errorf("root wrote %d bytes more than were available, want ext4's reserve of 5%%", free)
				}
			})
		}
	})
}

func TestRealInodes(t *testing.T) {
	mountns.Run(t, func(t *testing.T) {
		for name, fs := range filesystems {
			t.Run(name, func(t *testing.T) {
				dir := mounted(t, fs.mebibytes, fs.mkfs...)
				start := step(t, NewDisks(DiskOptions{Paths: DiskPaths{NodeFs: dir}}), NodeFsInodesFree)
				var woken int
				const files = 1000
				d := NewDisks(DiskOptions{
					Paths:      DiskPaths{NodeFs: dir},
					Thresholds: []Threshold{below(NodeFsInodesFree, start.Available-files/2)},
					Wake:       func() { woken++ },
				})
				for i := range int64(files) {
					o := step(t, d, NodeFsInodesFree)
					if used := start.Available - o.Available; used != i {
						t.Fatalf("%d files made, %d inodes less", i, used)
					}
					if met := i > files/2; met != (woken > 0) {
						t.Fatalf("%d files made, woken %d times", i, woken)
					}
					if err := os.WriteFile(filepath.Join(dir, strconv.FormatInt(i, 10)), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	})
}

// The pollers by themselves against writers at full speed: the first reading below the
// threshold is the one that wakes.
func TestRealDisksAreWatched(t *testing.T) {
	mountns.Run(t, func(t *testing.T) {
		for name, fs := range filesystems {
			t.Run(name, func(t *testing.T) {
				dir := mounted(t, fs.mebibytes, fs.mkfs...)
				start := step(t, NewDisks(DiskOptions{Paths: DiskPaths{NodeFs: dir}}), NodeFsAvailable)
				limit := start.Available / 2
				woken := make(chan time.Time, 1)
				var readings, below, before atomic.Int64
				d := NewDisks(DiskOptions{
					Paths:      DiskPaths{NodeFs: dir},
					Thresholds: []Threshold{{Signal: NodeFsAvailable, Value: Quantity{Value: limit}}},
					Wake: func() {
						before.CompareAndSwap(0, below.Load())
						select {
						case woken <- time.Now():
						default:
						}
					},
				})
				d.stat = func(path string) (fsStat, error) {
					s, err := statfs(path)
					readings.Add(1)
					if available, _, _ := s.bytes(); available < limit {
						below.Add(1)
					}
					return s, err
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				d.Start(ctx)

				file, err := os.Create(filepath.Join(dir, "file"))
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				data := make([]byte, 256<<10)
				var crossed time.Time
				for written := int64(0); ; written += int64(len(data)) {
					if crossed.IsZero() && written > start.Available-limit {
						crossed = time.Now()
					}
					if _, err := file.Write(data); errors.Is(err, unix.ENOSPC) {
						break
					} else if err != nil {
						t.Fatal(err)
					}
				}
				select {
				case at := <-woken:
					t.Logf("seen %s after the write that crossed, at reading %d", at.Sub(crossed), readings.Load())
				case <-time.After(time.Minute):
					t.Fatal("never woken")
				}
				if before.Load() != 1 {
					t.Errorf("woken at reading %d below the threshold, want the first", before.Load())
				}
			})
		}
	})
}

// btrfs counts no inodes, and its subvolumes are one filesystem.
func TestRealBtrfs(t *testing.T) {
	mountns.Run(t, func(t *testing.T) {
		dir := mounted(t, 128, "mkfs.btrfs", "-q")
		sub := filepath.Join(dir, "sub")
		parent, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer parent.Close()
		if err := createSubvolume(parent, "sub"); err != nil {
			t.Fatal(err)
		}
		var a, b unix.Stat_t
		if err := errors.Join(unix.Stat(dir, &a), unix.Stat(sub, &b)); err != nil || a.Dev == b.Dev {
			t.Fatalf("devices %d and %d, %v: the subvolume is none", a.Dev, b.Dev, err)
		}
		d := NewDisks(DiskOptions{Paths: DiskPaths{NodeFs: dir, ImageFs: sub}})
		if o := step(t, d, ImageFsAvailable); o.Available <= 0 || o.Capacity < 100<<20 || o.Capacity > 128<<20 {
			t.Errorf("observation %+v of an image of 128 MiB", o)
		}
		if l, err := d.Layout(); err != nil || l != (Layout{}) {
			t.Errorf("layout %+v, %v, want one filesystem", l, err)
		}
		now := sample.Now()
		if o, err := d.Observe(NodeFsInodesFree, now); !errors.Is(err, ErrNoData) {
			t.Errorf("inodes %+v, %v, want no data", o, err)
		}
		if other, err := statfs(t.TempDir()); err != nil || other.device == d.roles[nodeFs].last.Load().home {
			t.Errorf("another filesystem has the same device, %+v, %v", other, err)
		}
	})
}

// createSubvolume is BTRFS_IOC_SUBVOL_CREATE.
func createSubvolume(parent *os.File, name string) error {
	var args [4096]byte // fd (8 bytes, unused here), name
	copy(args[8:], name)
	const subvolCreate = 1<<30 | 4096<<16 | 0x94<<8 | 14 // _IOW(0x94, 14, struct btrfs_ioctl_vol_args)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, parent.Fd(), subvolCreate, uintptr(unsafe.Pointer(&args)))
	if errno != 0 {
		return fmt.Errorf("create a subvolume: %w", errno)
	}
	return nil
}

// A disk that is lazily unmounted, mounted again, and gone with its directory costs its own
// signals alone, and the layout stays.
func TestRealUnmount(t *testing.T) {
	mountns.Run(t, func(t *testing.T) {
		node := mounted(t, 64, ext4...)
		disk := loopfs.Image(t, 64, ext4...)
		images := filepath.Join(t.TempDir(), "images")
		if err := os.Mkdir(images, 0o700); err != nil {
			t.Fatal(err)
		}
		loopfs.Mount(t, disk, images, "ext4", "")
		d := NewDisks(DiskOptions{Paths: DiskPaths{NodeFs: node, ImageFs: images}})
		before := step(t, d, ImageFsAvailable)

		holder, err := os.Create(filepath.Join(images, "file")) // it keeps the filesystem alive
		if err != nil {
			t.Fatal(err)
		}
		defer holder.Close()
		if err := unix.Unmount(images, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		wants := func(when string, want error) {
			t.Helper()
			step(t, d, NodeFsAvailable) // has data, or fails
			now := sample.Now()
			for _, s := range []Signal{ImageFsAvailable, ImageFsInodesFree, ContainerFsAvailable} {
				if o, err := d.Observe(s, now); !errors.Is(err, want) || (err != nil && !errors.Is(err, ErrNoData)) {
					t.Errorf("%s: %s is %+v, %v, want %v", when, s, o, err, want)
				}
			}
			if l, err := d.Layout(); err != nil || l != (Layout{DedicatedImageFs: true}) {
				t.Errorf("%s: layout %+v, %v", when, l, err)
			}
		}
		wants("unmounted", ErrMoved)
		if err := os.Remove(images); err != nil {
			t.Fatal(err)
		}
		wants("removed", os.ErrNotExist)
		if err := os.Mkdir(images, 0o700); err != nil {
			t.Fatal(err)
		}
		wants("made again, and not mounted", ErrMoved)
		holder.Close()
		loopfs.Mount(t, disk, images, "ext4", "")
		d.Redetect() // the loop device may be another one
		wants("mounted again", nil)
		if after := step(t, d, ImageFsAvailable); after.Capacity != before.Capacity {
			t.Errorf("capacity %d, was %d", after.Capacity, before.Capacity)
		}
	})
}

// A FUSE server that stops to answer, and then dies, with requests waiting in the kernel:
// what a dead NFS server looks like.
func TestRealHang(t *testing.T) {
	mountns.Run(t, func(t *testing.T) {
		if _, err := os.Stat("/dev/fuse"); errors.Is(err, os.ErrNotExist) {
			loopfs.Lacks(t, "FUSE")
		}
		node, images := t.TempDir(), t.TempDir()
		server := startFuse(t, images)
		o := DiskOptions{
			Paths: DiskPaths{NodeFs: node, ImageFs: images},
			Pace:  Pace{Min: 5 * time.Millisecond, Max: 20 * time.Millisecond},
		}
		d := NewDisks(o)
		o1 := step(t, d, ImageFsAvailable)
		// Blocks of f_frsize = 512 bytes, and an f_bsize of 4096.
		if want := (Observation{Signal: ImageFsAvailable, Available: 300 * 512, Capacity: 1000 * 512, Ns: o1.Ns}); o1 != want {
			t.Errorf("got %+v, want %+v", o1, want)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		d.Start(ctx)
		server.say(t, "hang")

		nodeNs := func() uint64 { r := d.roles[nodeFs].last.Load(); return r.bytes.Ns }
		stuck := d.roles[imageFs].last.Load()
		eventually(t, "the reading that hangs", func() bool {
			last := d.roles[imageFs].last.Load()
			waits := last == stuck && nodeNs() > last.bytes.Ns+uint64(20*o.Pace.Max)
			stuck = last
			return waits
		})
		was := nodeNs()
		eventually(t, "twenty readings of the other filesystem", func() bool { return nodeNs() > was+uint64(20*o.Pace.Max) })
		if d.roles[imageFs].last.Load() != stuck {
			t.Fatal("the filesystem does not hang")
		}
		_, err := d.Observe(ImageFsAvailable, stuck.bytes.Ns+uint64(stuck.next+answerWithin))
		if err != nil {
			t.Errorf("as old as it may be: %v", err)
		}
		_, err = d.Observe(ImageFsAvailable, stuck.bytes.Ns+uint64(stuck.next+answerWithin)+1)
		if !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "stale") {
			t.Errorf("older: %v, want stale", err)
		}
		if _, err := d.Observe(NodeFsAvailable, nodeNs()); err != nil {
			t.Errorf("nodefs: %v", err)
		}

		server.kill()
		eventually(t, "an error from the dead filesystem", func() bool {
			now := sample.Now()
			_, err := d.Observe(ImageFsAvailable, now)
			return errors.Is(err, unix.ENOTCONN) && errors.Is(err, ErrNoData)
		})
	})
}

// eventually waits for what the kernel and other threads do on their own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 12000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never came: %s", what)
}

// fuseServer is a process, so that its death ends whatever waits for it.
type fuseServer struct {
	cmd   *exec.Cmd
	stdin io.Writer
	lines *bufio.Reader
}

func startFuse(t *testing.T, dir string) *fuseServer {
	t.Helper()
	s := &fuseServer{cmd: exec.Command("/proc/self/exe", dir)}
	s.cmd.Env = append(os.Environ(), roleEnv+"="+fuseRole)
	s.cmd.Stderr = os.Stderr
	runtime.LockOSThread() // Pdeathsig is about the thread that forks
	t.Cleanup(runtime.UnlockOSThread)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdin, s.lines = in, bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kill(); _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s.expect(t, "mounted")
	return s
}

// say sends a command and waits until the server has taken it.
func (s *fuseServer) say(t *testing.T, command string) {
	t.Helper()
	if _, err := fmt.Fprintln(s.stdin, command); err != nil {
		t.Fatal(err)
	}
	s.expect(t, command)
}

func (s *fuseServer) expect(t *testing.T, line string) {
	t.Helper()
	if got, err := s.lines.ReadString('\n'); err != nil || strings.TrimSpace(got) != line {
		t.Fatalf("FUSE server says %q, %v, want %q", got, err, line)
	}
}

func (s *fuseServer) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// The parts of include/uapi/linux/fuse.h that an empty directory needs.
const (
	fuseForget  = 2
	fuseGetattr = 3
	fuseStatfs  = 17
	fuseInit    = 26
)

type fuseIn struct {
	Len, Opcode        uint32
	Unique, Node       uint64
	UID, GID, PID, Pad uint32
}

type fuseOut struct {
	Len    uint32
	Error  int32
	Unique uint64
}

type fuseInitOut struct {
	Major, Minor, MaxReadahead, Flags uint32
	MaxBackground, Congestion         uint16
	MaxWrite, TimeGran                uint32
	Unused                            [9]uint32
}

type fuseAttrOut struct {
	Valid                     uint64
	ValidNs, Dummy            uint32
	Ino, Size, Blocks         uint64
	Atime, Mtime, Ctime       uint64
	AtimeNs, MtimeNs, CtimeNs uint32
	Mode, Nlink, UID, GID     uint32
	Rdev, Blksize, Flags      uint32
}

type fuseStatfsOut struct {
	Blocks, Bfree, Bavail, Files, Ffree uint64
	Bsize, Namelen, Frsize, Pad         uint32
	Spare                               [6]uint32
}

// serveFuse mounts an empty directory and answers until it is told to hang.
func serveFuse(dir string) {
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "FUSE server:", err)
			os.Exit(1)
		}
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	check(err)
	check(unix.Mount("test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	fmt.Println("mounted")
	var hang atomic.Bool
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			hang.Store(true)
			fmt.Println(lines.Text())
		}
	}()
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue
		}
		check(err)
		var in fuseIn
		check(binary.Read(bytes.NewReader(buf[:n]), binary.NativeEndian, &in))
		if in.Opcode == fuseForget || hang.Load() {
			continue
		}
		_, err = unix.Write(fd, fuseReply(in))
		check(err)
	}
}

func fuseReply(in fuseIn) []byte {
	out := fuseOut{Unique: in.Unique}
	var body any
	switch in.Opcode {
	case fuseInit:
		body = fuseInitOut{Major: 7, Minor: 31, MaxWrite: 4096}
	case fuseGetattr:
		body = fuseAttrOut{Ino: 1, Mode: unix.S_IFDIR | 0o755, Nlink: 2, Blksize: 4096}
	case fuseStatfs:
		body = fuseStatfsOut{Blocks: 1000, Bfree: 400, Bavail: 300, Files: 100, Ffree: 50, Bsize: 4096, Frsize: 512, Namelen: 255}
	default:
		out.Error = -int32(unix.ENOSYS)
	}
	var reply bytes.Buffer
	out.Len = uint32(binary.Size(out))
	if body != nil {
		out.Len += uint32(binary.Size(body))
	}
	_ = binary.Write(&reply, binary.NativeEndian, out)
	if body != nil {
		_ = binary.Write(&reply, binary.NativeEndian, body)
	}
	return reply.Bytes()
}
