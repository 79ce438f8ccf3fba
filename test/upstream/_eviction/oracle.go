// Package eviction is, with this file in it, the kubelet's own: go build -overlay adds the
// file to k8s.io/kubernetes/pkg/kubelet/eviction. It runs the real manager one cycle at a
// time, in a world of fakes, and tells what the manager did.
package eviction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	testingclock "k8s.io/utils/clock/testing"

	"k8s.io/apimachinery/pkg/runtime"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"
	kubelettypes "k8s.io/kubernetes/pkg/kubelet/types"
)

// Layout is what the manager asks its disk info provider for.
type Layout struct {
	DedicatedImageFs, SplitImageFs bool
}

func (l Layout) HasDedicatedImageFs(context.Context) (bool, error)     { return l.DedicatedImageFs, nil }
func (l Layout) HasDedicatedContainerFs(context.Context) (bool, error) { return l.SplitImageFs, nil }

// Moment is what the manager finds in one cycle.
type Moment struct {
	Now     time.Time
	Summary *statsapi.Summary
	// AfterReclaim is the summary once a clean-up function was called; nil means that
	// Summary stays.
	AfterReclaim *statsapi.Summary
	Pods         []*v1.Pod
}

// Report is what the manager did in one cycle.
type Report struct {
	// Met are the thresholds that the manager counts as met or not yet resolved.
	Met []evictionapi.Threshold
	// Due are those of them it may act on: grace passed, figures newer than the last.
	Due []evictionapi.Threshold
	// Acted are the members of Due that explain all that was seen; empty when the
	// manager acted on none. More than one means that their effects are the same.
	Acted []evictionapi.Threshold

	MemoryPressure, DiskPressure, PIDPressure bool

	// Reclaimed are the clean-ups called, in order: "containers", "images".
	Reclaimed []string
	// Ranked is empty when the manager did not come to rank.
	Ranked []*v1.Pod
	Kills  []Kill
}

// Kill is one call of the kill function.
type Kill struct {
	Pod         *v1.Pod
	GracePeriod int64
	Status      v1.PodStatus
}

// ForPressure tells an eviction by a threshold from one by a local storage limit: only the
// former comes with a condition.
func (k Kill) ForPressure() bool { return len(k.Status.Conditions) > 0 }

// Oracle is a manager and its world.
type Oracle struct {
	manager  *managerImpl
	layout   Layout
	clock    *testingclock.FakeClock
	moment   Moment
	report   Report
	resource string
	signal   evictionapi.Signal
	wrapped  bool
	err      error
}

// NewOracle returns a manager that has not seen anything yet. It keeps config.Thresholds,
// and writes into it.
func NewOracle(config Config, layout Layout, localStorageCapacityIsolation bool) *Oracle {
	o := &Oracle{layout: layout, clock: testingclock.NewFakeClock(time.Time{})}
	m, _ := NewManager(o, config, o.kill, o, o, recorder{o: o}, &v1.ObjectReference{}, o.clock, localStorageCapacityIsolation)
	o.manager = m.(*managerImpl)
	return o
}

// Cycle runs one cycle of the manager. An error means that this file misunderstands the
// manager, never that the manager failed.
func (o *Oracle) Cycle(moment Moment) (Report, error) {
	o.moment, o.report, o.resource, o.signal, o.err = moment, Report{}, "", "", nil
	o.clock.SetTime(moment.Now)
	last := o.manager.lastObservations
	pods := slices.Clone(moment.Pods) // ranking sorts it

	killed, err := o.manager.synchronize(o.layout, func() []*v1.Pod { return pods })
	if err = errors.Join(err, o.err); err != nil {
		return Report{}, err
	}
	if len(killed) != len(o.report.Kills) {
		return Report{}, fmt.Errorf("%d pods evicted, %d killed", len(killed), len(o.report.Kills))
	}

	r := &o.report
	for t := range o.manager.thresholdsFirstObservedAt {
		r.Met = append(r.Met, t)
	}
	r.MemoryPressure = o.manager.IsUnderMemoryPressure()
	r.DiskPressure = o.manager.IsUnderDiskPressure()
	r.PIDPressure = o.manager.IsUnderPIDPressure()
	if o.resource == "" {
		return *r, nil
	}
	r.Due = memoryFirst(thresholdsUpdatedStats(o.manager.thresholdsMet, o.manager.lastObservations, last))
	for _, t := range r.Due {
		if o.explains(t) {
			r.Acted = append(r.Acted, t)
		}
	}
	if len(r.Acted) == 0 {
		return Report{}, fmt.Errorf("reclaimed %s for none of %v", o.resource, r.Due)
	}
	return *r, nil
}

// memoryFirst is the one rule upstream has for the choice among thresholds.
func memoryFirst(due []evictionapi.Threshold) []evictionapi.Threshold {
	memory := slices.DeleteFunc(slices.Clone(due), func(t evictionapi.Threshold) bool {
		return signalToResource[t.Signal] != v1.ResourceMemory
	})
	if len(memory) > 0 {
		return memory
	}
	return due
}

// explains reports whether acting on t looks like what was seen.
func (o *Oracle) explains(t evictionapi.Threshold) bool {
	if string(signalToResource[t.Signal]) != o.resource || (o.signal != "" && o.signal != t.Signal) {
		return false
	}
	for _, k := range o.report.Kills {
		observations, stats := makeSignalObservations(o.moment.Summary)
		message, _ := evictionMessage(signalToResource[t.Signal], k.Pod, stats, []evictionapi.Threshold{t}, observations)
		if k.Status.Message != message || k.GracePeriod != o.grace(t, k.Pod) {
			return false
		}
	}
	return true
}

func (o *Oracle) grace(t evictionapi.Threshold, pod *v1.Pod) int64 {
	grace := o.manager.config.MaxPodGracePeriodSeconds
	if isHardEvictionThreshold(t) {
		return immediateEvictionGracePeriodSeconds
	}
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		return min(grace, *own)
	}
	return grace
}

// Get is the summary provider. The manager asks right after it has built its tables of rank
// and clean-up functions, so the first call puts ears on them.
func (o *Oracle) Get(context.Context, bool) (*statsapi.Summary, error) {
	if !o.wrapped {
		o.wrapped = true
		o.listen()
	}
	if len(o.report.Reclaimed) > 0 && o.moment.AfterReclaim != nil {
		return o.moment.AfterReclaim, nil
	}
	return o.moment.Summary, nil
}

func (o *Oracle) GetCPUAndMemoryStats(context.Context) (*statsapi.Summary, error) {
	return nil, errors.New("not asked for by eviction")
}

// listen learns from the tables which signal they are used for. What is called is upstream's.
func (o *Oracle) listen() {
	for signal, reclaim := range o.manager.signalToNodeReclaimFuncs {
		if len(reclaim) == 0 {
			continue
		}
		first := reclaim[0]
		o.manager.signalToNodeReclaimFuncs[signal] = append(nodeReclaimFuncs{func(ctx context.Context) error {
			o.signal = signal
			return first(ctx)
		}}, reclaim[1:]...)
	}
	for signal, rank := range o.manager.signalToRankFunc {
		o.manager.signalToRankFunc[signal] = func(pods []*v1.Pod, stats statsFunc) {
			o.signal = signal
			o.err = errors.Join(o.err, rankByUID(rank, pods, stats))
			o.report.Ranked = slices.Clone(pods)
		}
	}
}

// rankByUID ranks pods, and orders by uid those that tie in all of upstream's comparisons.
// Its own sort leaves these as they come up to 12 pods, and in no order beyond that.
func rankByUID(rank rankFunc, pods []*v1.Pod, stats statsFunc) error {
	rank(pods, stats)
	upstream := func(a, b *v1.Pod) int { return compare(rank, stats, a, b) }
	if !slices.IsSortedFunc(pods, upstream) {
		return errors.New("ranked against its own comparisons")
	}
	slices.SortFunc(pods, func(a, b *v1.Pod) int {
		return cmp.Or(upstream(a, b), cmp.Compare(a.UID, b.UID))
	})
	return nil
}

// compare asks upstream about two pods, which it can but order or leave as they come.
func compare(rank rankFunc, stats statsFunc, a, b *v1.Pod) int {
	forward, backward := []*v1.Pod{a, b}, []*v1.Pod{b, a}
	rank(forward, stats)
	rank(backward, stats)
	switch {
	case forward[0] != backward[0]:
		return 0
	case forward[0] == a:
		return -1
	}
	return 1
}

func (o *Oracle) DeleteAllUnusedContainers(context.Context) error {
	o.report.Reclaimed = append(o.report.Reclaimed, "containers")
	return nil
}

func (o *Oracle) DeleteUnusedImages(context.Context) error {
	o.report.Reclaimed = append(o.report.Reclaimed, "images")
	return nil
}

func (o *Oracle) kill(pod *v1.Pod, isEvicted bool, grace *int64, status func(*v1.PodStatus)) error {
	k := Kill{Pod: pod, GracePeriod: *grace}
	status(&k.Status)
	if !isEvicted || k.Status.Phase != v1.PodFailed {
		o.err = errors.Join(o.err, fmt.Errorf("killed %s without evicting it", pod.UID))
	}
	o.report.Kills = append(o.report.Kills, k)
	return nil
}

// recorder hears the node's event, which names the resource that is acted on.
type recorder struct {
	record.EventRecorder
	o *Oracle
}

func (r recorder) Eventf(_ runtime.Object, _, reason, _ string, args ...any) {
	if reason == "EvictionThresholdMet" {
		r.o.resource = fmt.Sprint(args[0])
	}
}

func (r recorder) AnnotatedEventf(runtime.Object, map[string]string, string, string, string, ...any) {
}

// Rank orders pods as the manager would for a signal.
func Rank(layout Layout, signal evictionapi.Signal, pods []*v1.Pod, summary *statsapi.Summary) ([]*v1.Pod, error) {
	rank, ok := buildSignalToRankFunc(layout.DedicatedImageFs, layout.SplitImageFs)[signal]
	if !ok {
		return nil, fmt.Errorf("no rank function for %q", signal)
	}
	_, stats := makeSignalObservations(summary)
	ranked := slices.Clone(pods)
	return ranked, rankByUID(rank, ranked, stats)
}

// Evictable reports whether the manager would evict the pod when its turn comes.
func Evictable(pod *v1.Pod) bool { return !kubelettypes.IsCriticalPod(pod) }
