package kube

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// kind is a pressure with the names of our own condition and taint. The kubelet's three are
// its own: it would overwrite them within ten seconds, and the node lifecycle controller
// takes away taints whose condition is not true.
type kind struct {
	name      string // of the kubelet's condition
	condition corev1.NodeConditionType
	taint     string
	reason    string
	message   string
}

var kinds = []kind{
	{"MemoryPressure", "EbpfEvictMemoryPressure", "ebpf-evict/memory-pressure", "EbpfEvictHasInsufficientMemory", "ebpf-evict has insufficient memory available"},
	{"DiskPressure", "EbpfEvictDiskPressure", "ebpf-evict/disk-pressure", "EbpfEvictHasDiskPressure", "ebpf-evict has disk pressure"},
	{"PIDPressure", "EbpfEvictPIDPressure", "ebpf-evict/pid-pressure", "EbpfEvictHasInsufficientPID", "ebpf-evict has insufficient PID available"},
}

// pressureOf is the kubelet's condition of a signal; empty for a limit of a pod's own,
// which says nothing of the node.
func pressureOf(signal string) string {
	switch {
	case strings.HasSuffix(signal, "memory.available"), signal == "allocatableMemory.available":
		return "MemoryPressure"
	case signal == "pid.available", signal == "allocatablePID.available":
		return "PIDPressure"
	case strings.HasSuffix(signal, "fs.available"), strings.HasSuffix(signal, "fs.inodesFree"):
		return "DiskPressure"
	}
	return ""
}

// hold is what is known of one pressure.
type hold struct {
	// Asserted by the agent, which counts the transition period itself.
	Asserted bool `json:"asserted,omitempty"`
	// Until is for pressure that no agent will take back: of a kill before its condition
	// line, of an agent that ended.
	Until time.Time `json:"until,omitzero"`
}

// pressure is which of our taints and conditions the node should have. The journal's lines
// change it, one goroutine follows it. Goroutines may share it.
type pressure struct {
	period time.Duration // evictionPressureTransitionPeriod

	mu    sync.Mutex
	holds map[string]hold // by the kubelet's condition
}

func newPressure(period time.Duration, holds map[string]hold) *pressure {
	p := &pressure{period: period, holds: map[string]hold{}}
	maps.Copy(p.holds, holds)
	return p
}

// take takes a line of an enforcing agent over.
func (p *pressure) take(l *record.Line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch l.Kind {
	case record.KindKill:
		if name := pressureOf(l.Signal); name != "" {
			p.extend(name, l.Time.Time)
		}
	case record.KindCondition:
		if c := l.Conditions; c != nil {
			p.assert("MemoryPressure", c.MemoryPressure)
			p.assert("DiskPressure", c.DiskPressure)
			p.assert("PIDPressure", c.PIDPressure)
		}
	case record.KindStart, record.KindStop: // an agent that starts knows of no pressure
		p.release(l.Time.Time)
	}
}

func (p *pressure) assert(name string, on bool) {
	switch h := p.holds[name]; {
	case on:
		h.Asserted = true
		p.holds[name] = h
	case h.Asserted: // over, and the transition period too
		delete(p.holds, name)
	}
}

func (p *pressure) extend(name string, since time.Time) {
	h := p.holds[name]
	if until := since.Add(p.period); until.After(h.Until) {
		h.Until = until
	}
	p.holds[name] = h
}

// release leaves what an agent asserted for the transition period.
func (p *pressure) release(since time.Time) {
	for name, h := range p.holds {
		if h.Asserted {
			h.Asserted = false
			p.holds[name] = h
			p.extend(name, since)
		}
	}
}

// abandon is release for an agent that has ended without a line.
func (p *pressure) abandon(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(since)
}

func (p *pressure) asserted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.holds {
		if h.Asserted {
			return true
		}
	}
	return false
}

// wanted are the pressures of now.
func (p *pressure) wanted(now time.Time) map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]bool{}
	for name, h := range p.holds {
		if h.Asserted || now.Before(h.Until) {
			out[name] = true
		}
	}
	return out
}

func (p *pressure) saved() map[string]hold {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.holds)
}

// keeper makes the node's taints and conditions what they should be.
type keeper struct {
	client   *client
	pressure *pressure
	meters   *meters
	log      zerolog.Logger
	wake     chan struct{}

	mu      sync.Mutex
	applied map[string]bool // nil: not known
	done    chan struct{}   // closed and replaced at each success
}

// checkEvery is how often the node is looked at while it has our taints, idleEvery while
// it has none: somebody else may have changed them.
const (
	checkEvery = 30 * time.Second
	idleEvery  = 10 * time.Minute
	// expiryEvery is how often it is asked whether a hold has ended.
	expiryEvery = time.Second
)

func newKeeper(c *client, p *pressure, m *meters, log zerolog.Logger) *keeper {
	return &keeper{client: c, pressure: p, meters: m, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (k *keeper) run(ctx context.Context) {
	retry := backoff{first: retryFirst, most: retryMost}
	var looked time.Time
	for ctx.Err() == nil {
		want := k.pressure.wanted(time.Now())
		if k.isApplied(want) && time.Since(looked) < lookEvery(want) {
			k.await(ctx, expiryEvery)
			continue
		}
		if err := k.apply(ctx, want); err != nil {
			wait := retry.next(err)
			k.meters.failed(doingNode)
			k.log.Warn().Err(err).Dur("retry_ms", wait).Msg("taints and conditions of the node not changed")
			sleep(ctx, wait)
			continue
		}
		retry.reset()
		looked = time.Now()
		k.note(want)
	}
}

func lookEvery(want map[string]bool) time.Duration {
	if len(want) > 0 {
		return checkEvery
	}
	return idleEvery
}

func (k *keeper) await(ctx context.Context, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-k.wake:
	case <-t.C:
	}
}

func (k *keeper) isApplied(want map[string]bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.applied != nil && maps.Equal(k.applied, want)
}

func (k *keeper) note(applied map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !maps.Equal(k.applied, applied) {
		k.log.Info().Strs("pressure", slices.Sorted(maps.Keys(applied))).Msg("taints and conditions of the node")
	}
	k.applied = applied
	close(k.done)
	k.done = make(chan struct{})
}

// ensure waits until the node has the taint of a pressure, for a while at most: containers
// that start again are worse than a replacement that comes back.
func (k *keeper) ensure(ctx context.Context, name string, most time.Duration) bool {
	t := time.NewTimer(most)
	defer t.Stop()
	for {
		k.mu.Lock()
		done, ok := k.done, k.applied[name]
		k.mu.Unlock()
		if ok {
			return true
		}
		poke(k.wake)
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return false
		case <-done:
		}
	}
}

// apply adds the taint before the condition: the scheduler goes by taints.
func (k *keeper) apply(ctx context.Context, want map[string]bool) error {
	node, err := k.client.getNode(ctx)
	if err != nil {
		return err
	}
	if taints, changed := tainted(node.Spec.Taints, want, time.Now()); changed {
		// The list has no merge key: it is replaced as it was read, or not at all (409).
		patch := map[string]any{
			"metadata": map[string]any{"resourceVersion": node.ResourceVersion, "uid": node.UID},
			"spec":     map[string]any{"taints": taints},
		}
		if err := k.client.patchNode(ctx, types.MergePatchType, patch); err != nil {
			return err
		}
	}
	changes := conditionChanges(node.Status.Conditions, want, time.Now())
	if len(changes) == 0 {
		return nil
	}
	return k.client.patchNode(ctx, types.StrategicMergePatchType, map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"status":   map[string]any{"conditions": changes},
	}, "status")
}

// tainted is the list with our taints as wanted, and whether that is another list.
func tainted(have []corev1.Taint, want map[string]bool, now time.Time) (taints []corev1.Taint, changed bool) {
	taints = []corev1.Taint{}
	found := map[string]bool{}
	for _, t := range have {
		k := kindOfTaint(t.Key)
		switch {
		case k == nil:
			taints = append(taints, t)
		case want[k.name] && t.Effect == corev1.TaintEffectNoSchedule && !found[k.name]:
			found[k.name] = true
			taints = append(taints, t)
		default:
			changed = true
		}
	}
	for i := range kinds {
		if k := &kinds[i]; want[k.name] && !found[k.name] {
			added := metav1.NewTime(now)
			taints = append(taints, corev1.Taint{Key: k.taint, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &added})
			changed = true
		}
	}
	return taints, changed
}

func kindOfTaint(key string) *kind {
	for i := range kinds {
		if kinds[i].taint == key {
			return &kinds[i]
		}
	}
	return nil
}

// conditionChanges are the parts of a strategic merge patch, by type.
func conditionChanges(have []corev1.NodeCondition, want map[string]bool, now time.Time) (changes []any) {
	for i := range kinds {
		k := &kinds[i]
		at := slices.IndexFunc(have, func(c corev1.NodeCondition) bool { return c.Type == k.condition })
		switch {
		case want[k.name] && (at < 0 || have[at].Status != corev1.ConditionTrue):
			changes = append(changes, corev1.NodeCondition{
				Type: k.condition, Status: corev1.ConditionTrue, Reason: k.reason, Message: k.message,
				LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
			})
		case !want[k.name] && at >= 0:
			changes = append(changes, map[string]any{"$patch": "delete", "type": k.condition})
		}
	}
	return changes
}
