package kube

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Each pod is one unit under the uid that its cgroup bears, and what is to be killed of it are
// its containers that run and not the sandbox.
func TestEveryKindOfPodIsAUnit(t *testing.T) {
	n := theNodeIs(t)
	idle := []string{"wait"}
	second := v1.Container{Name: "second", Image: loadImage, ImagePullPolicy: v1.PullNever, Args: idle}
	sidecar := second
	sidecar.Name, sidecar.RestartPolicy = "sidecar", new(v1.ContainerRestartPolicyAlways)
	for _, tc := range []struct {
		name       string
		change     func(*v1.Pod)
		qos        workload.QOSClass
		containers []string
	}{
		{"one container", func(*v1.Pod) {}, workload.QOSBestEffort, []string{"load"}},
		{"two containers", func(p *v1.Pod) { p.Spec.Containers = append(p.Spec.Containers, second) }, workload.QOSBestEffort, []string{"load", "second"}},
		{"a sidecar", func(p *v1.Pod) { p.Spec.InitContainers = []v1.Container{sidecar} }, workload.QOSBestEffort, []string{"load", "sidecar"}},
		{"an init container that runs", func(p *v1.Pod) { p.Spec.InitContainers = []v1.Container{second} }, workload.QOSBestEffort, []string{"second"}},
		{"burstable", requesting("64Mi", ""), workload.QOSBurstable, []string{"load"}},
		{"guaranteed", guaranteed, workload.QOSGuaranteed, []string{"load"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := n.Submit(t, podOf("mapped", idle, tc.change))
			n.isUnit(t, p, p.UID, tc.qos, tc.containers)
		})
	}
}

// A static pod's cgroup bears the hash of its manifest, which its mirror has as an annotation.
func TestAStaticPodIsAUnitByItsHash(t *testing.T) {
	n := theNodeIs(t)
	object := podOf("static", []string{"wait"})
	manifest, err := json.Marshal(object)
	must(t, err)
	file := n.file("static/static.json")
	mirror := &pod{t: t, n: n, Name: "static-" + nodeName}
	t.Cleanup(func() {
		_ = os.Remove(file)
		if err := n.await("end of the static pod", func() bool { return !mirror.isOnNode() && !n.has(mirror.path()) }); err != nil {
			t.Error(err)
		}
	})
	must(t, os.WriteFile(file, manifest, 0o600))
	must(t, n.await("mirror pod", func() bool { return n.has(mirror.path()) }))
	seen := mirror.Status()
	hash := seen.Annotations["kubernetes.io/config.hash"]
	if hash == "" || hash == string(seen.UID) {
		t.Fatalf("hash %q, uid %q", hash, seen.UID)
	}
	n.isUnit(t, mirror, hash, workload.QOSBestEffort, []string{"load"})
}

// isUnit waits for the containers, and compares what the scanner makes of the pod.
func (n *node) isUnit(t testing.TB, p *pod, uid string, qos workload.QOSClass, containers []string) {
	t.Helper()
	var want []string
	p.await("containers that run", func(s *v1.Pod) bool {
		want = nil
		for _, c := range append(s.Status.InitContainerStatuses, s.Status.ContainerStatuses...) {
			if _, id, _ := strings.Cut(c.ContainerID, "://"); c.State.Running != nil && slices.Contains(containers, c.Name) {
				want = append(want, id)
			}
		}
		return len(want) == len(containers)
	})
	units, err := workload.NewScanner(workload.Options{FS: cgroups(t), Roots: []string{podsCgroup}, Procfs: "/proc"}).Scan()
	must(t, err)
	at := slices.IndexFunc(units, func(u workload.Unit) bool { return u.UID == uid })
	if at < 0 {
		t.Fatalf("no unit %s among %+v", uid, units)
	}
	u := units[at]
	p.Cgroup = u.Cgroup
	var got []string
	for _, target := range u.Targets {
		id, _ := strings.CutPrefix(target.Cgroup, u.Cgroup+"/")
		got = append(got, id)
	}
	slices.Sort(got)
	slices.Sort(want)
	if u.QOSClass != qos || !slices.Equal(got, want) {
		t.Errorf("unit %s is %s with the targets %v, want %s with %v", u.Cgroup, u.QOSClass, got, qos, want)
	}
	for _, id := range p.Children() {
		if !slices.Contains(want, id) {
			p.Sandbox = id
		}
	}
}
