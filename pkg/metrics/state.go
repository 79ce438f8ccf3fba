package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// described are the metrics that are made anew at each scrape.
var described = []struct {
	name, help string
	labels     []string
}{
	{"build_info", "1, with the version of the program that serves this.", []string{"version"}},
	{"up", "1 while the agent is well: its state is at most 5 s old.", nil},
	{"state_age_seconds", "Since the agent wrote its state.", nil},
	{"mode", "1 for the mode that the agent is in: enforce or shadow.", []string{"mode"}},
	{"workloads", "Units that are known.", nil},
	{"workload_table_age_seconds", "Since the workload table was replaced, or its writer said that it still holds (the companion does so once a minute).", nil},
	{"condition", "1 while the node has the condition, by the agent's thresholds.", []string{"condition"}},
	{"budget_left", "Kills that are left in the window: minute or hour.", []string{"window"}},
	{"ring_lost_total", "Records of the kernel that found no room in the ring buffer.", nil},

	{"signal_available_bytes", "What is available, of signals in bytes.", []string{"signal"}},
	{"signal_available", "What is available, of signals that count tasks or inodes.", []string{"signal"}},
	{"signal_capacity_bytes", "The whole of which the signal is the available part, in bytes.", []string{"signal"}},
	{"signal_capacity", "The whole of which the signal is the available part, in tasks or inodes.", []string{"signal"}},
	{"signal_threshold_bytes", "The threshold below which the agent acts, in bytes.", []string{"signal", "hard"}},
	{"signal_threshold", "The threshold below which the agent acts, in tasks or inodes.", []string{"signal", "hard"}},
	{"signal_threshold_met", "1 while the signal is below the threshold.", []string{"signal", "hard"}},
	{"signal_time_to_threshold_seconds", "Until the nearest threshold is crossed, if the signal goes on falling as now.", []string{"signal"}},
	{"tier", "1 for what watches the signal: bpf-charge, bpf-alloc, bpf-task, event or poll.", []string{"signal", "tier"}},
	{"armed", "1 while a hook in the kernel looks at each allocation or fork.", []string{"signal"}},

	{"drill_seconds", "From crossing to SIGKILL in the last drill, of its slowest signal.", nil},
	{"drill_ok", "1 if the last drill passed.", nil},
	{"drill_timestamp_seconds", "When the last drill ended.", nil},

	{"disk_figures_ok", "1 while there are disk figures by which units may be evicted for a disk.", nil},
	{"disk_figures_age_seconds", "Since the disk process wrote its figures.", nil},
	{"disk_oldest_figure_age_seconds", "Since the oldest figure that counts was read.", nil},
	{"disk_figures_workloads", "Units of which there are disk figures.", nil},
	{"reclaim_under_way", "1 while dead containers and unused images are being removed.", nil},
	{"reclaim_last_ok", "1 if nothing went wrong in the last reclaim.", nil},
	{"reclaim_last_duration_seconds", "From the request for the last reclaim to its answer.", nil},
	{"reclaim_last_freed_bytes", "What the last reclaim freed.", nil},
	{"reclaim_last_removed", "Dead containers and unused images that the last reclaim removed.", []string{"what"}},
}

func newDescs() map[string]*prometheus.Desc {
	descs := make(map[string]*prometheus.Desc, len(described))
	for _, d := range described {
		descs[d.name] = prometheus.NewDesc(prefix+d.name, d.help, d.labels, nil)
	}
	return descs
}

// emitter tells metrics of the table above.
type emitter struct {
	descs map[string]*prometheus.Desc
	ch    chan<- prometheus.Metric
}

func (e emitter) gauge(name string, value float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(e.descs[name], prometheus.GaugeValue, value, labels...)
}

func (e emitter) counter(name string, value float64) {
	e.ch <- prometheus.MustNewConstMetric(e.descs[name], prometheus.CounterValue, value)
}

// seconds and amount leave out what is no data.
func (e emitter) seconds(name string, value *float64, labels ...string) {
	if value != nil {
		e.gauge(name, *value, labels...)
	}
}

func (e emitter) amount(name string, value *int64, labels ...string) {
	if value != nil {
		e.gauge(name, float64(*value), labels...)
	}
}

func (e emitter) flag(name string, set bool, labels ...string) {
	value := 0.0
	if set {
		value = 1
	}
	e.gauge(name, value, labels...)
}

func tell(e emitter, s *record.State) {
	e.gauge("mode", 1, s.Mode)
	e.gauge("workloads", float64(s.Workloads))
	e.counter("ring_lost_total", float64(s.RingLost))
	e.flag("condition", s.Conditions.MemoryPressure, "MemoryPressure")
	e.flag("condition", s.Conditions.DiskPressure, "DiskPressure")
	e.flag("condition", s.Conditions.PIDPressure, "PIDPressure")
	e.gauge("budget_left", float64(s.Budget.MinuteLeft), "minute")
	e.gauge("budget_left", float64(s.Budget.HourLeft), "hour")
	for _, signal := range nearest(s.Signals) {
		tellSignal(e, signal)
	}
	if s.Drill != nil {
		tellDrill(e, s.Drill)
	}
	if s.Disk != nil {
		tellDisk(e, s.Disk)
	}
}

// nearest keeps of a signal that several roots have the one that is nearest to a threshold: a
// series has the signal for its name alone.
func nearest(signals []record.SignalState) []*record.SignalState {
	var kept []*record.SignalState
	at := map[string]int{}
	for i := range signals {
		s := &signals[i]
		j, ok := at[s.Signal]
		switch {
		case !ok:
			at[s.Signal] = len(kept)
			kept = append(kept, s)
		case distance(s) < distance(kept[j]):
			kept[j] = s
		}
	}
	return kept
}

func distance(s *record.SignalState) int64 {
	switch {
	case s.DistanceBytes != nil:
		return *s.DistanceBytes
	case s.Distance != nil:
		return *s.Distance
	}
	return 1<<63 - 1
}

func tellSignal(e emitter, s *record.SignalState) {
	e.amount("signal_available_bytes", s.AvailableBytes, s.Signal)
	e.amount("signal_available", s.Available, s.Signal)
	e.amount("signal_capacity_bytes", s.CapacityBytes, s.Signal)
	e.amount("signal_capacity", s.Capacity, s.Signal)
	told := map[bool]bool{}
	for _, t := range s.Thresholds {
		if told[t.Hard] {
			continue
		}
		told[t.Hard] = true
		hard := strconv.FormatBool(t.Hard)
		e.amount("signal_threshold_bytes", t.ValueBytes, s.Signal, hard)
		e.amount("signal_threshold", t.Value, s.Signal, hard)
		e.flag("signal_threshold_met", t.Met, s.Signal, hard)
	}
	e.seconds("signal_time_to_threshold_seconds", s.SecondsToThreshold, s.Signal)
	e.gauge("tier", 1, s.Signal, s.Tier)
	e.flag("armed", s.Armed, s.Signal)
}

func tellDrill(e emitter, d *record.DrillState) {
	e.flag("drill_ok", d.OK)
	e.gauge("drill_timestamp_seconds", float64(d.Time.UnixNano())/1e9)
	if d.SignalledNs != 0 {
		e.gauge("drill_seconds", float64(d.SignalledNs)/1e9)
	}
}

func tellDisk(e emitter, d *record.DiskState) {
	e.flag("disk_figures_ok", d.Error == "")
	e.seconds("disk_figures_age_seconds", d.AgeSeconds)
	e.seconds("disk_oldest_figure_age_seconds", d.OldestSeconds)
	e.gauge("disk_figures_workloads", float64(d.Workloads))
	e.flag("reclaim_under_way", d.Reclaiming)
	if r := d.Reclaim; r != nil {
		e.flag("reclaim_last_ok", r.Error == "")
		e.gauge("reclaim_last_duration_seconds", float64(r.TookNs)/1e9)
		e.amount("reclaim_last_freed_bytes", r.FreedBytes)
		e.gauge("reclaim_last_removed", float64(r.Containers), "containers")
		e.gauge("reclaim_last_removed", float64(r.Images), "images")
	}
}
