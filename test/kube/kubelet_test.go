package kube

import (
	"slices"
	"strings"
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
	if s.Reason != "Evicted" || !strings.HasPrefix(s.Message, "The node was low on resource: memory. ") {
		t.Errorf("reason %q, message %q", s.Reason, s.Message)
	}
	if !slices.ContainsFunc(s.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonTerminationByKubelet
	}) {
		t.Errorf("conditions %+v", s.Conditions)
	}
	t.Logf("message %q, conditions %+v, restarts %d", s.Message, s.Conditions, s.ContainerStatuses[0].RestartCount)
	var events v1.EventList
	must(t, n.get("/api/v1/namespaces/"+namespace+"/events?fieldSelector=involvedObject.uid="+h.UID+",reason=Evicted", &events))
	if len(events.Items) != 1 {
		t.Fatalf("%d events, want one", len(events.Items))
	}
	t.Logf("event %+v", events.Items[0])
	for _, b := range bs {
		if s := b.Status().Status; s.Reason == "Evicted" {
			t.Logf("innocent %s was evicted before: %s", b.Name, s.Message)
		}
	}
}
