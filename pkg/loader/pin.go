package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
)

const bpffs = "/sys/fs/bpf"

// pins are maps that bpftool can find by name. Only what can't act is pinned.
type pins struct {
	dir     string
	names   map[string]*ebpf.Map
	mounted string // the bpffs that we mounted, "" if it was there
}

// pinAll replaces what a former agent left in dir: pinned maps of another agent are read,
// never reused. Each pin takes its predecessor's place by rename, so that there is an
// intents map at every moment, should this agent die meanwhile.
func pinAll(dir string, maps map[string]*ebpf.Map) (*pins, error) {
	p := &pins{dir: dir, names: maps}
	if err := p.mount(filepath.Dir(dir)); err != nil {
		return p, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, fmt.Errorf("make the pin directory: %w", err)
	}
	for name, m := range maps {
		next := filepath.Join(dir, name+nextSuffix)
		if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
			return p, fmt.Errorf("remove stale pin: %w", err)
		}
		if err := m.Pin(next); err != nil {
			return p, fmt.Errorf("pin %s: %w", name, err)
		}
		if err := os.Rename(next, filepath.Join(dir, name)); err != nil {
			return p, fmt.Errorf("pin %s: %w", name, err)
		}
	}
	return p, p.sweep()
}

// nextSuffix has no dot: a bpffs takes none in a name.
const nextSuffix = "_next"

// sweep removes what another version of the agent pinned and this one does not.
func (p *pins) sweep() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		if p.names[e.Name()] == nil {
			if err := os.RemoveAll(filepath.Join(p.dir, e.Name())); err != nil {
				return fmt.Errorf("remove stale pin: %w", err)
			}
		}
	}
	return nil
}

// mount makes sure that dir is a bpffs, as systemd does on most hosts.
func (p *pins) mount(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if dir != bpffs {
		return fmt.Errorf("%s is no bpffs: mount -t bpf bpf %s", dir, dir)
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs at %s: %w", dir, err)
	}
	p.mounted = dir
	return nil
}

// remove takes the pins away, or all but the intents, and the bpffs if we mounted it and
// nobody else uses it.
func (p *pins) remove(keepIntents bool) error {
	if keepIntents {
		p.names = map[string]*ebpf.Map{gen.EvictMapIntents: p.names[gen.EvictMapIntents]}
		return p.sweep()
	}
	err := os.RemoveAll(p.dir)
	if p.mounted == "" {
		return err
	}
	left, readErr := os.ReadDir(p.mounted)
	for _, e := range left {
		if name := e.Name(); name != "maps.debug" && name != "progs.debug" {
			return errors.Join(err, readErr) // somebody else uses it by now
		}
	}
	return errors.Join(err, readErr, unix.Unmount(p.mounted, 0))
}

// staleIntents reads the open intents of a former agent, by slot.
func staleIntents(path string) map[int]gen.EvictIntent {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return nil // no former agent, or one that ended well
	}
	defer func() { _ = m.Close() }()
	found := map[int]gen.EvictIntent{}
	var value gen.EvictIntent
	if m.ValueSize() != uint32(unsafe.Sizeof(value)) || m.MaxEntries() != maxIntents+memoryWires+taskWires {
		return nil // of another version: its layout means nothing to us
	}
	for i := range m.MaxEntries() {
		if err := m.Lookup(i, &value); err == nil && isOpen(value.State) {
			found[int(i)] = value
		}
	}
	return found
}
