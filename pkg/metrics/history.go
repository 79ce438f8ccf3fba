package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// history is what the lines of a journal add up to.
type history struct {
	evictions, degraded *prometheus.CounterVec
	again               *prometheus.CounterVec
	reclaims, freed     *prometheus.CounterVec
	starts, drillsBad   prometheus.Counter
	errors              prometheus.Counter
	stages, overshoot   *prometheus.HistogramVec

	attempts  map[record.ID]int    // of each eviction so far: one of a pod that came back has several lines
	reclaimed map[string]record.ID // the last reclaim of each signal: several lines may tell of it
	badDrill  record.ID            // the last drill that failed: it has a line for each signal
}

func newHistory() *history {
	return &history{
		evictions: counters("evictions_total", "Evictions that are closed, by how they ended (outcome) and who killed (by).", "signal", "outcome", "by"),
		again:     counters("kills_again_total", "Kills of pods that came back before their eviction was on record, the first of each left out.", "signal"),
		degraded:  counters("degraded_total", "Times that the agent said it does less than it should; signal is empty where all are concerned.", "signal"),
		reclaims:  counters("reclaims_total", "Node-level reclaims that ended, by result: ok or error.", "signal", "result"),
		freed:     counters("reclaim_freed_bytes_total", "Bytes that node-level reclaims freed.", "signal"),
		starts:    counter("agent_starts_total", "Starts of the agent."),
		drillsBad: counter("drill_failures_total", "Drills in which a canary was not killed as it should."),
		errors:    counter("journal_errors_total", "Lines of the journal that are torn or unknown, and readings of it that failed."),
		stages: histograms(prometheus.HistogramOpts{
			Name: "stage_seconds", Help: "From the crossing of a hard threshold to each stage of its eviction.",
			Buckets: stageBuckets, NativeHistogramZeroThreshold: stageBuckets[0],
		}, "signal", "stage"),
		overshoot: histograms(prometheus.HistogramOpts{
			Name: "overshoot_bytes", Help: "How far below a hard threshold the signal fell.",
			Buckets: prometheus.ExponentialBuckets(4<<10, 4, 11), NativeHistogramZeroThreshold: 4 << 10,
		}, "signal"),
		attempts: map[record.ID]int{}, reclaimed: map[string]record.ID{},
	}
}

// stageBuckets are the classic buckets: a wake-up takes some 40 µs, 1 GiB is freed in some
// 100 ms, a unit that does not die is overdue after 5 s.
var stageBuckets = []float64{
	10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10,
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
}

// histograms have native buckets of 10 % each beside the classic ones: which are stored is
// the scraping server's choice.
func histograms(o prometheus.HistogramOpts, labels ...string) *prometheus.HistogramVec {
	o.Name = prefix + o.Name
	o.NativeHistogramBucketFactor, o.NativeHistogramMaxBucketNumber = 1.1, 160
	return prometheus.NewHistogramVec(o, labels)
}

func (h *history) collectors() []prometheus.Collector {
	return []prometheus.Collector{h.evictions, h.again, h.degraded, h.reclaims, h.freed, h.starts, h.drillsBad, h.errors, h.stages, h.overshoot}
}

// expect makes the counters of what may happen start at zero: an increase is seen only of
// a series that was there before.
func (h *history) expect(state *record.State) {
	for i := range state.Signals {
		s := state.Signals[i].Signal
		h.evictions.WithLabelValues(s, string(record.OutcomeKilled), record.ByBackstop)
		h.expectEvictions(s)
		h.again.WithLabelValues(s)
		h.degraded.WithLabelValues(s)
		if strings.Contains(s, "fs.") { // nodefs, imagefs, containerfs: where reclaim comes first
			h.reclaims.WithLabelValues(s, reclaimOK)
			h.reclaims.WithLabelValues(s, reclaimError)
			h.freed.WithLabelValues(s)
		}
	}
	if state.Disk != nil {
		for _, limit := range ownLimits {
			h.expectEvictions(limit)
		}
	}
	h.degraded.WithLabelValues("")
}

func (h *history) expectEvictions(signal string) {
	for _, outcome := range []record.Outcome{record.OutcomeKilled, record.OutcomeFailed, record.OutcomeRefused, record.OutcomeShadow} {
		h.evictions.WithLabelValues(signal, string(outcome), record.ByAgent)
	}
}

// ownLimits are in the place of a signal where a unit was above a limit of its own (decide.Offender).
var ownLimits = []string{"emptydirfs.limit", "ephemeralpodfs.limit", "ephemeralcontainerfs.limit"}

// The results of a reclaim.
const (
	reclaimOK    = "ok"
	reclaimError = "error"
)

func (h *history) add(l *record.Line) {
	if l.Reclaim != nil {
		h.addReclaim(l.Reclaim)
	}
	switch l.Kind {
	case record.KindEviction:
		h.addEviction(l)
	case record.KindDrill:
		h.addDrill(l)
	case record.KindDegraded:
		h.degraded.WithLabelValues(l.Signal).Inc()
	case record.KindStart:
		h.starts.Inc()
	}
}

func (h *history) addReclaim(r *record.Reclaim) {
	if h.reclaimed[r.Signal] == r.ID {
		return
	}
	h.reclaimed[r.Signal] = r.ID
	result := reclaimOK
	if r.Error != "" {
		result = reclaimError
	}
	h.reclaims.WithLabelValues(r.Signal, result).Inc()
	if r.FreedBytes != nil {
		h.freed.WithLabelValues(r.Signal).Add(float64(max(0, *r.FreedBytes)))
	}
}

func (h *history) addEviction(l *record.Line) {
	former := h.attempts[l.ID]
	if !l.ID.IsZero() {
		h.attempts[l.ID] = max(1, l.Attempts)
	}
	if again := l.Attempts - max(1, former); again > 0 {
		h.again.WithLabelValues(l.Signal).Add(float64(again))
	}
	if former > 0 {
		return
	}
	h.evictions.WithLabelValues(l.Signal, string(l.Outcome), l.By).Inc()
	if l.Threshold == nil || !l.Threshold.Hard {
		return // a soft eviction takes as long as it was told to, a unit's own limit has no crossing
	}
	if l.Timeline != nil {
		h.addStages(l.Signal, l.Timeline)
	}
	if l.OvershootBytes != nil {
		h.overshoot.WithLabelValues(l.Signal).Observe(float64(*l.OvershootBytes))
	}
}

func (h *history) addStages(signal string, t *record.Timeline) {
	for _, stage := range []struct {
		name string
		ns   uint64
	}{
		{"woke", t.Woke}, {"decided", t.Decided}, {"signalled", t.Signalled},
		{"signalled_all", t.SignalledAll}, {"dead", t.Dead}, {"recovered", t.Recovered},
	} {
		if t.Crossed == 0 || stage.ns < t.Crossed { // it was not reached
			continue
		}
		h.stages.WithLabelValues(signal, stage.name).Observe(float64(stage.ns-t.Crossed) / 1e9)
	}
}

func (h *history) addDrill(l *record.Line) {
	switch l.Outcome {
	case record.OutcomeKilled, record.OutcomeRefused: // refused: a bad request, no drill
		return
	}
	if h.badDrill != l.ID {
		h.badDrill = l.ID
		h.drillsBad.Inc()
	}
}
