package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

const (
	requestSuffix = ".request"
	replySuffix   = ".reply"
	partSuffix    = ".part"
	lockName      = "lock"
	ownerName     = "agent"
	// maxBytes is far above a reply, which has about 1 KiB.
	maxBytes = 16 << 10
)

// Mailbox is the directory that requests and replies lie in. Each belongs to one goroutine.
type Mailbox struct {
	dir *os.File
	// owner is locked by the agent for as long as it lives.
	owner *os.File
}

// MailboxOf is the mailbox of the agent whose state file this is.
func MailboxOf(stateFile string) string { return filepath.Join(filepath.Dir(stateFile), "drill") }

// MakeMailbox makes the directory (0700), or takes over and empties the one that a dead agent
// left. It refuses a link, and a directory that is somebody else's.
func MakeMailbox(path string) (*Mailbox, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the drill's mailbox: %w", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the drill's mailbox: %w", err)
	}
	m, err := OpenMailbox(path)
	if err != nil {
		return nil, err
	}
	if err := m.dir.Chmod(0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the drill's mailbox: %w", err), m.dir.Close())
	}
	if err := errors.Join(m.empty(), m.own()); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// own shows the clients that this agent lives: the kernel takes the lock back with it.
func (m *Mailbox) own() error {
	f, err := m.openOwner(unix.O_CREAT | unix.O_RDWR)
	if err != nil {
		return err
	}
	m.owner = f
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		return fmt.Errorf("lock the drill's mailbox: %w", err)
	}
	return nil
}

// IsOwned reports whether an agent lives that answers here. It takes no lock that an agent
// could stumble upon.
func (m *Mailbox) IsOwned() bool {
	f, err := m.openOwner(unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}

func (m *Mailbox) openOwner(flags int) (*os.File, error) {
	fd, err := unix.Openat(int(m.dir.Fd()), ownerName, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the drill's mailbox: %w", err)
	}
	return os.NewFile(uintptr(fd), ownerName), nil
}

// OpenMailbox opens what an agent made. None is fs.ErrNotExist.
func OpenMailbox(path string) (*Mailbox, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the drill's mailbox: %w", err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("%s belongs to uid %d", path, st.Uid)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the drill's mailbox: %w", err), f.Close())
	}
	return &Mailbox{dir: f}, nil
}

// Close lets go of the directory.
func (m *Mailbox) Close() error {
	if m.owner != nil {
		m.owner.Close()
	}
	return m.dir.Close()
}

// Remove empties and removes the directory. A client that still waits sees that.
func (m *Mailbox) Remove() error {
	return errors.Join(m.empty(), os.Remove(m.dir.Name()), m.Close())
}

func (m *Mailbox) names() ([]string, error) {
	d, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", m.dir.Fd())) // its own offset
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (m *Mailbox) empty() error {
	names, err := m.names()
	for _, name := range names {
		err = errors.Join(err, m.remove(name))
	}
	return err
}

func (m *Mailbox) remove(name string) error {
	err := unix.Unlinkat(int(m.dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(m.dir.Fd()), name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Path is where the directory was opened.
func (m *Mailbox) Path() string { return m.dir.Name() }

// Requests are the names of those that wait.
func (m *Mailbox) Requests() (waiting []string, err error) {
	names, err := m.names()
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, requestSuffix); ok {
			waiting = append(waiting, base)
		}
	}
	return waiting, err
}

// Take reads a request and removes it, whatever it is. What is no small regular file of this
// user with one name, or no request, is an error.
func (m *Mailbox) Take(name string) (r Request, err error) {
	err = m.read(name+requestSuffix, &r)
	if err == nil && r.Schema != Schema {
		err = fmt.Errorf("schema %q, want %q", r.Schema, Schema)
	}
	return r, errors.Join(err, m.remove(name+requestSuffix))
}

// read follows no link and hangs on no fifo.
func (m *Mailbox) read(name string, into any) error {
	fd, err := unix.Openat(int(m.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return errors.New("a symbolic link")
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("not a regular file")
	case st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("belongs to uid %d", st.Uid)
	case st.Nlink > 1:
		return errors.New("has another name")
	case st.Size > maxBytes:
		return fmt.Errorf("larger than %d bytes", maxBytes)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// Answer replaces the reply to a request.
func (m *Mailbox) Answer(name string, r Reply) error {
	r.Schema = Schema
	return m.write(name+replySuffix, r)
}

// Ask leaves a request.
func (m *Mailbox) Ask(name string, r Request) error {
	r.Schema = Schema
	return m.write(name+requestSuffix, r)
}

// write appears at once: by rename.
func (m *Mailbox) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	dir, part := int(m.dir.Fd()), name+partSuffix
	if err := m.remove(part); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), part)
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = unix.Renameat(dir, part, dir, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), m.remove(part))
	}
	return nil
}

// ErrAgentEnded means that the agent went away before it answered.
var ErrAgentEnded = errors.New("the agent ended")

// replyTick is between two looks for a reply. The client measures nothing by it.
const replyTick = time.Millisecond

// Await waits for a reply other than Armed, or for any.
func (m *Mailbox) Await(ctx context.Context, name string, evenArmed bool) (r Reply, err error) {
	tick := time.NewTicker(replyTick)
	defer tick.Stop()
	for {
		err := m.read(name+replySuffix, &r)
		switch {
		case err == nil && (evenArmed || r.State != Armed):
			return r, nil
		case err != nil && !errors.Is(err, unix.ENOENT):
			return r, fmt.Errorf("read the reply: %w", err)
		case !m.IsOwned():
			return r, ErrAgentEnded
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Forget removes what is left of a request.
func (m *Mailbox) Forget(name string) error {
	return errors.Join(m.remove(name+requestSuffix), m.remove(name+replySuffix))
}

// lockTick is between two tries for the lock.
const lockTick = 10 * time.Millisecond

// ErrBusy means that another drill is under way.
var ErrBusy = errors.New("another drill is under way")

// Lock lets one client in at a time: it waits for another one until ctx is done, then
// ErrBusy. The kernel gives the lock back with the process.
func (m *Mailbox) Lock(ctx context.Context) (release func() error, err error) {
	fd, err := unix.Openat(int(m.dir.Fd()), lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the drill's lock: %w", err)
	}
	f := os.NewFile(uintptr(fd), lockName)
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("take the drill's lock: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ErrBusy, f.Close())
		case <-time.After(lockTick):
		}
	}
}

// NewID is a drill's id.
func NewID() record.ID { return record.MakeID(uint64(time.Now().UnixMilli()), record.Entropy()) }

// CgroupOf is the cgroup of the n-th canary of a drill by this process, and its name that of
// the request.
func CgroupOf(id record.ID, n int) (cgroup, name string) {
	name = fmt.Sprintf("%d-%s-%d", os.Getpid(), id, n)
	return Parent + "/" + name, name
}
