package kube

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

const mebibyte = 1 << 20

// hog fills memory for good: its own limit, or that of all pods, is what ends it.
func hog(flags ...string) []string { return append([]string{"hog"}, flags...) }

// bystanders are pods that nobody has a reason to evict.
type bystanders []*pod

func (n *node) Bystanders(t testing.TB) bystanders {
	t.Helper()
	n.priorityClass(t, "high", 1_000_000)
	idle := []string{"wait"}
	return bystanders{
		n.Pod(t, "idle-besteffort", idle),
		n.Pod(t, "idle-high-priority", idle, ofClass("high")),
		n.Pod(t, "idle-burstable", idle, requesting("64Mi", "")),
		n.Pod(t, "idle-guaranteed", idle, guaranteed),
	}
}

func (n *node) priorityClass(t testing.TB, name string, value int32) {
	t.Helper()
	path := "/apis/scheduling.k8s.io/v1/priorityclasses"
	if n.has(path + "/" + name) { // a former round's of the same scene
		return
	}
	must(t, n.create(path, &schedulingv1.PriorityClass{
		TypeMeta:   metav1.TypeMeta{APIVersion: "scheduling.k8s.io/v1", Kind: "PriorityClass"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value,
	}))
	t.Cleanup(func() { _ = n.remove(path+"/"+name, 0) })
}

// AreUntouched says that each still runs the container it started with.
func (bs bystanders) AreUntouched(t testing.TB) {
	t.Helper()
	for _, b := range bs {
		s := b.Status().Status
		if s.Phase != v1.PodRunning || b.Restarts() != 0 || len(b.Processes(b.first)) == 0 {
			t.Errorf("bystander %s: %+v", b.Name, s)
		}
	}
}

// kubeletDidNotEvict: its own threshold was never needed.
func (n *node) kubeletDidNotEvict(t testing.TB) {
	t.Helper()
	var events v1.EventList
	must(t, n.get("/api/v1/events", &events))
	for _, e := range events.Items {
		if e.Source.Component == "kubelet" && (e.Reason == "Evicted" || e.Reason == "EvictionThresholdMet") {
			t.Errorf("the kubelet's event %s of %s: %s", e.Reason, e.InvolvedObject.Name, e.Message)
		}
	}
}

// A hog's containers die and its sandbox does not, and nobody else is touched. Without the
// companion the kubelet does what it does with any container that died.
func TestAHogIsKilledAndNobodyElse(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	const pace = "268435456"
	for _, tc := range []struct {
		name   string
		load   []string
		change []func(*v1.Pod)
	}{
		{"best-effort at 256 MiB a second", hog("-rate", pace), nil},
		{"best-effort at full speed, ignoring SIGTERM", hog("-ignore-term"), nil},
		{"burstable at 256 MiB a second, ignoring SIGTERM", hog("-rate", pace, "-ignore-term"), []func(*v1.Pod){requesting("64Mi", "1536Mi")}},
		{"burstable at full speed", hog(), []func(*v1.Pod){requesting("64Mi", "1536Mi")}},
		{"best-effort that is not restarted", hog("-rate", pace), []func(*v1.Pod){restarted(v1.RestartPolicyNever)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := n.Agent(t, shortly)
			h := n.Pod(t, "hog", append(tc.load, "-after", "1s"), tc.change...)
			pause, shims := h.Processes(h.Sandbox), h.shims()
			kill := a.Kill()
			if v := kill.Victim; v.UID != h.UID || v.Cgroup != h.Cgroup || v.QOSClass != string(h.Status().Status.QOSClass) {
				t.Fatalf("victim %+v, want pod %s at %s", v, h.UID, h.Cgroup)
			}
			if got := h.Processes(h.Sandbox); len(pause) != 1 || !slices.Equal(got, pause) {
				t.Errorf("sandbox has the processes %v, had %v", got, pause)
			}
			if got := h.shims(); len(shims) != 1 || !slices.Equal(got, shims) {
				t.Errorf("shims are %v, were %v", got, shims)
			}
			closed := a.Eviction(kill.ID)
			if closed.Outcome != record.OutcomeKilled {
				t.Errorf("closed as %s: %s", closed.Outcome, closed.Reason)
			}
			after := h.awaitAfterwards(kill)
			t.Log(timesOf(closed))
			t.Log(after)
			bs.AreUntouched(t)
			n.kubeletDidNotEvict(t)
		})
	}
}

// timesOf are what a closed eviction took.
func timesOf(l record.Line) string {
	times := l.Timeline
	took := func(to uint64) time.Duration {
		return time.Duration(to - min(to, times.Crossed)).Round(time.Microsecond)
	}
	overshoot := int64(-1)
	if l.OvershootBytes != nil {
		overshoot = *l.OvershootBytes / mebibyte
	}
	return fmt.Sprintf("%s: after the crossing signalled %s, dead %s, recovered %s; overshoot %d MiB, %d processes",
		l.Tier, took(times.Signalled), took(times.Dead), took(times.Recovered), overshoot, l.ProcessesKilled)
}

// awaitAfterwards is what the kubelet does with a pod whose container was killed: starts it
// again in the same sandbox, or calls the pod failed.
func (p *pod) awaitAfterwards(kill record.Line) string {
	p.t.Helper()
	s := p.await("kubelet's part", func(s *v1.Pod) bool {
		return s.Status.Phase == v1.PodFailed || s.Status.ContainerStatuses[0].RestartCount > 0
	})
	took := time.Since(kill.Time.Time).Round(time.Millisecond)
	c := s.Status.ContainerStatuses[0]
	ended := c.State.Terminated
	if s.Status.Phase != v1.PodFailed {
		ended = c.LastTerminationState.Terminated
		if p.Sandbox != "" && !slices.Contains(p.Children(), p.Sandbox) {
			p.t.Errorf("restarted in another sandbox: %v", p.Children())
		}
	} else if s.Status.Reason != "" {
		p.t.Errorf("failed with reason %q without a companion", s.Status.Reason)
	}
	if ended == nil || ended.ExitCode != 137 {
		p.t.Errorf("the container ended as %+v, want exit code 137", ended)
		return ""
	}
	return fmt.Sprintf("%s after the kill: phase %s, reason %q, restarts %d, container ended with %d (%s)",
		took, s.Status.Phase, s.Status.Reason, c.RestartCount, ended.ExitCode, ended.Reason)
}

// A container whose processes bear the sandbox's name is killed as any other, beside one that
// does not. No companion tells the agent which are the pod's containers.
func TestAHogThatIsNamedAsASandboxIsKilled(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	h := n.Pod(t, "hog", hog("-rate", "268435456"), onCall, restarted(v1.RestartPolicyNever), func(p *v1.Pod) {
		second := v1.Container{Name: "second", Image: loadImage, ImagePullPolicy: v1.PullNever, Args: []string{"wait"}}
		p.Spec.Containers = append(p.Spec.Containers, second)
		p.Spec.Containers[0].Image = infraImage
	})
	pause, shims, hogs := h.Processes(h.Sandbox), h.shims(), h.Processes(h.first)
	if name := commOf(t, hogs[0]); name != "pause" || len(pause) != 1 {
		t.Fatalf("the hog is named %s, the sandbox has the processes %v", name, pause)
	}
	h.Call()
	kill := a.KillOf(h)
	closed := a.Eviction(kill.ID)
	t.Log(timesOf(closed))
	if closed.Timeline.Dead == 0 || closed.Timeline.Recovered == 0 || len(h.Processes(h.first)) > 0 {
		t.Errorf("closed as %s, %s; the hog has the processes %v", closed.Outcome, closed.Reason, h.Processes(h.first))
	}
	if got := h.Processes(h.Sandbox); !slices.Equal(got, pause) || !slices.Equal(h.shims(), shims) {
		t.Errorf("sandbox has the processes %v, had %v; shims are %v, were %v", got, pause, h.shims(), shims)
	}
	if kills := a.Lines(record.KindKill); len(kills) != 1 {
		t.Errorf("%d kills, want one", len(kills))
	}
	h.await("kubelet's part", func(s *v1.Pod) bool { return s.Status.Phase == v1.PodFailed })
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

func commOf(t testing.TB, pid int) string {
	t.Helper()
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	must(t, err)
	return strings.TrimSpace(string(name))
}

func TestAForkBombIsKilledAndNobodyElse(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	bomb := n.Pod(t, "bomb", []string{"bomb", "-after", "1s", "-ignore-term"})
	kill := a.Kill()
	if v := kill.Victim; v.UID != bomb.UID || !strings.HasPrefix(kill.Signal, "allocatablePID") {
		t.Fatalf("%s: victim %+v, want the bomb", kill.Signal, v)
	}
	closed := a.Eviction(kill.ID)
	t.Log(timesOf(closed))
	t.Log(bomb.awaitAfterwards(kill))
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// A pod that is there for a moment only when the threshold is crossed is known by its cgroup.
func TestAPodThatAppearsBeforeTheCrossingIsKnown(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	full := n.Pod(t, "full", []string{"hog", "-total", fmt.Sprint(800 * mebibyte)}, requesting("900Mi", "1Gi"))
	must(t, n.await("memory of the pod within its request", func() bool { return memoryUsage(t, full.Cgroup) >= 800*mebibyte }))
	a := n.Agent(t, shortly)
	late := n.Submit(t, podOf("new", hog(), restarted(v1.RestartPolicyNever)))
	kill := a.Kill()
	if v := kill.Victim; v.UID != late.UID || v.QOSClass != "BestEffort" || v.Cgroup != podsCgroup+"/besteffort/pod"+late.UID {
		t.Errorf("victim %+v, want the new pod %s", v, late.UID)
	}
	late.Cgroup = kill.Victim.Cgroup
	t.Log(timesOf(a.Eviction(kill.ID)))
	late.await("kubelet's part", func(s *v1.Pod) bool { return s.Status.Phase == v1.PodFailed })
	started := late.Status().Status.ContainerStatuses[0].State.Terminated.StartedAt
	t.Logf("killed %s after the second in which it started", kill.Time.Sub(started.Time).Round(time.Millisecond))
	append(bs, full).AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

func memoryUsage(t testing.TB, dir string) int64 {
	t.Helper()
	c, err := cgroups(t).OpenToRead(dir)
	must(t, err)
	defer c.Close()
	bytes, err := c.MemoryCurrentBytes()
	must(t, err)
	return bytes
}
