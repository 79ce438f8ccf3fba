package kube_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/kube"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const uidA, uidB = "0a1b2c3d-0000-0000-0000-00000000000a", "0a1b2c3d-0000-0000-0000-00000000000b"

const lowOnMemory = "The node was low on resource: memory. Threshold quantity: 500Mi, available: 499Mi. "

// bed is a node with a journal, and a companion that can be started and stopped.
type bed struct {
	*testing.T
	server  *apiServer
	dir     string
	journal *record.Journal
	options kube.Options
	// taintMost is how long a status waits for the taint.
	taintMost time.Duration
	// quarrel has statuses and failed tries follow each other at once.
	quarrel bool
	// settle is how long a status has to hold.
	settle time.Duration
	// blindAfter, answerMost and deadAfter are the companion's own, where they are 0.
	blindAfter, answerMost, deadAfter time.Duration

	companion *kube.Companion
	stop      func()
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{T: t, server: newAPIServer(t), dir: t.TempDir(), taintMost: time.Minute, settle: 50 * time.Millisecond}
	b.options = kube.Options{
		Rest: b.server.config(), Node: "node-1",
		Journal: filepath.Join(b.dir, "agent", "journal.jsonl"), State: filepath.Join(b.dir, "agent", "state.json"),
		Table: filepath.Join(b.dir, "table", "workloads.json"), Cursor: filepath.Join(b.dir, "table", "cursor.json"),
		TransitionPeriod: time.Hour, Log: zerolog.New(zerolog.NewTestWriter(t)),
	}
	j, err := record.OpenJournal(b.options.Journal, record.JournalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	b.journal = j
	return b
}

func (b *bed) start() *bed {
	b.Helper()
	c, err := kube.New(b.options)
	if err != nil {
		b.Fatal(err)
	}
	c.SetSettle(b.settle)
	c.SetTaintMost(b.taintMost)
	if b.blindAfter > 0 {
		c.SetBlindAfter(b.blindAfter)
	}
	if b.answerMost > 0 {
		c.SetAnswerMost(b.answerMost)
	}
	if b.deadAfter > 0 {
		c.SetDeadAfter(b.deadAfter)
	}
	if b.quarrel {
		c.SetSpacing(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	b.companion = c
	ended := false
	b.stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			b.Errorf("companion: %v", err)
		}
	}
	b.Cleanup(b.stop)
	return b
}

// await is bounded by a minute for a machine that is busy; no test depends on how long it takes.
func (b *bed) await(what string, ok func() bool) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("not seen: %s", what)
		}
	}
}

func (b *bed) awaitReports(want map[string]int) {
	b.Helper()
	b.await(fmt.Sprintf("reports %v", want), func() bool {
		s := b.companion.Stats()
		return s.Backlog == 0 && cmp.Equal(want, s.Reports)
	})
}

func (b *bed) append(l *record.Line) {
	b.Helper()
	if l.Time.IsZero() {
		l.Time = record.Time{Time: time.Now()}
	}
	if err := b.journal.Append(l); err != nil {
		b.Fatal(err)
	}
}

func kill(id byte, uid, name string) *record.Line {
	return &record.Line{
		Kind: record.KindKill, ID: record.ID{id}, Mode: "enforce", Signal: "memory.available",
		Threshold: &record.Threshold{Signal: "memory.available", Hard: true, Value: "500Mi"},
		Victim:    &record.Victim{UID: uid, Namespace: "shop", Name: name, Cgroup: "/kubepods/pod" + uid},
		Message:   lowOnMemory, Annotations: map[string]string{"starved_resource": "memory", "offending_containers": "app"},
	}
}

func runningPod(uid, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(uid)},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "app"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, QOSClass: corev1.PodQOSBestEffort,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ContainerID: "containerd://c1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
}

// ends is the kubelet that sees a pod which has failed: it tears it down.
func ends(p *corev1.Pod) {
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137}}
}

func (b *bed) isEvicted(name string) bool {
	p := b.server.pod("shop", name)
	return p != nil && p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted"
}

func TestAKillIsReportedAsTheKubeletDoes(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.server.set(runningPod(uidB, "idle"))
	idle := b.server.pod("shop", "idle")
	b.server.setFault(func(c call) error {
		if strings.HasPrefix(c.Path, "/api/v1/nodes") {
			time.Sleep(100 * time.Millisecond) // the status has to wait for it
		}
		return nil
	})
	b.start()
	line := kill(1, uidA, "hog")
	b.append(line)
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.server.update("shop", "hog", ends)
	b.awaitReports(map[string]int{"done": 1})

	p := b.server.pod("shop", "hog")
	if p.Status.Message != lowOnMemory || len(p.Status.Conditions) != 2 {
		t.Errorf("status %+v", p.Status)
	}
	at := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	if at < 0 || p.Status.Conditions[at].Status != "True" || p.Status.Conditions[at].Reason != "TerminationByKubelet" || p.Status.Conditions[at].Message != lowOnMemory {
		t.Errorf("conditions %+v: want a DisruptionTarget as the kubelet's", p.Status.Conditions)
	}
	if diff := cmp.Diff(idle, b.server.pod("shop", "idle")); diff != "" {
		t.Errorf("the other pod changed:\n%s", diff)
	}
	b.expectEvent(line)
	b.expectOrder("/nodes/node-1", "/nodes/node-1/status", "/pods/hog/status", "/events")
}

func TestAStatusDoesNotWaitForLongForATaint(t *testing.T) {
	b := newBed(t)
	b.taintMost = 50 * time.Millisecond
	b.server.set(runningPod(uidA, "hog"))
	b.server.setFault(func(c call) error {
		if strings.HasPrefix(c.Path, "/api/v1/nodes") {
			return apierrors.NewForbidden(corev1.Resource("nodes"), "node-1", fmt.Errorf("policy"))
		}
		return nil
	})
	b.start()
	b.append(kill(1, uidA, "hog"))
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.server.update("shop", "hog", ends)
	b.awaitReports(map[string]int{"done": 1})
	b.server.setFault(nil)
	b.await("the taint after all", func() bool { return b.hasTaint("ebpf-evict/memory-pressure") })
}

func TestATaintThatAnotherAddsMeanwhileStays(t *testing.T) {
	b := newBed(t)
	var once atomic.Bool
	b.server.setFault(func(c call) error {
		if c.Method == http.MethodPatch && c.Path == "/api/v1/nodes/node-1" && once.CompareAndSwap(false, true) {
			b.server.addTaint("drain") // after our GET
		}
		return nil
	})
	b.start()
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Conditions: &decide.Conditions{MemoryPressure: true}})
	b.await("both", func() bool { return b.hasTaint("ebpf-evict/memory-pressure") && b.hasTaint("drain") })
	if !b.hasTaint("team") {
		t.Error("a taint that was there is gone")
	}
}

func (b *bed) expectEvent(l *record.Line) {
	b.Helper()
	events := b.server.eventsNow()
	if len(events) != 1 {
		b.Fatalf("%d events, want 1", len(events))
	}
	e := events[0]
	if e.Reason != "Evicted" || e.Type != "Warning" || e.Message != l.Message || e.InvolvedObject.Kind != "Pod" ||
		string(e.InvolvedObject.UID) != l.Victim.UID || e.Namespace != "shop" || e.InvolvedObject.Name != l.Victim.Name {
		b.Errorf("event %+v", e)
	}
	if diff := cmp.Diff(l.Annotations, e.Annotations); diff != "" {
		b.Errorf("annotations of the event (-want +got)\n%s", diff)
	}
}

// expectOrder is about the first write of each path.
func (b *bed) expectOrder(suffixes ...string) {
	b.Helper()
	var got []string
	for _, c := range b.server.writes() {
		for _, s := range suffixes {
			if strings.HasSuffix(c.Path, s) && !slices.Contains(got, s) {
				got = append(got, s)
			}
		}
	}
	if diff := cmp.Diff(suffixes, got); diff != "" {
		b.Errorf("order of writes (-want +got)\n%s", diff)
	}
}

func TestRunningWrittenBackIsWrittenAgain(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.append(kill(1, uidA, "hog"))
	records := map[string]bool{}
	for range 3 { // the kubelet takes the status for news of its own, and writes what it has
		b.await("the status", func() bool { return b.isEvicted("hog") })
		b.server.update("shop", "hog", func(p *corev1.Pod) {
			records[p.Annotations["ebpf-evict/eviction"]] = true
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodRunning, "", ""
		})
	}
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.server.update("shop", "hog", ends)
	b.awaitReports(map[string]int{"done": 1})
	if !b.isEvicted("hog") {
		t.Error("reported, and not evicted")
	}
	if len(records) != 3 {
		t.Errorf("annotations %v: each write must be an update in the kubelet's eyes", records)
	}
	if n := len(b.server.eventsNow()); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

func TestOnlyStatusesThatWereTakenAndReplacedEndAReport(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.quarrel = true
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	var refused atomic.Int32
	b.server.setFault(func(c call) error { // an outage of more tries than a quarrel may have
		if strings.HasSuffix(c.Path, "/pods/hog/status") && refused.Add(1) <= kube.OverwrittenMost+5 {
			return apierrors.NewInternalError(fmt.Errorf("etcd"))
		}
		return nil
	})
	b.append(kill(1, uidA, "hog"))
	for i := range kube.OverwrittenMost {
		b.await("the status", func() bool { return b.isEvicted("hog") })
		if s := b.companion.Stats(); s.Backlog != 1 {
			t.Fatalf("stats %+v after %d statuses: given up too early", s, i)
		}
		b.server.update("shop", "hog", func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodRunning, "", ""
		})
	}
	b.awaitReports(map[string]int{"gave-up": 1})
}

// A kubelet that called the pod Failed by itself, before it heard of the eviction, and tore it down keeps
// its own status for good: it empties reason and message every ten seconds, and leaves the condition.
func TestAKubeletThatHadFailedThePodItselfEndsNoReportInVain(t *testing.T) {
	for name, change := range map[string]func(*record.Line){
		"for pressure": func(*record.Line) {},
		"for a limit of its own": func(l *record.Line) {
			l.Signal, l.Threshold = decide.CheckEmptyDir, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.quarrel, b.settle = true, time.Hour
			p := runningPod(uidA, "hog")
			fails := func(p *corev1.Pod) {
				ends(p)
				p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "", ""
			}
			fails(p)
			b.server.set(p)
			l := kill(1, uidA, "hog")
			change(l)
			b.append(l)
			b.start()
			for i := range 3 {
				b.await("the status", func() bool { return b.isEvicted("hog") })
				b.await("the event", func() bool { return len(b.server.eventsNow()) == 1 })
				if s := b.companion.Stats(); s.Backlog != 1 {
					t.Fatalf("stats %+v after %d statuses: the kubelet may have had news under way", s, i)
				}
				b.server.update("shop", "hog", fails)
			}
			b.awaitReports(map[string]int{"overwritten": 1})
			if !b.isEvicted("hog") || b.server.pod("shop", "hog").Status.Message != lowOnMemory {
				t.Errorf("status %+v: the last word is not ours", b.server.pod("shop", "hog").Status)
			}
			b.server.update("shop", "hog", fails)

			written := b.server.count(http.MethodPatch, "/pods/hog/status")
			b.await("the cursor", func() bool { // behind it
				data, err := os.ReadFile(b.options.Cursor)
				return err == nil && !strings.Contains(string(data), `"offset":0,`)
			})
			b.stop()
			b.start()
			b.append(kill(7, uidB, "gone")) // when it is done, the other would be read
			b.awaitReports(map[string]int{"gone": 1})
			if n := b.server.count(http.MethodPatch, "/pods/hog/status"); n != written {
				t.Errorf("%d statuses after a new start", n-written)
			}
			if n := b.server.count(http.MethodPost, "/events"); n != 2 {
				t.Errorf("%d events of two evictions", n)
			}
		})
	}
}

func TestAFailedPodWhoseContainersRunIsNotDone(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.append(kill(1, uidA, "hog"))
	b.await("the event", func() bool { return len(b.server.eventsNow()) == 1 })
	time.Sleep(300 * time.Millisecond) // six times as long as the status has to hold
	if s := b.companion.Stats(); s.Backlog != 1 {
		t.Errorf("stats %+v: done while a container runs", s)
	}
	b.server.update("shop", "hog", ends)
	b.awaitReports(map[string]int{"done": 1})
}

func TestNothingIsLostOrDoubledByAnOutage(t *testing.T) {
	b := newBed(t)
	for i := range 5 {
		b.server.set(runningPod(fmt.Sprintf("%s%d", uidA[:35], i), fmt.Sprintf("hog-%d", i)))
	}
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	b.server.setDown(true)
	for i := range 5 {
		b.append(kill(byte(i+1), fmt.Sprintf("%s%d", uidA[:35], i), fmt.Sprintf("hog-%d", i)))
	}
	b.await("the backlog", func() bool { return b.companion.Stats().Backlog == 5 })
	b.server.setDown(false)
	for i := range 5 {
		name := fmt.Sprintf("hog-%d", i)
		b.await("the status", func() bool { return b.isEvicted(name) })
		b.server.update("shop", name, ends)
	}
	b.awaitReports(map[string]int{"done": 5})
	if n := len(b.server.eventsNow()); n != 5 {
		t.Errorf("%d events, want 5", n)
	}
}

func TestACompanionThatDiedGoesOn(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	b.server.setDown(true)
	b.append(kill(1, uidA, "hog"))
	b.await("the backlog", func() bool { return b.companion.Stats().Backlog == 1 })
	b.stop() // between kill and report
	b.server.setDown(false)
	b.start()
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.stop() // between status and proof
	b.server.update("shop", "hog", ends)
	b.start()
	b.awaitReports(map[string]int{"done": 1})
	if n := len(b.server.eventsNow()); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	b.await("the cursor behind the line", func() bool {
		data, _ := os.ReadFile(b.options.Cursor)
		fi, err := os.Stat(b.options.Journal)
		return err == nil && strings.Contains(string(data), fmt.Sprintf(`"offset":%d,`, fi.Size()))
	})
	b.stop()
	writes := len(b.server.writes())
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	time.Sleep(200 * time.Millisecond)
	if s := b.companion.Stats(); s.Backlog != 0 || len(s.Reports) != 0 || len(b.server.writes()) != writes {
		t.Errorf("stats %+v, %d writes more: what was reported is reported again", s, len(b.server.writes())-writes)
	}
}

func TestALostCursorDoublesNothing(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.append(kill(1, uidA, "hog"))
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.server.update("shop", "hog", ends)
	b.awaitReports(map[string]int{"done": 1})
	b.stop()
	if err := os.WriteFile(b.options.Cursor, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	was := b.server.pod("shop", "hog")
	b.start()
	b.awaitReports(map[string]int{"done": 1})
	if diff := cmp.Diff(was, b.server.pod("shop", "hog")); diff != "" {
		t.Errorf("the pod changed again:\n%s", diff)
	}
	if n := len(b.server.eventsNow()); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

// startedAt is a running pod whose container was started at a time.
func startedAt(at time.Time) *corev1.Pod {
	p := runningPod(uidA, "hog")
	p.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(at)
	return p
}

func TestAPodThatLivesAgainIsNotEvictedByAReport(t *testing.T) {
	for name, tc := range map[string]struct {
		killed, started time.Duration // ago; started 0: not since the kill
		knows           bool          // there is a cursor
		want            string        // empty: not reported
	}{
		"first start, kill of three days ago":                        {killed: 72 * time.Hour},
		"first start, kill of a moment ago":                          {killed: 5 * time.Second, want: "done"},
		"first start, kill of a moment ago, started again":           {killed: 40 * time.Second, started: 38 * time.Second, want: "late"},
		"outage of a minute, started again":                          {killed: time.Minute, started: 50 * time.Second, knows: true, want: "done"},
		"outage of nine minutes, killed again by the agent since":    {killed: 9 * time.Minute, started: 30 * time.Second, knows: true, want: "done"},
		"outage of twenty minutes, stays down":                       {killed: 20 * time.Minute, knows: true, want: "done"},
		"outage of twenty minutes, runs again since five":            {killed: 20 * time.Minute, started: 5 * time.Minute, knows: true, want: "late"},
		"kill of three days ago, started again within a second":      {killed: 72 * time.Hour, started: 72*time.Hour - 2*time.Second, knows: true, want: "late"},
		"kill of three days ago, in a crash loop, runs for a moment": {killed: 72 * time.Hour, started: 5 * time.Second, knows: true, want: "late"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			now := time.Now()
			started := now.Add(-100 * time.Hour)
			if tc.started > 0 {
				started = now.Add(-tc.started)
			}
			b.server.set(startedAt(started))
			if tc.knows {
				b.start()
				b.await("the cursor", func() bool { _, err := os.Stat(b.options.Cursor); return err == nil })
				b.stop()
			}
			l := kill(1, uidA, "hog")
			l.Time = record.Time{Time: now.Add(-tc.killed)}
			b.append(l)
			b.start()
			switch tc.want {
			case "done":
				b.await("the status", func() bool { return b.isEvicted("hog") })
				b.server.update("shop", "hog", ends)
				b.awaitReports(map[string]int{"done": 1})
				return
			case "late":
				b.awaitReports(map[string]int{"late": 1})
				b.expectEvent(l)
			default:
				b.append(kill(7, uidB, "gone")) // when it is done, the other is read
				b.awaitReports(map[string]int{"gone": 1})
			}
			if n := b.server.count(http.MethodPatch, "/pods/hog/status"); n != 0 {
				t.Errorf("%d writes to a pod that lives", n)
			}
		})
	}
}

// After a long outage the status of a pod that lives again may be from before the kill.
func TestTheKubeletHasItsSayAfterAnOutage(t *testing.T) {
	b := newBed(t)
	b.settle = time.Minute // how long the kubelet has for it
	now := time.Now()
	b.server.set(startedAt(now.Add(-100 * time.Hour)))
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	l := kill(1, uidA, "hog")
	l.Time = record.Time{Time: now.Add(-20 * time.Minute)}
	b.append(l)
	b.await("the backlog", func() bool { return b.companion.Stats().Backlog == 1 })
	b.server.update("shop", "hog", func(p *corev1.Pod) { *p = *startedAt(now.Add(-5 * time.Minute)) })
	b.awaitReports(map[string]int{"late": 1})
	if n := b.server.count(http.MethodPatch, "/pods/hog/status"); n != 0 {
		t.Errorf("%d writes to a pod that lives", n)
	}
}

func TestACursorThatIsNoneIsRefused(t *testing.T) {
	for name, place := range map[string]func(b *bed) error{
		"negative offset": func(b *bed) error {
			var s unix.Stat_t
			if err := unix.Stat(b.options.Journal, &s); err != nil {
				return err
			}
			return os.WriteFile(b.options.Cursor, fmt.Appendf(nil, `{"schema":"ebpf-evict/cursor/v1","position":{"inode":%d,"offset":-5,"head":0}}`, s.Ino), 0o600)
		},
		"half of one":      func(b *bed) error { return os.WriteFile(b.options.Cursor, []byte("{"), 0o600) },
		"directory":        func(b *bed) error { return os.Mkdir(b.options.Cursor, 0o755) },
		"full directory":   func(b *bed) error { return os.MkdirAll(b.options.Cursor+"/x", 0o755) },
		"fifo":             func(b *bed) error { return unix.Mkfifo(b.options.Cursor, 0o600) },
		"symbolic link":    func(b *bed) error { return os.Symlink(b.options.Journal, b.options.Cursor) },
		"megabyte of text": func(b *bed) error { return os.WriteFile(b.options.Cursor, make([]byte, 1<<20), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.server.set(runningPod(uidA, "hog"))
			old := kill(1, uidA, "hog")
			old.Time = record.Time{Time: time.Now().Add(-time.Hour)}
			b.append(old)
			if err := errors.Join(os.MkdirAll(filepath.Dir(b.options.Cursor), 0o755), place(b)); err != nil {
				t.Fatal(err)
			}
			b.start()
			if n := b.value("ebpf_evict_kube_errors_total", "cursor"); n != 1 {
				t.Errorf("%v alarms, want 1", n)
			}
			b.append(kill(2, uidB, "gone"))
			b.awaitReports(map[string]int{"gone": 1})
			b.await("a cursor", func() bool {
				data, err := os.ReadFile(b.options.Cursor)
				return err == nil && strings.Contains(string(data), `"offset":`) && !strings.Contains(string(data), "-5")
			})
			if b.isEvicted("hog") {
				t.Error("a kill from before is reported")
			}
		})
	}
}

func TestASecondCompanionIsRefused(t *testing.T) {
	b := newBed(t).start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	second, err := kube.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := second.Run(ctx); !errors.Is(err, workload.ErrLocked) {
		t.Errorf("%v, want one that names the first", err)
	}
	b.stop()
	b.start() // the lock is free again
	b.await("the table", func() bool { return b.companion.Ready() == nil })
}

func TestATableOfTheLastGenerationIsReplaced(t *testing.T) {
	b := newBed(t)
	if err := os.MkdirAll(filepath.Dir(b.options.Table), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := workload.WriteTable(b.options.Table, &workload.Table{Generation: math.MaxUint64}); err != nil {
		t.Fatal(err)
	}
	b.server.set(runningPod(uidA, "web"))
	b.start()
	b.await("the pod in the table", func() bool { return len(b.table().Workloads) == 1 })
	if got := b.table().Generation; got != math.MaxUint64 { // an agent that has read the former one refuses less
		t.Errorf("generation %d", got)
	}
}

func TestBadAnswersAreTriedAgain(t *testing.T) {
	pods, nodes := corev1.Resource("pods"), corev1.Resource("nodes")
	for name, bad := range map[string]struct {
		suffix string
		err    error
	}{
		"status: conflict":          {"/pods/hog/status", apierrors.NewConflict(pods, "hog", fmt.Errorf("try again"))},
		"status: expired token":     {"/pods/hog/status", apierrors.NewUnauthorized("token has expired")},
		"status: internal error":    {"/pods/hog/status", apierrors.NewInternalError(fmt.Errorf("etcd"))},
		"status: webhook refuses":   {"/pods/hog/status", apierrors.NewForbidden(pods, "hog", fmt.Errorf("policy"))},
		"event: server times out":   {"/events", apierrors.NewServerTimeout(corev1.Resource("events"), "create", 0)},
		"event: a proxy's page":     {"/events", said{"text/html", "<html>log in</html>"}},
		"event: another kind":       {"/events", said{"application/json", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"hog"}}`}},
		"event: another's":          {"/events", said{"application/json", `{"kind":"Event","apiVersion":"v1","metadata":{"name":"hog.other"}}`}},
		"event: a success":          {"/events", said{"application/json", `{"kind":"Status","apiVersion":"v1","status":"Success"}`}},
		"event: nothing":            {"/events", said{"application/json", ""}},
		"node: conflict":            {"/nodes/node-1", apierrors.NewConflict(nodes, "node-1", fmt.Errorf("modified"))},
		"node status: not allowed":  {"/nodes/node-1/status", apierrors.NewForbidden(nodes, "node-1", fmt.Errorf("policy"))},
		"node status: a page":       {"/nodes/node-1/status", said{"text/html", "<html>log in</html>"}},
		"node status: a success":    {"/nodes/node-1/status", said{"application/json", `{"kind":"Status","apiVersion":"v1","status":"Success"}`}},
		"list: expired token":       {"/pods", apierrors.NewUnauthorized("token has expired")},
		"list: too many requests":   {"/pods", apierrors.NewTooManyRequests("slow down", 1)},
		"status: too many requests": {"/pods/hog/status", apierrors.NewTooManyRequests("slow down", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.server.set(runningPod(uidA, "hog"))
			var refused atomic.Int32
			var last atomic.Int64
			b.server.setFault(func(c call) error {
				if !strings.HasSuffix(c.Path, bad.suffix) || refused.Load() == 2 {
					return nil
				}
				at, before := time.Now().UnixNano(), last.Load()
				last.Store(at)
				if delay, ok := apierrors.SuggestsClientDelay(bad.err); ok && before != 0 && at-before < int64(delay)*int64(time.Second) {
					t.Errorf("tried again after %v, the server asked for %d s", time.Duration(at-before), delay)
				}
				refused.Add(1)
				return bad.err
			})
			b.start()
			b.append(kill(1, uidA, "hog"))
			b.await("the status", func() bool { return b.isEvicted("hog") })
			b.server.update("shop", "hog", ends)
			b.awaitReports(map[string]int{"done": 1})
			b.await("the taint", func() bool {
				return b.hasTaint("ebpf-evict/memory-pressure") && b.hasCondition("EbpfEvictMemoryPressure")
			})
			if refused.Load() != 2 {
				t.Errorf("refused %d times, want 2", refused.Load())
			}
			if n := len(b.server.eventsNow()); n != 1 {
				t.Errorf("%d events, want 1", n)
			}
		})
	}
}

func TestAnErrorSaysTheHTTPCode(t *testing.T) {
	for name, answer := range map[string]turnedAway{
		"a Status without a word": {http.StatusBadGateway, `{"kind":"Status","apiVersion":"v1","status":"Failure"}`},
		"no body":                 {http.StatusServiceUnavailable, ``},
		"a page":                  {http.StatusForbidden, `<html>log in</html>`},
	} {
		for what, part := range map[string]func(call) bool{
			"pod status": func(c call) bool { return strings.HasSuffix(c.Path, "/pods/hog/status") },
			"node":       func(c call) bool { return strings.HasSuffix(c.Path, "/nodes/node-1") },
			"pods can't": func(c call) bool { return strings.HasSuffix(c.Path, "/pods") },
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				b := newBed(t)
				var log safeBuffer
				b.options.Log = zerolog.New(&log)
				b.server.set(runningPod(uidA, "hog"))
				b.server.setFault(func(c call) error {
					if part(c) {
						return answer
					}
					return nil
				})
				b.start()
				b.append(kill(1, uidA, "hog"))
				b.await("the code in the log", func() bool {
					return slices.ContainsFunc(strings.Split(log.String(), "\n"), func(line string) bool {
						return strings.Contains(line, what) && strings.Contains(line, fmt.Sprintf("HTTP %d", answer.code))
					})
				})
				if text := log.String(); strings.Contains(text, `: "`) || strings.Contains(text, `"error":""`) {
					t.Errorf("an error without an end:\n%s", text)
				}
			})
		}
	}
}

// safeBuffer is a log.
type safeBuffer struct {
	mu  sync.Mutex
	all strings.Builder
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func (b *bed) hasTaint(key string) bool {
	return slices.ContainsFunc(b.server.nodeNow().Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

func (b *bed) hasCondition(kind corev1.NodeConditionType) bool {
	return slices.ContainsFunc(b.server.nodeNow().Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
}

func TestAPodOfTheSameNameIsLeftAlone(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidB, "hog")) // the StatefulSet's next one
	was := b.server.pod("shop", "hog")
	b.start()
	b.append(kill(1, uidA, "hog"))
	b.awaitReports(map[string]int{"gone": 1})
	if diff := cmp.Diff(was, b.server.pod("shop", "hog")); diff != "" {
		t.Errorf("it changed:\n%s", diff)
	}
	if n := b.server.count(http.MethodPatch, "/pods/hog/status"); n != 0 {
		t.Errorf("%d writes to it", n)
	}
}

func TestAPodReplacedWhileItsWatchIsAwayIsLeftAlone(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	b.server.setFault(func(c call) error {
		if c.Watch || c.Path == "/api/v1/pods" {
			return apierrors.NewInternalError(fmt.Errorf("no watch"))
		}
		return nil
	})
	b.server.cutWatches()
	b.server.remove("shop", "hog")
	b.server.set(runningPod(uidB, "hog"))
	was := b.server.pod("shop", "hog")
	b.append(kill(1, uidA, "hog"))
	b.await("a write", func() bool { return b.server.count(http.MethodPatch, "/pods/hog/status") > 0 })
	b.server.setFault(nil)
	b.awaitReports(map[string]int{"gone": 1})
	if diff := cmp.Diff(was, b.server.pod("shop", "hog")); diff != "" {
		t.Errorf("it changed:\n%s", diff)
	}
}

func TestAPodKilledBeforeItWasKnownIsReported(t *testing.T) {
	b := newBed(t)
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	line := kill(1, uidA, "")
	line.Victim.Namespace, line.Victim.Name = "", "pod"+uidA // by its cgroup alone
	b.append(line)
	b.await("the backlog", func() bool { return b.companion.Stats().Backlog == 1 })
	b.server.set(runningPod(uidA, "young"))
	b.await("the status", func() bool { return b.isEvicted("young") })
	b.server.update("shop", "young", ends)
	b.awaitReports(map[string]int{"done": 1})
}

func TestOnlyAnEnforcingAgentsKillsOfPodsAreReported(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	shadow, demo, drill, unit, closing := kill(1, uidA, "hog"), kill(2, uidA, "hog"), kill(3, uidA, "hog"), kill(4, "/system.slice/x", "x"), kill(5, uidA, "hog")
	shadow.Mode, demo.Scene, drill.Kind, closing.Kind = "shadow", "memory", record.KindDrill, record.KindEviction
	ledger := kill(6, uidA, "hog")
	ledger.Kind = record.KindLedger
	pressed := &record.Line{Kind: record.KindCondition, Mode: "shadow", Conditions: &decide.Conditions{MemoryPressure: true}}
	for _, l := range []*record.Line{shadow, demo, drill, unit, closing, ledger, pressed} {
		b.append(l)
	}
	b.append(kill(7, uidB, "gone")) // the last: when it is done, all others are read
	b.awaitReports(map[string]int{"gone": 1})
	if n := b.server.count(http.MethodPatch, "/pods/hog/status"); n != 0 {
		t.Errorf("%d writes to a pod that nobody evicted", n)
	}
	for _, e := range b.server.eventsNow() {
		if e.InvolvedObject.Name != "gone" {
			t.Errorf("event %s of %s", e.Name, e.InvolvedObject.Name)
		}
	}
}

func TestShadowLeavesTheNodeAlone(t *testing.T) {
	b := newBed(t)
	b.start()
	shadow := kill(1, uidA, "hog")
	shadow.Mode = "shadow"
	b.append(shadow)
	b.append(&record.Line{Kind: record.KindCondition, Mode: "shadow", Conditions: &decide.Conditions{MemoryPressure: true}})
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	b.await("the cursor", func() bool { _, err := os.Stat(b.options.Cursor); return err == nil })
	time.Sleep(200 * time.Millisecond)
	if w := b.server.writes(); len(w) != 0 {
		t.Errorf("writes %+v", w)
	}
}

func TestAHalfWrittenLineIsReportedWhenItIsWhole(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.append(kill(1, uidA, "hog"))
	whole, err := os.ReadFile(b.options.Journal)
	if err != nil {
		t.Fatal(err)
	}
	half := len(whole) / 2
	if err := os.WriteFile(b.options.Journal, whole[:half], 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	if s := b.companion.Stats(); s.Backlog != 0 {
		t.Errorf("stats %+v of half a line", s)
	}
	f, err := os.OpenFile(b.options.Journal, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(whole[half:]); err != nil {
		t.Fatal(err)
	}
	b.await("the status", func() bool { return b.isEvicted("hog") })
}

func TestAJournalThatIsCutIsReadFromItsStart(t *testing.T) {
	b := newBed(t)
	b.start()
	b.append(kill(1, uidA, "gone"))
	b.append(kill(2, uidA, "gone"))
	b.awaitReports(map[string]int{"gone": 1})
	if err := os.Truncate(b.options.Journal, 0); err != nil {
		t.Fatal(err)
	}
	b.await("an error", func() bool { return b.value("ebpf_evict_kube_errors_total", "journal") == 1 })
	b.await("the cursor at its start", func() bool {
		data, err := os.ReadFile(b.options.Cursor)
		return err == nil && strings.Contains(string(data), `"offset":0,`) && !strings.Contains(string(data), `"inode":0,`)
	})
	b.append(kill(3, uidB, "gone"))
	b.awaitReports(map[string]int{"gone": 2})
}

func TestAPodWithAControllerIsDeletedWhereAsked(t *testing.T) {
	b := newBed(t)
	controller := true
	owned := func(uid, name, kind string) {
		p := runningPod(uid, name)
		if kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Controller: &controller}}
		}
		b.server.set(p)
	}
	owned(uidA, "web", "ReplicaSet")
	owned(uidB, "bare", "")
	owned(uidA[:35]+"c", "batch", "Job")
	b.options.Report = map[string]string{"ReplicaSet": "delete"}
	answers := []error{ // of others than the API server
		said{"text/html", "<html>log in</html>"},
		said{"application/json", `{"kind":"Status","apiVersion":"v1","status":"Success"}`},
		said{"application/json", `{"kind":"Pod","apiVersion":"v1","metadata":{"uid":"` + uidB + `"}}`},
	}
	foreign := len(answers)
	b.server.setFault(func(c call) (err error) {
		if c.Method == http.MethodDelete && len(answers) > 0 {
			err, answers = answers[0], answers[1:]
		}
		return err
	})
	b.start()
	b.append(kill(1, uidA, "web"))
	b.append(kill(2, uidB, "bare"))
	b.append(kill(3, uidA[:35]+"c", "batch"))
	b.await("the status", func() bool { return b.isEvicted("web") })
	b.await("the events", func() bool { return len(b.server.eventsNow()) == 3 })
	time.Sleep(200 * time.Millisecond)
	if n := b.server.count(http.MethodDelete, ""); n != 0 {
		t.Errorf("%d deletions while a container runs", n)
	}
	b.server.update("shop", "web", ends)
	b.await("the deletion", func() bool { return b.server.pod("shop", "web") == nil })
	for _, name := range []string{"bare", "batch"} {
		b.await("the status", func() bool { return b.isEvicted(name) })
		b.server.update("shop", name, ends)
	}
	b.awaitReports(map[string]int{"done": 3})
	if n := b.server.count(http.MethodDelete, ""); n != foreign+1 {
		t.Errorf("%d deletions, want one after %d foreign answers", n, foreign)
	}
	if n := len(b.server.eventsNow()); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

func TestAPodThatItsControllerDeletesIsReported(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.append(kill(1, uidA, "hog"))
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.server.remove("shop", "hog")
	b.server.set(runningPod(uidB, "hog")) // the next of a StatefulSet
	was := b.server.pod("shop", "hog")
	b.awaitReports(map[string]int{"done": 1})
	b.expectEvent(kill(1, uidA, "hog"))
	if diff := cmp.Diff(was, b.server.pod("shop", "hog")); diff != "" {
		t.Errorf("the next one changed:\n%s", diff)
	}
}

func TestAMirrorPodIsLeftAlone(t *testing.T) {
	b := newBed(t)
	p := runningPod(uidB, "etcd")
	p.Annotations = map[string]string{"kubernetes.io/config.mirror": "0123456789abcdef0123456789abcdef", "kubernetes.io/config.hash": "0123456789abcdef0123456789abcdef"}
	b.server.set(p)
	b.start()
	b.append(kill(1, "0123456789abcdef0123456789abcdef", "etcd"))
	b.awaitReports(map[string]int{"refused": 1})
	if n := b.server.count(http.MethodPatch, "/pods/etcd/status"); n != 0 {
		t.Errorf("%d writes to it", n)
	}
}

func TestALimitOfItsOwnIsNoPressure(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	l := kill(1, uidA, "hog")
	l.Signal, l.Threshold, l.Annotations = decide.CheckEmptyDir, nil, nil
	l.Message = `Usage of EmptyDir volume "cache" exceeds the limit "1Mi". `
	b.append(l)
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.server.update("shop", "hog", ends)
	b.awaitReports(map[string]int{"done": 1})
	for _, c := range b.server.pod("shop", "hog").Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			t.Error("a DisruptionTarget, which the kubelet does not set then")
		}
	}
	if b.hasTaint("ebpf-evict/disk-pressure") || b.hasTaint("ebpf-evict/memory-pressure") {
		t.Errorf("taints %v", b.server.nodeNow().Spec.Taints)
	}
	b.expectEvent(l)
}

func TestRepeatedKillsOfAPodAreOneEviction(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	b.append(kill(1, uidA, "hog"))
	b.append(kill(2, uidA, "hog"))
	b.append(kill(3, uidA, "hog"))
	b.await("the status", func() bool { return b.isEvicted("hog") })
	b.await("the backlog", func() bool { return b.companion.Stats().Backlog == 3 })
	b.server.update("shop", "hog", ends)
	b.awaitReports(map[string]int{"done": 1})
	time.Sleep(300 * time.Millisecond)
	if n := len(b.server.eventsNow()); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if s := b.companion.Stats(); s.Reports["done"] != 1 {
		t.Errorf("stats %+v, want one report", s)
	}
}

func TestTaintAndConditionComeAndGoWithThePressure(t *testing.T) {
	b := newBed(t)
	b.start()
	was := b.server.nodeNow()
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Conditions: &decide.Conditions{MemoryPressure: true, PIDPressure: true}})
	b.await("taints and conditions", func() bool {
		return b.hasTaint("ebpf-evict/memory-pressure") && b.hasTaint("ebpf-evict/pid-pressure") && !b.hasTaint("ebpf-evict/disk-pressure") &&
			b.hasCondition("EbpfEvictMemoryPressure") && b.hasCondition("EbpfEvictPIDPressure")
	})
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Conditions: &decide.Conditions{PIDPressure: true}})
	b.await("one less", func() bool {
		return !b.hasTaint("ebpf-evict/memory-pressure") && b.hasTaint("ebpf-evict/pid-pressure") && !b.hasCondition("EbpfEvictMemoryPressure")
	})
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Conditions: &decide.Conditions{}})
	b.await("none", func() bool { return !b.hasTaint("ebpf-evict/pid-pressure") && !b.hasCondition("EbpfEvictPIDPressure") })
	now := b.server.nodeNow()
	if diff := cmp.Diff(was.Spec, now.Spec); diff != "" {
		t.Errorf("taints of others (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(was.Status, now.Status); diff != "" {
		t.Errorf("conditions of others (-want +got)\n%s", diff)
	}
}

func TestAKillBringsTheTaintOfItsSignal(t *testing.T) {
	for signal, taint := range map[string]string{
		"memory.available":            "ebpf-evict/memory-pressure",
		"allocatableMemory.available": "ebpf-evict/memory-pressure",
		"pid.available":               "ebpf-evict/pid-pressure",
		"allocatablePID.available":    "ebpf-evict/pid-pressure",
		"nodefs.available":            "ebpf-evict/disk-pressure",
		"imagefs.inodesFree":          "ebpf-evict/disk-pressure",
	} {
		t.Run(signal, func(t *testing.T) {
			b := newBed(t)
			was := len(b.server.nodeNow().Spec.Taints)
			b.start()
			l := kill(1, uidA, "hog")
			l.Signal, l.Threshold.Signal = signal, signal
			b.append(l)
			b.await("the taint", func() bool { return b.hasTaint(taint) })
			if got := b.server.nodeNow().Spec.Taints; len(got) != was+1 {
				t.Errorf("taints %+v, want one more", got)
			}
		})
	}
}

func TestPressureOfAnAgentThatEndedGoesAfterTheTransitionPeriod(t *testing.T) {
	b := newBed(t)
	long := record.Time{Time: time.Now().Add(-2 * time.Hour)} // twice the period
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Time: long, Conditions: &decide.Conditions{MemoryPressure: true}})
	b.start()
	b.await("the taint", func() bool { return b.hasTaint("ebpf-evict/memory-pressure") })
	b.append(&record.Line{Kind: record.KindStart, Mode: "shadow", Time: long})
	b.await("no taint", func() bool { return !b.hasTaint("ebpf-evict/memory-pressure") })
	b.append(kill(1, uidB, "gone"))
	b.await("the taint of a kill", func() bool { return b.hasTaint("ebpf-evict/memory-pressure") })
	// The kill's own condition line comes after another's.
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Conditions: &decide.Conditions{DiskPressure: true}})
	b.await("the taint of the other", func() bool { return b.hasTaint("ebpf-evict/disk-pressure") })
	b.stop()
	b.start()
	time.Sleep(200 * time.Millisecond)
	if !b.hasTaint("ebpf-evict/memory-pressure") {
		t.Error("a new companion took the taint away within the period")
	}
}

func TestAnAgentThatDiedWithoutALineKeepsNoTaint(t *testing.T) {
	b := newBed(t)
	long := time.Now().Add(-2 * time.Hour)
	b.stateOf(long)
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Time: record.Time{Time: long}, Conditions: &decide.Conditions{DiskPressure: true}})
	b.start()
	b.await("that it is dead", func() bool { return b.saved(`"DiskPressure":{"until"`) })
	b.append(kill(1, uidB, "gone"))
	b.await("the taint of the kill", func() bool { return b.hasTaint("ebpf-evict/memory-pressure") })
	b.await("no taint of the dead agent", func() bool { return !b.hasTaint("ebpf-evict/disk-pressure") })
}

// A cursor of before a reboot, a full /run, a directory that was removed: no state, and no line.
func TestPressureOfAnAgentWithoutAStateGoesAfterTheTransitionPeriod(t *testing.T) {
	b := newBed(t)
	b.start()
	b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Conditions: &decide.Conditions{DiskPressure: true}})
	b.await("the taint", func() bool { return b.hasTaint("ebpf-evict/disk-pressure") })
	b.stop() // the cursor has it
	b.deadAfter, b.options.TransitionPeriod = 50*time.Millisecond, 100*time.Millisecond
	b.start()
	b.await("no taint", func() bool {
		return !b.hasTaint("ebpf-evict/disk-pressure") && !b.hasCondition("EbpfEvictDiskPressure")
	})
}

// Its first line may come before its first state: what the former agent left there, or nothing, says
// nothing of this one.
func TestAnAgentThatStartsIsNotTakenForDead(t *testing.T) {
	for name, prepare := range map[string]func(b *bed){
		"with the state of the former one": func(b *bed) { b.stateOf(time.Now().Add(-2 * time.Hour)) },
		"with none since hours": func(b *bed) {
			b.stateOf(time.Now().Add(-2 * time.Hour))
			b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Time: record.Time{Time: time.Now().Add(-2 * time.Hour)},
				Conditions: &decide.Conditions{MemoryPressure: true}})
			b.start()
			b.await("that the former one is dead", func() bool { return b.saved(`"MemoryPressure":{"until"`) })
			if err := os.Remove(b.options.State); err != nil {
				b.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			prepare(b)
			if b.companion == nil {
				b.start()
			}
			b.append(&record.Line{Kind: record.KindStart, Mode: "enforce"})
			b.append(&record.Line{Kind: record.KindCondition, Mode: "enforce", Conditions: &decide.Conditions{DiskPressure: true}})
			b.await("the taint", func() bool { return b.hasTaint("ebpf-evict/disk-pressure") })
			b.append(kill(1, uidB, "gone")) // the cursor is kept after another look at the state
			b.await("its pressure", func() bool {
				return b.saved(`"MemoryPressure":{"until"`) && b.saved(`"DiskPressure":{"asserted":true}`)
			})
		})
	}
}

func (b *bed) stateOf(at time.Time) {
	b.Helper()
	if err := os.WriteFile(b.options.State, []byte("{}"), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Chtimes(b.options.State, at, at); err != nil {
		b.Fatal(err)
	}
}

// saved: the cursor says so.
func (b *bed) saved(text string) bool {
	data, err := os.ReadFile(b.options.Cursor)
	return err == nil && strings.Contains(string(data), text)
}

func (b *bed) table() *workload.Table {
	t, err := workload.LoadTable(b.options.Table, uint32(os.Geteuid()))
	if err != nil {
		return &workload.Table{}
	}
	return t
}

func TestTheTableFollowsThePods(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "web"))
	b.start()
	names := func() (all []string) {
		for _, e := range b.table().Workloads {
			all = append(all, e.Name)
		}
		return all
	}
	b.await("web", func() bool { return cmp.Equal(names(), []string{"web"}) })
	first := b.table().Generation
	b.server.set(runningPod(uidB, "db"))
	b.await("db", func() bool { return cmp.Equal(names(), []string{"web", "db"}) })
	if next := b.table().Generation; next <= first {
		t.Errorf("generation %d after %d", next, first)
	}
	b.server.compact() // the watch is 410, and begins anew
	b.server.remove("shop", "web")
	b.await("no web", func() bool { return cmp.Equal(names(), []string{"db"}) })
	was := b.table()
	b.server.update("shop", "db", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} })
	b.server.setDown(true)
	b.stop()
	b.start() // its list fails
	time.Sleep(300 * time.Millisecond)
	if diff := cmp.Diff(was.Generation, b.table().Generation); diff != "" {
		t.Errorf("a table was written without a list: %s", diff)
	}
	if b.companion.Ready() == nil {
		t.Error("ready without a list")
	}
	b.server.setDown(false)
	b.await("a later generation", func() bool { return b.table().Generation > was.Generation })
	if got := names(); !cmp.Equal(got, []string{"db"}) {
		t.Errorf("table %v", got)
	}
}

func TestACompanionThatCantWriteTheTableIsNotReady(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "web"))
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	blocked := b.options.Table + ".tmp/full" // no other file can have its name
	if err := os.MkdirAll(blocked, 0o755); err != nil {
		t.Fatal(err)
	}
	b.server.set(runningPod(uidB, "db"))
	b.await("not ready", func() bool { return b.companion.Ready() != nil })
	if err := os.RemoveAll(filepath.Dir(blocked)); err != nil {
		t.Fatal(err)
	}
	b.await("ready", func() bool { return b.companion.Ready() == nil })
	if n := len(b.table().Workloads); n != 2 {
		t.Errorf("ready with %d of 2 pods in the table", n)
	}
}

func TestABlindCompanionIsNotReadyAndItsTableGrowsOld(t *testing.T) {
	b := newBed(t)
	b.blindAfter = 100 * time.Millisecond
	b.server.set(runningPod(uidA, "web"))
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	changed := func() time.Time {
		fi, err := os.Stat(b.options.Table)
		if err != nil {
			return time.Time{}
		}
		return fi.ModTime()
	}
	first, generation := changed(), b.table().Generation
	b.await("that the table still holds", func() bool { return changed().After(first) })
	b.server.setFault(func(c call) error {
		if c.Path == "/api/v1/pods" {
			return apierrors.NewForbidden(corev1.Resource("pods"), "", fmt.Errorf("rbac"))
		}
		return nil
	})
	b.server.cutWatches()
	b.await("that it is not ready", func() bool { return b.companion.Ready() != nil })
	if n := b.value("ebpf_evict_kube_errors_total", "pods"); n == 0 {
		t.Error("no failed request was counted")
	}
	old := changed()
	time.Sleep(300 * time.Millisecond) // three times as long as between two words on the table
	if !changed().Equal(old) {
		t.Error("a companion that hears nothing vouches for its table")
	}
	b.server.setFault(nil)
	b.await("that it is ready", func() bool { return b.companion.Ready() == nil && changed().After(old) })
	if got := b.table().Generation; got != generation {
		t.Errorf("generation %d after %d: nothing has changed", got, generation)
	}
}

func TestARequestThatIsNeverAnsweredIsMadeAgain(t *testing.T) {
	b := newBed(t)
	b.answerMost = 50 * time.Millisecond
	b.server.set(runningPod(uidA, "web"))
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	var asked atomic.Int32
	b.server.setFault(func(c call) error {
		if c.Path == "/api/v1/pods" && asked.Add(1) <= 2 { // a watch, and the list instead of it
			<-never
		}
		return nil
	})
	b.start()
	b.await("the table", func() bool { return b.companion.Ready() == nil })
	if n := b.value("ebpf_evict_kube_errors_total", "pods"); n < 2 {
		t.Errorf("%v requests counted as failed, want 2", n)
	}
}

func TestAPodLeavesTheTableWhenNothingOfItRuns(t *testing.T) {
	b := newBed(t)
	b.server.set(runningPod(uidA, "hog"))
	b.start()
	b.await("the pod", func() bool { return len(b.table().Workloads) == 1 })
	b.append(kill(1, uidA, "hog"))
	b.await("the event", func() bool { return len(b.server.eventsNow()) == 1 })
	time.Sleep(200 * time.Millisecond)
	if len(b.table().Workloads) != 1 {
		t.Error("a pod whose container runs has no name any more")
	}
	b.server.update("shop", "hog", ends)
	b.await("no pod", func() bool { return len(b.table().Workloads) == 0 })
}
