package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/resource"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// The annotations of a static pod's mirror (pkg/kubelet/types). Anybody who may make pods can write
// them, and kubernetes.io/config.source, which is true in the kubelet's own copy alone.
const (
	annotationMirror = "kubernetes.io/config.mirror"
	annotationHash   = "kubernetes.io/config.hash"
)

// reasonEvicted is the kubelet's status reason of an evicted pod (pkg/kubelet/eviction).
const reasonEvicted = "Evicted"

// pod is what is cached of one: some 1 KiB instead of the 10 to 50 that a pod has.
type pod struct {
	// ObjectMeta holds namespace, name, uid and resourceVersion alone.
	metav1.ObjectMeta
	entry workload.Entry
	phase corev1.PodPhase
	// evicted: its status says so, with its reason.
	evicted bool
	// disrupted: it has a true DisruptionTarget condition.
	disrupted bool
	// running: some container runs.
	running bool
	// starts are when the containers that run were started, news is when the last one that
	// the status knows of was started or ended. Whole seconds.
	starts []time.Time
	news   time.Time
	// deleting: it has a deletion timestamp, which no one takes back.
	deleting bool
	// owner is the kind of its controller, empty for a bare pod.
	owner string
	// record is our annotation.
	record string
}

// ended: nothing of the pod is there any more that could be evicted.
func (p *pod) ended() bool {
	return (p.phase == corev1.PodFailed || p.phase == corev1.PodSucceeded) && !p.running
}

// strip is the informer's transform.
func strip(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		return newPod(o), nil
	case *pod, cache.DeletedFinalStateUnknown: // stripped before
		return o, nil
	}
	return nil, fmt.Errorf("a list of pods holds a %T", o)
}

func newPod(p *corev1.Pod) *pod {
	out := &pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion},
		entry:      newEntry(p),
		phase:      p.Status.Phase,
		evicted:    p.Status.Reason == reasonEvicted,
		running:    isRunning(p),
		deleting:   p.DeletionTimestamp != nil,
		record:     p.Annotations[annotationRecord],
	}
	out.starts, out.news = lives(p)
	if owner := metav1.GetControllerOf(p); owner != nil {
		out.owner = owner.Kind
	}
	for _, c := range p.Status.Conditions {
		out.disrupted = out.disrupted || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	}
	return out
}

func isRunning(p *corev1.Pod) bool {
	runs := func(s corev1.ContainerStatus) bool { return s.State.Running != nil }
	return slices.ContainsFunc(p.Status.ContainerStatuses, runs) ||
		slices.ContainsFunc(p.Status.InitContainerStatuses, runs) ||
		slices.ContainsFunc(p.Status.EphemeralContainerStatuses, runs)
}

// lives are when the containers that run were started, and when one started or ended last.
func lives(p *corev1.Pod) (starts []time.Time, news time.Time) {
	for s := range concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses) {
		if r := s.State.Running; r != nil {
			starts = append(starts, r.StartedAt.Time)
		}
		for _, state := range []corev1.ContainerState{s.State, s.LastTerminationState} {
			if r := state.Running; r != nil {
				news = later(news, r.StartedAt.Time)
			}
			if e := state.Terminated; e != nil {
				news = later(later(news, e.StartedAt.Time), e.FinishedAt.Time)
			}
		}
	}
	return starts, news
}

func later(x, y time.Time) time.Time {
	if x.Before(y) {
		return y
	}
	return x
}

// cameBack: a container that runs was started after a kill, and has run for so long.
func (p *pod) cameBack(kill, now time.Time, lived time.Duration) bool {
	return slices.ContainsFunc(p.starts, func(start time.Time) bool { return start.After(kill) && now.Sub(start) >= lived })
}

// newEntry is a pod's entry in the workload table.
func newEntry(p *corev1.Pod) workload.Entry {
	_, mirror := p.Annotations[annotationMirror]
	e := workload.Entry{
		UID:       cgroupUID(p),
		Namespace: strings.Clone(p.Namespace), Name: strings.Clone(p.Name),
		QOSClass: string(p.Status.QOSClass),
		Static:   mirror, // which the kubelet never runs, and which no pod becomes later
		Mirror:   mirror,
		Volumes:  emptyDirs(p), Containers: containers(p),
		TerminationGracePeriodSeconds: p.Spec.TerminationGracePeriodSeconds,
	}
	if p.Spec.Priority != nil {
		e.Priority = *p.Spec.Priority
	}
	e.Memory = memoryRequest(p)
	requests := resource.PodRequests(p, requestOptions)
	e.EphemeralStorage.RequestBytes = bytesOf(requests, corev1.ResourceEphemeralStorage)
	if limit, ok := resource.PodLimits(p, resource.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]; ok {
		bytes := max(0, limit.Value())
		e.EphemeralStorage.LimitBytes = &bytes
	}
	return e
}

// requestOptions count a request that is being resized as the scheduler does.
var requestOptions = resource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}

// memoryRequest is what the kubelet ranks a pod by.
func memoryRequest(p *corev1.Pod) workload.EntryMemory {
	total := bytesOf(resource.PodRequests(p, requestOptions), corev1.ResourceMemory)
	if p.Spec.Resources != nil {
		if _, ok := p.Spec.Resources.Requests[corev1.ResourceMemory]; ok {
			return workload.EntryMemory{PodLevelRequestBytes: &total}
		}
	}
	return workload.EntryMemory{RequestBytes: &total}
}

// cgroupUID is the uid in the name of the pod's cgroup. A static pod's is the hash of its
// manifest; the mirror that the API server shows has another uid. What is no such hash is believed to be
// nobody's: it may be the uid of another pod, which would pass for static.
func cgroupUID(p *corev1.Pod) string {
	if mirror, ok := p.Annotations[annotationMirror]; ok {
		if hash := cmp.Or(p.Annotations[annotationHash], mirror); workload.IsStaticUID(hash) {
			return hash
		}
	}
	return string(p.UID)
}

// emptyDirs are the volumes that the kubelet measures against a limit.
func emptyDirs(p *corev1.Pod) (all []workload.EntryVolume) {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.EmptyDir == nil {
			continue
		}
		out := workload.EntryVolume{Name: v.Name, Medium: string(v.EmptyDir.Medium)}
		if limit := v.EmptyDir.SizeLimit; limit != nil {
			out.SizeLimitBytes = max(0, limit.Value())
		}
		all = append(all, out)
	}
	return all
}

// containers are app, init and sidecar containers, in the order of their statistics. The
// ephemeral-storage limit of a plain init container is not enforced.
func containers(p *corev1.Pod) (all []workload.EntryContainer) {
	ids := containerIDs(p)
	for i := range p.Spec.Containers {
		all = append(all, container(&p.Spec.Containers[i], ids, true))
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		all = append(all, container(c, ids, sidecar))
	}
	return all
}

func container(c *corev1.Container, ids map[string]string, limited bool) workload.EntryContainer {
	out := workload.EntryContainer{
		Name: c.Name, ID: ids[c.Name],
		MemoryRequestBytes:           bytesOf(c.Resources.Requests, corev1.ResourceMemory),
		EphemeralStorageRequestBytes: bytesOf(c.Resources.Requests, corev1.ResourceEphemeralStorage),
	}
	if limited {
		out.EphemeralStorageLimitBytes = bytesOf(c.Resources.Limits, corev1.ResourceEphemeralStorage)
	}
	return out
}

// containerIDs are the runtime's, without its name: "containerd://0a1b…".
func containerIDs(p *corev1.Pod) map[string]string {
	ids := map[string]string{}
	for s := range concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses) {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok {
			ids[s.Name] = id
		}
	}
	return ids
}

func concat(lists ...[]corev1.ContainerStatus) func(func(*corev1.ContainerStatus) bool) {
	return func(yield func(*corev1.ContainerStatus) bool) {
		for _, list := range lists {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// bytesOf is 0 where nothing is asked for.
func bytesOf(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q := list[name]
	return max(0, q.Value())
}
