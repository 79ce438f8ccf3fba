package signal

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestBytesOfAFilesystem(t *testing.T) {
	tests := map[string]struct {
		stat                fsStat
		available, capacity int64
		names               string // what the error names; empty when there is none
	}{
		"some left":               {fsStat{unit: 4096, blocks: 100, blocksAvailable: 10}, 40960, 409600, ""},
		"nothing left":            {fsStat{unit: 4096, blocks: 100}, 0, 409600, ""},
		"all left":                {fsStat{unit: 512, blocks: 3, blocksAvailable: 3}, 1536, 1536, ""},
		"the largest there is":    {fsStat{unit: 1, blocks: math.MaxInt64, blocksAvailable: math.MaxInt64}, math.MaxInt64, math.MaxInt64, ""},
		"one byte more":           {fsStat{unit: 1, blocks: math.MaxInt64 + 1, blocksAvailable: 1}, 0, 0, "implausible"},
		"more than 64 bits":       {fsStat{unit: 4096, blocks: 1 << 60, blocksAvailable: 1}, 0, 0, "implausible"},
		"wraps to a small size":   {fsStat{unit: 4096, blocks: 1<<52 + 1, blocksAvailable: 1}, 0, 0, "implausible"},
		"available below zero":    {fsStat{unit: 4096, blocks: 100, blocksAvailable: math.MaxUint64 - 7}, 0, 0, "implausible"},
		"more available than all": {fsStat{unit: 4096, blocks: 100, blocksAvailable: 101}, 0, 0, "implausible"},
		"no blocks, as procfs":    {fsStat{unit: 4096}, 0, 0, "no size"},
		"no unit":                 {fsStat{blocks: 100, blocksAvailable: 10}, 0, 0, "no size"},
		"negative unit":           {fsStat{unit: -4096, blocks: 100, blocksAvailable: 10}, 0, 0, "no size"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			available, capacity, err := tc.stat.bytes()
			checkFigures(t, available, capacity, err, tc.available, tc.capacity, tc.names)
		})
	}
}

func TestInodesOfAFilesystem(t *testing.T) {
	tests := map[string]struct {
		stat      fsStat
		free, all int64
		names     string
	}{
		"some left":           {fsStat{inodes: 100, inodesFree: 10}, 10, 100, ""},
		"none left":           {fsStat{inodes: 100}, 0, 100, ""},
		"not counted":         {fsStat{}, 0, 0, "counts no inodes"},
		"more free than all":  {fsStat{inodes: 100, inodesFree: 101}, 0, 0, "implausible"},
		"free below zero":     {fsStat{inodes: 100, inodesFree: math.MaxUint64}, 0, 0, "implausible"},
		"more than 63 bits":   {fsStat{inodes: math.MaxUint64, inodesFree: 1}, 0, 0, "implausible"},
		"free, and not a one": {fsStat{inodesFree: 1}, 0, 0, "counts no inodes"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			free, all, err := tc.stat.inodeCounts()
			checkFigures(t, free, all, err, tc.free, tc.all, tc.names)
		})
	}
}

func checkFigures(t *testing.T, left, all int64, err error, wantLeft, wantAll int64, names string) {
	t.Helper()
	if left != wantLeft || all != wantAll {
		t.Errorf("%d of %d, want %d of %d", left, all, wantLeft, wantAll)
	}
	if names == "" && err != nil {
		t.Errorf("error %v, want none", err)
	}
	if names != "" && (!errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), names)) {
		t.Errorf("error %v, want ErrNoData that names %q", err, names)
	}
}

func TestFiguresNeverWrap(t *testing.T) {
	figure := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 1000))
	rapid.Check(t, func(t *rapid.T) {
		s := fsStat{
			unit:   rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{1, 512, 4096, 1 << 20})).Draw(t, "unit"),
			blocks: figure.Draw(t, "blocks"), blocksAvailable: figure.Draw(t, "available"),
			inodes: figure.Draw(t, "inodes"), inodesFree: figure.Draw(t, "free"),
		}
		for _, of := range []func() (int64, int64, error){s.bytes, s.inodeCounts} {
			left, all, err := of()
			if left < 0 || left > all || (err == nil) != (all > 0) {
				t.Fatalf("%+v gives %d of %d, %v", s, left, all, err)
			}
		}
	})
}

// The kernel's own answer by another call.
func TestStatfsLive(t *testing.T) {
	dir := t.TempDir()
	got, err := statfs(dir)
	if err != nil {
		t.Fatal(err)
	}
	var want unix.Statfs_t
	if err := unix.Statfs(dir, &want); err != nil {
		t.Fatal(err)
	}
	if got.blocks != want.Blocks || got.inodes != want.Files || got.unit <= 0 || got.device == 0 {
		t.Errorf("got %+v, want as in %+v", got, want)
	}
	if _, err := statfs(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such path: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := statfs(file); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("no directory: %v", err)
	}
	proc, err := statfs("/proc")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := proc.bytes(); !errors.Is(err, ErrNoData) {
		t.Errorf("procfs has a size: %v", err)
	}
}
