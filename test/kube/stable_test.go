package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// What the cluster shows of an eviction stays. The kubelet had news of its own under way, and
// what it writes over the record, an empty reason at times, lasts until the companion has seen
// it. Once the eviction is called reported, nobody writes anything else, however often the
// kubelet looks at its containers and compares statuses, which it does every ten seconds.
func TestTheRecordIsStable(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	var pods []*pod
	for i := range 4 {
		pods = append(pods, n.Pod(t, fmt.Sprintf("hog-%d", i+1), hog(), onCall))
	}
	var seen []*chronicle
	var kills []record.Line
	for _, p := range pods {
		seen = append(seen, p.Follow())
		kills = append(kills, a.evicts(p))
	}
	written := make([]int, len(pods)) // until the report
	for i, p := range pods {
		if r := c.AwaitReport(kills[i].ID); r.Result != "done" {
			t.Errorf("report %+v", r)
		}
		written[i] = seen[i].await(p.Status().ResourceVersion)
	}
	n.awaitRelists(t, 15)
	for i, p := range pods {
		p.IsLeftAs(evictedForMemory())
		for j, s := range seen[i].statuses() {
			t.Logf("pod %s, %s after the kill: %s", p.Name, s.at.Sub(kills[i].Time.Time).Round(time.Millisecond), s)
			if j >= written[i] {
				t.Error("that was after the report")
			}
		}
	}
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// A kubelet that has called the pod Failed by itself, before it heard of the eviction, keeps to its own
// reason and message, which are none. What controllers act on is there, and the report ends.
func TestAPodThatTheKubeletFailedBeforeIsReported(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	h := n.Pod(t, "hog", hog(), onCall, restarted(v1.RestartPolicyNever))
	must(t, c.cmd.Process.Signal(unix.SIGSTOP))
	h.Call()
	kill := a.KillOf(h)
	h.await("failure by the kubelet's word", func(s *v1.Pod) bool { return s.Status.Phase == v1.PodFailed })
	must(t, n.await("end of the pod on the node", func() bool { return !h.isOnNode() }))
	time.Sleep(2 * time.Second) // the kubelet's own work on it
	seen := h.Follow()
	c.kill()
	must(t, c.start())
	if r := c.awaitLine("eviction reported", kill.ID); r.Result != "overwritten" {
		t.Errorf("report %+v", r)
	}
	n.awaitRelists(t, 15)
	for _, s := range seen.statuses() {
		t.Logf("%s after the kill: %s", s.at.Sub(kill.Time.Time).Round(time.Millisecond), s)
	}
	want := evictedForMemory()
	got := h.Status()
	if want.Reason, want.Message = got.Status.Reason, withoutFigures(got.Status.Message); got.Status.Reason != "" {
		t.Errorf("the kubelet left the reason %q: the report could have been done", got.Status.Reason)
	}
	h.IsLeftAs(want)
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// chronicle is every version of a pod, as a watch of the API server brings them.
type chronicle struct {
	p *pod

	mu  sync.Mutex
	all []version
}

type version struct {
	at  time.Time
	pod v1.Pod
}

func (v version) String() string {
	s := v.pod.Status
	state := "no container"
	if len(s.ContainerStatuses) > 0 {
		switch c := s.ContainerStatuses[0]; {
		case c.State.Running != nil:
			state = "running"
		case c.State.Terminated != nil:
			state = fmt.Sprintf("ended with %d", c.State.Terminated.ExitCode)
		default:
			state = "waiting"
		}
	}
	return fmt.Sprintf("version %s, phase %s, reason %q, container %s", v.pod.ResourceVersion, s.Phase, s.Reason, state)
}

// Follow watches the pod from now on until the test's end.
func (p *pod) Follow() *chronicle {
	p.t.Helper()
	path := fmt.Sprintf("%s?watch=true&fieldSelector=metadata.name=%s&resourceVersion=%s", podsPath, p.Name, p.Status().ResourceVersion)
	ctx, cancel := context.WithCancel(context.Background())
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, p.n.api.server+path, nil)
	must(p.t, err)
	q.Header.Set("Authorization", "Bearer "+p.n.api.token)
	answer, err := (&http.Client{Transport: p.n.api.client.Transport}).Do(q) // one that may take longer than others
	must(p.t, err)
	if answer.StatusCode != http.StatusOK {
		p.t.Fatalf("watch pod %s: %s", p.Name, answer.Status)
	}
	c, ended := &chronicle{p: p}, make(chan struct{})
	go func() {
		defer close(ended)
		c.read(json.NewDecoder(answer.Body))
	}()
	p.t.Cleanup(func() {
		cancel()
		<-ended
		_ = answer.Body.Close()
	})
	return c
}

func (c *chronicle) read(events *json.Decoder) {
	for {
		var e struct{ Object v1.Pod }
		if events.Decode(&e) != nil {
			return
		}
		c.mu.Lock()
		c.all = append(c.all, version{time.Now(), e.Object})
		c.mu.Unlock()
	}
}

func (c *chronicle) statuses() []version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[:len(c.all):len(c.all)]
}

// await waits until the watch has brought a version, and says how many it then has.
func (c *chronicle) await(resourceVersion string) (versions int) {
	c.p.t.Helper()
	if err := c.p.n.await("version "+resourceVersion+" by the watch", func() bool {
		versions = 1 + slices.IndexFunc(c.statuses(), func(v version) bool { return v.pod.ResourceVersion == resourceVersion })
		return versions > 0
	}); err != nil {
		c.p.t.Fatal(err)
	}
	return versions
}

// awaitRelists waits until the kubelet has looked at its containers so often.
func (n *node) awaitRelists(t *testing.T, more int) {
	t.Helper()
	last := n.relists(t) + more
	must(t, n.await("relists", func() bool { return n.relists(t) >= last }))
}

var relistCount = regexp.MustCompile(`(?m)^kubelet_pleg_relist_duration_seconds_count (\d+)$`)

func (n *node) relists(t *testing.T) int {
	t.Helper()
	metrics, err := n.kubelet.call(http.MethodGet, "/metrics", nil)
	must(t, err)
	found := relistCount.FindStringSubmatch(strings.TrimSpace(string(metrics)))
	if found == nil {
		t.Fatal("the kubelet does not tell how often it has listed")
	}
	count, err := strconv.Atoi(found[1])
	must(t, err)
	return count
}
