package kube

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

const podsPath = "/api/v1/namespaces/" + namespace + "/pods"

// pod is a running one.
type pod struct {
	t         testing.TB
	n         *node
	Name, UID string
	// Cgroup is the pod's own, in which the sandbox's and the containers' are.
	Cgroup string
	// Sandbox is its id, which names its cgroup and its shim.
	Sandbox string
	// first is the first container's id.
	first string
	// called is the name that the load listens for, the pod's by default.
	called string
}

// Pod starts a pod with one container of the load program, best-effort unless changed, and
// waits until it runs. The test's end removes it.
func (n *node) Pod(t testing.TB, name string, load []string, change ...func(*v1.Pod)) *pod {
	t.Helper()
	p := n.Submit(t, podOf(name, load, change...))
	p.AwaitStart()
	return p
}

// Submit creates a pod. The test's end removes it.
func (n *node) Submit(t testing.TB, object *v1.Pod) *pod {
	t.Helper()
	must(t, n.create(podsPath, object))
	p := &pod{t: t, n: n, Name: object.Name, UID: string(object.UID)}
	t.Cleanup(p.remove)
	return p
}

// AwaitStart waits until the pod runs, and finds it on the node.
func (p *pod) AwaitStart() {
	p.t.Helper()
	p.find(p.await("pod that runs", func(s *v1.Pod) bool {
		waits := func(c v1.ContainerStatus) bool { return c.State.Running == nil }
		return len(s.Status.ContainerStatuses) > 0 && !slices.ContainsFunc(s.Status.ContainerStatuses, waits)
	}))
}

// Call tells a load that waits for the call of its pod's name to begin.
func (p *pod) Call() {
	p.t.Helper()
	if err := p.n.await("load that waits for a call", func() bool {
		c, err := net.Dial("unix", "@"+cmp.Or(p.called, p.Name))
		return err == nil && c.Close() == nil
	}); err != nil {
		p.t.Fatal(err)
	}
}

// onCall has a pod's load begin at Call.
func onCall(p *v1.Pod) {
	c := &p.Spec.Containers[0]
	c.Args = append(slices.Clone(c.Args), "-call", p.Name)
}

// podOf is an object that asks for nothing the node lacks: no network of its own, no account.
func podOf(name string, load []string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: v1.PodSpec{
			Containers:                    []v1.Container{{Name: "load", Image: loadImage, ImagePullPolicy: v1.PullNever, Args: load}},
			HostNetwork:                   true,
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			TerminationGracePeriodSeconds: new(int64(2)),
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// requesting asks for memory, and has a limit unless that is "".
func requesting(request, limit string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		r := &p.Spec.Containers[0].Resources
		r.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(request)}
		if limit != "" {
			r.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(limit)}
		}
	}
}

// guaranteed has all requests as limits.
func guaranteed(p *v1.Pod) {
	all := v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi"), v1.ResourceCPU: resource.MustParse("100m")}
	p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: all, Limits: all}
}

func ofClass(name string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.PriorityClassName = name }
}

func restarted(policy v1.RestartPolicy) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.RestartPolicy = policy }
}

// Status is the pod as the API server has it.
func (p *pod) Status() *v1.Pod {
	p.t.Helper()
	var found v1.Pod
	must(p.t, p.n.get(p.path(), &found))
	return &found
}

func (p *pod) path() string { return podsPath + "/" + p.Name }

// Restarts is how often its container was started again.
func (p *pod) Restarts() int32 { return p.Status().Status.ContainerStatuses[0].RestartCount }

// find finds its cgroup by what the API says of it, and the sandbox in there.
func (p *pod) find(found *v1.Pod) {
	p.t.Helper()
	_, p.first, _ = strings.Cut(found.Status.ContainerStatuses[0].ContainerID, "://")
	p.Cgroup = podsCgroup
	if found.Status.QOSClass != v1.PodQOSGuaranteed {
		p.Cgroup += "/" + strings.ToLower(string(found.Status.QOSClass))
	}
	p.Cgroup += "/pod" + p.UID
	for _, id := range p.Children() {
		if !slices.ContainsFunc(found.Status.ContainerStatuses, func(c v1.ContainerStatus) bool { return strings.HasSuffix(c.ContainerID, id) }) {
			p.Sandbox = id
		}
	}
	if p.Sandbox == "" || !slices.Contains(p.Children(), p.first) {
		p.t.Fatalf("%s has %v, want container %s and a sandbox", p.Cgroup, p.Children(), p.first)
	}
}

// Children are the ids of the containers and the sandbox that have a cgroup.
func (p *pod) Children() []string {
	names, _ := cgroups(p.t).Children(p.Cgroup)
	return names
}

// Processes are those of one of the children, sandbox or container.
func (p *pod) Processes(id string) (pids []int) {
	p.t.Helper()
	for _, file := range cgroups(p.t).ProcsFiles(p.Cgroup + "/" + id) {
		data, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func cgroups(t testing.TB) *cgroupfs.FS {
	t.Helper()
	all, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	return all
}

// remove deletes the pod and waits until nothing is left of it on the node.
func (p *pod) remove() {
	if err := p.n.remove(p.path(), 0); err != nil {
		p.t.Errorf("remove pod %s: %v", p.Name, err)
	}
	if err := p.n.await("end of pod "+p.Name, func() bool { return !p.isOnNode() }); err != nil {
		p.t.Errorf("%v: children %v, shims %v", err, p.Children(), p.shims())
	}
}

func (p *pod) isOnNode() bool {
	if len(p.shims()) > 0 {
		return true
	}
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + p.Cgroup)
	return p.Cgroup != "" && len(found) > 0
}

// shims are the processes that stand between the runtime and this pod: one, while it has a
// sandbox.
func (p *pod) shims() (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		data, _ := os.ReadFile(file)
		args := strings.Split(string(data), "\x00")
		if p.Sandbox != "" && strings.Contains(args[0], "containerd-shim") && slices.Contains(args, p.Sandbox) {
			var pid int
			_, _ = fmt.Sscanf(file, "/proc/%d/cmdline", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// await waits for something of the pod, and tells of the pod if it does not come.
func (p *pod) await(what string, done func(*v1.Pod) bool) *v1.Pod {
	p.t.Helper()
	var last *v1.Pod
	if err := p.n.await(what, func() bool { last = p.Status(); return done(last) }); err != nil {
		p.t.Fatalf("pod %s: %v: %+v", p.Name, err, last.Status)
	}
	return last
}
