package workload

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBellRingsWhenAFileIsReplacedOrWrittenTo(t *testing.T) {
	for name, change := range map[string]func(outside, file string) error{
		"made":       func(_, file string) error { return os.Link(file, file+"2") },
		"written to": func(_, file string) error { return os.WriteFile(file, []byte("more"), 0o600) },
		"replaced":   os.Rename,
	} {
		t.Run(name, func(t *testing.T) {
			dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "new")
			file := filepath.Join(dir, "file")
			must(t, errors.Join(os.WriteFile(file, nil, 0o600), os.WriteFile(outside, nil, 0o600)))
			b := silentBell(t, dir)
			b.Wait(t.Context()) // what was before it listened
			must(t, change(outside, file))
			b.Wait(t.Context())
		})
	}
}

// The agent's directory may come later than the bell, and be made anew.
func TestBellOfADirectoryThatComesAndGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	b := silentBell(t, dir)
	b.deaf = time.Millisecond
	b.Wait(t.Context())
	for range 2 {
		must(t, os.Mkdir(dir, 0o700))
		for b.f == nil {
			b.Wait(t.Context())
		}
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		b.Wait(t.Context())
		must(t, os.RemoveAll(dir))
		for b.f != nil {
			b.Wait(t.Context())
		}
	}
}

// silentBell is one that no clock rings.
func silentBell(t *testing.T, dir string) *Bell {
	t.Helper()
	b := NewBell(dir, time.Hour)
	b.every = time.Hour
	t.Cleanup(b.Close)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
