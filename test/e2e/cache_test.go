package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/test/uncached"
)

const cacheBytes = 192 << 20

// readFile joins cgroups, reads a file once, says so and waits.
func readFile(args []string) int {
	for file := range strings.SplitSeq(args[0], ",") {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil {
			fmt.Fprintln(os.Stderr, "read-file:", err)
			return 1
		}
	}
	f, err := os.Open(args[1])
	if err == nil {
		_, err = io.CopyN(io.Discard, f, cacheBytes)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "read-file:", err)
		return 1
	}
	fmt.Println("done")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

// reader is a unit that has read a file; end ends it and removes its cgroup.
func (w *world) reader(unit, file string) (end func()) {
	w.t.Helper()
	dir := path.Join(w.root, unit)
	must(w.t, w.fs.Create(dir))
	cmd := exec.Command("/proc/self/exe", "read-file", strings.Join(w.fs.ProcsFiles(dir), ","), file)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	wait, err := cmd.StdinPipe()
	must(w.t, err)
	said, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, startForGood(cmd))
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := said.Read(make([]byte, 1)); err != nil {
		w.t.Fatalf("the reader has not read: %v", err)
	}
	return func() {
		must(w.t, errors.Join(wait.Close(), cmd.Wait()))
		must(w.t, w.fs.Remove(dir))
	}
}

// Page cache that was read once can be had back: it is nobody's use, while its cgroup lives
// and when that was removed and its parent holds it.
func TestPageCacheEvictsNobody(t *testing.T) {
	binary(t)
	w := newWorld(t)
	root, err := w.fs.Open(w.root)
	must(t, err)
	defer func() { _ = root.Close() }()
	must(t, root.SetMemoryMax(256<<20))
	file := uncached.File(t, cacheBytes)
	w.extra = noDrill
	w.start(map[string]string{memorySignal: "100Mi"})
	cached := func(when string) {
		t.Helper()
		time.Sleep(3 * time.Second) // several looks of the far timer
		usage, err := root.MemoryCurrentBytes()
		must(t, err)
		if usage < 170<<20 {
			t.Fatalf("%s: %d bytes in use, the test needs more than would be crossed", when, usage)
		}
		if n := w.count(record.KindEviction); n != 0 {
			t.Fatalf("%s: evicted %+v", when, w.lines(record.KindEviction))
		}
	}
	end := w.reader("reader", file)
	cached("the reader lives")
	end()
	cached("the reader's cgroup is gone")
	hog := w.load("hog", load.Spec{Kind: load.Hog, Bytes: 240 << 20})
	w.await("the eviction", func() bool { return w.count(record.KindEviction) == 1 })
	_ = hog.Stop()
	evicted(t, w.lines(record.KindEviction)[0], path.Join(w.root, "hog"))
}
