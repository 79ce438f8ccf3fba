package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// requestTimeout is for one try of one request. Watches have none.
const requestTimeout = 10 * time.Second

// client makes the few requests of a companion. It tries each once: what to do about an
// answer is for the caller to say. Goroutines may share it.
type client struct {
	rest rest.Interface
	node string
}

// newClient knows four kinds. The clientset of all API groups would cost every process of
// this binary 15 MiB, the hot one among them.
func newClient(config *rest.Config, node string) (*client, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.Node{}, &corev1.Event{})
	c := rest.CopyConfig(config)
	c.GroupVersion, c.APIPath = &corev1.SchemeGroupVersion, "/api"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.AcceptContentTypes, c.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/json"
	c.UserAgent = "ebpf-evict"
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return codes{next} })
	c.QPS = -1 // the kills have a budget, the tries a back-off
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("client for the API server: %w", err)
	}
	return &client{rest: r, node: node}, nil
}

// pods lists and watches the node's pods.
func (c *client) pods(h *heard) cache.ListerWatcher {
	return h.listen(cache.NewListWatchFromClient(c.rest, "pods", metav1.NamespaceAll, fields.OneTermEqualSelector("spec.nodeName", c.node)))
}

// into makes a request.
func into(ctx context.Context, r *rest.Request, answer runtime.Object) error {
	ctx, code := withCode(ctx)
	return code.of(r.Do(ctx).Into(answer))
}

// httpCode is that of the last answer to the requests of a context.
type httpCode int

func withCode(ctx context.Context) (context.Context, *httpCode) {
	code := new(httpCode)
	return context.WithValue(ctx, codeKey{}, code), code
}

type codeKey struct{}

// of has an error begin with the code, and keeps its kind for those who ask: a proxy's page, or a
// Status without a message, has no word of its own to say.
func (c *httpCode) of(err error) error {
	switch {
	case err == nil || *c == 0:
		return err
	case err.Error() == "":
		return fmt.Errorf("HTTP %d%w", *c, err)
	}
	return fmt.Errorf("HTTP %d: %w", *c, err)
}

// codes notes the code of each answer: of a watch that is refused client-go does not tell it.
type codes struct{ next http.RoundTripper }

func (c codes) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.next.RoundTrip(r)
	if code, ok := r.Context().Value(codeKey{}).(*httpCode); ok && err == nil {
		*code = httpCode(answer.StatusCode)
	}
	return answer, err
}

// listPods is a fresh list, never one of a cache.
func (c *client) listPods(ctx context.Context) (*corev1.PodList, error) {
	list := &corev1.PodList{}
	err := into(ctx, c.rest.Get().Resource("pods").Param("fieldSelector", "spec.nodeName="+c.node).Timeout(requestTimeout).MaxRetries(0), list)
	return list, err
}

func (c *client) patchPodStatus(ctx context.Context, namespace, name string, patch any) (*corev1.Pod, error) {
	p := &corev1.Pod{}
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	err = into(ctx, c.rest.Patch(types.StrategicMergePatchType).Namespace(namespace).Resource("pods").Name(name).SubResource("status").
		Timeout(requestTimeout).MaxRetries(0).Body(body), p)
	return p, err
}

// deletePod deletes the pod of this uid alone. The grace, the shortest that is one, is for a
// pod that somebody made run again meanwhile; of a failed one the server makes it 0.
func (c *client) deletePod(ctx context.Context, namespace, name string, uid types.UID) error {
	grace := int64(1)
	ctx, code := withCode(ctx)
	answer, err := c.rest.Delete().Namespace(namespace).Resource("pods").Name(name).
		Timeout(requestTimeout).MaxRetries(0).
		Body(&metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}}).
		Do(ctx).Get()
	if err != nil {
		return code.of(err)
	}
	switch gone := answer.(type) {
	case *corev1.Pod:
		if gone.UID == uid {
			return nil
		}
	case *metav1.Status:
		if gone.Details != nil && gone.Details.UID == uid {
			return nil
		}
	}
	return fmt.Errorf("the answer is not of pod %s", uid)
}

// createEvent wants the event for an answer, as all that write want what they wrote: a proxy has a 200
// for whatever it is asked.
func (c *client) createEvent(ctx context.Context, e *corev1.Event) error {
	made := &corev1.Event{}
	err := into(ctx, c.rest.Post().Namespace(e.Namespace).Resource("events").Timeout(requestTimeout).MaxRetries(0).Body(e), made)
	if err == nil && made.Name != e.Name { // of another kind it stays empty
		err = fmt.Errorf("the answer is no event %s", e.Name)
	}
	return err
}

func (c *client) getNode(ctx context.Context) (*corev1.Node, error) {
	n := &corev1.Node{}
	err := into(ctx, c.rest.Get().Resource("nodes").Name(c.node).Timeout(requestTimeout).MaxRetries(0), n)
	return n, err
}

func (c *client) patchNode(ctx context.Context, kind types.PatchType, patch any, subresources ...string) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	n := &corev1.Node{}
	err = into(ctx, c.rest.Patch(kind).Resource("nodes").Name(c.node).SubResource(subresources...).Timeout(requestTimeout).MaxRetries(0).Body(body), n)
	if err == nil && n.Name != c.node {
		err = fmt.Errorf("the answer is no node %s", c.node)
	}
	return err
}
