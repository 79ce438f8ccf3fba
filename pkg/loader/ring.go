package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// CrossingsFD becomes readable when a wire is crossed or the allocation hook is asked for:
// a member of the agent's own epoll.
func (l *Loader) CrossingsFD() int { return l.objs.Crossings.FD() }

// Next takes the oldest crossing or ask; false when there is none. For the hot thread.
func (l *Loader) Next(s *sample.Sample) (bool, error) {
	return l.next(l.crossings, s)
}

// NextDelta takes the oldest movement of a cgroup; false when there is none. For one
// helper goroutine.
func (l *Loader) NextDelta(s *sample.Sample) (bool, error) {
	return l.next(l.deltas, s)
}

// Malformed counts the records that were dropped because no program of ours can have made
// them.
func (l *Loader) Malformed() uint64 { return l.malformed.Load() }

func (l *Loader) next(r *ring, s *sample.Sample) (bool, error) {
	for {
		record, err := r.oldest()
		if record == nil {
			return false, err
		}
		good := decode(record, l.page, s)
		r.take(len(record))
		if good {
			return true, nil
		}
		l.malformed.Add(1)
	}
}

// ring reads a BPF ring buffer in the kernel's memory (kernel/bpf/ringbuf.c): without a
// system call, which each cost 6 us after a wake-up. Not for two goroutines at once.
type ring struct {
	consumer, producer *uint64
	data               []byte // twice in a row, so that no record is broken
	size               uint64
	mapped             [][]byte
}

var errRing = errors.New("the ring buffer is corrupt")

func openRing(m *ebpf.Map) (*ring, error) {
	page, size := os.Getpagesize(), int(m.MaxEntries())
	consumer, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the consumer's page of %s: %w", m, err)
	}
	producer, err := unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map the records of %s: %w", m, err), unix.Munmap(consumer))
	}
	return &ring{
		consumer: (*uint64)(unsafe.Pointer(&consumer[0])), producer: (*uint64)(unsafe.Pointer(&producer[0])),
		data: producer[page:], size: uint64(size), mapped: [][]byte{consumer, producer},
	}, nil
}

func (r *ring) close() error {
	return errors.Join(unix.Munmap(r.mapped[0]), unix.Munmap(r.mapped[1]))
}

// Of a record's header (include/uapi/linux/bpf.h).
const (
	ringHeader  = 8
	ringBusy    = 1 << 31 // it is being written
	ringDiscard = 1 << 30
)

var writersTurn = unix.Timespec{Nsec: 20_000}

// oldest is the oldest record, valid until it is taken; nil when there is none.
func (r *ring) oldest() ([]byte, error) {
	for {
		at := atomic.LoadUint64(r.consumer)
		if at >= atomic.LoadUint64(r.producer) {
			return nil, nil
		}
		head := at & (r.size - 1)
		header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[head])))
		n := header &^ (ringBusy | ringDiscard)
		switch {
		case header&ringBusy != 0:
			// Its writer wakes us, but may be waiting for this very CPU, which a real-time
			// thread that asks again and again never leaves.
			_ = unix.Nanosleep(&writersTurn, nil)
			return nil, nil
		case uint64(n) > r.size-ringHeader:
			return nil, fmt.Errorf("%w: a record of %d bytes", errRing, n)
		case header&ringDiscard != 0:
			r.take(int(n))
		default:
			return r.data[head+ringHeader:][:n:n], nil
		}
	}
}

// take gives the room of the oldest record, of n bytes, back.
func (r *ring) take(n int) {
	atomic.AddUint64(r.consumer, uint64(ringHeader+n+7)&^7)
}

// decode checks a record and brings it into bytes and tasks. A record of another size,
// kind or wire is refused: nothing is decided on it.
func decode(raw []byte, page int64, s *sample.Sample) bool {
	var r gen.EvictRecord
	if len(raw) != int(unsafe.Sizeof(r)) {
		return false
	}
	r = gen.EvictRecord{
		Ns:        binary.NativeEndian.Uint64(raw[0:]),
		Seq:       binary.NativeEndian.Uint64(raw[8:]),
		Available: int64(binary.NativeEndian.Uint64(raw[16:])),
		Limit:     int64(binary.NativeEndian.Uint64(raw[24:])),
		Usage:     int64(binary.NativeEndian.Uint64(raw[32:])),
		CgroupId:  binary.NativeEndian.Uint64(raw[40:]),
		CssId:     binary.NativeEndian.Uint32(raw[48:]),
		Tgid:      binary.NativeEndian.Uint32(raw[52:]),
		Tid:       binary.NativeEndian.Uint32(raw[56:]),
		Kind:      raw[60], Observer: raw[61], Wire: raw[62], Atomic: raw[63],
	}
	kind, by := sample.Kind(r.Kind), sample.Observer(r.Observer)
	if kind < sample.KindCrossing || kind > sample.KindDelta ||
		by < sample.ObserverAlloc || by > sample.ObserverCharge ||
		int(r.Wire) >= memoryWires+taskWires ||
		kind == sample.KindCrossing && (r.Seq == 0 || r.Available >= r.Limit) {
		return false
	}
	unit, usageUnit := page, page
	if r.Wire >= memoryWires {
		unit = 1
	}
	if by == sample.ObserverTask {
		usageUnit = 1
	}
	*s = sample.Sample{
		Kind: kind, By: by,
		Ns: r.Ns, Wire: int(r.Wire), Seq: r.Seq,
		Available: r.Available * unit, LimitValue: r.Limit * unit,
		CgroupID: r.CgroupId, CSSID: r.CssId, Usage: r.Usage * usageUnit,
		TGID: r.Tgid, TID: r.Tid, Atomic: r.Atomic != 0,
	}
	return true
}
