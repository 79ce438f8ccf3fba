package cgroupfs

import (
	"os"
	"path/filepath"
	"testing"
)

// unifiedWith makes a tree of cgroup v2 with one cgroup and its files.
func unifiedWith(t *testing.T, files map[string]string) *Cgroup {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "unit")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(root, "cgroup.controllers"), "io memory pids\n")
	put(filepath.Join(dir, "cgroup.procs"), "")
	for name, text := range files {
		put(filepath.Join(dir, name), text)
	}
	fs, err := New(root)
	if err != nil {
		t.Fatal(err)
	}
	c, err := fs.OpenToRead("/unit")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWritesCountWhatIsStillToBeWritten(t *testing.T) {
	const devices = "8:0 rbytes=90112 wbytes=4096 rios=3 wios=1 dbytes=0 dios=0\n7:1 \n259:0 rbytes=1 wbytes=1000 rios=1 wios=1\n"
	for name, tc := range map[string]struct {
		files           map[string]string
		written, inodes int64
	}{
		"two devices and dirty pages": {map[string]string{"io.stat": devices, "memory.stat": "anon 1\nfile_dirty 8192\nslab_reclaimable 77\n"}, 13288, 77},
		"no I/O yet":                  {map[string]string{"io.stat": "", "memory.stat": "file_dirty 4096\n"}, 4096, 0},
		"no dirty pages told":         {map[string]string{"io.stat": devices, "memory.stat": "anon 1\n"}, 5096, 0},
		"no io controller":            {map[string]string{"memory.stat": "file_dirty 4096\nslab_reclaimable 5\n"}, -1, 5},
		"nothing told":                {nil, -1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := unifiedWith(t, tc.files).Writes()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if written, inodes, err := w.Read(new(Scratch)); written != tc.written || inodes != tc.inodes || err != nil {
				t.Errorf("got %d, %d, %v, want %d, %d", written, inodes, err, tc.written, tc.inodes)
			}
		})
	}
}

func FuzzParseWritten(f *testing.F) {
	f.Add([]byte("8:0 rbytes=90112 wbytes=4096 rios=3\n"))
	f.Add([]byte("8:0 wbytes=9223372036854775807\n8:1 wbytes=9223372036854775807\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v := parseWritten(data); v < 0 {
			t.Errorf("%q is %d", data, v)
		}
	})
}
