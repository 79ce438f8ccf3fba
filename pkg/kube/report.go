package kube

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// annotationRecord is the id of the eviction that a pod's status tells of. It is more than a
// note: a kubelet takes a change of status alone for news of its own and does nothing, or
// writes Running back; a changed annotation makes it look at the pod at once, see that it
// has failed, and tear it down for good (checkAndUpdatePod, pkg/kubelet/config).
const annotationRecord = "ebpf-evict/eviction"

// The ways to report an eviction.
const (
	// ReportStatus leaves the pod as an eviction by the kubelet does: Failed, for its
	// controller and the garbage collector to see.
	ReportStatus = "status"
	// ReportDelete deletes it when its containers have ended.
	ReportDelete = "delete"
)

const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
	// spacingFirst is between the first status and the second: a kubelet that had news of its own
	// under way writes Running back at once, and starts the containers again within a second.
	spacingFirst = 20 * time.Millisecond
	// settle is how long a status must have held: the kubelet compares every ten seconds.
	settle = 15 * time.Second
	// overwrittenMost ends a quarrel with somebody who writes another status: 30 statuses that
	// the server took, written 20 ms to 30 s apart, are some ten minutes.
	overwrittenMost = 30
	// emptiedMost ends one with a kubelet that had called the pod failed by itself, and torn it down,
	// before it heard of the eviction: it looks at the pod never again, and replaces reason and
	// message by its own empty ones at each comparison (needsReconcile, pkg/kubelet/status, v1.34).
	// One that only has news under way does so twice at most, and then takes ours over
	// (generateAPIPodStatus).
	emptiedMost = 3
	// endMost is how long containers may run on in a failed pod.
	endMost = 10 * time.Minute
	// lateAfter is how long a container that was started after the kill has to run for the pod
	// to be let live: twice the longest pause between two kills of a pod that came back
	// (comebackMost in pkg/agent), so that nothing lives as long while the agent kills it again.
	lateAfter = 2 * time.Minute
	// firstMost is the age of the oldest kill that a companion without a cursor reports.
	firstMost = time.Minute
	// taintMost is how long a status waits for the taint; containers are started again
	// within a second.
	taintMost = 500 * time.Millisecond
	// unknownFor is how long a pod that nobody knows may still turn up in the watch.
	unknownFor = 3 * time.Second
	// eventMost is the API server's --event-ttl: an older event was there and has gone.
	eventMost = time.Hour
)

// The results of a report, as they are counted.
const (
	resultDone    = "done"
	resultGone    = "gone"    // there is no such pod any more
	resultEnded   = "ended"   // it had succeeded by itself
	resultRefused = "refused" // a static pod's mirror
	resultGaveUp  = "gave-up"
	resultLate    = "late" // the pod came back and lives: an event alone
	// all is there but reason and message, which the kubelet empties again and again
	resultOverwritten = "overwritten"
)

// report brings one eviction to the cluster. It belongs to one goroutine.
type report struct {
	c    *Companion
	line record.Line
	log  zerolog.Logger

	unknown time.Time // since when the pod is not known, though pods are
	known   *pod      // as it was known last
	tainted bool
	evented bool
	// first: no companion was here at the kill, as far as is known.
	first    bool
	attempts int
	next     time.Time // no patch before
	spacing  backoff
	patched  string // resource version after our last patch
	written  bool   // a status of ours, and it was not found overwritten yet
	// overwritten counts the statuses that the server took and somebody else replaced.
	overwritten int
	emptied     int       // those of them that left all but reason and message
	good        time.Time // since when all is as it should be
	runsOn      time.Time // since when containers are known to run in the failed pod
	stamp       metav1.Time
}

func newReport(c *Companion, l record.Line, first bool) *report {
	return &report{
		c: c, line: l, first: first, stamp: metav1.NewTime(l.Time.Time),
		spacing: c.spacing,
		log:     c.log.With().Str("id", l.ID.String()).Str("uid", l.Victim.UID).Logger(),
	}
}

// run ends when the cluster shows the eviction, or never will.
func (r *report) run(ctx context.Context, changed <-chan struct{}) (result string) {
	retry := r.c.retry
	for {
		result, wait, err := r.step(ctx)
		if ctx.Err() != nil {
			return ""
		}
		if err == nil && result != "" {
			return result
		}
		if err != nil {
			wait = retry.next(err)
			r.c.meters.failed(doingReport)
			r.log.Warn().Err(err).Dur("retry_ms", wait).Msg("eviction not reported yet")
			sleep(ctx, wait) // whatever changes meanwhile: the server asked for it
			continue
		}
		retry.reset()
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// step does what is to be done next, and says how long to wait for a change of the pod.
func (r *report) step(ctx context.Context) (result string, wait time.Duration, err error) {
	now := time.Now()
	if !r.c.store.synced() {
		return "", retryFirst, nil
	}
	p := r.c.store.get(r.line.Victim.UID)
	if p == nil {
		return r.missing(ctx, now)
	}
	r.unknown, r.known = time.Time{}, p
	switch {
	case p.entry.Static || p.entry.Mirror:
		r.log.Error().Str("pod", p.Namespace+"/"+p.Name).Msg("a static pod was killed; it starts again, and is not reported")
		return resultRefused, 0, nil
	case p.phase == corev1.PodSucceeded:
		return resultEnded, 0, r.event(ctx, now)
	}
	if r.c.isOlder(p.ResourceVersion, r.patched) {
		return "", settle, nil // the watch has not brought our own patch yet
	}
	if !r.isShown(p) {
		return r.mark(ctx, p, now)
	}
	r.evented = r.evented || p.record != "" && now.Sub(r.line.Time.Time) > eventMost
	if err := r.event(ctx, now); err != nil {
		return "", 0, err
	}
	if r.deletes(p) && !p.running {
		return r.delete(ctx, p)
	}
	return r.settled(ctx, p, now)
}

// mark has a pod evicted that is as the kill left it. One that came back and lives is not
// killed by a report: an event tells of it.
func (r *report) mark(ctx context.Context, p *pod, now time.Time) (string, time.Duration, error) {
	if r.patched != "" {
		return r.patch(ctx, p, now)
	}
	if r.isLate(p, now) {
		r.log.Warn().Str("pod", p.Namespace+"/"+p.Name).Dur("after_ms", now.Sub(r.line.Time.Time)).
			Msg("the pod was started again and lives: it is not marked as evicted")
		return resultLate, 0, r.event(ctx, now)
	}
	if wait := r.untold(p, now); wait > 0 {
		return "", wait, nil
	}
	return r.patch(ctx, p, now)
}

// isLate: the kill is not what the pod is in any more. After an hour, and where no companion was
// before, a container that runs again is enough.
func (r *report) isLate(p *pod, now time.Time) bool {
	kill, lived := r.line.Time.Time, lateAfter
	if r.first || now.Sub(kill) > eventMost {
		lived = 0
	}
	return p.cameBack(kill, now, lived)
}

// untold is how long to wait for the kubelet's word on a pod that was killed long ago, and still
// is as it was before: after an outage it may live again, and the status does not say so yet.
func (r *report) untold(p *pod, now time.Time) time.Duration {
	kill := r.line.Time.Time
	if now.Sub(kill) < lateAfter || !p.running || !p.news.Before(kill.Truncate(time.Second)) {
		return 0
	}
	heard := r.c.store.heardSince()
	if heard.IsZero() {
		return time.Second
	}
	return r.c.settle - now.Sub(heard)
}

// isShown reports whether the pod's status tells of an eviction, ours or the kubelet's own.
func (r *report) isShown(p *pod) bool {
	return r.isActedOn(p) && p.evicted
}

// isActedOn: controllers go by phase and condition. Reason and message are for people.
func (r *report) isActedOn(p *pod) bool {
	return p.phase == corev1.PodFailed && (p.disrupted || !r.isPressure())
}

// isPressure: a limit of the pod's own brings no DisruptionTarget, as with the kubelet.
func (r *report) isPressure() bool { return r.line.Threshold != nil || pressureOf(r.line.Signal) != "" }

// missing ends the report when a fresh list of the API server has no such pod. A pod that
// is a few milliseconds old may come by the watch yet.
func (r *report) missing(ctx context.Context, now time.Time) (string, time.Duration, error) {
	if r.unknown.IsZero() {
		r.unknown = now
	}
	if left := unknownFor - now.Sub(r.unknown); r.known == nil && left > 0 {
		return "", left, nil
	}
	list, err := r.c.client.listPods(ctx)
	if err != nil {
		return "", 0, err
	}
	for i := range list.Items {
		if cgroupUID(&list.Items[i]) == r.line.Victim.UID {
			return "", retryMost, nil // the watch will bring it
		}
	}
	if r.patched != "" { // its controller deletes failed pods at once, as a StatefulSet's does
		return resultDone, 0, r.event(ctx, now)
	}
	if now.Sub(r.line.Time.Time) > eventMost {
		return resultGone, 0, nil
	}
	return resultGone, 0, r.event(ctx, now)
}

// patch writes the status as the kubelet does, after the taint: the controller makes a
// replacement at once.
func (r *report) patch(ctx context.Context, p *pod, now time.Time) (string, time.Duration, error) {
	r.good, r.runsOn = time.Time{}, time.Time{}
	if r.written {
		r.written = false
		r.overwritten++
		if r.isActedOn(p) && !p.running {
			r.emptied++
		}
	}
	if left := r.next.Sub(now); left > 0 {
		return "", left, nil
	}
	if r.overwritten >= overwrittenMost { // never for tries that failed: those are an outage
		r.log.Error().Int("overwritten", r.overwritten).Msg("somebody writes another status again and again: eviction is not shown")
		return resultGaveUp, 0, nil
	}
	r.taint(ctx, now)
	r.attempts++
	if err := r.write(ctx, p); err != nil {
		return "", 0, err
	}
	r.next = now.Add(r.spacing.next(nil))
	r.log.Info().Str("pod", p.Namespace+"/"+p.Name).Int("attempts", r.attempts).
		Dur("after_ms", time.Since(r.line.Time.Time)).Msg("pod status written")
	if err := r.event(ctx, now); err != nil {
		return "", 0, err
	}
	if r.emptied >= emptiedMost {
		r.log.Warn().Str("pod", p.Namespace+"/"+p.Name).Int("overwritten", r.overwritten).
			Msg("the kubelet had failed the pod itself and empties reason and message: phase, DisruptionTarget and event stay")
		return resultOverwritten, 0, nil
	}
	return "", settle, nil
}

// taint waits for the node's taint, once, if the pressure lasts.
func (r *report) taint(ctx context.Context, now time.Time) {
	name := pressureOf(r.line.Signal)
	if r.tainted || name == "" || !r.c.pressure.wanted(now)[name] {
		return
	}
	r.tainted = true
	if !r.c.keeper.ensure(ctx, name, r.c.taintMost) {
		r.log.Warn().Msg("the node has no taint yet: the pod's replacement may come back here")
	}
}

// write sends the patch for this uid alone.
func (r *report) write(ctx context.Context, p *pod) error {
	after, err := r.c.client.patchPodStatus(ctx, p.Namespace, p.Name, r.statusPatch(p))
	if err != nil { // of another pod of this name (409, 422), or of none (404): the watch will tell
		return fmt.Errorf("write pod status: %w", err)
	}
	if r.patched == "" {
		r.c.meters.delay.Observe(max(0, time.Since(r.line.Time.Time).Seconds()))
	}
	r.patched, r.written = after.ResourceVersion, true
	return nil
}

// statusPatch is a strategic merge patch: conditions are merged by their type.
func (r *report) statusPatch(p *pod) any {
	status := map[string]any{"phase": corev1.PodFailed, "reason": reasonEvicted, "message": r.message()}
	if r.isPressure() {
		status["conditions"] = []any{map[string]any{
			"type": corev1.DisruptionTarget, "status": corev1.ConditionTrue, "reason": corev1.PodReasonTerminationByKubelet,
			"message": r.message(), "lastTransitionTime": r.stamp,
		}}
	}
	return map[string]any{
		"metadata": map[string]any{"uid": p.UID, "annotations": map[string]any{annotationRecord: r.recordOf(p)}},
		"status":   status,
	}
}

// recordOf is a value that the pod does not have while another status is there.
func (r *report) recordOf(p *pod) string {
	if r.isShown(p) {
		return p.record
	}
	id := r.line.ID.String()
	if r.attempts <= 1 && p.record != id {
		return id
	}
	return fmt.Sprintf("%s.%d", id, time.Now().UnixMilli())
}

func (r *report) message() string {
	if r.line.Message != "" {
		return r.line.Message
	}
	return fmt.Sprintf("The node was low on resource: %s. ", resourceOf(r.line.Signal)) // the agent died before it had one
}

// resourceOf is the resource that the kubelet names for a signal.
func resourceOf(signal string) string {
	switch pressureOf(signal) {
	case "MemoryPressure":
		return "memory"
	case "PIDPressure":
		return "pids"
	case "DiskPressure":
		if strings.HasSuffix(signal, "inodesFree") {
			return "inodes"
		}
	}
	return "ephemeral-storage"
}

// event tells of the eviction once: its name is the eviction's.
func (r *report) event(ctx context.Context, now time.Time) error {
	if r.evented {
		return nil
	}
	e := r.newEvent()
	if e == nil {
		r.evented = true // of a pod that nobody has known
		return nil
	}
	err := r.c.client.createEvent(ctx, e)
	switch {
	case err == nil, apierrors.IsAlreadyExists(err):
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), apierrors.IsNotFound(err):
		// The namespace goes, and its events with it.
	case apierrors.IsInvalid(err):
		r.log.Error().Err(err).Msg("event refused")
	default:
		return fmt.Errorf("write event: %w", err)
	}
	r.evented = true
	return nil
}

func (r *report) newEvent() *corev1.Event {
	v := r.line.Victim
	namespace, name, uid := v.Namespace, v.Name, types.UID(v.UID)
	if r.known != nil {
		namespace, name, uid = r.known.Namespace, r.known.Name, r.known.UID
	}
	if namespace == "" {
		return nil
	}
	id := strings.ToLower(r.line.ID.String())
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: fmt.Sprintf("%.200s.%s", name, id), Annotations: r.line.Annotations,
		},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: uid},
		Reason:         reasonEvicted, Message: r.message(), Type: corev1.EventTypeWarning,
		Source:         corev1.EventSource{Component: component, Host: r.c.o.Node},
		FirstTimestamp: r.stamp, LastTimestamp: r.stamp, Count: 1,
		ReportingController: component, ReportingInstance: r.c.o.Node,
	}
}

// component is who we are in events.
const component = "ebpf-evict"

// kind is how the eviction of the pod is reported, as it is counted.
func (r *report) kind() string {
	if r.known != nil && r.deletes(r.known) {
		return ReportDelete
	}
	return ReportStatus
}

func (r *report) deletes(p *pod) bool {
	return p.owner != "" && cmp.Or(r.c.o.Report[p.owner], ReportStatus) == ReportDelete
}

// delete deletes a pod whose controller makes another, when nothing of it runs: the API
// server removes a failed pod at once, and a StatefulSet's next one must not meet the
// containers of the former. A deletion is not taken back.
func (r *report) delete(ctx context.Context, p *pod) (string, time.Duration, error) {
	if p.deleting {
		return resultDone, 0, nil
	}
	err := r.c.client.deletePod(ctx, p.Namespace, p.Name, p.UID)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return "", 0, fmt.Errorf("delete pod: %w", err)
	}
	return resultDone, 0, nil
}

// settled ends the report when the status has held and the API server itself says so: the
// watch may have been cut off. The patch changes nothing where all is well.
func (r *report) settled(ctx context.Context, p *pod, now time.Time) (string, time.Duration, error) {
	if p.running {
		return r.outlived(now)
	}
	r.runsOn = time.Time{}
	if r.good.IsZero() {
		r.good = now
	}
	if left := r.c.settle - now.Sub(r.good); left > 0 {
		return "", left, nil
	}
	if p.record == "" {
		return resultDone, 0, nil // the kubelet's
	}
	after, err := r.c.client.patchPodStatus(ctx, p.Namespace, p.Name, r.statusPatch(p))
	if apierrors.IsNotFound(err) {
		return resultDone, 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("verify pod status: %w", err)
	}
	if after.ResourceVersion == p.ResourceVersion {
		return resultDone, 0, nil
	}
	r.patched, r.written, r.good = after.ResourceVersion, true, time.Time{}
	return "", r.c.settle, nil
}

// outlived waits for the containers of a failed pod to end. While nothing is heard of the
// pods they may have: that time does not count.
func (r *report) outlived(now time.Time) (string, time.Duration, error) {
	r.good = time.Time{}
	heard := r.c.store.heardSince()
	if heard.IsZero() {
		r.runsOn = time.Time{}
		return "", settle, nil
	}
	if r.runsOn.IsZero() || r.runsOn.Before(heard) {
		r.runsOn = now
	}
	if now.Sub(r.runsOn) > endMost {
		r.log.Error().Msg("containers run on in a failed pod")
		return resultGaveUp, 0, nil
	}
	return "", settle, nil
}

// isOlder compares resource versions; what can't be compared is taken for new.
func (c *Companion) isOlder(a, b string) bool {
	if b == "" {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
