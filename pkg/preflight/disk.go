package preflight

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// diskFigures reads them once, as the agent would. It may run before the disk process does, so
// that there are none is no reason to refuse to start.
func diskFigures(c *config.Config, owner int, nowNs uint64) DiskFigures {
	d := DiskFigures{Wanted: c.LocalStorageCapacityIsolation ||
		slices.ContainsFunc(thresholds(c), func(t signal.Threshold) bool { return t.Signal.Disk() })}
	d.MissingDirectories = missingDirectories(c)
	t, err := workload.NewDiskReader(c.Disk, uint32(owner), agent.FiguresFileAge).Read(nowNs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.Error = "there are none: ebpf-evict disk does not run"
		return d
	case err != nil:
		d.Error = words(err)
		return d
	}
	d.OK = true
	d.AgeSeconds = workload.Reading{ReadNs: t.WrittenNs}.Age(nowNs).Seconds()
	var oldest time.Duration
	for i := range t.Workloads {
		if of, ok := t.Workloads[i].OldestAge(nowNs); ok {
			d.Workloads, oldest = d.Workloads+1, max(oldest, of)
		}
	}
	d.OldestSeconds = oldest.Seconds()
	return d
}

// missingDirectories are looked for from where we are; the disk process may be elsewhere.
func missingDirectories(c *config.Config) (missing []string) {
	for _, dirs := range c.DiskDirectories {
		for _, dir := range dirs {
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !slices.Contains(missing, dir) {
				missing = append(missing, dir)
			}
		}
	}
	slices.Sort(missing)
	return missing
}
