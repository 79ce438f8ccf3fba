package kube

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	accountNamespace, accountName = "kube-system", "ebpf-evict"
	accountsPath                  = "/api/v1/namespaces/" + accountNamespace + "/serviceaccounts"
	rbacPath                      = "/apis/rbac.authorization.k8s.io/v1"
)

// companionRules are all that the companion may do: docs/kube.md.
var companionRules = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
	{APIGroups: []string{""}, Resources: []string{"pods/status"}, Verbs: []string{"patch"}},
	{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
	{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}},
	{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}},
}

// Account is the companion's in the cluster: a service account, and a token of it that is
// bound to a pod of this node, as the kubelet mounts one into the pod.
func (n *node) Account(t testing.TB) *api {
	t.Helper()
	if n.account == nil {
		n.account = n.newAccount(t)
	}
	return n.account
}

func (n *node) newAccount(t testing.TB) *api {
	t.Helper()
	must(t, n.create(accountsPath, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: accountName}}))
	must(t, n.create(rbacPath+"/clusterroles", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: accountName}, Rules: companionRules}))
	must(t, n.create(rbacPath+"/clusterrolebindings", &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: accountName},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: accountNamespace, Name: accountName}},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: accountName},
	}))
	pod := podOf(accountName, []string{"wait"}, ofClass("system-node-critical"))
	pod.Namespace, pod.Spec.ServiceAccountName, pod.Spec.NodeName = accountNamespace, accountName, nodeName
	must(t, n.create("/api/v1/namespaces/"+accountNamespace+"/pods", pod))
	return n.token(t, pod)
}

// token is one of the account's, bound to a pod.
func (n *node) token(t testing.TB, to *v1.Pod) *api {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: new(int64(4 * 3600)),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: to.Name, UID: to.UID},
	}}
	must(t, n.create(accountsPath+"/"+accountName+"/token", request))
	a, err := newAPI(apiServer, n.pki.CA, request.Status.Token)
	must(t, err)
	return a
}

// companionUID is nobody's on the node.
const companionUID = 65533

// companionFiles are the program and the kubeconfig, where an account without privileges gets
// at them.
func (n *node) companionFiles(t testing.TB) (program, kubeconfig string) {
	t.Helper()
	dir := "/run/companion"
	program, kubeconfig = filepath.Join(dir, "ebpf-evict"), filepath.Join(dir, "kubeconfig")
	account := n.Account(t)
	if exists(program) {
		return program, kubeconfig
	}
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(kubeconfig, n.pki.Kubeconfig(account.token), 0o400))
	must(t, os.Chown(kubeconfig, companionUID, companionUID))
	built, err := built("ebpf-evict")
	must(t, err)
	data, err := os.ReadFile(built)
	must(t, err)
	must(t, os.WriteFile(program, data, 0o755))
	return program, kubeconfig
}

// The API server's own list of what the account may holds no more than docs/kube.md, and the
// kubelet's port is closed to it.
func TestTheAccountsRules(t *testing.T) {
	n := theNodeIs(t)
	account := n.Account(t)
	if diff := cmp.Diff(spelled(companionRules), spelled(account.rules(t))); diff != "" {
		t.Errorf("what the account may (-want +got):\n%s", diff)
	}
	atKubelet, err := newAPI(kubelet, n.pki.CA, account.token)
	must(t, err)
	p := n.Pod(t, "idle", []string{"wait"})
	for _, x := range []struct{ method, path string }{
		{http.MethodGet, "/pods"},
		{http.MethodGet, "/stats/summary"},
		{http.MethodGet, "/metrics"},
		{http.MethodGet, "/containerLogs/" + namespace + "/" + p.Name + "/load"},
		{http.MethodPost, "/run/" + namespace + "/" + p.Name + "/load?cmd=id"},
	} {
		_, err := atKubelet.call(x.method, x.path, nil)
		if r := new(refused); !errors.As(err, &r) || r.Code != http.StatusForbidden {
			t.Errorf("kubelet, %s %s: %v, want forbidden", x.method, x.path, err)
		}
	}
}

// rules are what the API server says that an account may do, without what everybody may.
func (a *api) rules(t testing.TB) (all []rbacv1.PolicyRule) {
	t.Helper()
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	must(t, a.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review))
	if review.Status.Incomplete {
		t.Errorf("the list of rules is incomplete: %s", review.Status.EvaluationError)
	}
	for _, r := range review.Status.ResourceRules {
		if slices.Equal(r.APIGroups, []string{"authorization.k8s.io"}) || slices.Equal(r.APIGroups, []string{"authentication.k8s.io"}) {
			continue // what one may oneself
		}
		all = append(all, rbacv1.PolicyRule{APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames, Verbs: r.Verbs})
	}
	return all
}

// spelled spells rules one by one, in order.
func spelled(rules []rbacv1.PolicyRule) (each []string) {
	for _, r := range rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					each = append(each, fmt.Sprintf("%s %s/%s %v", verb, group, resource, r.ResourceNames))
				}
			}
		}
	}
	slices.Sort(each)
	return each
}
