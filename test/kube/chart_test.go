package kube

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// chart are the documents that helm makes of the chart, in its order. A value is KEY=JSON.
func chart(t testing.TB, release string, values ...string) (documents []json.RawMessage) {
	t.Helper()
	helm := os.Getenv("EBPF_EVICT_HELM")
	if helm == "" {
		t.Fatal("EBPF_EVICT_HELM is not set: `make test-kube` does")
	}
	args := []string{"template", release, "../../deploy/helm/ebpf-evict", "--namespace", namespace, "--kube-version", "1.34.0"}
	for _, v := range values {
		args = append(args, "--set-json", v)
	}
	cmd := exec.Command(helm, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	for r := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(out))); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return documents
		}
		must(t, err)
		object, err := sigsyaml.YAMLToJSON(doc)
		must(t, err)
		documents = append(documents, object)
	}
}

// collections are where objects of the chart's kinds are made.
var collections = map[string]string{
	"ServiceAccount":                   "/api/v1/namespaces/" + namespace + "/serviceaccounts",
	"ConfigMap":                        "/api/v1/namespaces/" + namespace + "/configmaps",
	"DaemonSet":                        "/apis/apps/v1/namespaces/" + namespace + "/daemonsets",
	"ClusterRole":                      "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding":               "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

// Install makes the chart's objects until the test ends, the DaemonSet as it is changed, or
// without a change not at all.
func (n *node) Install(t testing.TB, documents []json.RawMessage, change func(*appsv1.DaemonSet)) {
	t.Helper()
	for _, doc := range documents {
		var object metav1.PartialObjectMetadata
		must(t, json.Unmarshal(doc, &object))
		if object.Kind == "DaemonSet" {
			if change == nil {
				continue
			}
			doc = changed(t, doc, change)
		}
		n.Make(t, collections[object.Kind], object.Name, doc)
	}
}

func changed(t testing.TB, doc json.RawMessage, change func(*appsv1.DaemonSet)) json.RawMessage {
	t.Helper()
	var ds appsv1.DaemonSet
	must(t, json.Unmarshal(doc, &ds))
	change(&ds)
	out, err := json.Marshal(&ds)
	must(t, err)
	return out
}

// Make makes an object until the test ends.
func (n *node) Make(t testing.TB, collection, name string, object any) {
	t.Helper()
	if collection == "" {
		t.Fatalf("%s is of a kind that the chart had not", name)
	}
	if _, err := n.call(http.MethodPost, collection, object); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.remove(collection+"/"+name, 0); err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
	})
}

// onNode has a pod be of a node, without a scheduler.
func onNode(name string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = name } }

func ofAccount(name string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.ServiceAccountName = name }
}
