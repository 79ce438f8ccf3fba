package signal

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNamesAndUnits(t *testing.T) {
	type unit struct{ Bytes, Disk bool }
	got := map[Signal]unit{}
	for _, s := range Names() {
		got[s] = unit{s.Bytes(), s.Disk()}
	}
	want := map[Signal]unit{
		"memory.available": {true, false}, "allocatableMemory.available": {true, false},
		"pid.available": {false, false}, "allocatablePID.available": {false, false},
		"nodefs.available": {true, true}, "imagefs.available": {true, true}, "containerfs.available": {true, true},
		"nodefs.inodesFree": {false, true}, "imagefs.inodesFree": {false, true}, "containerfs.inodesFree": {false, true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	Names()[0] = "changed"
	if Names()[0] != MemoryAvailable {
		t.Error("a caller changed the names")
	}
}
