package kube

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

// What the kubelet's own eviction leaves behind is what one by the agent has to leave.
func TestTheKubeletsOwnEviction(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	n.KubeletAlone(t, "1Gi")
	h := n.Pod(t, "hog", hog("-rate", "134217728", "-total", "1610612736"))
	s := h.await("eviction by the kubelet", func(s *v1.Pod) bool { return s.Status.Phase == v1.PodFailed }).Status
	h.IsLeftAs(evictedForMemory())
	t.Logf("message %q, event %+v", s.Message, h.events())
	for _, b := range bs {
		if s := b.Status().Status; s.Reason == "Evicted" {
			t.Logf("innocent %s was evicted before: %s", b.Name, s.Message)
		}
	}
}
