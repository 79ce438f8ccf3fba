package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

const (
	quantityForm = `a quoted quantity above zero such as "500Mi" or percentage such as "10%"`
	percentForm  = `a percentage from "0%" to "100%"`
	reclaimForm  = `a quoted quantity not below zero such as "500Mi" or percentage above zero such as "10%"`
	durationForm = `a quoted duration such as "1m30s"`
	graceForm    = `a quoted duration not below zero such as "1m30s"`
)

// defaultHard is the kubelet's DefaultEvictionHard for Linux (pkg/kubelet/eviction,
// v1.37; imagefs.inodesFree since v1.28).
var defaultHard = map[signal.Signal]string{
	signal.MemoryAvailable:   "100Mi",
	signal.NodeFsAvailable:   "10%",
	signal.NodeFsInodesFree:  "5%",
	signal.ImageFsAvailable:  "15%",
	signal.ImageFsInodesFree: "5%",
}

// Thresholds returns what was asked for, hard before soft and both in the order of
// signal.Names, and after these the copies for allocatableMemory.available: as in the
// kubelet, each memory.available threshold without grace period (a soft one of 0s is one)
// is copied when enforceNodeAllocatable holds "pods", and, but for compat, nothing is given
// for it. "0%" and "100%" turn a signal off.
// Of two thresholds of a signal without grace period the one of evictionSoft is the later:
// it is the one that the kubelet copies to containerfs. The error is an *Error.
func (c *Config) Thresholds() ([]signal.Threshold, error) {
	hard, err := statements("evictionHard", c.hard())
	if err != nil {
		return nil, err
	}
	soft, err := statements("evictionSoft", c.EvictionSoft)
	if err != nil {
		return nil, err
	}
	if err := c.setGrace(soft); err != nil {
		return nil, err
	}
	all := slices.Concat(hard, soft)
	if err := c.setMinReclaim(all); err != nil {
		return nil, err
	}
	if slices.Contains(c.EnforceNodeAllocatable, "pods") && !c.givesAllocatable() {
		all = append(all, allocatable(all)...)
	}
	return all, nil
}

// givesAllocatable: the roots have a hard threshold of their own, or none by "0%", and the
// node's would outrank it where it is larger. The kubelet copies that all the same.
func (c *Config) givesAllocatable() bool {
	_, given := c.EvictionHard[string(signal.AllocatableMemoryAvailable)]
	return given && c.Compat != CompatKubelet
}

// hard is evictionHard with the defaults it asks for.
func (c *Config) hard() map[string]string {
	m := map[string]string{}
	if c.EvictionHard == nil || c.MergeDefaultEvictionSettings {
		for s, v := range defaultHard {
			m[string(s)] = v
		}
	}
	maps.Copy(m, c.EvictionHard)
	return m
}

func statements(key string, m map[string]string) ([]signal.Threshold, error) {
	if err := checkSignals(key, m); err != nil {
		return nil, err
	}
	var ts []signal.Threshold
	for _, s := range signal.Names() {
		v, ok := m[string(s)]
		if !ok || off(v) {
			continue
		}
		q, err := thresholdValue(entry(key, string(s)), v)
		if err != nil {
			return nil, err
		}
		ts = append(ts, signal.Threshold{Signal: s, Value: q})
	}
	return ts, nil
}

// off: exactly these two; "0.0%" and "100.0%" are thresholds to the kubelet.
func off(v string) bool { return v == "0%" || v == "100%" }

func checkSignals(key string, m map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !known(name) {
			var all []string
			for _, s := range signal.Names() {
				all = append(all, string(s))
			}
			return &Error{Key: entry(key, name), Unknown: "no such signal", Want: "one of " + strings.Join(all, ", ")}
		}
	}
	return nil
}

// thresholdValue compares the fraction with 1 after the division in float32, as the
// kubelet has done since it stopped accepting up to 10000%. It refuses what the kubelet
// (v1.34) takes and can make no sense of: NaN%, and quantities beyond 64 bits.
func thresholdValue(key, v string) (signal.Quantity, error) {
	if strings.HasSuffix(v, "%") {
		p, err := percent(v)
		if err != nil || !(p >= 0 && p <= 1) { // NaN fails both
			return signal.Quantity{}, &Error{Key: key, Value: strconv.Quote(v), Want: percentForm}
		}
		return signal.Quantity{Percent: p, Text: v}, nil
	}
	q, err := parseQuantity(v)
	if err != nil || q.Sign() <= 0 || tooLarge(q) {
		return signal.Quantity{}, &Error{Key: key, Value: strconv.Quote(v), Want: quantityForm}
	}
	return signal.Quantity{Value: q.Value(), Text: q.String()}, nil
}

// percent has the kubelet's rounding: 32 bits for the number and for the division. It
// strips every "%", so "10%%" is 10%.
func percent(v string) (float32, error) {
	f, err := strconv.ParseFloat(strings.TrimRight(v, "%"), 32)
	return float32(f) / 100, err
}

func (c *Config) setGrace(soft []signal.Threshold) error {
	const key = "evictionSoftGracePeriod"
	if err := checkSignals(key, c.EvictionSoftGracePeriod); err != nil {
		return err
	}
	periods := map[signal.Signal]time.Duration{}
	for _, s := range slices.Sorted(maps.Keys(c.EvictionSoftGracePeriod)) {
		v := c.EvictionSoftGracePeriod[s]
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return &Error{Key: entry(key, s), Value: strconv.Quote(v), Want: graceForm}
		}
		periods[signal.Signal(s)] = d
	}
	for i := range soft {
		d, ok := periods[soft[i].Signal]
		if !ok {
			return &Error{Key: entry(key, string(soft[i].Signal)), Want: graceForm + ", because evictionSoft names the signal"}
		}
		soft[i].GracePeriod = d
	}
	return nil
}

func (c *Config) setMinReclaim(ts []signal.Threshold) error {
	const key = "evictionMinimumReclaim"
	if err := checkSignals(key, c.EvictionMinimumReclaim); err != nil {
		return err
	}
	amounts := map[signal.Signal]signal.Quantity{}
	for _, s := range slices.Sorted(maps.Keys(c.EvictionMinimumReclaim)) {
		q, err := minReclaimValue(entry(key, s), c.EvictionMinimumReclaim[s])
		if err != nil {
			return err
		}
		amounts[signal.Signal(s)] = q
	}
	for i := range ts {
		ts[i].MinReclaim = amounts[ts[i].Signal]
	}
	return nil
}

// maxReclaim bounds the share, which the kubelet does not: a larger one of 2⁴³ bytes
// leaves 64 bits. More than 1 can never be reached anyway.
const maxReclaim = 1 << 20

// minReclaimValue takes a quantity of 0, and percentages above 100 as the kubelet does.
func minReclaimValue(key, v string) (signal.Quantity, error) {
	if strings.HasSuffix(v, "%") {
		p, err := percent(v)
		if err != nil || !(p > 0 && p <= maxReclaim) {
			return signal.Quantity{}, &Error{Key: key, Value: strconv.Quote(v), Want: reclaimForm}
		}
		return signal.Quantity{Percent: p, Text: v}, nil
	}
	q, err := parseQuantity(v)
	if err != nil || q.Sign() < 0 || tooLarge(q) {
		return signal.Quantity{}, &Error{Key: key, Value: strconv.Quote(v), Want: reclaimForm}
	}
	return signal.Quantity{Value: q.Value(), Text: q.String()}, nil
}

func allocatable(ts []signal.Threshold) []signal.Threshold {
	var copies []signal.Threshold
	for _, t := range ts {
		if t.Signal == signal.MemoryAvailable && t.Hard() {
			t.Signal = signal.AllocatableMemoryAvailable
			copies = append(copies, t)
		}
	}
	return copies
}
