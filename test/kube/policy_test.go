package kube

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// otherNode is one that only the API server has.
	otherNode      = "other"
	podCollection  = "/api/v1/namespaces/" + namespace + "/pods"
	nodeCollection = "/api/v1/nodes"
)

// attempt is one request of the companion's account.
type attempt struct {
	name, method, path string
	body               partial
}

// partial is an object, or a part of one, as it is sent.
type partial = map[string]any

func (a *api) try(x attempt) error {
	var body any
	if x.body != nil {
		body = x.body
	}
	_, err := a.call(x.method, x.path, body)
	return err
}

// refuse makes the attempts, all of which are to be refused with a text.
func (a *api) refuse(t *testing.T, text string, attempts ...attempt) {
	t.Helper()
	for _, x := range attempts {
		err := a.try(x)
		if r := new(refused); !errors.As(err, &r) || r.Code != http.StatusForbidden || !strings.Contains(r.Body, text) {
			t.Errorf("%s: %v, want refused: %s", x.name, err, text)
		}
	}
}

// allow makes the attempts, all of which are to be granted.
func (a *api) allow(t *testing.T, attempts ...attempt) {
	t.Helper()
	for _, x := range attempts {
		if err := a.try(x); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

func getting(path string) attempt { return attempt{"read " + path, http.MethodGet, path, nil} }
func posting(path string, o partial) attempt {
	return attempt{"post to " + path, http.MethodPost, path, o}
}
func deleting(path string) attempt               { return attempt{"delete " + path, http.MethodDelete, path, nil} }
func patching(n, path string, o partial) attempt { return attempt{n, http.MethodPatch, path, o} }

// evictionPatch is what the companion writes into a pod.
func evictionPatch() partial {
	return partial{
		"metadata": partial{"annotations": partial{"ebpf-evict/eviction": "01M8"}},
		"status": partial{
			"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. ",
			"conditions": []any{partial{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}},
		},
	}
}

// evictionWith has something else in its status.
func evictionWith(key string, value any) partial {
	e := evictionPatch()
	e["status"].(partial)[key] = value
	return e
}

// evictionOf has other metadata.
func evictionOf(o partial) partial {
	e := evictionPatch()
	e["metadata"] = o
	return e
}

// taintPatch is the whole list: it has no merge key.
func taintPatch(all ...partial) partial {
	return partial{"spec": partial{"taints": append([]partial{}, all...)}}
}

func conditionPatch(o partial) partial { return partial{"status": partial{"conditions": []any{o}}} }

// world is what the account meets: its own node with a pod, and another node with one.
type world struct {
	*node
	t *testing.T
	// release is what the chart is installed as, and its account. Each world has another: the
	// API server does not forget a policy at once.
	release     string
	mine, other string // paths of pods
	// own is the account with the token of a pod of the node, foreign with that of one of the
	// other node, loose with one that is bound to no pod.
	own, foreign, loose *api
}

func newWorld(t *testing.T, release string, values ...string) *world {
	t.Helper()
	n := theNodeIs(t)
	n.Install(t, chart(t, release, values...), nil)
	w := &world{node: n, t: t, release: release, mine: podCollection + "/mine", other: podCollection + "/foreign"}
	n.Make(t, nodeCollection, otherNode, &v1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: otherNode},
		Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "team", Effect: v1.TaintEffectNoSchedule}}},
	})
	idle := []string{"wait"}
	n.Pod(t, "mine", idle)
	holder := n.Pod(t, "companion", idle, ofAccount(release))
	n.Make(t, podCollection, "foreign", podOf("foreign", idle, onNode(otherNode)))
	elsewhere := podOf("elsewhere", idle, onNode(otherNode), ofAccount(release))
	n.Make(t, podCollection, elsewhere.Name, elsewhere)
	must(t, n.get(podCollection+"/elsewhere", elsewhere))
	w.own = w.account(holder.Name, holder.UID)
	w.foreign = w.account(elsewhere.Name, string(elsewhere.UID))
	w.loose = w.account("", "")
	must(t, n.await("policy in force", func() bool {
		_, err := w.loose.call(http.MethodPatch, nodeCollection+"/"+nodeName, partial{})
		return err != nil && strings.Contains(err.Error(), "denied request")
	}))
	return w
}

// account speaks with a token that is bound to a pod, as the kubelet asks for one for it.
func (w *world) account(pod, uid string) *api {
	w.t.Helper()
	r := &authv1.TokenRequest{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}}
	if pod != "" {
		r.Spec.BoundObjectRef = &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(uid)}
	}
	must(w.t, w.create("/api/v1/namespaces/"+namespace+"/serviceaccounts/"+w.release+"/token", r))
	a, err := newAPI(apiServer, w.pki.CA, r.Status.Token)
	must(w.t, err)
	return a
}

// everything gives the account all rights there are: the policy alone is left.
func (w *world) everything() {
	w.t.Helper()
	w.Make(w.t, collections["ClusterRoleBinding"], "everything", &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: "everything"},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: w.release, Namespace: namespace}},
	})
	must(w.t, w.await("all rights", func() bool { return w.own.has(w.mine) }))
}

func TestTheAccountMayDoNothingElse(t *testing.T) {
	w := newWorld(t, "rights")
	w.own.refuse(t, " cannot ",
		getting(w.mine), getting(w.mine+"/log"), getting(nodeCollection), getting("/api/v1/secrets"), getting("/api/v1/configmaps"),
		getting("/api/v1/namespaces/"+namespace+"/serviceaccounts/"+w.release), getting("/apis/apps/v1/deployments"), getting(collections["ClusterRole"]),
		posting(podCollection, partial{"metadata": partial{"name": "x"}}), posting(w.mine+"/eviction", partial{}), posting(w.mine+"/binding", partial{}),
		posting(w.mine+"/exec?command=x", nil), posting(nodeCollection, partial{"metadata": partial{"name": "x"}}), posting("/api/v1/nodes/"+nodeName+"/proxy/run", nil),
		posting("/api/v1/namespaces/"+namespace+"/serviceaccounts/"+w.release+"/token", partial{}),
		deleting(w.mine), deleting(podCollection), deleting(nodeCollection+"/"+nodeName), deleting("/api/v1/namespaces/"+namespace+"/events"),
		deleting(collections["ValidatingAdmissionPolicyBinding"]+"/"+w.release),
		patching("another image", w.mine, partial{"spec": partial{"containers": []any{partial{"name": "load", "image": "x"}}}}),
		patching("a label", w.mine, partial{"metadata": partial{"labels": partial{"a": "b"}}}),
		patching("a right", collections["ClusterRole"]+"/"+w.release, partial{"rules": []any{}}),
		attempt{"replace a status", http.MethodPut, w.mine + "/status", partial{}},
	)
	w.own.allow(t,
		getting("/api/v1/pods?fieldSelector=spec.nodeName="+nodeName), getting("/api/v1/pods?watch=true&timeoutSeconds=1&fieldSelector=spec.nodeName="+nodeName),
		getting(nodeCollection+"/"+nodeName),
		posting("/api/v1/namespaces/"+namespace+"/events", partial{
			"apiVersion": "v1", "kind": "Event", "metadata": partial{"name": "mine.01m8"}, "reason": "Evicted", "type": "Warning",
			"involvedObject": partial{"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "mine"},
		}),
	)
}

func TestThePolicyKeepsTheAccountToItsNode(t *testing.T) {
	w := newWorld(t, "kept")
	ours, theirs := nodeCollection+"/"+nodeName, nodeCollection+"/"+otherNode
	marked := partial{"key": "ebpf-evict/memory-pressure", "effect": "NoSchedule"}
	pressed := partial{"type": "EbpfEvictMemoryPressure", "status": "True"}
	w.isTyped()

	w.own.refuse(t, `of node \"other\", and the token is of \"bed\"`,
		patching("a foreign pod", w.other+"/status", evictionPatch()),
		patching("a foreign node's taint", theirs, taintPatch(marked)),
		patching("a foreign node's condition", theirs+"/status", conditionPatch(pressed)),
	)
	w.foreign.refuse(t, `of node \"bed\", and the token is of \"other\"`,
		patching("a foreign pod", w.mine+"/status", evictionPatch()),
		patching("a foreign node's taint", ours, taintPatch(marked)),
		patching("a foreign node's condition", ours+"/status", conditionPatch(pressed)),
	)
	w.loose.refuse(t, `and the token is of \"\"`,
		patching("a pod", w.mine+"/status", evictionPatch()),
		patching("a node's taint", ours, taintPatch(marked)),
	)
	w.own.refuse(t, "of the metadata, annotations alone",
		patching("a pod's label", w.mine+"/status", evictionOf(partial{"labels": partial{"app": "victim"}})),
		patching("a pod's finalizer", w.mine+"/status", evictionOf(partial{"finalizers": []string{"a.b/c"}})),
		patching("a node's label", ours, partial{"metadata": partial{"labels": partial{"node-role.kubernetes.io/control-plane": ""}}}),
		patching("a node's label, beside its status", ours+"/status", partial{"metadata": partial{"labels": partial{"a": "b"}}}),
		patching("a node's label that goes", ours, partial{"metadata": partial{"labels": partial{"kubernetes.io/os": nil}}}),
	)
	w.own.refuse(t, "of the annotations",
		patching("a pod's annotation", w.mine+"/status", evictionOf(partial{"annotations": partial{"a.b/c": "d"}})),
		patching("a node's annotation", ours, partial{"metadata": partial{"annotations": partial{"ebpf-evict/eviction": "x"}}}),
		patching("a node's annotation that goes", ours+"/status", partial{"metadata": partial{"annotations": partial{"volumes.kubernetes.io/controller-managed-attach-detach": nil}}}),
	)
	w.own.refuse(t, "of a pod's status",
		patching("a pod's address", w.mine+"/status", evictionWith("podIP", "10.1.2.3")),
		patching("a pod's container", w.mine+"/status", evictionWith("containerStatuses", []any{partial{"name": "load", "image": "x"}})),
		patching("a pod that is ready", w.mine+"/status", evictionWith("conditions", []any{partial{"type": "Ready", "status": "False"}})),
		patching("a pod without start", w.mine+"/status", evictionWith("startTime", nil)),
	)
	w.own.refuse(t, "a pod becomes Failed, and Evicted",
		patching("a pod that succeeds", w.mine+"/status", evictionWith("phase", "Succeeded")),
		patching("a pod that fails by itself", w.mine+"/status", evictionWith("reason", "OOMKilled")),
	)
	done := w.Submit(t, podOf("done", []string{"end"}, restarted(v1.RestartPolicyNever)))
	done.await("pod that succeeds", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	w.own.refuse(t, "a pod that has succeeded stays so", patching("a pod that has succeeded", done.path()+"/status", evictionPatch()))
	w.Pod(t, "vital", []string{"wait"}, ofClass("system-node-critical"))
	w.own.refuse(t, "a critical or a static pod is not evicted", patching("a critical pod", podCollection+"/vital/status", evictionPatch()))
	w.own.refuse(t, "of a node, the taints",
		patching("a foreign taint", ours, taintPatch(partial{"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"})),
		patching("a taint that ends pods", ours, taintPatch(partial{"key": "ebpf-evict/memory-pressure", "effect": "NoExecute"})),
		patching("a taint of another key", ours, taintPatch(partial{"key": "ebpf-evict/other", "effect": "NoSchedule"})),
		patching("no more pods", ours, partial{"spec": partial{"unschedulable": true}}),
		patching("another provider", ours, partial{"spec": partial{"providerID": "x://y"}}),
	)
	w.foreign.refuse(t, "of a node, the taints", patching("a foreign taint that goes", theirs, taintPatch(marked)))
	w.own.refuse(t, "of a node's status",
		patching("a foreign condition", ours+"/status", conditionPatch(partial{"type": "Ready", "status": "False"})),
		patching("a condition of another type", ours+"/status", conditionPatch(partial{"type": "EbpfEvictOther", "status": "True"})),
		patching("a condition that goes", ours+"/status", conditionPatch(partial{"type": "MemoryPressure", "$patch": "delete"})),
		patching("a capacity", ours+"/status", partial{"status": partial{"capacity": partial{"a.b/c": "1"}}}),
		patching("an address", ours+"/status", partial{"status": partial{"addresses": []any{partial{"type": "ExternalIP", "address": "10.1.2.3"}}}}),
	)
	w.own.allow(t, patching("a taint", ours, taintPatch(marked)), patching("a taint that goes", ours, taintPatch()))
	// No kubelet writes on that node.
	w.foreign.allow(t,
		patching("a condition", theirs+"/status", conditionPatch(pressed)),
		patching("a condition that goes", theirs+"/status", conditionPatch(partial{"type": "EbpfEvictMemoryPressure", "$patch": "delete"})),
		patching("an eviction", w.other+"/status", evictionPatch()),
		patching("an eviction, once more", w.other+"/status", evictionPatch()),
		// The specification is not the status's to change: the API server takes no notice.
		patching("a specification beside a status", w.other+"/status", partial{"spec": partial{"nodeName": nodeName}}),
	)
	var pod v1.Pod
	must(t, w.get(w.other, &pod))
	if pod.Status.Phase != v1.PodFailed || pod.Status.Reason != "Evicted" || pod.Spec.NodeName != otherNode {
		t.Errorf("%+v on %s", pod.Status, pod.Spec.NodeName)
	}
}

// isTyped: the expressions fit the types of what they are about.
func (w *world) isTyped() {
	w.t.Helper()
	var p admissionv1.ValidatingAdmissionPolicy
	must(w.t, w.await("types of the policy's expressions", func() bool {
		return w.get(collections["ValidatingAdmissionPolicy"]+"/"+w.release, &p) == nil && p.Status.TypeChecking != nil
	}))
	if found := p.Status.TypeChecking.ExpressionWarnings; len(found) > 0 {
		w.t.Errorf("%+v", found)
	}
}

// Where somebody gives the account more rights, the policy still holds.
func TestThePolicyStandsWithoutRBAC(t *testing.T) {
	w := newWorld(t, "alone")
	w.everything()
	for what, attempts := range map[string][]attempt{
		"DELETE pods":          {deleting(w.mine)},
		"UPDATE pods":          {patching("a label", w.mine, partial{"metadata": partial{"labels": partial{"a": "b"}}})},
		"CREATE pods":          {posting(podCollection, partial{"apiVersion": "v1", "kind": "Pod", "metadata": partial{"name": "x"}, "spec": partial{"nodeName": nodeName, "containers": []any{partial{"name": "x", "image": "x"}}}})},
		"CREATE pods/eviction": {posting(w.mine+"/eviction", partial{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": partial{"name": "mine"}})},
		"CONNECT pods/exec":    {posting(w.mine+"/exec?command=x&stdout=true", nil)},
		"CONNECT nodes/proxy":  {getting(nodeCollection + "/" + nodeName + "/proxy/pods")},
		"DELETE nodes":         {deleting(nodeCollection + "/" + otherNode)},
	} {
		w.own.refuse(t, "ebpf-evict may not "+what, attempts...)
	}
}

// A companion that deletes may delete pods of its node that have failed.
func TestThePolicyLetsFailedPodsBeDeleted(t *testing.T) {
	w := newWorld(t, "deletes", `kube.report={"ReplicaSet":"delete"}`)
	w.own.refuse(t, `of node \"other\"`, deleting(w.other))
	w.foreign.refuse(t, "a pod that has not failed", deleting(w.other))
	w.foreign.allow(t, patching("an eviction", w.other+"/status", evictionPatch()), deleting(w.other))
}
