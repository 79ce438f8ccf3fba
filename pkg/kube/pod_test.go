package kube_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"

	"github.com/ebpf-evict/ebpf-evict/pkg/kube"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const mi = 1 << 20

func asks(memory, ephemeral string) corev1.ResourceList {
	list := corev1.ResourceList{}
	if memory != "" {
		list[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	if ephemeral != "" {
		list[corev1.ResourceEphemeralStorage] = resource.MustParse(ephemeral)
	}
	return list
}

func withRequests(name, memory, ephemeral string) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: asks(memory, ephemeral)}}
}

func sidecar(c corev1.Container) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

func TestRequestsAreThoseOfTheScheduler(t *testing.T) {
	for name, c := range map[string]struct {
		spec   corev1.PodSpec
		status corev1.PodStatus
		memory int64
		// podLevel: the pod has a request of its own.
		podLevel  bool
		ephemeral int64
	}{
		"no request": {spec: corev1.PodSpec{Containers: []corev1.Container{withRequests("a", "", "")}}},
		"two containers": {
			spec:   corev1.PodSpec{Containers: []corev1.Container{withRequests("a", "10Mi", "1Mi"), withRequests("b", "20Mi", "2Mi")}},
			memory: 30 * mi, ephemeral: 3 * mi,
		},
		"a larger init container": {
			spec:   corev1.PodSpec{InitContainers: []corev1.Container{withRequests("i", "50Mi", "5Mi")}, Containers: []corev1.Container{withRequests("a", "10Mi", "1Mi")}},
			memory: 50 * mi, ephemeral: 5 * mi,
		},
		"a sidecar beside the containers": {
			spec:   corev1.PodSpec{InitContainers: []corev1.Container{sidecar(withRequests("s", "5Mi", ""))}, Containers: []corev1.Container{withRequests("a", "10Mi", "")}},
			memory: 15 * mi,
		},
		"an init container beside an earlier sidecar": {
			spec: corev1.PodSpec{
				InitContainers: []corev1.Container{sidecar(withRequests("s", "5Mi", "")), withRequests("i", "40Mi", "")},
				Containers:     []corev1.Container{withRequests("a", "10Mi", "")},
			},
			memory: 45 * mi,
		},
		"overhead of a runtime class": {
			spec:   corev1.PodSpec{Overhead: asks("7Mi", ""), Containers: []corev1.Container{withRequests("a", "10Mi", "")}},
			memory: 17 * mi,
		},
		"a request of the pod's own": {
			spec: corev1.PodSpec{
				Resources:  &corev1.ResourceRequirements{Requests: asks("100Mi", "")},
				Overhead:   asks("7Mi", ""),
				Containers: []corev1.Container{withRequests("a", "10Mi", "3Mi")},
			},
			memory: 107 * mi, podLevel: true, ephemeral: 3 * mi,
		},
		"a request of the pod's own for CPU alone": {
			spec: corev1.PodSpec{
				Resources:  &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
				Containers: []corev1.Container{withRequests("a", "10Mi", "")},
			},
			memory: 10 * mi,
		},
		"a request that shrinks, and has not yet": {
			spec: corev1.PodSpec{Containers: []corev1.Container{withRequests("a", "10Mi", "")}},
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: "a", AllocatedResources: asks("30Mi", ""), Resources: &corev1.ResourceRequirements{Requests: asks("30Mi", "")},
			}}},
			memory: 30 * mi,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uidA}, Spec: c.spec, Status: c.status}
			e := kube.EntryOf(p)
			got := e.Memory.RequestBytes
			if c.podLevel {
				got = e.Memory.PodLevelRequestBytes
			}
			if got == nil || *got != c.memory || e.EphemeralStorage.RequestBytes != c.ephemeral {
				t.Errorf("memory %+v, ephemeral storage %+v; want %d and %d", e.Memory, e.EphemeralStorage, c.memory, c.ephemeral)
			}
			reference := helpers.PodRequests(p, helpers.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true})
			if got != nil && *got != reference.Memory().Value() {
				t.Errorf("memory %d, component-helpers say %d", *got, reference.Memory().Value())
			}
		})
	}
}

func TestAnEntryIsWhatTheKubeletGoesBy(t *testing.T) {
	priority, grace, limit := int32(-7), int64(42), int64(9*mi)
	size := resource.MustParse("64Mi")
	limited := withRequests("app", "10Mi", "1Mi")
	limited.Resources.Limits = asks("", "4Mi")
	init := withRequests("init", "1Mi", "")
	init.Resources.Limits = asks("", "9Mi")
	side := sidecar(withRequests("side", "2Mi", ""))
	side.Resources.Limits = asks("", "5Mi")
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: uidA},
		Spec: corev1.PodSpec{
			Priority: &priority, TerminationGracePeriodSeconds: &grace,
			InitContainers: []corev1.Container{init, side}, Containers: []corev1.Container{limited},
			Volumes: []corev1.Volume{
				{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size}}},
				{Name: "shm", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
				{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}},
			},
		},
		Status: corev1.PodStatus{
			QOSClass:              corev1.PodQOSBurstable,
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "app", ContainerID: "containerd://c0ffee"}},
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "side", ContainerID: "cri-o://51de"}},
		},
	}
	request := int64(12 * mi)
	want := workload.Entry{
		UID: uidA, Namespace: "shop", Name: "web", QOSClass: "Burstable", Priority: -7, TerminationGracePeriodSeconds: &grace,
		Memory:           workload.EntryMemory{RequestBytes: &request},
		EphemeralStorage: workload.EntryEphemeralStorage{RequestBytes: mi, LimitBytes: &limit},
		Volumes:          []workload.EntryVolume{{Name: "cache", SizeLimitBytes: 64 * mi}, {Name: "shm", Medium: "Memory"}},
		Containers: []workload.EntryContainer{
			{Name: "app", ID: "c0ffee", MemoryRequestBytes: 10 * mi, EphemeralStorageRequestBytes: mi, EphemeralStorageLimitBytes: 4 * mi},
			{Name: "init", MemoryRequestBytes: mi}, // its limit is not enforced
			{Name: "side", ID: "51de", MemoryRequestBytes: 2 * mi, EphemeralStorageLimitBytes: 5 * mi},
		},
	}
	if diff := cmp.Diff(want, kube.EntryOf(p), cmpopts.IgnoreUnexported(workload.Entry{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAStaticPodIsKnownByItsManifest(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef"
	for name, annotations := range map[string]map[string]string{
		"hash":        {"kubernetes.io/config.mirror": hash, "kubernetes.io/config.hash": hash, "kubernetes.io/config.source": "file"},
		"mirror only": {"kubernetes.io/config.mirror": hash},
	} {
		t.Run(name, func(t *testing.T) {
			e := kube.EntryOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uidA, Annotations: annotations}})
			if e.UID != hash || !e.Static || !e.Mirror {
				t.Errorf("uid %s, static %v, mirror %v", e.UID, e.Static, e.Mirror)
			}
		})
	}
}

// Who may make pods writes their annotations: none makes a pod that runs pass for static, nor takes
// over the row of another.
func TestAnnotationsMakeNoPodStatic(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef"
	for name, annotations := range map[string]map[string]string{
		"of the kubelet's own copy":  {"kubernetes.io/config.source": "api", "kubernetes.io/config.hash": hash},
		"copied from a static pod":   {"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": hash},
		"a source that is no source": {"kubernetes.io/config.source": ""},
	} {
		if e := kube.EntryOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uidA, Annotations: annotations}}); e.UID != uidA || e.Static || e.Mirror {
			t.Errorf("%s: uid %s, static %v, mirror %v", name, e.UID, e.Static, e.Mirror)
		}
	}
	for name, annotations := range map[string]map[string]string{
		"mirror of another pod":            {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.hash": uidB},
		"mirror of another, by its name":   {"kubernetes.io/config.mirror": uidB},
		"mirror of another, dashes apart":  {"kubernetes.io/config.mirror": strings.ReplaceAll(uidB, "-", "_")},
		"mirror of nobody":                 {"kubernetes.io/config.mirror": ""},
		"mirror of what is no hash at all": {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.hash": "../../kubepods"},
	} {
		if e := kube.EntryOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uidA, Annotations: annotations}}); e.UID != uidA {
			t.Errorf("%s: uid %s, want its own", name, e.UID)
		}
	}
}
