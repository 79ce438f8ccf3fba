package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/test/ward"
)

// bed is a node without kubelet: filesystems of its own, a containerd of its own, and a
// cgroup root of its own for the pods. It takes everything along when the test ends.
type bed struct {
	t   testing.TB
	dir string
	// NodeFs and ImageFs are mount points, the same where images lie with the rest.
	NodeFs, ImageFs string
	// KubeletDir and PodLogs are laid out as /var/lib/kubelet and /var/log/pods.
	KubeletDir, PodLogs string
	// Socket is the runtime's, Root the cgroup below which the pods' kubepods is.
	Socket, Root string

	containerd *exec.Cmd
	runtime    runtime.RuntimeServiceClient
	images     runtime.ImageServiceClient

	mu   sync.Mutex
	pods []*pod
}

const (
	fsMebibytes = 512 // of each filesystem; mkfs.xfs wants 300
	// bedMemory bounds all pods: what writers have written is in it until it is on disk.
	bedMemory = 512 << 20
	patience  = 2 * time.Minute
)

// filesystems is where a bed's data lies.
type filesystems struct {
	kind string // ext4 or xfs
	// dedicated has images and writable layers on a filesystem of their own.
	dedicated bool
	// logs has the pods' logs on one of theirs.
	logs bool
}

func newBed(t testing.TB, f filesystems) *bed {
	t.Helper()
	if warded.Warden() == 0 {
		t.Fatal("needs root: mounts filesystems and runs containerd; `make test-disk` has it")
	}
	dir, err := os.MkdirTemp("", "bed-") // short: a socket's path has 107 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bed{t: t, dir: dir, Socket: filepath.Join(dir, "s"), Root: ownCgroup()}
	b.NodeFs = b.mounted("node", f.kind)
	b.ImageFs = b.NodeFs
	if f.dedicated {
		b.ImageFs = b.mounted("image", f.kind)
	}
	logs := b.NodeFs
	if f.logs {
		logs = b.mounted("logs", f.kind)
	}
	b.KubeletDir, b.PodLogs = filepath.Join(b.NodeFs, "kubelet"), filepath.Join(logs, "log", "pods")
	for _, d := range []string{b.KubeletDir, b.PodLogs, b.containerdDir(), filepath.Join(dir, "cni")} {
		must(t, os.MkdirAll(d, 0o755))
	}
	b.limitCgroup()
	must(t, os.WriteFile(b.file("config.toml"), []byte(b.config()), 0o600))
	b.connect()
	b.start()
	t.Cleanup(b.end)
	b.await("containerd", func() bool {
		_, err := b.runtime.ListContainers(b.within(), &runtime.ListContainersRequest{})
		return err == nil
	})
	b.Image(infraImage, 0)
	b.Image(writerImage, 0)
	return b
}

// AgentConfig are the keys that make the bed the agent's node.
func (b *bed) AgentConfig() string {
	return fmt.Sprintf("nodefs: %q\nimagefs: %q\nroots: [%q]\n", b.KubeletDir, b.containerdDir(), b.Root)
}

func (b *bed) file(name string) string { return filepath.Join(b.dir, name) }

func (b *bed) containerdDir() string { return filepath.Join(b.ImageFs, "containerd") }

// mounted is a filesystem in a sparse file of its own.
func (b *bed) mounted(name, kind string) string {
	b.t.Helper()
	image, dir := b.file(name+".img"), b.file(name)
	must(b.t, os.WriteFile(image, nil, 0o600))
	must(b.t, os.Truncate(image, fsMebibytes<<20))
	must(b.t, os.Mkdir(dir, 0o755))
	tool(b.t, "mkfs."+kind, "-q", image)
	tool(b.t, "mount", "-o", "loop", image, dir)
	b.t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			b.t.Errorf("unmount %s: %v", name, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

func (b *bed) limitCgroup() {
	b.t.Helper()
	all, err := cgroupfs.New("/sys/fs/cgroup")
	must(b.t, err)
	must(b.t, all.Create(b.Root))
	b.t.Cleanup(func() { ward.RemoveCgroups(b.Root) })
	b.allow(bedMemory, 2000)
}

// allow bounds what all pods may take.
func (b *bed) allow(memoryBytes, tasks int64) {
	b.t.Helper()
	all, err := cgroupfs.New("/sys/fs/cgroup")
	must(b.t, err)
	c, err := all.Open(b.Root)
	must(b.t, err)
	defer c.Close()
	must(b.t, c.SetMemoryMax(memoryBytes))
	must(b.t, c.SetPidsMax(tasks))
}

// config is containerd's: nothing of the machine's own is touched, and nothing asks for
// CAP_SYS_RESOURCE, which a container's root may lack.
func (b *bed) config() string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  stats_collect_period = 1
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = %q
    bin_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = %q
`, b.containerdDir(), b.file("state"), b.Socket, infraImage, b.file("cni"), b.file("cni"), b.file("runc"))
}

func (b *bed) start() {
	b.t.Helper()
	log, err := os.OpenFile(b.file("containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(b.t, err)
	defer log.Close()
	b.containerd = exec.Command("containerd", "-c", b.file("config.toml"))
	b.containerd.Env = pathWithSbin()
	b.containerd.Stdout, b.containerd.Stderr = log, log
	if err := b.containerd.Start(); err != nil {
		b.t.Fatalf("containerd (scripts/deps.sh installs it): %v", err)
	}
}

// stop ends containerd; the containers live on.
func (b *bed) stop() {
	b.t.Helper()
	must(b.t, b.containerd.Process.Signal(unix.SIGTERM))
	if err := b.containerd.Wait(); err != nil {
		b.t.Logf("containerd ended: %v", err)
	}
}

func (b *bed) freeze() { must(b.t, b.containerd.Process.Signal(unix.SIGSTOP)) }
func (b *bed) thaw()   { must(b.t, b.containerd.Process.Signal(unix.SIGCONT)) }

// connect is to whatever runtime is at the socket.
func (b *bed) connect() {
	b.t.Helper()
	conn, err := grpc.NewClient("unix://"+b.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(b.t, err)
	b.t.Cleanup(func() { _ = conn.Close() })
	b.runtime, b.images = runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn)
}

// end takes the pods down and the runtime with them, whatever state the test left it in.
func (b *bed) end() {
	if b.t.Failed() {
		log, _ := os.ReadFile(b.file("containerd.log"))
		lines := strings.Split(string(log), "\n")
		b.t.Logf("containerd's last lines:\n%s", strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
	if b.containerd.ProcessState != nil {
		b.start()
	}
	_ = b.containerd.Process.Signal(unix.SIGCONT)
	b.removePods()
	b.stop()
	b.endShims()
}

func (b *bed) removePods() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := b.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{}, grpc.WaitForReady(true))
	if err != nil {
		b.t.Errorf("list pods: %v", err)
	}
	for _, s := range all.GetItems() {
		_, err := b.runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: s.GetId()})
		if err == nil {
			_, err = b.runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: s.GetId()})
		}
		if err != nil {
			b.t.Errorf("remove a pod: %v", err)
		}
	}
}

// endShims ends what could not be removed by CRI: they name the socket in their arguments.
func (b *bed) endShims() {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		data, _ := os.ReadFile(file)
		if args := strings.Split(string(data), "\x00"); len(args) > 1 && strings.Contains(args[0], "containerd-shim") && contains(args, b.Socket) {
			var pid int
			_, _ = fmt.Sscanf(file, "/proc/%d/cmdline", &pid)
			b.t.Logf("shim %d is left", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func contains(args []string, text string) bool {
	for _, a := range args {
		if strings.Contains(a, text) {
			return true
		}
	}
	return false
}

// within bounds one call of the bed's own.
func (b *bed) within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// client is the tested one.
func (b *bed) client() *cri.Client {
	b.t.Helper()
	c, err := cri.Dial("unix://" + b.Socket)
	must(b.t, err)
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (b *bed) await(what string, done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("no %s within %s", what, patience)
		}
	}
}

// sync has all on disk that a filesystem has taken.
func (b *bed) sync(dir string) {
	b.t.Helper()
	d, err := os.Open(dir)
	must(b.t, err)
	defer d.Close()
	must(b.t, unix.Syncfs(int(d.Fd())))
}

// available is what a filesystem has left.
func (b *bed) available(dir string) (bytes, inodes int64) {
	b.t.Helper()
	var fs unix.Statfs_t
	must(b.t, unix.Statfs(dir, &fs))
	return int64(fs.Bavail) * fs.Frsize, int64(fs.Ffree)
}

func tool(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command("env", args...)
	cmd.Env = pathWithSbin()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s (scripts/deps.sh installs it): %v\n%s", args[0], err, out)
	}
	return string(out)
}

// pathWithSbin is the environment with what a user's PATH may lack.
func pathWithSbin() []string {
	return append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}
