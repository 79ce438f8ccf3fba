package cgroupfs

import (
	"errors"
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

func TestWrittenBytesCountWhatIsStillToBeWritten(t *testing.T) {
	const devices = "8:0 rbytes=90112 wbytes=4096 rios=3 wios=1 dbytes=0 dios=0\n7:1 \n259:0 rbytes=1 wbytes=1000 rios=1 wios=1\n"
	for name, tc := range map[string]struct {
		files map[string]string
		want  int64
		err   error
	}{
		"two devices and dirty pages": {map[string]string{"io.stat": devices, "memory.stat": "anon 1\nfile_dirty 8192\n"}, 13288, nil},
		"no I/O yet":                  {map[string]string{"io.stat": "", "memory.stat": "file_dirty 4096\n"}, 4096, nil},
		"no dirty pages told":         {map[string]string{"io.stat": devices, "memory.stat": "anon 1\n"}, 5096, nil},
		"no io controller":            {map[string]string{"memory.stat": "file_dirty 4096\n"}, 0, ErrNoKey},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := unifiedWith(t, tc.files).WrittenBytes()
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %d, %v, want %d, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestInodeMemoryBytes(t *testing.T) {
	c := unifiedWith(t, map[string]string{"memory.stat": "slab_reclaimable 123\nslab_unreclaimable 4\n"})
	if got, err := c.InodeMemoryBytes(); got != 123 || err != nil {
		t.Errorf("got %d, %v, want 123", got, err)
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
