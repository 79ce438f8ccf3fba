package decide

import (
	"fmt"
	"strings"

	quantity "k8s.io/apimachinery/pkg/api/resource"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// The keys of the annotations that the kubelet's eviction event carries.
const (
	AnnotationOffendingContainers      = "offending_containers"
	AnnotationOffendingContainersUsage = "offending_containers_usage"
	AnnotationOffendingPod             = "offending_pod"
	AnnotationOffendingPodUsage        = "offending_pod_usage"
	AnnotationStarvedResource          = "starved_resource"
)

// Message is what the kubelet writes into the pod's status, its DisruptionTarget condition
// and its event when d evicts w, and the event's annotations (evictionMessage in
// pkg/kubelet/eviction). A unit without statistics has no annotations.
func Message(s *Settings, d *Decision, w *workload.Workload) (message string, annotations map[string]string) {
	b := &s.Bounds[d.Bound]
	r := s.resourceOf(b.Signal)
	var text strings.Builder
	fmt.Fprintf(&text, "The node was low on resource: %s. ", r.name())
	fmt.Fprintf(&text, "Threshold quantity: %s, available: %s. ", d.threshold(b), amount(b.Signal, d.Observed.Available))
	annotations = map[string]string{}
	if !w.HasStats() {
		return text.String(), annotations
	}
	const larger = "%s %s was using %s, request is %s, has larger consumption of %s. "
	if r == memory && w.PodLevelRequest && w.Usage.WorkingSetBytes != workload.NoData {
		usage := binary(w.Usage.WorkingSetBytes)
		fmt.Fprintf(&text, larger, "Pod", w.Name, usage, binary(w.MemoryRequestBytes), r.name())
		annotations[AnnotationOffendingPod] = w.Name
		annotations[AnnotationOffendingPodUsage] = usage
	}
	var names, usages []string
	for i := range w.Containers {
		c := &w.Containers[i]
		usage, request := containerUse(r, c)
		if usage == workload.NoData || usage <= request {
			continue
		}
		fmt.Fprintf(&text, larger, "Container", c.Name, binary(usage), binary(request), r.name())
		names, usages = append(names, c.Name), append(usages, binary(usage))
	}
	annotations[AnnotationOffendingContainers] = strings.Join(names, ",")
	annotations[AnnotationOffendingContainersUsage] = strings.Join(usages, ",")
	annotations[AnnotationStarvedResource] = r.name()
	return text.String(), annotations
}

// containerUse is what a container holds of a resource and what it asked for. The kubelet
// names containers for memory and ephemeral storage only.
func containerUse(r resource, c *workload.Container) (usage, request int64) {
	switch {
	case r == memory:
		return c.WorkingSetBytes, c.MemoryRequestBytes
	case r == tasks || r.inodes() || c.RootfsBytes == workload.NoData || c.LogsBytes == workload.NoData:
		return workload.NoData, 0
	}
	return add(c.RootfsBytes, c.LogsBytes), c.EphemeralStorageRequestBytes
}

// threshold is the quantity as it was written, and a share of the capacity as bytes, also
// where it counts inodes.
func (d *Decision) threshold(b *Bound) string {
	if b.Value.Text == "" || strings.HasSuffix(b.Value.Text, "%") {
		return binary(d.ThresholdValue)
	}
	return b.Value.Text
}

func amount(s signal.Signal, n int64) string {
	if s.Bytes() {
		return binary(n)
	}
	return quantity.NewQuantity(n, quantity.DecimalSI).String()
}

func binary(n int64) string { return quantity.NewQuantity(n, quantity.BinarySI).String() }
