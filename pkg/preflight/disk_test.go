package preflight

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

func TestDiskFigures(t *testing.T) {
	const written = `{"schema":"ebpf-evict/disk/v1","writtenNs":90000000000,"workloads":[
		{"uid":"a","ephemeralStorage":{"readNs":80000000000,"logsBytes":1}},{"uid":"b"}]}`
	for name, tc := range map[string]struct {
		text string
		now  time.Duration
		want DiskFigures // but for Error, of which it is a part
	}{
		"none":      {"", 91 * time.Second, DiskFigures{Wanted: true, Error: "does not run"}},
		"good ones": {written, 92 * time.Second, DiskFigures{Wanted: true, OK: true, AgeSeconds: 2, OldestSeconds: 12, Workloads: 1}},
		"old ones":  {written, 121 * time.Second, DiskFigures{Wanted: true, Error: "stale"}},
		"others":    {"{}", 91 * time.Second, DiskFigures{Wanted: true, Error: "schema"}},
	} {
		c := config.Default()
		c.Disk = filepath.Join(t.TempDir(), "disk.json")
		if tc.text != "" {
			if err := os.WriteFile(c.Disk, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := diskFigures(c, os.Geteuid(), uint64(tc.now))
		if !strings.Contains(got.Error, tc.want.Error) || (got.Error == "") != tc.want.OK {
			t.Errorf("%s: error %q, want %q", name, got.Error, tc.want.Error)
		}
		got.Error = tc.want.Error
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	c := config.Default()
	dir := t.TempDir()
	c.DiskDirectories = map[string][]string{"/a/*": {dir + "/2", dir, dir + "/1"}, "/b/*": {dir + "/1"}}
	if got, want := diskFigures(c, os.Geteuid(), 1).MissingDirectories, []string{dir + "/1", dir + "/2"}; !slices.Equal(got, want) {
		t.Errorf("missing are %q, want %q", got, want)
	}
	c.EvictionHard = map[string]string{string(signal.MemoryAvailable): "100Mi"}
	c.LocalStorageCapacityIsolation = false
	if diskFigures(c, os.Geteuid(), 1).Wanted {
		t.Error("wanted, though nothing is about a disk")
	}
}
