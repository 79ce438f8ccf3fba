package fallback

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Intent is what the agent is about to do, kept in a file so that a start after a crash can
// still write the journal line: the fields of loader.Intent.
type Intent struct {
	ID                                  [16]byte
	Ns, WallNs                          uint64
	MemoryID, PidsID                    uint64
	Seq                                 uint64
	Available, ThresholdValue, Capacity int64
	Signal, UID, Cgroup                 string
	// PidsMaxBefore is what the cgroup's pids.max was before it was set to 0, tasks; 0: it was
	// not, or is set back.
	PidsMaxBefore int64
	// Signalled: SIGKILL had been sent. Not set: nobody knows.
	Signalled bool
	// Slot is where a stale intent stands, for Free.
	Slot int
}

const (
	intentFree uint32 = iota
	intentStored
	intentSignalled
)

const (
	intentSlots = 8
	// intentMagic changes with the layout: "EVINT" and a version.
	intentMagic = 0x4556494e54000002
)

// intentFile is the file's content, in this machine's byte order.
type intentFile struct {
	magic uint64
	slots [intentSlots]intentSlot
}

type intentSlot struct {
	state                               uint32
	_                                   uint32
	id                                  [16]byte
	ns, wallNs                          uint64
	memoryID, pidsID                    uint64
	seq                                 uint64
	available, thresholdValue, capacity int64
	pidsMaxBefore                       int64
	signal                              [64]byte
	uid                                 [128]byte
	cgroup                              [512]byte
}

// Intents is the mapped file. A store to it takes no system call, and the kernel keeps it
// when the process dies, as it keeps a pinned map; unlike that it also outlives a reboot
// where it is on a disk. Methods are for any goroutine.
type Intents struct {
	path  string
	mem   []byte
	file  *intentFile
	stale []Intent
}

// OpenIntents maps the file, and makes it where there is none or one of another layout. What
// a former agent left open is in Stale; it is this agent's to free.
func OpenIntents(path string) (*Intents, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the intents: %w", err)
	}
	defer func() { _ = f.Close() }()
	const size = int(unsafe.Sizeof(intentFile{}))
	if err := reserve(f, size); err != nil {
		return nil, fmt.Errorf("make room for the intents: %w", err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map the intents: %w", err)
	}
	i := &Intents{path: path, mem: mem, file: (*intentFile)(unsafe.Pointer(&mem[0]))}
	if i.file.magic != intentMagic {
		*i.file = intentFile{magic: intentMagic}
	}
	i.adopt()
	return i, nil
}

// reserve gives the file its size and its space: a store to a page that the disk has no room
// for would be a SIGBUS.
func reserve(f *os.File, size int) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if st.Size() != int64(size) {
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return f.Truncate(int64(size))
}

func (i *Intents) adopt() {
	for n := range i.file.slots {
		s := &i.file.slots[n]
		if s.state == intentFree {
			continue
		}
		i.stale = append(i.stale, Intent{
			ID: s.id, Ns: s.ns, WallNs: s.wallNs, MemoryID: s.memoryID, PidsID: s.pidsID, Seq: s.seq,
			Available: s.available, ThresholdValue: s.thresholdValue, Capacity: s.capacity,
			Signal: text(s.signal[:]), UID: text(s.uid[:]), Cgroup: text(s.cgroup[:]), PidsMaxBefore: s.pidsMaxBefore,
			Signalled: s.state == intentSignalled, Slot: n,
		})
	}
}

// Stale are the intents that were found open.
func (i *Intents) Stale() []Intent { return i.stale }

// Store keeps an intent before its SIGKILL. It returns a slot, -1 when all are taken. For
// one goroutine.
func (i *Intents) Store(in *Intent) int {
	for n := range i.file.slots {
		s := &i.file.slots[n]
		if atomic.LoadUint32(&s.state) != intentFree {
			continue
		}
		s.id, s.ns, s.wallNs, s.seq = in.ID, in.Ns, in.WallNs, in.Seq
		s.memoryID, s.pidsID = in.MemoryID, in.PidsID
		s.available, s.thresholdValue, s.capacity = in.Available, in.ThresholdValue, in.Capacity
		atomic.StoreInt64(&s.pidsMaxBefore, in.PidsMaxBefore)
		put(s.signal[:], in.Signal)
		put(s.uid[:], in.UID)
		put(s.cgroup[:], in.Cgroup)
		atomic.StoreUint32(&s.state, intentStored)
		return n
	}
	return -1
}

// Signalled notes that the first SIGKILL was sent.
func (i *Intents) Signalled(slot int) { i.set(slot, intentSignalled) }

// Braked notes what the cgroup's pids.max was, before it is set to 0; 0: it is set back.
func (i *Intents) Braked(slot int, before int64) {
	if slot >= 0 && slot < intentSlots {
		atomic.StoreInt64(&i.file.slots[slot].pidsMaxBefore, before)
	}
}

// Free ends an intent: its lines are in the journal, or nothing was killed.
func (i *Intents) Free(slot int) { i.set(slot, intentFree) }

func (i *Intents) set(slot int, state uint32) {
	if slot >= 0 && slot < intentSlots {
		atomic.StoreUint32(&i.file.slots[slot].state, state)
	}
}

// Close removes the file. Where an intent is still open it stays for the next start, and
// mapped too: whoever is to free it may still come to it.
func (i *Intents) Close() error {
	for n := range i.file.slots {
		if atomic.LoadUint32(&i.file.slots[n].state) != intentFree {
			return nil
		}
	}
	if err := os.Remove(i.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, unix.Munmap(i.mem))
	}
	return unix.Munmap(i.mem)
}

// put cuts at the array's end.
func put(dst []byte, s string) { clear(dst[copy(dst, s):]) }

func text(src []byte) string {
	before, _, _ := strings.Cut(string(src), "\x00")
	return before
}
