package kube

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// lasting is a transition period within which controllers make their replacements: a Job waits
// for ten seconds first.
const lasting = 45 * time.Second

// Controllers do with an evicted pod what they do with one that the kubelet evicted: a
// Deployment's is replaced, and a Job's as its podFailurePolicy has it. The replacements would
// rather run on this node, and go to another while there is pressure. A bare pod stays as it
// failed.
//
// That one is evicted first, and brings the taint: of a taint and a new pod a few milliseconds
// later the scheduler learns by two watches, and may see the pod first.
func TestControllersSeeAnEviction(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, lasting)
	c := a.Companion(t)
	n.deployment(t, "deployment")
	n.job(t, "job-ignore", batchv1.PodFailurePolicyActionIgnore)
	n.job(t, "job-count", batchv1.PodFailurePolicyActionCount)
	n.job(t, "job-fail", batchv1.PodFailurePolicyActionFailJob)
	owners := []string{"deployment", "job-ignore", "job-count", "job-fail"}
	victims := map[string]*pod{"bare": n.Pod(t, "bare", hog(), onCall)}
	for _, owner := range owners {
		victims[owner] = n.onlyPodOf(t, owner)
	}
	n.anotherNode(t)

	kills := map[string]record.Line{"bare": a.evicts(victims["bare"])}
	waiting := n.Submit(t, podOf("waiting", []string{"wait"}, onThisNode))
	waiting.await("wait for the end of the taint", isKeptAway)
	for _, owner := range owners {
		kills[owner] = a.evicts(victims[owner])
	}
	for _, owner := range []string{"deployment", "job-ignore", "job-count"} {
		n.replacedElsewhere(t, owner, victims[owner])
	}
	n.jobIs(t, "job-ignore", "no failure, and one pod of now", func(j *batchv1.Job) bool {
		return j.Status.Failed == 0 && j.Status.Active == 1 && len(j.Status.Conditions) == 0
	})
	n.jobIs(t, "job-count", "one failure, and one pod of now", func(j *batchv1.Job) bool {
		return j.Status.Failed == 1 && j.Status.Active == 1 && len(j.Status.Conditions) == 0
	})
	n.jobIs(t, "job-fail", "an end by its policy, and no other pod", func(j *batchv1.Job) bool {
		return j.Status.Active == 0 && len(n.podsOf(t, j.Name)) == 1 && slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == batchv1.JobFailed && c.Status == v1.ConditionTrue && c.Reason == batchv1.JobReasonPodFailurePolicy
		})
	})
	for name, victim := range victims {
		t.Log(name)
		victim.isOnRecordOnce(c, kills[name])
	}
	waiting.await("start when the taint is gone", func(s *v1.Pod) bool {
		if taints := n.taints(t); s.Spec.NodeName != "" && len(taints) > 0 {
			t.Fatalf("pod %s was sent to a node with the taints %v", s.Name, taints)
		}
		return s.Status.Phase == v1.PodRunning
	})
	waiting.AwaitStart()
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// evicts calls a pod's load, and waits until the agent has evicted it.
func (a *agent) evicts(p *pod) record.Line {
	a.t.Helper()
	p.Call()
	kill := a.KillOf(p)
	a.Eviction(kill.ID)
	return kill
}

// template is a hog that fills memory on call. Nobody calls what replaces it.
func template(name string, restart v1.RestartPolicy) v1.PodTemplateSpec {
	p := podOf(name, hog(), onCall, restarted(restart), ratherHere)
	return v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"owner": name}}, Spec: p.Spec}
}

func onThisNode(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{v1.LabelHostname: nodeName} }

// ratherHere outweighs what else speaks for an empty node.
func ratherHere(p *v1.Pod) {
	here := v1.NodeSelectorRequirement{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{nodeName}}
	p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.PreferredSchedulingTerm{
		{Weight: 100, Preference: v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{here}}},
	}}}
}

func (n *node) deployment(t *testing.T, name string) {
	t.Helper()
	path := "/apis/apps/v1/namespaces/" + namespace + "/deployments"
	must(t, n.create(path, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"owner": name}},
			Template: template(name, v1.RestartPolicyAlways),
		},
	}))
	t.Cleanup(func() { n.removeOwner(t, path, name) })
}

const jobsPath = "/apis/batch/v1/namespaces/" + namespace + "/jobs"

// job has one pod and bears one failure.
func (n *node) job(t *testing.T, name string, action batchv1.PodFailurePolicyAction) {
	t.Helper()
	must(t, n.create(jobsPath, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32(1)),
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:          action,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: v1.DisruptionTarget, Status: v1.ConditionTrue}},
			}}},
			Template: template(name, v1.RestartPolicyNever),
		},
	}))
	t.Cleanup(func() { n.removeOwner(t, jobsPath, name) })
}

// removeOwner removes a controller and its pods. Those on the other node have no kubelet that
// would end them.
func (n *node) removeOwner(t *testing.T, path, name string) {
	t.Helper()
	must(t, n.remove(path+"/"+name, 0))
	must(t, n.await("end of the pods of "+name, func() bool {
		pods := n.podsOf(t, name)
		for _, p := range pods {
			must(t, n.remove(podsPath+"/"+p.Name, 0))
		}
		return len(pods) == 0
	}))
}

func (n *node) podsOf(t *testing.T, owner string) []v1.Pod {
	t.Helper()
	var list v1.PodList
	must(t, n.get(podsPath+"?labelSelector=owner="+owner, &list))
	return list.Items
}

// onlyPodOf is the pod of a controller, when it runs.
func (n *node) onlyPodOf(t *testing.T, owner string) *pod {
	t.Helper()
	var pods []v1.Pod
	must(t, n.await("pod of "+owner, func() bool { pods = n.podsOf(t, owner); return len(pods) == 1 }))
	p := &pod{t: t, n: n, Name: pods[0].Name, UID: string(pods[0].UID), called: owner}
	p.AwaitStart()
	return p
}

// readyNode is Ready by what is written here, and has no kubelet.
const readyNode = "elsewhere"

// anotherNode is there until the test's end.
func (n *node) anotherNode(t *testing.T) {
	t.Helper()
	const path = "/api/v1/nodes"
	capacity := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("2Gi"), v1.ResourcePods: resource.MustParse("110")}
	must(t, n.create(path, &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: readyNode, Labels: map[string]string{v1.LabelHostname: readyNode}},
		Status: v1.NodeStatus{Capacity: capacity, Allocatable: capacity, Conditions: []v1.NodeCondition{
			{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "Test", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()},
		}},
	}))
	t.Cleanup(func() { must(t, n.remove(path+"/"+readyNode, 0)) })
	n.keepLease(t, readyNode)
	must(t, n.await("other node that takes pods", func() bool { return n.takesPods(readyNode) }))
}

// keepLease renews a node's lease until the test's end: the node would be NotReady within a
// minute.
func (n *node) keepLease(t *testing.T, name string) {
	t.Helper()
	const path = "/apis/coordination.k8s.io/v1/namespaces/" + v1.NamespaceNodeLease + "/leases"
	must(t, n.create(path, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: new(int32(40)), RenewTime: new(metav1.NowMicro())},
	}))
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-stopped
		must(t, n.remove(path+"/"+name, 0))
	})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Second):
			}
			if _, err := n.call(http.MethodPatch, path+"/"+name, map[string]any{"spec": map[string]any{"renewTime": metav1.NowMicro()}}); err != nil {
				t.Errorf("renew lease of %s: %v", name, err)
			}
		}
	}()
}

// replacedElsewhere waits for the pod that a controller made in a victim's stead, on the other
// node.
func (n *node) replacedElsewhere(t *testing.T, owner string, victim *pod) {
	t.Helper()
	must(t, n.await("replacement of "+victim.Name, func() bool {
		for _, p := range n.podsOf(t, owner) {
			if string(p.UID) == victim.UID || p.Spec.NodeName == "" {
				continue
			}
			if p.Spec.NodeName != readyNode {
				t.Fatalf("replacement %s is on node %s", p.Name, p.Spec.NodeName)
			}
			t.Logf("%s: replacement %s made at %s, sent to %s", owner, p.Name, p.CreationTimestamp.Format(time.TimeOnly), p.Spec.NodeName)
			return true
		}
		return false
	}))
}

// jobIs waits for what a Job says of itself.
func (n *node) jobIs(t *testing.T, name, what string, is func(*batchv1.Job) bool) {
	t.Helper()
	var last batchv1.Job
	if err := n.await(name+" with "+what, func() bool {
		last = batchv1.Job{}
		must(t, n.get(jobsPath+"/"+name, &last))
		return is(&last)
	}); err != nil {
		t.Fatalf("%v: %+v", err, last.Status)
	}
}

// isKeptAway: the scheduler has seen the taint.
func isKeptAway(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodScheduled && c.Reason == v1.PodReasonUnschedulable && strings.Contains(c.Message, "untolerated taint")
	})
}

func (n *node) taints(t *testing.T) []v1.Taint {
	t.Helper()
	var found v1.Node
	must(t, n.get("/api/v1/nodes/"+nodeName, &found))
	return found.Spec.Taints
}
