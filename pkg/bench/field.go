package bench

import (
	"errors"
	"fmt"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// field is a bed with bystanders, on which victims come and go.
type field struct {
	*Bed
	bystanders []*load.Load
	started    time.Time
	victims    int
}

// bystanderBytes are what they hold; they started first and do nothing.
var bystanderBytes = []int64{16 << 20, 48 << 20, 32 << 20}

func newField(purpose string, memoryMax int64) (*field, error) {
	bed, err := NewBed(purpose, memoryMax, fieldPids)
	return &field{Bed: bed}, err
}

// refresh starts the bystanders, or anew when they are old.
func (f *field) refresh() error {
	if len(f.bystanders) > 0 && time.Since(f.started) < lifetime {
		return nil
	}
	if err := stopAll(f.bystanders); err != nil {
		return err
	}
	f.bystanders, f.started = nil, time.Now()
	for i, hold := range bystanderBytes {
		unit := fmt.Sprintf("bystander-%d", i)
		if err := f.Remove(unit); err != nil { // that of an old one
			return err
		}
		l, err := f.Start(unit, load.Spec{Kind: load.Sleeper, Hold: hold, Deadline: lifetime + 2*time.Minute})
		if err != nil {
			return err
		}
		f.bystanders = append(f.bystanders, l)
	}
	return nil
}

// bystandersAlive also has them replaced when one is not.
func (f *field) bystandersAlive() bool {
	for _, l := range f.bystanders {
		if !l.Alive() {
			f.started = time.Time{}
			return false
		}
	}
	return true
}

// victim starts the next victim in a unit of its own; clear ends and removes it.
func (f *field) victim(s load.Spec) (unit string, l *load.Load, clear func() error, err error) {
	if err := f.refresh(); err != nil {
		return "", nil, nil, err
	}
	f.victims++
	unit = fmt.Sprintf("victim-%d", f.victims)
	l, err = f.Start(unit, s)
	if err != nil {
		return unit, nil, nil, errors.Join(fmt.Errorf("start the %s: %w", s.Kind, err), f.Remove(unit))
	}
	return unit, l, func() error { return errors.Join(l.Stop(), f.Remove(unit)) }, nil
}

func (f *field) close() error { return errors.Join(stopAll(f.bystanders), f.Destroy()) }

// gauge reads how much of a signal is available, from /proc or the root's files.
type gauge func() (int64, error)

func (f *field) gauge(s signal.Signal) gauge {
	switch s {
	case signal.MemoryAvailable, signal.PIDAvailable:
		proc := signal.NewProc("/proc")
		return func() (int64, error) {
			n, err := proc.Node()
			if err != nil {
				return 0, err
			}
			o, err := signal.MemoryAvailableOf(n)
			if s == signal.PIDAvailable {
				o, err = signal.PIDAvailableOf(n)
			}
			return o.Available, err
		}
	}
	return func() (int64, error) {
		c, err := f.FS.Open(f.Root)
		if err != nil {
			return 0, err
		}
		defer func() { _ = c.Close() }()
		if s == signal.AllocatablePIDAvailable {
			n, err := c.PidsCurrent()
			return fieldPids - n, err
		}
		return allocatable(c)
	}
}

func allocatable(c *cgroupfs.Cgroup) (int64, error) {
	most, maxErr := c.MemoryMaxBytes()
	usage, usageErr := c.MemoryCurrentBytes()
	inactive, err := c.InactiveFileBytes()
	return most - usage + inactive, errors.Join(maxErr, usageErr, err)
}
