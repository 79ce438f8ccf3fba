package disk

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
		t.Fatalf("the agent's units are %+v, want the pod with its three containers", units)
	}
	for _, target := range units[0].Targets {
		for _, pid := range processes(t, all, target.Cgroup) {
			if adj, policy := procFile(t, pid, "oom_score_adj"), statField(t, pid, 41); adj != "1000" || policy != "0" {
				t.Errorf("a writer has oom_score_adj %s and policy %s, want 1000 and SCHED_OTHER", adj, policy)
			}
		}
	}
}

func processes(t *testing.T, all *cgroupfs.FS, cgroup string) []int {
	t.Helper()
	c, err := all.Open(cgroup)
	must(t, err)
	defer c.Close()
	pids, err := c.Procs(nil)
	must(t, err)
	if len(pids) == 0 {
		t.Errorf("%s holds no process", cgroup)
	}
	return pids
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	must(t, err)
	return strings.TrimSpace(string(data))
}

// statField is a field of proc(5)'s stat behind the name, which is the second.
func statField(t *testing.T, pid, field int) string {
	t.Helper()
	_, rest, _ := strings.Cut(procFile(t, pid, "stat"), ") ")
	return strings.Fields(rest)[field-3]
}
