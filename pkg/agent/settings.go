package agent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// ErrNoRoot means that a configured root does not exist, or none at all.
var ErrNoRoot = errors.New("no such root")

// Roots returns the configured roots that exist. A root that the file names must exist:
// ErrNoRoot.
func Roots(fs *cgroupfs.FS, c *config.Config) ([]string, error) {
	var roots []string
	for _, path := range c.Roots {
		cg, err := fs.Open(path)
		switch {
		case err == nil:
			_ = cg.Close()
			roots = append(roots, path)
		case c.RootsGiven:
			return nil, fmt.Errorf("roots: %s: %w: make the cgroup first, or name another (%w)", path, ErrNoRoot, err)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("roots: %w: none of %s exists; name the cgroups below which units may be evicted",
			ErrNoRoot, strings.Join(c.Roots, ", "))
	}
	return roots, nil
}

// settingsOf binds each threshold to what it watches: an allocatable one to every root,
// and those of containerfs to the filesystem that the writable layers lie on.
func settingsOf(c *config.Config, roots []string, l signal.Layout) (decide.Settings, error) {
	s, err := c.Settings()
	if err != nil {
		return s, err
	}
	asked := decide.WithContainerFs(&s, l)
	s.Bounds, s.Layout, s.Overdue, s.Drained = nil, l, overdue, drained
	for _, b := range asked {
		if !b.Signal.Allocatable() {
			s.Bounds = append(s.Bounds, b)
			continue
		}
		for _, r := range roots {
			b.Root = r
			s.Bounds = append(s.Bounds, b)
		}
	}
	if len(s.Bounds) > decide.MaxBounds {
		return s, fmt.Errorf("%d thresholds over all roots, at most %d", len(s.Bounds), decide.MaxBounds)
	}
	decide.SortBounds(s.Bounds, s.Compat)
	return s, nil
}

// thresholdsOf are the bounds' thresholds, for who watches signals and not bounds.
func thresholdsOf(s *decide.Settings) []signal.Threshold {
	ts := make([]signal.Threshold, len(s.Bounds))
	for i := range s.Bounds {
		ts[i] = s.Bounds[i].Threshold
	}
	return ts
}

func watchesDisk(s *decide.Settings) bool {
	for i := range s.Bounds {
		if s.Bounds[i].Signal.Disk() {
			return true
		}
	}
	return false
}
