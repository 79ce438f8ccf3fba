package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// inNamespace is what leads a command into a cgroup and a cgroup namespace whose root that
// is, as a container runtime does; the host's tree stays mounted.
func inNamespace(procsFiles []string) []string {
	return []string{"/proc/self/exe", "in-cgroup-namespace", strings.Join(procsFiles, ","), "--"}
}

// inCgroupNamespace executes a program there.
func inCgroupNamespace(args []string) int {
	runtime.LockOSThread()
	for file := range strings.SplitSeq(args[0], ",") {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil {
			fmt.Fprintln(os.Stderr, "in-cgroup-namespace:", err)
			return 1
		}
	}
	err := unix.Unshare(unix.CLONE_NEWCGROUP)
	if err == nil {
		err = unix.Exec(args[2], args[2:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "in-cgroup-namespace:", err)
	return 1
}

// A container with the host's cgroup mount and a cgroup namespace of its own: /proc names
// other paths than the mount, and where the mount delegates by namespaces (nsdelegate, as the
// VM's and systemd's do) nobody leaves the namespace's root.
func TestAgentInACgroupNamespaceIsAsGoodAsOutside(t *testing.T) {
	bin := binary(t)
	w := newWorld(t)
	own := w.root + "-agent"
	t.Cleanup(func() { must(t, w.fs.Remove(own)) })
	must(t, w.fs.Create(own+"/agent"))
	must(t, w.fs.Create(own+"/client"))
	w.by = inNamespace(w.fs.ProcsFiles(own + "/agent"))
	w.extra = "drill: {atStart: true, every: 0}\n"
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 64 << 20})
	w.start(hogsOnly)
	w.await("the drill at start", func() bool { lines, _ := w.drilled(); return len(lines) == 2 })
	lines, _ := w.drilled()
	passed(t, lines)

	client := inNamespace(w.fs.ProcsFiles(own + "/client"))
	args := append(client, bin, "drill", "--config", filepath.Join(w.dir, "config.yaml"))
	w.await("a drill from a namespace to pass", func() bool {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "drill skipped") { // under way again in a moment
			t.Fatalf("printed %q, ended with %v", out, err)
		}
		return err == nil
	})
	hog := w.load("hog", load.Spec{Kind: load.Hog, Bytes: 800 << 20})
	w.await("the eviction", func() bool { return w.count(record.KindEviction) == 1 })
	_ = hog.Stop()
	evicted(t, w.lines(record.KindEviction)[0], path.Join(w.root, "hog"))
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
	if w.fs.Version() == cgroupfs.V2 {
		got, err := os.ReadFile(filepath.Join(w.fs.MemoryDir(own+"/agent"), "memory.min"))
		if err != nil || strings.TrimSpace(string(got)) != "67108864" {
			t.Errorf("memory.min is %s, %v", got, err)
		}
	}
}
