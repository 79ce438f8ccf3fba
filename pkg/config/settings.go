package config

import "github.com/ebpf-evict/ebpf-evict/pkg/decide"

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
	return s, nil
}
