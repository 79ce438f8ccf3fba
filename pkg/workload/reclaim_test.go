package workload

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func reclaimRequest() *ReclaimRequest {
	return &ReclaimRequest{
		ID: "01JDQ5C3Z8Y7W6V5T4S3R2Q1P0", Signal: "imagefs.available", Containers: true, Images: true,
		DeadlineNs: 100 * second, AvailableWanted: 4 << 30,
	}
}

func TestAReclaimRequestIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reclaim.json")
	if _, err := LoadReclaim(path, uint32(os.Getuid())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for range 2 { // the second replaces the first
		if err := WriteReclaim(path, reclaimRequest()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LoadReclaim(path, uint32(os.Getuid()))
	if err != nil {
		t.Fatal(err)
	}
	want := reclaimRequest()
	want.Schema = ReclaimSchema
	if *got != *want {
		t.Errorf("read %+v, wrote %+v", got, want)
	}
	if names, _ := filepath.Glob(path + "*"); len(names) != 1 {
		t.Errorf("%q are left in the directory", names)
	}
}

func TestHostileReclaimRequestsAreRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "reclaim.json")
	if err := WriteReclaim(path, reclaimRequest()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"another schema":              {ReclaimSchema, "ebpf-evict/reclaim/v2"},
		"no id":                       {`"id":"01JDQ5C3Z8Y7W6V5T4S3R2Q1P0"`, `"id":""`},
		"no signal":                   {`"imagefs.available"`, `""`},
		"no deadline":                 {`"deadlineNs":100000000000`, `"deadlineNs":0`},
		"a negative amount":           {`"availableWanted":4294967296`, `"availableWanted":-1`},
		"more than any disk can hold": {`"availableWanted":4294967296`, `"availableWanted":1152921504606846977`},
		"no JSON":                     {`{`, `[`},
	} {
		hostile := strings.Replace(string(data), edit[0], edit[1], 1)
		if hostile == string(data) {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := ParseReclaim([]byte(hostile)); !errors.Is(err, ErrReclaim) {
			t.Errorf("%s: error %v, want ErrReclaim", name, err)
		}
	}
	if _, err := LoadReclaim(path, uint32(os.Getuid())+1); !errors.Is(err, ErrReclaim) {
		t.Errorf("another owner's: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadReclaim(link, uint32(os.Getuid())); !errors.Is(err, ErrReclaim) {
		t.Errorf("a symbolic link: %v", err)
	}
}

func TestTheTimeLeftIsNeverNegative(t *testing.T) {
	r := reclaimRequest()
	for _, tc := range []struct {
		now  uint64
		want time.Duration
	}{{90 * second, 10 * time.Second}, {100 * second, 0}, {101 * second, 0}} {
		if got := r.Left(tc.now); got != tc.want {
			t.Errorf("left at %d ns: %s, want %s", tc.now, got, tc.want)
		}
	}
}
