package loader

import (
	"strings"
	"sync/atomic"

	"github.com/ebpf-evict/ebpf-evict/gen"
)

// Intent is what the agent is about to do, kept in a pinned map so that a start after a
// crash can still write the journal line.
type Intent struct {
	// ID is the eviction's ULID.
	ID [16]byte
	// Ns is CLOCK_MONOTONIC of the crossing, WallNs CLOCK_REALTIME of the storing.
	Ns, WallNs       uint64
	MemoryID, PidsID uint64
	Seq              uint64
	// Available, ThresholdValue and Capacity are bytes or tasks.
	Available, ThresholdValue, Capacity int64
	Signal, UID, Cgroup                 string
	// PidsMaxBefore is what the cgroup's pids.max was before the agent set it to 0, tasks; 0:
	// it did not, or has set it back.
	PidsMaxBefore int64
	// Signalled: SIGKILL had been sent. Not set: nobody knows.
	Signalled bool
	// ByBackstop: the kernel did it, at SignalledNs.
	ByBackstop  bool
	SignalledNs uint64
	// Slot is where a stale intent stands, for FreeIntent.
	Slot int
}

const (
	intentFree = iota
	intentStored
	intentSignalled
	intentNominee
)

// StoreIntent writes an intent before its SIGKILL: stores to memory that the kernel keeps
// when the process dies. It returns a slot, -1 when all are taken. For the hot thread.
func (l *Loader) StoreIntent(in *Intent) int {
	i := l.freeIntent()
	if i < 0 {
		return i
	}
	k := l.intents.at(i)
	k.SignalledNs, k.ByBackstop = 0, 0
	fillIntent(k, in)
	atomic.StoreUint32(&k.State, intentStored)
	return i
}

// freeIntent returns a slot of the agent's own, -1: none is free. Behind them are the
// nominees'.
func (l *Loader) freeIntent() int {
	for i := range maxIntents {
		if atomic.LoadUint32(&l.intents.at(i).State) == intentFree {
			return i
		}
	}
	return -1
}

func fillIntent(k *gen.EvictIntent, in *Intent) {
	k.Id = in.ID
	k.Ns, k.WallNs, k.Seq = in.Ns, in.WallNs, in.Seq
	k.MemoryId, k.PidsId = in.MemoryID, in.PidsID
	k.Available, k.ThresholdValue, k.Capacity = in.Available, in.ThresholdValue, in.Capacity
	k.PidsMaxBefore = in.PidsMaxBefore
	putText(k.Signal[:], in.Signal)
	putText(k.Uid[:], in.UID)
	putText(k.Cgroup[:], in.Cgroup)
}

// IntentSignalled notes that the first SIGKILL was sent.
func (l *Loader) IntentSignalled(slot int) {
	if slot >= 0 {
		atomic.StoreUint32(&l.intents.at(slot).State, intentSignalled)
	}
}

// IntentBraked notes what a unit's pids.max was, before it is set to 0; 0: it is set back.
func (l *Loader) IntentBraked(slot int, before int64) {
	if slot >= 0 {
		atomic.StoreInt64(&l.intents.at(slot).PidsMaxBefore, before)
	}
}

// FreeIntent ends an intent: its lines are in the journal, or nothing was killed. For any
// goroutine.
func (l *Loader) FreeIntent(slot int) {
	if slot >= 0 {
		atomic.StoreUint32(&l.intents.at(slot).State, intentFree)
	}
}

func (l *Loader) openIntents() bool {
	for i := range l.intents.n {
		if isOpen(atomic.LoadUint32(&l.intents.at(i).State)) {
			return true
		}
	}
	return false
}

// isOpen: somebody was, or may have been, killed. A nominee was not.
func isOpen(state uint32) bool { return state != intentFree && state != intentNominee }

// adopt takes over what a former agent left, before that agent's map is let go of: its own
// intents each in its slot, and a kill by the kernel in a free one, as the nominees' are to
// be used again.
func (l *Loader) adopt(left map[int]gen.EvictIntent) {
	for slot, value := range left {
		if slot < maxIntents {
			l.adoptOne(slot, &value)
		}
	}
	for slot, value := range left {
		if slot >= maxIntents {
			if slot-maxIntents < memoryWires {
				value.Available *= l.page // the kernel's word
			}
			l.adoptOne(l.freeIntent(), &value)
		}
	}
}

func (l *Loader) adoptOne(slot int, value *gen.EvictIntent) {
	if slot >= 0 {
		*l.intents.at(slot) = *value
	}
	in := intentOf(value)
	in.Slot = slot
	l.stale = append(l.stale, in)
}

func intentOf(k *gen.EvictIntent) Intent {
	return Intent{
		ID: k.Id, Ns: k.Ns, WallNs: k.WallNs, MemoryID: k.MemoryId, PidsID: k.PidsId, Seq: k.Seq,
		Available: k.Available, ThresholdValue: k.ThresholdValue, Capacity: k.Capacity,
		PidsMaxBefore: k.PidsMaxBefore,
		Signal:        text(k.Signal[:]), UID: text(k.Uid[:]), Cgroup: text(k.Cgroup[:]),
		Signalled: k.State == intentSignalled, ByBackstop: k.ByBackstop != 0, SignalledNs: k.SignalledNs,
	}
}

// putText cuts at the array's end and always leaves a NUL.
func putText(dst []int8, s string) {
	n := min(len(s), len(dst)-1)
	for i := range n {
		dst[i] = int8(s[i])
	}
	clear(dst[n:])
}

func text(src []int8) string {
	var b strings.Builder
	for _, c := range src {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
