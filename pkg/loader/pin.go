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
	mounted string // the bpffs that we mounted, "" if it was there
}

// pinAll replaces what a former agent left in dir and returns the intents it left open.
// Pinned maps of another agent are read, never reused.
func pinAll(dir string, maps map[string]*ebpf.Map) (*pins, []Intent, error) {
	p := &pins{dir: dir}
	if err := p.mount(filepath.Dir(dir)); err != nil {
		return p, nil, err
	}
	stale := staleIntents(filepath.Join(dir, gen.EvictMapIntents))
	if err := os.RemoveAll(dir); err != nil {
		return p, stale, fmt.Errorf("remove stale pins: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return p, stale, fmt.Errorf("make the pin directory: %w", err)
	}
	for name, m := range maps {
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			return p, stale, fmt.Errorf("pin %s: %w", name, err)
		}
	}
	return p, stale, nil
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

// remove takes the pins away, and the bpffs if we mounted it and nobody else uses it.
func (p *pins) remove() error {
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

func staleIntents(path string) []Intent {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return nil // no former agent, or one that ended well
	}
	defer func() { _ = m.Close() }()
	var (
		found []Intent
		value gen.EvictIntent
	)
	if m.ValueSize() != uint32(unsafe.Sizeof(value)) {
		return nil // of another version: its layout means nothing to us
	}
	for i := range m.MaxEntries() {
		if err := m.Lookup(i, &value); err != nil {
			continue
		}
		if in, ok := intentOf(&value); ok {
			found = append(found, in)
		}
	}
	return found
}
