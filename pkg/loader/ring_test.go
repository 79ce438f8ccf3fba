package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// memoryRing is a ring buffer as the kernel keeps one, of 64 bytes.
type memoryRing struct {
	ring
	taken, written uint64
}

func newMemoryRing(records ...[]byte) *memoryRing {
	r := &memoryRing{ring: ring{data: make([]byte, 2*64), size: 64}}
	r.consumer, r.producer = &r.taken, &r.written
	for _, record := range records {
		r.write(0, record)
	}
	return r
}

// write adds a record with these flags in its header, as the kernel does: in both copies.
func (r *memoryRing) write(flags uint32, record []byte) {
	text := binary.NativeEndian.AppendUint32(nil, uint32(len(record))|flags)
	text = append(append(text, 0, 0, 0, 0), record...)
	for i, b := range text {
		at := (r.written + uint64(i)) % r.size
		r.data[at], r.data[at+r.size] = b, b
	}
	r.written += uint64(len(text)+7) &^ 7
}

func (r *memoryRing) wants(t *testing.T, want string) {
	t.Helper()
	got, err := r.oldest()
	if err != nil || !bytes.Equal(got, []byte(want)) || (got == nil) != (want == "") {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
	if got != nil {
		r.take(len(got))
	}
}

func TestRingIsReadInOrderAndRound(t *testing.T) {
	r := newMemoryRing()
	for range 20 {
		r.write(0, []byte("twelve bytes"))
		r.write(0, []byte("sixteen bytes ok"))
		r.wants(t, "twelve bytes")
		r.wants(t, "sixteen bytes ok")
		r.wants(t, "")
	}
}

func TestRingLeavesOutWhatItsWriterDiscarded(t *testing.T) {
	r := newMemoryRing()
	r.write(ringDiscard, []byte("never mind"))
	r.write(0, []byte("this"))
	r.wants(t, "this")
	r.wants(t, "")
}

func TestRingWaitsForARecordThatIsBeingWritten(t *testing.T) {
	r := newMemoryRing([]byte("first"))
	r.write(ringBusy, []byte("second"))
	r.write(0, []byte("third"))
	r.wants(t, "first")
	r.wants(t, "")
}

func TestRingIsNotReadBeyondItsSize(t *testing.T) {
	r := newMemoryRing([]byte("a record"))
	binary.NativeEndian.PutUint32(r.data, 1<<20)
	if got, err := r.oldest(); !errors.Is(err, errRing) {
		t.Errorf("read %q, %v", got, err)
	}
}
