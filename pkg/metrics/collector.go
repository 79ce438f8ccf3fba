// Package metrics turns journal and state file into Prometheus metrics (docs/metrics.md). It
// reads what the agent leaves behind, so the agent itself listens on nothing. Journal lines
// become counters and histograms, the state file gauges.
package metrics

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// prefix is that of every name.
const prefix = "ebpf_evict_"

// WellWithin is how old the state of an agent may be that is well: it is written every second.
const WellWithin = 5 * time.Second

// Options name what is read. The files need not exist.
type Options struct {
	// Journal, State and Workloads are the configuration's paths of these names.
	Journal, State, Workloads string
	// Version is the reading program's.
	Version string
}

// Collector reads the files at each scrape, of the journal what is new. It is a
// prometheus.Collector; goroutines may share it.
type Collector struct {
	options Options
	descs   map[string]*prometheus.Desc

	mu      sync.Mutex // one scrape reads at a time; guards what follows
	journal *record.Tail
	history *history
}

// New makes a collector that counts from the oldest line of the journal on. Nothing is read
// before the first scrape.
func New(o Options) *Collector {
	journal, _ := record.NewTail(o.Journal, record.Position{}) // fails at others alone: nothing is opened
	return &Collector{options: o, descs: newDescs(), journal: journal, history: newHistory()}
}

// Describe tells every metric that there may be.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
	for _, v := range c.history.collectors() {
		v.Describe(ch)
	}
}

// Collect reads and tells. What can't be read is left out, and shows in up and
// journal_errors_total.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readJournal()
	e := emitter{c.descs, ch}
	e.gauge("build_info", 1, c.options.Version)
	c.tellTable(e)
	c.tellState(e)
	for _, v := range c.history.collectors() {
		v.Collect(ch)
	}
}

func (c *Collector) readJournal() {
	before := c.journal.Skipped
	for {
		e, err := c.journal.Next()
		if err != nil {
			c.history.errors.Inc()
		}
		if e == nil {
			break
		}
		c.history.add(&e.Line)
	}
	c.history.errors.Add(float64(c.journal.Skipped - before))
}

// tellTable tells the age of the workload table, which is replaced as a whole.
func (c *Collector) tellTable(e emitter) {
	if fi, err := os.Lstat(c.options.Workloads); err == nil && fi.Mode().IsRegular() {
		e.gauge("workload_table_age_seconds", max(0, time.Since(fi.ModTime()).Seconds()))
	}
}

// tellState tells of a state that is old, or none, only that: its figures are no data.
func (c *Collector) tellState(e emitter) {
	s, age, err := ReadState(c.options.State)
	if err == nil || errors.Is(err, ErrUnwell) {
		e.gauge("state_age_seconds", age.Seconds())
	}
	e.flag("up", err == nil)
	if err != nil {
		return
	}
	c.history.expect(&s)
	tell(e, &s)
}

// ErrUnwell means that the agent has not written its state for longer than WellWithin.
var ErrUnwell = errors.New("the agent's state is old")

// ReadState reads the state file and says how old it is; if that is more than WellWithin, the
// error is ErrUnwell. One from that far ahead of the clock is no better.
func ReadState(path string) (record.State, time.Duration, error) {
	s, err := record.ReadState(path)
	if err != nil {
		return s, 0, err
	}
	age := time.Since(s.Time.Time)
	if age.Abs() > WellWithin {
		return s, age, fmt.Errorf("%w: written %s ago", ErrUnwell, age.Round(time.Millisecond))
	}
	return s, max(0, age), nil
}
