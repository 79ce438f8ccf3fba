package preflight

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// workloadTable reads it once, as the agent would. It may run before the companion does, so that
// there is none is no reason to refuse to start.
func workloadTable(c *config.Config, wanted bool, now time.Time) (w WorkloadTable) {
	w.Wanted = wanted
	t, err := workload.LoadTable(c.Workloads, c.TableOwner)
	if err == nil {
		err = t.CheckNode(os.Getenv("NODE_NAME"))
	}
	switch {
	case err == nil:
		w.OK, w.Generation, w.Workloads = true, t.Generation, len(t.Workloads)
		if at, err := os.Stat(c.Workloads); err == nil {
			w.AgeSeconds = max(0, now.Sub(at.ModTime()).Seconds())
		}
		return w
	case errors.Is(err, fs.ErrNotExist):
		w.Error = "there is none: ebpf-evict kube does not run"
	default:
		w.Error = words(err)
	}
	if wanted {
		w.Effect = agent.NoTable
	}
	return w
}

// holdPods reports whether the units below the roots are pods.
func holdPods(c *config.Config, fs *cgroupfs.FS) bool {
	if fs == nil {
		return false
	}
	roots, err := agent.Roots(fs, c)
	if err != nil {
		return false
	}
	s := workload.NewScanner(workload.Options{FS: fs, Roots: roots})
	_, err = s.List()
	return err == nil && s.HasPods()
}
