package loader

import (
	"encoding/binary"
	"errors"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/ebpf-evict/ebpf-evict/gen"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// CrossingsFD becomes readable when a wire is crossed or the allocation hook is asked for:
// a member of the agent's own epoll.
func (l *Loader) CrossingsFD() int { return l.objs.Crossings.FD() }

// expired makes a read return at once with what is there.
var expired = time.Unix(1, 0)

// Next takes the oldest crossing or ask; false when there is none. For the hot thread.
func (l *Loader) Next(s *sample.Sample) (bool, error) {
	return l.next(l.crossings, &l.record, s)
}

// NextDelta takes the oldest movement of a cgroup; false when there is none. For one
// helper goroutine.
func (l *Loader) NextDelta(s *sample.Sample) (bool, error) {
	return l.next(l.deltas, &l.delta, s)
}

// Malformed counts the records that were dropped because no program of ours can have made
// them.
func (l *Loader) Malformed() uint64 { return l.malformed.Load() }

func (l *Loader) next(r *ringbuf.Reader, rec *ringbuf.Record, s *sample.Sample) (bool, error) {
	for {
		r.SetDeadline(expired)
		err := r.ReadInto(rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if decode(rec.RawSample, l.page, s) {
			return true, nil
		}
		l.malformed.Add(1)
	}
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
