package load

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says what a load does.
type Kind string

const (
	// Hog fills memory, page by page, and then holds it.
	Hog Kind = "hog"
	// Bomb forks, and so does each of its children.
	Bomb Kind = "bomb"
	// Sleeper holds some memory and does nothing.
	Sleeper Kind = "sleeper"
	// Spinner keeps one CPU busy.
	Spinner Kind = "spinner"
	// Faulter touches its memory page by page and gives it back, over and over.
	Faulter Kind = "faulter"
)

// Fill says by what a hog takes memory.
type Fill string

const (
	// FillPages touches anonymous memory, 4 KiB a fault. The default.
	FillPages Fill = "4k"
	// FillHuge touches anonymous memory that may be huge pages, 2 MiB a fault.
	FillHuge Fill = "thp"
	// FillShared writes to a file of shared memory that is gone with the load.
	FillShared Fill = "tmpfs"
	// FillPopulate has the kernel fault ahead, populateStep at a time (MADV_POPULATE_WRITE, 5.14; before that by mlock).
	FillPopulate Fill = "populate"
)

// Fills are all of them.
var Fills = []Fill{FillPages, FillHuge, FillShared, FillPopulate}

const (
	defaultDeadline = time.Minute
	maxDeadline     = 10 * time.Minute
	// maxTasks keeps a mistyped Tasks well below the kernel's default pid_max of 32768.
	maxTasks = 10_000
	// maxBytes keeps a mistyped Bytes from asking for a trace of gigabytes.
	maxBytes = 1 << 44
)

// Errors of Start that a caller may want to tell apart.
var (
	// ErrSpec is a Spec that can't be run.
	ErrSpec = errors.New("bad load")
	// ErrUnlimited is a load whose cgroups, up to their root, set no limit on what it takes.
	ErrUnlimited = errors.New("no limit in the load's cgroups")
)

// Spec describes a load.
type Spec struct {
	Kind Kind
	// ProcsFiles are absolute paths of the cgroup.procs files that the load joins before
	// its first instruction: one on cgroup v2, one a hierarchy on v1. What takes memory
	// or forks must have one whose cgroup, or an ancestor of it, limits just that.
	ProcsFiles []string
	// Bytes is how much a hog fills at most, rounded down to pages, and a faulter each time.
	Bytes int64
	// Fill is how a hog takes it; empty is FillPages.
	Fill Fill
	// Rate is how many bytes a second a hog fills on average; 0 is as fast as it can.
	Rate int64
	// Hold is how many bytes of anonymous memory a sleeper or a hog touches, before it is
	// ready, and keeps. They are none of a hog's Bytes.
	Hold int64
	// IgnoreTerm: SIGTERM does not end it.
	IgnoreTerm bool
	// Delay is how long the load waits between Go and its first byte or fork.
	Delay time.Duration
	// Tasks is how many processes a bomb has at once, itself and zombies included. With
	// more than the cgroup's pids.max it is the kernel that stops it, as in the wild.
	Tasks int
	// Deadline is when everything of the load ends by itself, counted from Start.
	// Default 1 minute, at most 10.
	Deadline time.Duration
	// NoReap is how long after the load's first death its dead stay zombies.
	NoReap time.Duration
	// Held keeps the load waiting until Go.
	Held bool
}

// validate fills in the defaults and refuses what could harm the machine.
func (s *Spec) validate() error {
	if s.Deadline == 0 {
		s.Deadline = defaultDeadline
	}
	switch {
	case s.Deadline < 0 || s.Deadline > maxDeadline:
		return fmt.Errorf("%w: deadline %v, want up to %v", ErrSpec, s.Deadline, maxDeadline)
	case s.Delay < 0 || s.NoReap < 0 || s.Rate < 0 || s.Hold < 0:
		return fmt.Errorf("%w: a negative figure", ErrSpec)
	}
	for _, f := range s.ProcsFiles {
		if !filepath.IsAbs(f) || filepath.Base(f) != "cgroup.procs" {
			return fmt.Errorf("%w: %q is no absolute path of a cgroup.procs", ErrSpec, f)
		}
	}
	return s.validateKind()
}

func (s *Spec) validateKind() error {
	switch s.Kind {
	case Hog, Faulter:
		if s.Bytes < int64(os.Getpagesize()) || s.Bytes > maxBytes {
			return fmt.Errorf("%w: a %s of %d bytes", ErrSpec, s.Kind, s.Bytes)
		}
		if s.Fill == "" {
			s.Fill = FillPages
		}
		if !slices.Contains(Fills, s.Fill) {
			return fmt.Errorf("%w: fill %q", ErrSpec, s.Fill)
		}
		return s.needsLimit("memory.max", "memory.limit_in_bytes")
	case Bomb:
		if s.Tasks < 1 || s.Tasks > maxTasks {
			return fmt.Errorf("%w: a bomb of %d tasks, want 1 to %d", ErrSpec, s.Tasks, maxTasks)
		}
		return s.needsLimit("pids.max")
	case Sleeper:
		if s.Hold == 0 {
			return nil
		}
		return s.needsLimit("memory.max", "memory.limit_in_bytes")
	case Spinner:
		return nil
	}
	return fmt.Errorf("%w: kind %q", ErrSpec, s.Kind)
}

// needsLimit returns ErrUnlimited unless one of the cgroups sets a limit in one of files.
func (s *Spec) needsLimit(files ...string) error {
	if slices.ContainsFunc(s.ProcsFiles, func(procs string) bool { return limited(filepath.Dir(procs), files) }) {
		return nil
	}
	return fmt.Errorf("%w: %s wants %s", ErrUnlimited, s.Kind, strings.Join(files, " or "))
}

// limited walks from dir to the root of its hierarchy.
func limited(dir string, files []string) bool {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				continue // another controller's hierarchy, or its root
			}
			// "max" does not parse; v1 prints LONG_MAX rounded down to pages.
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err == nil && n < 1<<62 {
				return true
			}
		}
	}
	return false
}
