package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
)

func testState() State {
	return State{
		Schema: StateSchema, Time: Time{time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}, Mode: "shadow", PID: 7,
		Signals: []SignalState{
			{Signal: "memory.available", AvailableBytes: new(int64(5)), CapacityBytes: new(int64(10)),
				Thresholds:    []ThresholdState{{Hard: true, ValueBytes: new(int64(4)), Met: true}},
				DistanceBytes: new(int64(1)), FillPerSecond: new(2.5), SecondsToThreshold: new(0.4), Tier: "bpf-alloc", Armed: true},
			{Signal: "pid.available", Available: new(int64(0)), Capacity: new(int64(10)),
				Thresholds: []ThresholdState{{Value: new(int64(4))}}, Distance: new(int64(-4)), Tier: "bpf-task"},
		},
		Ranking:    []Ranked{{UID: "a", Evictable: true}},
		Workloads:  3,
		Conditions: decide.Conditions{MemoryPressure: true},
		Budget:     BudgetState{MinuteLeft: 20, HourLeft: 119},
		Drill:      &DrillState{Time: Time{time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)}, OK: true, SignalledNs: 85000},
		Disk: &DiskState{AgeSeconds: new(0.5), OldestSeconds: new(61.5), Workloads: 2, Reclaiming: true,
			Reclaim: &Reclaim{ID: testID, Signal: "nodefs.available", Images: 1, Error: "containerd does not answer"}},
		RingLost: 1,
	}
}

func TestStateAsWritten(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	if err := os.WriteFile(path+".tmp", []byte("left by a crash"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := testState()
	for range 2 {
		if err := WriteState(path, &want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadState(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("read back (-want +got)\n%s", d)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden(t, "state.json", pretty.Bytes())
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o644 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("files left: %v", names)
	}
}

func TestWriteStateFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "state.json")
	err := errors.Join(os.WriteFile(target, []byte("precious"), 0o644), os.Symlink(target, path), os.Symlink(target, path+".tmp"))
	if err != nil {
		t.Fatal(err)
	}
	s := testState()
	if err := WriteState(path, &s); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(target); string(got) != "precious" {
		t.Errorf("the link's target became %q", got)
	}
	if _, err := ReadState(path); err != nil {
		t.Error(err)
	}
}

func TestWriteStateLeavesNothingWhenItFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	s := testState()
	if err := WriteState(path, &s); err == nil {
		t.Error("replaced a directory")
	}
	if _, err := os.Stat(path + ".tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("temporary file: %v", err)
	}
}

func TestReadStateErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if _, err := ReadState(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for name, content := range map[string]string{
		"empty": "", "torn": `{"schema":"ebpf-evict/state/v1"`, "another schema": `{"schema":"ebpf-evict/v1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			if s, err := ReadState(path); err == nil {
				t.Errorf("got %v", s)
			}
		})
	}
}
