package config

import (
	"slices"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
)

// Settings are what pkg/decide needs to know, with a bound for each of Thresholds, in their
// order and without roots. The error is an *Error.
func (c *Config) Settings() (decide.Settings, error) {
	thresholds, err := c.Thresholds()
	if err != nil {
		return decide.Settings{}, err
	}
	s := decide.Settings{
		Compat:                   c.Compat == CompatKubelet,
		TransitionPeriod:         c.EvictionPressureTransitionPeriod,
		MaxPodGracePeriodSeconds: int64(c.EvictionMaxPodGracePeriod),
		LocalStorageIsolation:    c.LocalStorageCapacityIsolation,
		Budget:                   decide.Budget{PerMinute: c.Budget.KillsPerMinute, PerHour: c.Budget.KillsPerHour},
	}
	for _, t := range thresholds {
		s.Bounds = append(s.Bounds, decide.Bound{Threshold: t})
	}
	s.Room = c.room(len(thresholds))
	return s, nil
}

// room is for how many thresholds more there is room in the list that the kubelet would
// make of the configuration (ParseThresholdConfig in pkg/kubelet/eviction): it is built by
// appending, and Go's append leaves room for 64-byte elements here as it does there.
func (c *Config) room(total int) int {
	type threshold [64]byte
	hard, soft := count(c.hard()), count(c.EvictionSoft)
	list := append([]threshold{}, make([]threshold, hard)...)
	list = append(list, make([]threshold, soft)...)
	if slices.Contains(c.EnforceNodeAllocatable, "pods") {
		list = append(append([]threshold{}, list...), make([]threshold, total-hard-soft)...)
	}
	return cap(list) - len(list)
}

func count(m map[string]string) int {
	n := 0
	for _, v := range m {
		if !off(v) {
			n++
		}
	}
	return n
}
