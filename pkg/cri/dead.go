package cri

import (
	"cmp"
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandbox is a pod's, of which one is ready while the pod runs.
type sandbox struct {
	id, podUID string
	ready      bool
	created    time.Time
}

func (c *Client) sandboxes(ctx context.Context) ([]sandbox, error) {
	answer, err := call(ctx, lookWithin, "list sandboxes", c.runtime.ListPodSandbox, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	var sandboxes []sandbox
	for _, s := range answer.GetItems() {
		if s.GetLabels()[labelPodUID] == "" {
			continue // not the kubelet's
		}
		sandboxes = append(sandboxes, sandbox{
			id: s.GetId(), podUID: s.GetLabels()[labelPodUID],
			ready:   s.GetState() == runtime.PodSandboxState_SANDBOX_READY,
			created: time.Unix(0, s.GetCreatedAt()),
		})
	}
	return sandboxes, nil
}

// pod is what the runtime has of one pod.
type pod struct {
	containers []Container
	sandboxes  []sandbox
	ended      bool
}

// pods groups by the pod's uid. What no pod has is not the kubelet's to collect, nor ours.
func (r *Reclaim) pods(containers []Container, sandboxes []sandbox) map[string]*pod {
	pods := map[string]*pod{}
	of := func(uid string) *pod {
		if pods[uid] == nil {
			pods[uid] = &pod{}
		}
		return pods[uid]
	}
	for _, s := range sandboxes {
		p := of(s.podUID)
		p.sandboxes = append(p.sandboxes, s)
	}
	for _, c := range containers {
		if c.PodUID != "" {
			p := of(c.PodUID)
			p.containers = append(p.containers, c)
		}
	}
	before, booted, has := time.Now(), r.Booted, r.KubeletHas
	if booted.IsZero() {
		booted = bootTime()
	}
	if has != nil && !knowsThatRuns(has, pods) {
		has = nil
	}
	if has == nil {
		before = before.Add(-EndedAge)
	}
	for uid, p := range pods {
		p.ended = p.restsSince(before, booted) && (has == nil || !has(uid))
	}
	return pods
}

// knowsThatRuns: a kubelet that seems not to have even a running pod can't be told by. One is
// asked for, the first by uid; true when none runs.
func knowsThatRuns(has func(podUID string) bool, pods map[string]*pod) bool {
	first := ""
	for uid, p := range pods {
		if (first == "" || uid < first) && slices.ContainsFunc(p.sandboxes, func(s sandbox) bool { return s.ready }) {
			first = uid
		}
	}
	return first == "" || has(first)
}

// restsSince reports whether nothing of the pod runs or has moved since a time, by which the
// kubelet has seen its end: before, a pod that must not restart would start anew when it
// finds no dead container. After a boot nothing rests: the kubelet has to see first what is
// left.
func (p *pod) restsSince(before, booted time.Time) bool {
	if len(p.sandboxes) == 0 {
		return false
	}
	newest := time.Time{}
	for _, s := range p.sandboxes {
		if s.ready || s.created.After(before) {
			return false
		}
		newest = later(newest, s.created)
	}
	for _, c := range p.containers {
		if !c.isDead() && c.state != runtime.ContainerState_CONTAINER_CREATED || later(c.Created, c.Finished).After(before) {
			return false
		}
	}
	return newest.After(booted)
}

func (c *Container) isDead() bool { return c.state == runtime.ContainerState_CONTAINER_EXITED }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func bootTime() time.Time {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Now() // nothing rests
	}
	return time.Now().Add(-time.Duration(t.Nano()))
}

// deadContainers are those that the kubelet's container collection would remove
// (pkg/kubelet/kuberuntime, evictContainers): all of the pods that ended, and of the others
// all dead ones but the newest of each name, whose log and exit code are still wanted.
// Oldest first.
func deadContainers(pods map[string]*pod) []Container {
	var dead []Container
	for _, p := range pods {
		if p.ended {
			dead = append(dead, p.containers...)
			continue
		}
		dead = append(dead, superseded(p.containers)...)
	}
	slices.SortFunc(dead, func(a, b Container) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return dead
}

func superseded(containers []Container) []Container {
	newest := map[string]time.Time{}
	for _, c := range containers {
		if c.isDead() {
			newest[c.Name] = later(newest[c.Name], c.Created)
		}
	}
	return slices.DeleteFunc(slices.Clone(containers), func(c Container) bool {
		return !c.isDead() || !c.Created.Before(newest[c.Name])
	})
}

// deadSandboxes are those without containers of pods that ended, and of the others all such
// but the newest sandbox (evictSandboxes). Oldest first.
func deadSandboxes(pods map[string]*pod) []sandbox {
	var dead []sandbox
	for _, p := range pods {
		newest := time.Time{}
		for _, s := range p.sandboxes {
			newest = later(newest, s.created)
		}
		for _, s := range p.sandboxes {
			if !s.ready && !p.isIn(s.id) && (p.ended || s.created.Before(newest)) {
				dead = append(dead, s)
			}
		}
	}
	slices.SortFunc(dead, func(a, b sandbox) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id, b.id))
	})
	return dead
}

// isIn reports whether the sandbox has a container.
func (p *pod) isIn(sandboxID string) bool {
	return slices.ContainsFunc(p.containers, func(c Container) bool { return c.SandboxID == sandboxID })
}
