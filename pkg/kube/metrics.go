package kube

import (
	"github.com/prometheus/client_golang/prometheus"
)

// meters are what a companion counts (docs/metrics.md). Goroutines may share them.
type meters struct {
	reports *prometheus.CounterVec // by kind and result
	errors  *prometheus.CounterVec // by what was being done
	delay   prometheus.Histogram
	// shortened is how many pods are not whole in the table.
	shortened prometheus.Gauge
}

const metricsPrefix = "ebpf_evict_kube_"

// The things that are tried again when they fail.
const (
	doingReport  = "report"
	doingNode    = "node"
	doingPods    = "pods"
	doingTable   = "table"
	doingJournal = "journal"
	doingCursor  = "cursor"
)

func newMeters() *meters {
	m := &meters{
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricsPrefix + "reports_total",
			Help: "Evictions that were brought to the cluster, by kind of report (status or delete) and result.",
		}, []string{"kind", "result"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricsPrefix + "errors_total",
			Help: "What failed and is tried again: report, node (taints and conditions), pods (list and watch), table, journal or cursor (or it was refused).",
		}, []string{"doing"}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricsPrefix + "report_seconds", Help: "From a kill to the first status of the pod that tells of it.",
			// A container is started again within a second; an API server may be away for hours.
			Buckets:                        []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 160,
		}),
		shortened: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: metricsPrefix + "shortened_pods",
			Help: "Pods of which the workload table leaves out volumes or containers, as the node's pods have more than it may hold.",
		}),
	}
	// An increase is seen only of a series that was there before.
	for _, kind := range []string{ReportStatus, ReportDelete} {
		for _, result := range []string{resultDone, resultGone, resultEnded, resultRefused, resultGaveUp, resultLate, resultOverwritten} {
			m.reports.WithLabelValues(kind, result)
		}
	}
	for _, doing := range []string{doingReport, doingNode, doingPods, doingTable, doingJournal, doingCursor} {
		m.errors.WithLabelValues(doing)
	}
	return m
}

func (m *meters) failed(doing string) { m.errors.WithLabelValues(doing).Inc() }

// collector tells of a companion at each scrape.
type collector struct {
	c              *Companion
	backlog, ready *prometheus.Desc
}

// Metrics may be registered once.
func (c *Companion) Metrics() prometheus.Collector {
	return &collector{
		c:       c,
		backlog: prometheus.NewDesc(metricsPrefix+"backlog", "Kills that the cluster does not show for good yet.", nil, nil),
		ready:   prometheus.NewDesc(metricsPrefix+"ready", "1 while the node's pods are known, and in the workload table; 0 also while the table can't be written, or when no list or watch of pods was answered for a minute.", nil, nil),
	}
}

func (m *collector) parts() []prometheus.Collector {
	return []prometheus.Collector{m.c.meters.reports, m.c.meters.errors, m.c.meters.delay, m.c.meters.shortened}
}

// Describe is a prometheus.Collector's.
func (m *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.backlog
	ch <- m.ready
	for _, p := range m.parts() {
		p.Describe(ch)
	}
}

// Collect is a prometheus.Collector's.
func (m *collector) Collect(ch chan<- prometheus.Metric) {
	ready := 0.0
	if m.c.Ready() == nil {
		ready = 1
	}
	ch <- prometheus.MustNewConstMetric(m.backlog, prometheus.GaugeValue, float64(m.c.ledger.backlog()))
	ch <- prometheus.MustNewConstMetric(m.ready, prometheus.GaugeValue, ready)
	for _, p := range m.parts() {
		p.Collect(ch)
	}
}
