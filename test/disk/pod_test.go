package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
	"github.com/ebpf-evict/ebpf-evict/test/ward"
)

// pod is one pod as a kubelet makes it: sandbox, labels, directories, cgroup.
type pod struct {
	b         *bed
	Name, UID string
	// Cgroup is the pod's own, in which the containers' are.
	Cgroup  string
	sandbox string
	config  *runtime.PodSandboxConfig
	// attempts counts the containers of each name.
	attempts map[string]uint32
	over     bool
	// keeps: its volumes stay, as while a kubelet is at them.
	keeps atomic.Bool
}

const namespace = "default"

// Pod starts a best-effort pod with these emptyDirs, which its containers have at /NAME.
func (b *bed) Pod(name string, emptyDirs ...string) *pod {
	b.t.Helper()
	p := &pod{b: b, Name: name, UID: fmt.Sprintf("00000000-0000-0000-0000-%012d", len(b.pods)+1), attempts: map[string]uint32{}}
	p.Cgroup = b.Root + "/kubepods/besteffort/pod" + p.UID
	for _, v := range emptyDirs {
		must(b.t, os.MkdirAll(p.EmptyDir(v), 0o777))
	}
	must(b.t, os.MkdirAll(p.Logs(), 0o755))
	p.config = &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Uid: p.UID, Namespace: namespace},
		LogDirectory: p.Logs(),
		Labels:       p.labels(),
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    p.Cgroup,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: onHostNetwork()},
		},
	}
	answer, err := b.runtime.RunPodSandbox(b.within(), &runtime.RunPodSandboxRequest{Config: p.config})
	must(b.t, err)
	p.sandbox = answer.GetPodSandboxId()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pods = append(b.pods, p)
	return p
}

// onHostNetwork needs no CNI.
func onHostNetwork() *runtime.NamespaceOption {
	return &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER, Ipc: runtime.NamespaceMode_NODE}
}

func (p *pod) labels() map[string]string {
	return map[string]string{
		"io.kubernetes.pod.name": p.Name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": p.UID,
	}
}

// Dir is the kubelet's of the pod.
func (p *pod) Dir() string { return filepath.Join(p.b.KubeletDir, "pods", p.UID) }

// EmptyDir is a volume's on the host.
func (p *pod) EmptyDir(name string) string {
	return filepath.Join(p.Dir(), "volumes", "kubernetes.io~empty-dir", name)
}

// Logs is the directory of the containers' logs.
func (p *pod) Logs() string {
	return filepath.Join(p.b.PodLogs, namespace+"_"+p.Name+"_"+p.UID)
}

// container is one container of a pod.
type container struct {
	p  *pod
	ID string
	// Log is its log on the host.
	Log string
}

// Run starts a container with the writer's arguments; one of a name that was there before is
// its next attempt.
func (p *pod) Run(name, image string, args ...string) *container {
	p.b.t.Helper()
	attempt := p.attempts[name]
	p.attempts[name]++
	must(p.b.t, os.MkdirAll(filepath.Join(p.Logs(), name), 0o755))
	labels := p.labels()
	labels["io.kubernetes.container.name"] = name
	log := filepath.Join(name, strconv.Itoa(int(attempt))+".log")
	config := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt},
		Image:    &runtime.ImageSpec{Image: image},
		Args:     args,
		LogPath:  log,
		Labels:   labels,
		Mounts:   p.mounts(),
		Linux: &runtime.LinuxContainerConfig{
			Resources:       &runtime.LinuxContainerResources{OomScoreAdj: 1000}, // it goes first where memory is short
			SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: onHostNetwork()},
		},
	}
	answer, err := p.b.runtime.CreateContainer(p.b.within(), &runtime.CreateContainerRequest{
		PodSandboxId: p.sandbox, Config: config, SandboxConfig: p.config,
	})
	must(p.b.t, err)
	_, err = p.b.runtime.StartContainer(p.b.within(), &runtime.StartContainerRequest{ContainerId: answer.GetContainerId()})
	must(p.b.t, err)
	return &container{p: p, ID: answer.GetContainerId(), Log: filepath.Join(p.Logs(), log)}
}

func (p *pod) mounts() []*runtime.Mount {
	volumes, _ := os.ReadDir(p.EmptyDir(""))
	var mounts []*runtime.Mount
	for _, v := range volumes {
		mounts = append(mounts, &runtime.Mount{ContainerPath: "/" + v.Name(), HostPath: p.EmptyDir(v.Name())})
	}
	return mounts
}

// Where a writer writes: its writable layer, its log, or the emptyDir of a name.
const (
	intoLayer = "/layer"
	intoLog   = "-"
)

func intoEmptyDir(name string) string { return "/" + name + "/file" }

// Writer starts a container that writes total bytes at a rate a second (0: as fast as it
// goes) and then waits; flags are more of the writer's.
func (p *pod) Writer(name, into string, rate, total int64, flags ...string) *container {
	p.b.t.Helper()
	return p.Run(name, writerImage, append([]string{"fill", "-path", into, "-rate", fmt.Sprint(rate), "-total", fmt.Sprint(total)}, flags...)...)
}

// Litterer starts a container that makes total empty files in a directory and then waits.
func (p *pod) Litterer(name, dir string, rate, total int64) *container {
	p.b.t.Helper()
	return p.Run(name, writerImage, "litter", "-path", dir, "-rate", fmt.Sprint(rate), "-total", fmt.Sprint(total))
}

// RunToEnd starts a container that writes so much into its writable layer and ends.
func (p *pod) RunToEnd(name string, total int64) *container {
	p.b.t.Helper()
	c := p.Run(name, writerImage, "fill", "-path", intoLayer, "-total", fmt.Sprint(total), "-exit")
	p.b.await("end of container "+name, func() bool {
		answer, err := p.b.runtime.ContainerStatus(p.b.within(), &runtime.ContainerStatusRequest{ContainerId: c.ID})
		must(p.b.t, err)
		return answer.GetStatus().GetState() == runtime.ContainerState_CONTAINER_EXITED
	})
	return c
}

// Kill kills the pod's containers, as the agent does.
func (p *pod) Kill() {
	p.b.t.Helper()
	all, err := cgroupfs.New("/sys/fs/cgroup")
	must(p.b.t, err)
	units, err := workload.NewScanner(workload.Options{FS: all, Roots: []string{p.b.Root}, Procfs: "/proc"}).Scan()
	must(p.b.t, err)
	for _, u := range units {
		if u.UID == p.UID {
			killAll(p.b.t, all, u.Targets)
		}
	}
}

func killAll(t testing.TB, all *cgroupfs.FS, targets []workload.Target) {
	t.Helper()
	for _, target := range targets {
		for _, file := range all.ProcsFiles(target.Cgroup) {
			data, _ := os.ReadFile(file)
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	}
}

// End stops the pod and removes its cgroup and volumes, as the kubelet does with one that
// terminated; the dead containers stay.
func (p *pod) End() {
	p.b.t.Helper()
	must(p.b.t, p.end(p.b.within()))
}

func (p *pod) end(ctx context.Context) error {
	_, err := p.b.runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.sandbox})
	if err != nil {
		return err
	}
	ward.RemoveCgroups(p.Cgroup)
	if p.keeps.Load() {
		return nil
	}
	return os.RemoveAll(p.EmptyDir(""))
}

// HasCgroup is what the kubelet's having a pod looks like.
func (b *bed) HasCgroup(podUID string) bool {
	for _, mount := range ward.CgroupMounts() {
		found, _ := filepath.Glob(filepath.Join(mount, b.Root, "kubepods", "*", "pod"+podUID))
		if len(found) > 0 {
			return true
		}
	}
	return false
}

// Kubelet has pods of which all containers ended, as by an eviction, stopped and cleaned up
// from now on, as a kubelet does that was told of it.
func (b *bed) Kubelet() {
	done, stopped := make(chan struct{}), make(chan struct{})
	b.t.Cleanup(func() { close(done); <-stopped })
	go func() {
		defer close(stopped)
		for every := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-done:
				every.Stop()
				return
			case <-every.C:
				b.endThoseOver()
			}
		}
	}()
}

// endThoseOver leaves what fails to the next time: the test may have stopped the runtime.
func (b *bed) endThoseOver() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := b.runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		return
	}
	dead := map[string]bool{}
	for _, c := range all.GetContainers() {
		uid := c.GetLabels()["io.kubernetes.pod.uid"]
		isDead, known := dead[uid]
		dead[uid] = (isDead || !known) && c.GetState() == runtime.ContainerState_CONTAINER_EXITED
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pods {
		p.over = p.over || dead[p.UID] && p.end(ctx) == nil
	}
}

func (c *container) isRunning() bool {
	c.p.b.t.Helper()
	answer, err := c.p.b.runtime.ContainerStatus(c.p.b.within(), &runtime.ContainerStatusRequest{ContainerId: c.ID})
	must(c.p.b.t, err)
	return answer.GetStatus().GetState() == runtime.ContainerState_CONTAINER_RUNNING
}
