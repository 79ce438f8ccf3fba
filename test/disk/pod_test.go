package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
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
}

const namespace = "default"

// Pod starts a best-effort pod with these emptyDirs, which its containers have at /NAME.
func (b *bed) Pod(name string, emptyDirs ...string) *pod {
	b.t.Helper()
	b.pods++
	p := &pod{b: b, Name: name, UID: fmt.Sprintf("00000000-0000-0000-0000-%012d", b.pods), attempts: map[string]uint32{}}
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
// goes) and then waits.
func (p *pod) Writer(name, into string, rate, total int64) *container {
	p.b.t.Helper()
	return p.Run(name, writerImage, "fill", "-path", into, "-rate", fmt.Sprint(rate), "-total", fmt.Sprint(total))
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

// End stops the pod and removes its cgroup, as the kubelet does with one that terminated; the
// dead containers stay.
func (p *pod) End() {
	p.b.t.Helper()
	_, err := p.b.runtime.StopPodSandbox(p.b.within(), &runtime.StopPodSandboxRequest{PodSandboxId: p.sandbox})
	must(p.b.t, err)
	removeCgroups(p.Cgroup)
}
