package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
	"github.com/ebpf-evict/ebpf-evict/test/loopfs"
)

// The disk process finds out who writes, and the agent evicts by what it says.
func TestFullDiskEvictsTheWriterThatWasMeasured(t *testing.T) {
	binary(t)
	dir := loopfs.New(t, 96, "", "mkfs.ext4", "-q")
	w := newWorld(t)
	old := w.load("old", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	writer := w.load("writer", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	oldDir, writerDir := filepath.Join(dir, "old"), filepath.Join(dir, "writer")
	must(t, os.Mkdir(oldDir, 0o755))
	must(t, os.Mkdir(writerDir, 0o755))
	must(t, os.WriteFile(filepath.Join(oldDir, "data"), make([]byte, 8<<20), 0o600))

	bytes, _ := w.available(dir)
	threshold := bytes - 24<<20
	directories, err := json.Marshal(map[string][]string{path.Join(w.root, "old"): {oldDir}, path.Join(w.root, "writer"): {writerDir}})
	must(t, err)
	w.extra = w.onDisk(dir) + fmt.Sprintf("diskDirectories: %s\n", directories)
	thresholds := map[string]string{"nodefs.available": fmt.Sprint(threshold)}
	_, stop := w.measure(w.config(thresholds))
	w.await("the first figures", func() bool { return w.measured("old") >= 8<<20 && w.measured("writer") >= 0 })

	w.start(thresholds)
	w.writeInto("writer", writerDir)
	w.await("the eviction", func() bool { return w.count(record.KindKill) > 0 })
	if l := w.lines(record.KindKill)[0]; l.Victim.Cgroup != path.Join(w.root, "writer") {
		t.Errorf("evicted %+v, want the writer; measured: old %d, writer %d bytes", l.Victim, w.measured("old"), w.measured("writer"))
	}
	w.await("the writer's end", func() bool { return !writer.Alive() })
	if !old.Alive() {
		t.Error("who holds little of the disk died for it")
	}
	stop()
}

// Two of them would rename each other's half-written files.
func TestSecondDiskProcessRefusesToStart(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.extra = w.onDisk(w.dir)
	config := w.config(map[string]string{"nodefs.available": "1"})
	first, stop := w.measure(config)
	w.await("the first one's figures", func() bool {
		_, err := os.Stat(w.diskFile())
		return err == nil
	})
	out, err := exec.Command(binary(t), "disk", "--config", config).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("ended with %v, want exit code 1", err)
	}
	if want := fmt.Sprintf("another ebpf-evict disk writes %s: locked: pid %d holds", w.diskFile(), first.Pid); !strings.Contains(string(out), want) {
		t.Errorf("said %q, want %q", out, want)
	}
	stop()
}

func TestSIGHUPTakesDirectoriesOver(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.load("unit", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	small, large := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(small, "data"), make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(large, "data"), make([]byte, 3<<20), 0o600))
	configure := func(dir string) string {
		w.extra = w.onDisk(w.dir) + fmt.Sprintf("diskDirectories: {%q: [%q]}\n", path.Join(w.root, "unit"), dir)
		return w.config(map[string]string{"nodefs.available": "1"})
	}
	config := configure(small)
	disk, stop := w.measure(config)
	w.await("figures of the small one", func() bool { return w.measured("unit") >= 1<<20 && w.measured("unit") < 3<<20 })
	must(t, os.WriteFile(config, []byte("diskDirectroies: {}\n"), 0o600))
	must(t, disk.Signal(syscall.SIGHUP))
	configure(large)
	must(t, disk.Signal(syscall.SIGHUP))
	w.await("figures of the large one", func() bool { return w.measured("unit") >= 3<<20 })
	stop()
}

// measure starts the disk process; stop has it end, which it must do well.
func (w *world) measure(config string) (disk *os.Process, stop func()) {
	w.t.Helper()
	cmd := exec.Command(binary(w.t), "disk", "--config", config, "--log-level", "warn")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(w.t, cmd.Start())
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd.Process, func() {
		w.t.Helper()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("the disk process ended with %v", err)
		}
	}
}

// measured is what disk.json says that a unit's directories hold, -1 where it says nothing.
func (w *world) measured(unit string) int64 {
	table, err := workload.LoadDisk(w.diskFile(), uint32(os.Geteuid()))
	if err != nil {
		return -1
	}
	e := table.Entry(path.Join(w.root, unit))
	if e == nil || e.EphemeralStorage == nil || e.EphemeralStorage.LocalVolumesBytes == nil {
		return -1
	}
	return *e.EphemeralStorage.LocalVolumesBytes
}

// writeInto has a process of the unit write 4 MiB a second, until it is killed.
func (w *world) writeInto(unit, dir string) {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe", "write-into", strings.Join(w.fs.ProcsFiles(path.Join(w.root, unit)), ","), dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(w.t, startForGood(cmd))
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// writeInto joins cgroups and writes files for good; what finds no room is tried again.
func writeInto(args []string) int {
	for file := range strings.SplitSeq(args[0], ",") {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil {
			fmt.Fprintln(os.Stderr, "write-into:", err)
			return 1
		}
	}
	for n := 0; ; n++ {
		_ = os.WriteFile(filepath.Join(args[1], fmt.Sprint(n)), make([]byte, 1<<20), 0o600)
		time.Sleep(250 * time.Millisecond)
	}
}
