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
	// figuresEvery is between two reads of the disk figures. A file of them must not be
	// older than figuresFileAge, or whoever writes it is unwell, and a figure in it not
	// older than figuresAge: the kubelet's own are up to two minutes old.
	figuresEvery   = time.Second
	figuresFileAge = 30 * time.Second
	figuresAge     = 2 * time.Minute
)

// DiskPaths are the configured directories. On a host without kubelet or containerd the
// defaults are not there: nodefs is the root filesystem then, and images lie on it.
func DiskPaths(c *config.Config) signal.DiskPaths {
	p := signal.DiskPaths{NodeFs: c.Nodefs, ImageFs: c.Imagefs, ContainerFs: c.Containerfs}
	if !c.NodefsGiven && isMissing(p.NodeFs) {
		p.NodeFs = "/"
	}
	if p.ImageFs == config.Default().Imagefs && isMissing(p.ImageFs) {
		p.ImageFs = ""
	}
	return p
}

func isMissing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

// detectLayout asks the filesystems once. Without an answer it is one filesystem, and the
// error says who did not answer.
func detectLayout(ctx context.Context, c *config.Config) (signal.Layout, error) {
	ctx, cancel := context.WithTimeout(ctx, layoutWithin)
	defer cancel()
	d := signal.NewDisks(signal.DiskOptions{Paths: DiskPaths(c)})
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
func disks(c *config.Config, s *decide.Settings, wake func()) *signal.Disks {
	if !watchesDisk(s) {
		return nil
	}
	return signal.NewDisks(signal.DiskOptions{Paths: DiskPaths(c), Thresholds: thresholdsOf(s), Wake: wake})
}

// readFigures keeps the disk figures fresh while there are thresholds to rank by them.
func (s *scout) readFigures(ctx context.Context, path string) {
	reader := workload.NewDiskReader(path, uint32(os.Geteuid()), figuresFileAge)
	said := ""
	for {
		table, err := reader.Read(now())
		s.figures.Store(table)
		if text := errorText(err); text != said {
			said = text
			if err != nil && s.wantsFigures.Load() {
				s.log.Warn().Err(err).Msg("degraded: no disk figures; disk thresholds that are met kill nobody")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(figuresEvery):
		}
	}
}

func errorText(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, workload.ErrDiskStale): // says how old, each time anew
		return workload.ErrDiskStale.Error()
	}
	return err.Error()
}
