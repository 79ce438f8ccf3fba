package agent

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// layoutWithin is how long a start waits for the filesystems to answer. One that does
	// not costs its own signals; the layout is then asked for again every layoutAgain.
	layoutWithin = time.Second
	layoutAgain  = 5 * time.Second
)

// DiskPaths are the configured directories. Where the file names neither imagefs nor
// containerfs they are those that the container runtime names, if there are such. On a host
// without kubelet or containerd the defaults are not there: nodefs is the root filesystem
// then, and images lie on it.
func DiskPaths(c *config.Config, runtime workload.DiskLayout) signal.DiskPaths {
	p := signal.DiskPaths{NodeFs: c.Nodefs, ImageFs: c.Imagefs, ContainerFs: c.Containerfs}
	if !c.NodefsGiven && isMissing(p.NodeFs) {
		p.NodeFs = "/"
	}
	if p.ImageFs == config.Default().Imagefs && isMissing(p.ImageFs) {
		p.ImageFs = ""
	}
	if dir := runtime.ImageDir; !c.ImagefsGiven && c.Containerfs == "" && dir != "" && !isMissing(dir) {
		p.ImageFs = dir
		if dir := runtime.ContainerDir; dir != "" && !isMissing(dir) {
			p.ContainerFs = dir
		}
	}
	return p
}

// RuntimeLayout is what the disk figures say of the container runtime's directories now;
// nothing without figures, however old: directories don't move.
func RuntimeLayout(c *config.Config) (l workload.DiskLayout) {
	t, err := workload.LoadDisk(c.Disk, uint32(os.Geteuid()))
	if err == nil && t.Layout != nil {
		l = *t.Layout
	}
	return l
}

func isMissing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

// detectLayout asks the filesystems once. Without an answer it is one filesystem, and the
// error says who did not answer.
func detectLayout(ctx context.Context, paths signal.DiskPaths) (signal.Layout, error) {
	ctx, cancel := context.WithTimeout(ctx, layoutWithin)
	defer cancel()
	d := signal.NewDisks(signal.DiskOptions{Paths: paths})
	d.Start(ctx)
	for {
		l, err := d.Layout()
		if err == nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return signal.Layout{}, err
		case <-time.After(time.Millisecond):
		}
	}
}

// disks observes the filesystems that the settings have thresholds of; nil for none.
func disks(paths signal.DiskPaths, s *decide.Settings, wake func()) *signal.Disks {
	if !watchesDisk(s) {
		return nil
	}
	return signal.NewDisks(signal.DiskOptions{Paths: paths, Thresholds: thresholdsOf(s), Wake: wake})
}
