package kube_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/rest"
)

// apiServer has what matters of one where a companion can go wrong: resource versions,
// watches that begin somewhere and end, optimistic locks, uids, and bad days.
type apiServer struct {
	http *httptest.Server

	mu      sync.Mutex
	version int64
	pods    map[string]*corev1.Pod // by namespace/name
	node    *corev1.Node
	events  map[string]*corev1.Event
	history []change
	oldest  int64 // watches from before are 410
	more    chan struct{}
	cut     chan struct{} // closed to end all watches
	calls   []call
	fault   func(call) error
	down    bool
}

type change struct {
	version int64
	kind    string
	pod     *corev1.Pod
}

// call is a request as it came.
type call struct {
	Method, Path, Body string
	Watch              bool
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{
		version: 100, pods: map[string]*corev1.Pod{}, events: map[string]*corev1.Event{},
		more: make(chan struct{}), cut: make(chan struct{}),
		node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "node-uid", ResourceVersion: "1"},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.kubernetes.io/memory-pressure", Effect: "NoSchedule"}, {Key: "team", Value: "a", Effect: "NoExecute"}}},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: "MemoryPressure", Status: "True"}, {Type: "Ready", Status: "True"}}},
		},
	}
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.cutWatches()
		s.http.Close()
	})
	return s
}

func (s *apiServer) config() *rest.Config { return &rest.Config{Host: s.http.URL} }

// set is how controllers and the kubelet change a pod.
func (s *apiServer) set(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(p)
}

func (s *apiServer) store(p *corev1.Pod) {
	key := p.Namespace + "/" + p.Name
	kind := "MODIFIED"
	if s.pods[key] == nil {
		kind = "ADDED"
	}
	s.version++
	p = p.DeepCopy()
	p.ResourceVersion = strconv.FormatInt(s.version, 10)
	s.pods[key] = p
	s.record(kind, p)
}

func (s *apiServer) record(kind string, p *corev1.Pod) {
	s.history = append(s.history, change{s.version, kind, p})
	close(s.more)
	s.more = make(chan struct{})
}

func (s *apiServer) remove(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(namespace + "/" + name)
}

func (s *apiServer) drop(key string) {
	p := s.pods[key].DeepCopy()
	delete(s.pods, key)
	s.version++
	p.ResourceVersion = strconv.FormatInt(s.version, 10)
	s.record("DELETED", p)
}

// update changes a pod that is there.
func (s *apiServer) update(namespace, name string, f func(*corev1.Pod)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pods[namespace+"/"+name].DeepCopy()
	f(p)
	s.store(p)
}

// compact makes every watch begin anew.
func (s *apiServer) compact() {
	s.mu.Lock()
	s.version++
	s.oldest = s.version
	s.history = nil
	s.mu.Unlock()
	s.cutWatches()
}

func (s *apiServer) cutWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.cut)
	s.cut = make(chan struct{})
}

// setDown is a server that nobody reaches.
func (s *apiServer) setDown(down bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
	if down {
		s.cutWatches()
	}
}

// setFault is asked before each request; what it returns is the answer.
func (s *apiServer) setFault(f func(call) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *apiServer) pod(namespace, name string) *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pods[namespace+"/"+name].DeepCopy()
}

func (s *apiServer) nodeNow() *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.DeepCopy()
}

func (s *apiServer) addTaint(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = s.node.DeepCopy()
	s.node.Spec.Taints = append(s.node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	n, _ := strconv.Atoi(s.node.ResourceVersion)
	s.node.ResourceVersion = strconv.Itoa(n + 1)
}

func (s *apiServer) eventsNow() (all []*corev1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.events)) {
		all = append(all, s.events[name].DeepCopy())
	}
	return all
}

// writes are the requests that are no reads.
func (s *apiServer) writes() (all []call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.Method != http.MethodGet {
			all = append(all, c)
		}
	}
	return all
}

func (s *apiServer) count(method, suffix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.Method == method && strings.HasSuffix(c.Path, suffix) {
			n++
		}
	}
	return n
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c := call{r.Method, r.URL.Path, string(body), r.URL.Query().Get("watch") != ""}
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		panic(http.ErrAbortHandler) // the connection breaks
	}
	s.calls = append(s.calls, c)
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		if err := fault(c); err != nil {
			refuse(w, err)
			return
		}
	}
	if c.Watch {
		s.watch(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.answer(r, body)
	if err != nil {
		refuse(w, err)
		return
	}
	reply(w, http.StatusOK, o)
}

// said is a 200 with somebody else's words, such as a proxy's.
type said struct{ contentType, body string }

// turnedAway is an answer of a code, and of whatever body.
type turnedAway struct {
	code int
	body string
}

func (a turnedAway) Error() string { return a.body }

func (s said) Error() string { return s.body }

func refuse(w http.ResponseWriter, err error) {
	if s, ok := err.(said); ok {
		w.Header().Set("Content-Type", s.contentType)
		_, _ = io.WriteString(w, s.body)
		return
	}
	if a, ok := err.(turnedAway); ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(a.code)
		_, _ = io.WriteString(w, a.body)
		return
	}
	status := apierrors.APIStatus(nil)
	if s, ok := err.(apierrors.APIStatus); ok {
		status = s
	} else {
		status = apierrors.NewInternalError(err)
	}
	st := status.Status()
	st.Kind, st.APIVersion = "Status", "v1"
	if d := st.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfterSeconds)))
	}
	reply(w, int(st.Code), &st)
}

func reply(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}

func (s *apiServer) answer(r *http.Request, body []byte) (any, error) {
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
	switch {
	case r.URL.Path == "/api/v1/pods" && r.Method == http.MethodGet:
		return s.list(r)
	case path[0] == "nodes":
		return s.nodes(r, path, body)
	case len(path) == 3 && path[2] == "events" && r.Method == http.MethodPost:
		return s.create(body)
	case len(path) >= 4 && path[2] == "pods":
		return s.onePod(r, path, body)
	}
	return nil, apierrors.NewForbidden(schema.GroupResource{Resource: path[0]}, "", fmt.Errorf("%s %s is not allowed", r.Method, r.URL.Path))
}

func (s *apiServer) list(r *http.Request) (any, error) {
	if got := r.URL.Query().Get("fieldSelector"); got != "spec.nodeName=node-1" {
		return nil, apierrors.NewBadRequest("field selector " + got)
	}
	l := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(s.version, 10)}, Items: []corev1.Pod{}}
	for _, p := range s.pods {
		l.Items = append(l.Items, *p)
	}
	return l, nil
}

func (s *apiServer) nodes(r *http.Request, path []string, body []byte) (any, error) {
	if path[1] != s.node.Name {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), path[1])
	}
	if r.Method == http.MethodGet {
		return typed(s.node, "Node"), nil
	}
	next := &corev1.Node{}
	if err := patched(s.node, next, body, r.Header.Get("Content-Type") == string(types.StrategicMergePatchType)); err != nil {
		return nil, err
	}
	if next.ResourceVersion != s.node.ResourceVersion {
		return nil, apierrors.NewConflict(corev1.Resource("nodes"), next.Name, fmt.Errorf("the object has been modified"))
	}
	if len(path) == 3 {
		next.Spec = s.node.Spec
	} else {
		next.Status = s.node.Status
	}
	n, _ := strconv.Atoi(s.node.ResourceVersion)
	next.ResourceVersion = strconv.Itoa(n + 1)
	s.node = next
	return typed(s.node, "Node"), nil
}

func (s *apiServer) create(body []byte) (any, error) {
	e := &corev1.Event{}
	if err := json.Unmarshal(body, e); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if s.events[e.Name] != nil {
		return nil, apierrors.NewAlreadyExists(corev1.Resource("events"), e.Name)
	}
	s.events[e.Name] = e
	return typed(e, "Event"), nil
}

func (s *apiServer) onePod(r *http.Request, path []string, body []byte) (any, error) {
	key := path[1] + "/" + path[3]
	p := s.pods[key]
	if p == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), path[3])
	}
	switch {
	case r.Method == http.MethodDelete:
		var o metav1.DeleteOptions
		if err := json.Unmarshal(body, &o); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if o.Preconditions == nil || *o.Preconditions.UID != p.UID {
			return nil, apierrors.NewConflict(corev1.Resource("pods"), p.Name, fmt.Errorf("uid"))
		}
		s.drop(key)
		return typed(p, "Pod"), nil
	case r.Method == http.MethodPatch && len(path) == 5 && path[4] == "status":
		return s.patchStatus(p, body)
	}
	return nil, apierrors.NewForbidden(corev1.Resource("pods"), p.Name, fmt.Errorf("%s", r.Method))
}

func (s *apiServer) patchStatus(p *corev1.Pod, body []byte) (any, error) {
	next := &corev1.Pod{}
	if err := patched(p, next, body, true); err != nil {
		return nil, err
	}
	if next.UID != p.UID {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, p.Name, nil)
	}
	next.Spec = p.Spec
	if before, _ := json.Marshal(p); string(before) != marshal(next) {
		s.store(next)
	}
	return typed(s.pods[p.Namespace+"/"+p.Name], "Pod"), nil
}

func marshal(o any) string {
	data, _ := json.Marshal(o)
	return string(data)
}

func patched(from, to any, patch []byte, strategic bool) error {
	old, err := json.Marshal(from)
	if err != nil {
		return err
	}
	var data []byte
	if strategic {
		data, err = strategicpatch.StrategicMergePatch(old, patch, to)
	} else {
		data, err = mergePatch(old, patch)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return json.Unmarshal(data, to)
}

// mergePatch is RFC 7386.
func mergePatch(old, patch []byte) ([]byte, error) {
	var o, p map[string]any
	if err := json.Unmarshal(old, &o); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(patch, &p); err != nil {
		return nil, err
	}
	return json.Marshal(merged(o, p))
}

func merged(o, p map[string]any) map[string]any {
	for k, v := range p {
		inner, isMap := v.(map[string]any)
		former, wasMap := o[k].(map[string]any)
		switch {
		case v == nil:
			delete(o, k)
		case isMap && wasMap:
			o[k] = merged(former, inner)
		default:
			o[k] = v
		}
	}
	return o
}

func typed[T runtime.Object](o T, kind string) T {
	c := o.DeepCopyObject().(T)
	c.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return c
}

// watch streams what has changed since a version.
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	since, _ := strconv.ParseInt(q.Get("resourceVersion"), 10, 64)
	cut := s.cut
	initial := q.Get("sendInitialEvents") == "true"
	if !initial && since < s.oldest {
		s.mu.Unlock()
		refuse(w, apierrors.NewResourceExpired("too old resource version"))
		return
	}
	var first []change
	if initial {
		for _, p := range s.pods {
			first = append(first, change{s.version, "ADDED", p})
		}
		end := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.FormatInt(s.version, 10), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
		first = append(first, change{s.version, "BOOKMARK", end})
		since = s.version
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	send := func(c change) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": c.kind, "object": typed(c.pod, "Pod")})
		w.(http.Flusher).Flush()
	}
	w.(http.Flusher).Flush()
	for _, c := range first {
		send(c)
	}
	for {
		s.mu.Lock()
		more := s.more
		var next []change
		for _, c := range s.history {
			if c.version > since {
				next = append(next, c)
				since = c.version
			}
		}
		s.mu.Unlock()
		for _, c := range next {
			send(c)
		}
		select {
		case <-more:
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
	}
}
