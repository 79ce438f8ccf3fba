package disk

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// The other scenes stand on these.
func TestWritersWriteWhereTheySay(t *testing.T) {
	b := newBed(t, filesystems{kind: "ext4"})
	p := b.Pod("writers", "data")
	const rate, total = 200_000_000, 100 * mebibyte
	start := time.Now()
	log := p.Writer("log", intoLog, rate, total)
	p.Writer("data", intoEmptyDir("data"), rate, total)
	p.Litterer("litter", "/data/litter", 0, 2000)
	size := func(file string) int64 {
		s, err := os.Stat(file)
		if err != nil {
			return 0
		}
		return s.Size()
	}
	b.await("emptyDir of that size", func() bool { return size(filepath.Join(p.EmptyDir("data"), "file")) == total })
	t.Logf("emptyDir after %s", time.Since(start))
	b.await("log of that size", func() bool { return size(log.Log) > total }) // with the runtime's prefixes
	t.Logf("log after %s", time.Since(start))
	b.await("empty files", func() bool {
		files, _ := os.ReadDir(filepath.Join(p.EmptyDir("data"), "litter"))
		return len(files) == 2000
	})

	all, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	units, err := workload.NewScanner(workload.Options{FS: all, Roots: []string{b.Root}, Procfs: "/proc"}).Scan()
	must(t, err)
	if len(units) != 1 || units[0].UID != p.UID || units[0].QOSClass != workload.QOSBestEffort || len(units[0].Targets) != 3 {
		t.Errorf("the agent's units are %+v, want the pod with its three containers", units)
	}
}
