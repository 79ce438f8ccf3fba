package bench

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
)

// Bed is a cgroup root of its own with limits, whose direct children are units, and a
// directory for files. Whatever a load does stays within the limits.
type Bed struct {
	FS   *cgroupfs.FS
	Root string
	Dir  string
	// Self is this program, which loads and agents run.
	Self string
	// Tier is what agents are forced to watch by, as of `run --tier`; "" is the best.
	Tier string

	agents int
}

// NewBed makes the root, named by purpose and process. The limits are in bytes and tasks; Destroy takes everything away,
// also after an error.
func NewBed(purpose string, memoryMax, pidsMax int64) (*Bed, error) {
	b := &Bed{Root: fmt.Sprintf("/ebpf-evict-%s-%d", purpose, os.Getpid())}
	var err error
	if b.Self, err = os.Executable(); err != nil {
		return b, fmt.Errorf("find this program: %w", err)
	}
	if b.FS, err = cgroupfs.New("/sys/fs/cgroup"); err != nil {
		return b, err
	}
	if b.Dir, err = os.MkdirTemp("", "ebpf-evict-"+purpose+"-"); err != nil {
		return b, err
	}
	if err := b.makeRoot(memoryMax, pidsMax); err != nil {
		return b, fmt.Errorf("make the cgroup root %s: %w", b.Root, err)
	}
	return b, nil
}

func (b *Bed) makeRoot(memoryMax, pidsMax int64) error {
	if err := b.FS.Create(b.Root); err != nil {
		return err
	}
	c, err := b.FS.Open(b.Root)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return errors.Join(c.SetMemoryMax(memoryMax), c.SetPidsMax(pidsMax))
}

// Unit is the cgroup path of a unit.
func (b *Bed) Unit(name string) string { return path.Join(b.Root, name) }

// Start makes the unit and starts a load in it.
func (b *Bed) Start(unit string, s load.Spec) (*load.Load, error) {
	if err := b.FS.Create(b.Unit(unit)); err != nil {
		return nil, err
	}
	s.ProcsFiles = b.FS.ProcsFiles(b.Unit(unit))
	return load.Start(b.Self, []string{load.Command}, s)
}

// Remove ends what is in the unit and removes it. One that is gone is fine.
func (b *Bed) Remove(unit string) error { return ignoreGone(b.FS.Remove(b.Unit(unit))) }

// Destroy ends every process below the root and removes everything.
func (b *Bed) Destroy() error {
	var errs []error
	if b.FS != nil {
		errs = append(errs, ignoreGone(b.FS.Remove(b.Root)))
	}
	if b.Dir != "" {
		errs = append(errs, os.RemoveAll(b.Dir))
	}
	return errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, cgroupfs.ErrGone) {
		return nil
	}
	return err
}

// nextName numbers the files of the bed's agents.
func (b *Bed) nextName(base, ext string) string {
	return path.Join(b.Dir, base+"-"+strconv.Itoa(b.agents)+ext)
}
