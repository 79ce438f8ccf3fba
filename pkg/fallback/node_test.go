package fallback

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

const meminfo = `MemTotal:       24684096 kB
MemFree:        24502444 kB
Buffers:            1192 kB
Cached:            52596 kB
SwapCached:            8 kB
Active(file):      29872 kB
Inactive(file):    18140 kB
AnonPages:          6700 kB
HugePages_Total:       0
`

func TestProcfs(t *testing.T) {
	for _, tc := range []struct {
		name, meminfo, loadavg   string
		memoryKnown, tasksKnown  bool
		anon, file, inactive, of int64
	}{
		{"as the kernel writes it", meminfo, "0.00 0.08 0.07 1/88 7298\n", true, true, 6700 << 10, (1192 + 52596 + 8) << 10, 18140 << 10, 88},
		{"a line is missing", meminfo[:200], "0.00 0.08 0.07 1\n", false, false, 0, 0, 0, 0},
		{"no figure", "Buffers: x kB\n" + meminfo, "0.00 0.08 0.07 1/x 7298\n", false, false, 0, 0, 0, 0},
		{"another unit", "AnonPages: 6700 MB\n", "/", false, false, 0, 0, 0, 0},
		{"too large to add up", "AnonPages: 9223372036854775807 kB\n" + meminfo, "1/99999999999999999999 1", false, false, 0, 0, 0, 0},
		{"empty", "", "", false, false, 0, 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range map[string]string{"meminfo": tc.meminfo, "loadavg": tc.loadavg} {
				if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			p, err := openProcfs(root)
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()
			var n sample.Node
			for range 2 { // a second reading adds nothing to the first
				if ok := p.memory(&n); ok != tc.memoryKnown {
					t.Errorf("memory known: got %v, want %v", ok, tc.memoryKnown)
				}
			}
			if ok := p.tasks(&n); ok != tc.tasksKnown {
				t.Errorf("tasks known: got %v, want %v", ok, tc.tasksKnown)
			}
			if tc.memoryKnown && (n.AnonBytes != tc.anon || n.FileBytes != tc.file || n.InactiveFileBytes != tc.inactive) {
				t.Errorf("got %+v", n)
			}
			if tc.tasksKnown && n.Tasks != tc.of {
				t.Errorf("got %d tasks, want %d", n.Tasks, tc.of)
			}
		})
	}
}

// TestProcfsAgreesWithTheOtherReader: two readers of the same files, one of which allocates.
func TestProcfsAgreesWithTheOtherReader(t *testing.T) {
	p, err := openProcfs("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for range 1000 { // until nothing moved between the two
		var got sample.Node
		if !p.memory(&got) || !p.tasks(&got) {
			t.Fatal("/proc tells nothing")
		}
		want, err := signal.NewProc("/proc").Node()
		if err != nil {
			t.Fatal(err)
		}
		got.Ns, got.MemTotalBytes, got.TasksMax, got.HugepagesBytes = want.Ns, want.MemTotalBytes, want.TasksMax, want.HugepagesBytes
		if got == want {
			return
		}
	}
	t.Error("the two never agreed")
}

func FuzzProcfs(f *testing.F) {
	f.Add([]byte(meminfo))
	f.Add([]byte("0.00 0.08 0.07 1/88 7298\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var n sample.Node
		if scanMeminfo(data, &n) && (n.AnonBytes < 0 || n.FileBytes < 0 || n.InactiveFileBytes < 0) {
			t.Errorf("negative: %+v", n)
		}
		if tasks, ok := scanLoadavg(data); ok && tasks < 0 {
			t.Errorf("%d tasks", tasks)
		}
	})
}
