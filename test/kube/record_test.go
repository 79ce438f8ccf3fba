package kube

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// left is what the cluster shows of an evicted pod.
type left struct {
	Phase  v1.PodPhase
	Reason string
	// Conditions are status and reason by type.
	Conditions map[v1.PodConditionType]string
	// Message is that of the status, of the condition and of the event, without its figures.
	Message, ConditionMessage, EventMessage string
	Restarts                                int32
	Ended                                   bool // its container has
	OnNode                                  bool // something of it is
	EventType                               string
	EventCount                              int32
	EventAnnotations                        map[string]string
}

// asTheKubelet is what the kubelet's own eviction leaves (1.34; the scene of it compares).
func asTheKubelet(resource, message string, annotations map[string]string) left {
	annotations["starved_resource"] = resource
	return left{
		Phase: v1.PodFailed, Reason: "Evicted",
		Conditions: map[v1.PodConditionType]string{
			v1.DisruptionTarget:          "True TerminationByKubelet",
			v1.PodInitialized:            "True ",
			v1.PodReady:                  "False PodFailed",
			v1.ContainersReady:           "False PodFailed",
			v1.PodScheduled:              "True ",
			v1.PodReadyToStartContainers: "False ",
		},
		Message: message, ConditionMessage: message, EventMessage: message,
		Ended: true, EventType: v1.EventTypeWarning, EventCount: 1, EventAnnotations: annotations,
	}
}

const lowOnMemory = "The node was low on resource: memory. Threshold quantity: N, available: N. " +
	"Container load was using N, request is N, has larger consumption of memory. "

func evictedForMemory() left {
	return asTheKubelet("memory", lowOnMemory, map[string]string{"offending_containers": "load", "offending_containers_usage": "N"})
}

// IsLeftAs compares what is left of the pod when nothing of it runs any more.
func (p *pod) IsLeftAs(want left) {
	p.t.Helper()
	if err := p.n.await("end of pod "+p.Name+" on the node", func() bool { return !p.isOnNode() }); err != nil {
		p.t.Error(err)
	}
	s := p.await("end of its container", func(s *v1.Pod) bool { return s.Status.ContainerStatuses[0].State.Terminated != nil })
	if diff := cmp.Diff(want, p.left(s)); diff != "" {
		p.t.Errorf("what is left of pod %s (-want +got):\n%s", p.Name, diff)
	}
}

func (p *pod) left(s *v1.Pod) left {
	p.t.Helper()
	l := left{
		Phase: s.Status.Phase, Reason: s.Status.Reason, Message: withoutFigures(s.Status.Message),
		Conditions: map[v1.PodConditionType]string{}, OnNode: p.isOnNode(),
	}
	for _, c := range s.Status.Conditions {
		l.Conditions[c.Type] = string(c.Status) + " " + c.Reason
		if c.Type == v1.DisruptionTarget {
			l.ConditionMessage = withoutFigures(c.Message)
		}
	}
	for _, c := range s.Status.ContainerStatuses {
		l.Restarts += c.RestartCount
		l.Ended = c.State.Terminated != nil
	}
	events := p.events()
	if len(events) != 1 {
		p.t.Errorf("%d events of the eviction of pod %s, want one: %+v", len(events), p.Name, events)
		return l
	}
	e := events[0]
	l.EventType, l.EventCount, l.EventMessage, l.EventAnnotations = e.Type, e.Count, withoutFigures(e.Message), map[string]string{}
	for key, value := range e.Annotations {
		l.EventAnnotations[key] = withoutFigures(value)
	}
	return l
}

// events are those of its eviction.
func (p *pod) events() []v1.Event {
	p.t.Helper()
	var found v1.EventList
	must(p.t, p.n.get("/api/v1/namespaces/"+namespace+"/events?fieldSelector=involvedObject.uid="+p.UID+",reason=Evicted", &found))
	return found.Items
}

var figure = regexp.MustCompile(`\b\d+[A-Za-z]*\b`)

// withoutFigures has N for each quantity.
func withoutFigures(s string) string { return figure.ReplaceAllString(s, "N") }

// round is a hog of TestAnEvictionIsOnRecord.
type round struct {
	name   string
	load   []string
	change []func(*v1.Pod)
}

// everyHog is each combination of QoS class, pace and manners.
func everyHog() (all []round) {
	burstable := requesting("64Mi", "1536Mi")
	for _, qos := range []struct {
		name   string
		change []func(*v1.Pod)
	}{{"best-effort", nil}, {"burstable", []func(*v1.Pod){burstable}}} {
		for _, pace := range []struct {
			name  string
			flags []string
		}{{"256MiB/s", []string{"-rate", "268435456"}}, {"full speed", nil}} {
			for _, manners := range []struct {
				name  string
				flags []string
			}{{"handling SIGTERM", nil}, {"ignoring SIGTERM", []string{"-ignore-term"}}} {
				all = append(all, round{
					name: qos.name + ", " + pace.name + ", " + manners.name,
					load: hog(slices.Concat(pace.flags, manners.flags)...), change: append(slices.Clone(qos.change), onCall),
				})
			}
		}
	}
	return all
}

// Whoever is evicted is left as by the kubelet's own eviction, and is not started again, at
// whatever moment of the second between two looks of the kubelet it was killed. Nobody else
// is touched. EBPF_EVICT_KUBE_ROUNDS=60 has more than one round of each kind.
func TestAnEvictionIsOnRecord(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	hogs := everyHog()
	rounds := len(hogs)
	if more := os.Getenv("EBPF_EVICT_KUBE_ROUNDS"); more != "" {
		var err error
		rounds, err = strconv.Atoi(more)
		must(t, err)
	}
	var seen sightings
	for first := 0; first < rounds; first += len(hogs) {
		batch := hogs[:min(len(hogs), rounds-first)]
		pods := make([]*pod, len(batch))
		for i, r := range batch {
			pods[i] = n.Submit(t, podOf(fmt.Sprintf("hog-%d", first+i+1), r.load, r.change...))
		}
		for _, p := range pods {
			p.AwaitStart()
		}
		kills := make([]record.Line, len(batch))
		for i, p := range pods {
			time.Sleep(time.Duration(first+i) * time.Second / time.Duration(rounds)) // spreads the kills
			p.Call()
			kills[i] = a.KillOf(p)
			a.Eviction(kills[i].ID)
		}
		for i, p := range pods {
			if r := c.AwaitReport(kills[i].ID); r.Result != "done" {
				t.Errorf("report of %s: %+v", p.Name, r)
			}
			p.IsLeftAs(evictedForMemory())
			p.tellsOf(kills[i])
			t.Logf("%s (%s): %s", p.Name, batch[i].name, seen.add(c, p, kills[i]))
			p.remove()
		}
		must(t, n.await("end of the pressure", n.isReady))
	}
	seen.tell(t)
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}

// tellsOf: status and event have the kill's own words, and the pod its id.
func (p *pod) tellsOf(kill record.Line) {
	p.t.Helper()
	s := p.Status()
	if s.Status.Message != kill.Message || !strings.HasPrefix(s.Annotations["ebpf-evict/eviction"], kill.ID.String()) {
		p.t.Errorf("pod %s: message %q, annotations %v, want %q and %s", p.Name, s.Status.Message, s.Annotations, kill.Message, kill.ID)
	}
	for _, e := range p.events() {
		if diff := cmp.Diff(kill.Annotations, e.Annotations); diff != "" || e.Message != kill.Message || e.Source.Component != "ebpf-evict" || e.Source.Host != nodeName {
			p.t.Errorf("event of pod %s: %+v\n%s", p.Name, e, diff)
		}
	}
}

// sighting is one round, in time since the kill.
type sighting struct {
	written  time.Duration // the status was
	death    time.Duration // the kubelet saw it
	restarts int32
}

func (s sighting) String() string {
	return fmt.Sprintf("status written %s after the kill, its death seen by the kubelet %s after it; restarts %d",
		s.written.Round(time.Millisecond), s.death.Round(time.Millisecond), s.restarts)
}

type sightings []sighting

func (all *sightings) add(c *companion, p *pod, kill record.Line) sighting {
	c.t.Helper()
	s := sighting{restarts: p.Restarts()}
	s.written = time.Duration(c.awaitLine("pod status written", kill.ID).AfterMs * float64(time.Millisecond))
	if died := c.n.sawDeath(p); !died.IsZero() {
		s.death = died.Sub(kill.Time.Time)
	}
	*all = append(*all, s)
	return s
}

// tell sums up the rounds.
func (all sightings) tell(t *testing.T) {
	if len(all) == 0 {
		return
	}
	restarted, quarters := 0, [4]int{}
	for _, s := range all {
		if s.restarts > 0 {
			restarted++
		}
		quarters[min(3, int(s.death*4/time.Second))]++
	}
	if len(all) >= 40 && slices.Contains(quarters[:], 0) {
		t.Errorf("the kills were not spread over the kubelet's second: %v", quarters)
	}
	median := func(of func(sighting) time.Duration) string {
		slices.SortFunc(all, func(x, y sighting) int { return int(of(x) - of(y)) })
		return fmt.Sprintf("%s / %s / %s", of(all[0]).Round(time.Millisecond), of(all[len(all)/2]).Round(time.Millisecond), of(all[len(all)-1]).Round(time.Millisecond))
	}
	t.Logf("%d rounds, %d restarted; after the kill, min / median / max: status written %s; death seen by the kubelet %s, in the quarters of its second %v times",
		len(all), restarted, median(func(s sighting) time.Duration { return s.written }), median(func(s sighting) time.Duration { return s.death }), quarters)
}

// sawDeath is when the kubelet's relist found the pod's first container dead.
func (n *node) sawDeath(p *pod) time.Time {
	data, err := os.ReadFile(n.Daemon("kubelet").log)
	must(p.t, err)
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, "(PLEG): event for pod") || !strings.Contains(line, "ContainerDied") || !strings.Contains(line, p.first) {
			continue
		}
		header := strings.Fields(line) // "I1126 07:58:00.123456    1234 kubelet.go:2526] …"
		at, err := time.ParseInLocation("20060102 15:04:05.000000", fmt.Sprint(time.Now().Year())+header[0][1:]+" "+header[1], time.Local)
		must(p.t, err)
		return at
	}
	return time.Time{}
}

// A fork bomb is as a hog, of another resource.
func TestAForkBombIsOnRecord(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	a := n.Agent(t, shortly)
	c := a.Companion(t)
	bomb := n.Pod(t, "bomb", []string{"bomb", "-ignore-term"}, onCall)
	bomb.Call()
	kill := a.KillOf(bomb)
	var found v1.Node
	c.await("taint of its own", func() bool {
		must(t, n.get("/api/v1/nodes/"+nodeName, &found))
		return slices.ContainsFunc(found.Spec.Taints, func(t v1.Taint) bool { return t.Key == "ebpf-evict/pid-pressure" })
	})
	t.Log(timesOf(a.Eviction(kill.ID)))
	if r := c.AwaitReport(kill.ID); r.Result != "done" {
		t.Errorf("report %+v", r)
	}
	bomb.IsLeftAs(asTheKubelet("pids", "The node was low on resource: pids. Threshold quantity: N, available: N. ",
		map[string]string{"offending_containers": "", "offending_containers_usage": ""}))
	bomb.tellsOf(kill)
	bs.AreUntouched(t)
	n.kubeletDidNotEvict(t)
}
