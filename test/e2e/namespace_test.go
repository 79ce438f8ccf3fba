package e2e

import (
	"errors"
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

// inCgroupNamespace executes a program there: cgroup.procs files, directories that shall be all
// that is mounted, if any, "--", program.
func inCgroupNamespace(args []string) int {
	runtime.LockOSThread()
	for file := range strings.SplitSeq(args[0], ",") {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil {
			fmt.Fprintln(os.Stderr, "in-cgroup-namespace:", err)
			return 1
		}
	}
	err := unix.Unshare(unix.CLONE_NEWCGROUP)
	if err == nil && args[1] != "--" {
		err = mountedOnly(strings.Split(args[1], ","))
		args = args[1:]
	}
	if err == nil {
		err = unix.Exec(args[2], args[2:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "in-cgroup-namespace:", err)
	return 1
}

// mountedOnly has each of these cgroups in the place of its hierarchy's mount.
func mountedOnly(dirs []string) error {
	err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, dir := range dirs {
		err = errors.Join(err, unix.Mount(dir, filepath.Dir(dir), "", unix.MS_BIND, ""))
	}
	return err
}

func TestCheckSaysWhichCgroupsAreSeen(t *testing.T) {
	bin := binary(t)
	w := newWorld(t)
	must(t, w.fs.Create(w.root+"/agent"))
	lead := inNamespace(w.fs.ProcsFiles(w.root + "/agent"))
	r, _ := checked(t, exec.Command(bin))
	if c := r.Cgroup; c.Namespace != "host" || c.Delegated || c.Effect != "" {
		t.Errorf("on the host: %+v", c)
	}
	r, _ = checked(t, exec.Command(lead[0], append(lead[1:], bin)...))
	if c := r.Cgroup; c.Namespace != "own" || c.Delegated || !strings.Contains(c.Effect, "join") {
		t.Errorf("in a namespace: %+v", c)
	}
	var tops []string
	for _, procs := range w.fs.ProcsFiles(w.root) {
		tops = append(tops, filepath.Dir(procs))
	}
	lead = append(lead[:len(lead)-1:len(lead)-1], strings.Join(tops, ","), "--", bin)
	r, _ = checked(t, exec.Command(lead[0], lead[1:]...))
	if c := r.Cgroup; c.Namespace != "own" || !c.Delegated || !strings.Contains(c.Effect, "not seen") {
		t.Errorf("with a delegated mount: %+v", c)
	}
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
