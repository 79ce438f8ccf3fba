package signal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

const fixture = "testdata/6.18/proc"

func TestProcNode(t *testing.T) {
	got, err := NewProc(fixture).Node()
	if err != nil {
		t.Fatal(err)
	}
	if got.Ns == 0 {
		t.Error("the reading has no time")
	}
	want := sample.Node{
		Ns:                got.Ns,
		MemTotalBytes:     24684096 << 10,
		AnonBytes:         18136 << 10,
		FileBytes:         (504984 + 19600) << 10,
		InactiveFileBytes: 200752 << 10,
		Tasks:             91,
		TasksMax:          32768,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
}

// NR_FILE_PAGES is three lines of meminfo, and swap cache is one of them.
func TestProcNodeAddsUpFilePages(t *testing.T) {
	root := t.TempDir()
	write("meminfo", sixLines)(t, root)
	n, err := NewProc(root).Node()
	if !errors.Is(err, ErrNoData) {
		t.Errorf("error %v, want ErrNoData for the tasks", err)
	}
	if want := int64(1+2+3) << 10; n.FileBytes != want {
		t.Errorf("FileBytes %d, want %d", n.FileBytes, want)
	}
}

func TestProcNodeHugepages(t *testing.T) {
	root := t.TempDir()
	write("meminfo", sixLines+"HugePages_Total: 3\nHugepagesize: 2048 kB\nHugetlb: 7 kB\n")(t, root)
	for proc, want := range map[Proc]int64{NewProc(root): 7 << 10, NewProc(root).IgnoreHugepages(): 0} {
		if n, _ := proc.Node(); n.HugepagesBytes != want || n.MemTotalBytes != 9<<10 {
			t.Errorf("%+v reads huge pages %d of %d, want %d of %d", proc, n.HugepagesBytes, n.MemTotalBytes, want, 9<<10)
		}
	}
}

// One part that can't be read does not cost the other.
func TestProcNodeWithoutAPart(t *testing.T) {
	tests := map[string]struct {
		change       func(t *testing.T, root string)
		memory, pids bool // still told
		tasksMax     int64
		names        string // what the error names; empty when there is none
	}{
		"no meminfo":            {remove("meminfo"), false, true, 32768, "meminfo"},
		"torn meminfo":          {write("meminfo", "MemTotal: 12 kB\n"), false, true, 32768, "meminfo"},
		"no loadavg":            {remove("loadavg"), true, false, 0, "loadavg"},
		"torn loadavg":          {write("loadavg", "0.00 0.08"), true, false, 0, "loadavg"},
		"no pid_max":            {remove("sys/kernel/pid_max"), true, true, 192731, ""},
		"no threads-max":        {remove("sys/kernel/threads-max"), true, true, 32768, ""},
		"neither limit":         {remove("sys/kernel"), true, false, 0, "pid_max"},
		"smaller threads-max":   {write("sys/kernel/threads-max", "1000\n"), true, true, 1000, ""},
		"malformed pid_max":     {write("sys/kernel/pid_max", "max\n"), true, false, 0, "pid_max"},
		"malformed threads-max": {write("sys/kernel/threads-max", "-1\n"), true, false, 0, "threads-max"},
		"malformed pid_max and no threads-max": {func(t *testing.T, root string) {
			remove("sys/kernel/threads-max")(t, root)
			write("sys/kernel/pid_max", "")(t, root)
		}, true, false, 0, "pid_max"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.CopyFS(root, os.DirFS(fixture)); err != nil {
				t.Fatal(err)
			}
			tc.change(t, root)
			n, err := NewProc(root).Node()
			if tc.names == "" && err != nil {
				t.Errorf("error %v, want none", err)
			}
			if tc.names != "" && (!errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), tc.names)) {
				t.Errorf("error %v, want ErrNoData that names %s", err, tc.names)
			}
			if n.TasksMax != tc.tasksMax {
				t.Errorf("TasksMax %d, want %d", n.TasksMax, tc.tasksMax)
			}
			if _, err := MemoryAvailableOf(n); (err == nil) != tc.memory {
				t.Errorf("memory: error %v, want told: %v", err, tc.memory)
			}
			if _, err := PIDAvailableOf(n); (err == nil) != tc.pids {
				t.Errorf("pids: error %v, want told: %v", err, tc.pids)
			}
		})
	}
}

func TestProcNodeWithoutRoot(t *testing.T) {
	n, err := NewProc(filepath.Join(t.TempDir(), "none")).Node()
	if !errors.Is(err, ErrNoData) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrNoData and ErrNotExist", err)
	}
	if want := (sample.Node{Ns: n.Ns}); n != want {
		t.Errorf("node %+v, want nothing but the time", n)
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func write(name, content string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The running kernel's own files: plausible, and newer each time.
func TestProcNodeLive(t *testing.T) {
	p := NewProc("/proc")
	first, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	if second.Ns < first.Ns {
		t.Errorf("the second reading, %d, is dated before the first, %d", second.Ns, first.Ns)
	}
	for _, of := range []func(sample.Node) (Observation, error){MemoryAvailableOf, PIDAvailableOf} {
		o, err := of(second)
		if err != nil {
			t.Error(err)
		} else if o.Available <= 0 || o.Available >= o.Capacity {
			t.Errorf("implausible: %+v", o)
		}
	}
}

const sixLines = "MemTotal: 9 kB\nBuffers: 1 kB\nCached: 2 kB\nSwapCached: 3 kB\nInactive(file): 4 kB\nAnonPages: 5 kB\n"

func TestParseMeminfo(t *testing.T) {
	want := meminfo{total: 9 << 10, buffers: 1 << 10, cached: 2 << 10, swapCached: 3 << 10, inactiveFile: 4 << 10, anon: 5 << 10}
	tests := map[string]struct {
		text string
		ok   bool
	}{
		"six lines":                {sixLines, true},
		"unknown keys":             {"New(thing): 77 kB\nno colon\n\n" + sixLines + "HugePages_Total: 0\n", true},
		"a key again":              {sixLines + "MemTotal: 10 kB\n", true},
		"no final newline":         {strings.TrimSuffix(sixLines, "\n"), true},
		"empty":                    {"", false},
		"no unit of Hugetlb":       {sixLines + "Hugetlb: 9\n", false},
		"no SwapCached":            {strings.Replace(sixLines, "SwapCached", "Swap", 1), false},
		"no unit":                  {strings.Replace(sixLines, "9 kB", "9", 1), false},
		"another unit":             {strings.Replace(sixLines, "9 kB", "9 MB", 1), false},
		"negative":                 {strings.Replace(sixLines, "9 kB", "-9 kB", 1), false},
		"no figure":                {strings.Replace(sixLines, "9 kB", " kB", 1), false},
		"more than any machine":    {strings.Replace(sixLines, "9 kB", "1125899906842625 kB", 1), false},
		"a figure beyond 64 bits":  {strings.Replace(sixLines, "9 kB", "99999999999999999999 kB", 1), false},
		"torn in the last figure ": {strings.TrimSuffix(sixLines, " kB\n"), false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseMeminfo([]byte(tc.text))
			if !tc.ok {
				if !errors.Is(err, ErrNoData) || got != (meminfo{}) {
					t.Errorf("got %+v, %v, want ErrNoData alone", got, err)
				}
				return
			}
			if err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestParseLoadavg(t *testing.T) {
	tests := map[string]struct {
		text string
		want int64 // -1: ErrNoData
	}{
		"as the kernel writes it": {"0.00 0.08 0.07 1/88 7298\n", 88},
		"many":                    {"220.00 180.08 90.07 311/4194304 4194304\n", 4194304},
		"empty":                   {"", -1},
		"torn":                    {"0.00 0.08 0.07 1/8", -1},
		"no slash":                {"0.00 0.08 0.07 188 7298\n", -1},
		"no figure":               {"0.00 0.08 0.07 1/ 7298\n", -1},
		"negative":                {"0.00 0.08 0.07 1/-88 7298\n", -1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseLoadavg([]byte(tc.text))
			if tc.want < 0 {
				if !errors.Is(err, ErrNoData) {
					t.Errorf("got %d, %v, want ErrNoData", got, err)
				}
			} else if err != nil || got != tc.want {
				t.Errorf("got %d, %v, want %d", got, err, tc.want)
			}
		})
	}
}

func FuzzParseMeminfo(f *testing.F) {
	f.Add([]byte(sixLines))
	f.Add([]byte("MemTotal:\nMemTotal: kB\nCached: 18446744073709551616 kB"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMeminfo(data)
		if err != nil {
			if !errors.Is(err, ErrNoData) {
				t.Fatalf("error %v is not ErrNoData", err)
			}
			return
		}
		if m.total < 0 || m.anon < 0 || m.hugetlb < 0 || m.inactiveFile < 0 || m.cached+m.buffers+m.swapCached < 0 {
			t.Fatalf("negative figure in %+v", m)
		}
	})
}

func FuzzParseLoadavg(f *testing.F) {
	f.Add([]byte("0.00 0.08 0.07 1/88 7298\n"))
	f.Add([]byte("a b c / d"))
	f.Fuzz(func(t *testing.T, data []byte) { checkCount(t, data, parseLoadavg) })
}

func FuzzParseCount(f *testing.F) {
	f.Add([]byte("32768\n"))
	f.Add([]byte("18446744073709551615"))
	f.Fuzz(func(t *testing.T, data []byte) { checkCount(t, data, parseCount) })
}

func checkCount(t *testing.T, data []byte, parse func([]byte) (int64, error)) {
	n, err := parse(data)
	if n < 0 || err != nil && (n != 0 || !errors.Is(err, ErrNoData)) {
		t.Fatalf("%q gives %d, %v", data, n, err)
	}
}
