package config

import (
	"fmt"
	"maps"
	"slices"
)

// Warnings returns a sentence for each setting that is accepted and has no effect: in the
// kubelet either, and headroom of none.
func (c *Config) Warnings() []string {
	var ws []string
	warn := func(format string, args ...any) { ws = append(ws, fmt.Sprintf(format, args...)) }
	for _, s := range slices.Sorted(maps.Keys(c.EvictionSoftGracePeriod)) {
		if _, ok := c.EvictionSoft[s]; !ok {
			warn("evictionSoftGracePeriod[%s]: ignored, evictionSoft does not name the signal", s)
		}
	}
	hard := c.hard()
	for _, s := range slices.Sorted(maps.Keys(c.EvictionMinimumReclaim)) {
		if hard[s] == "" && c.EvictionSoft[s] == "" {
			warn("evictionMinimumReclaim[%s]: ignored, the signal has no threshold", s)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(c.Headroom.Signals)) {
		if hard[s] == "" && c.EvictionSoft[s] == "" {
			warn("headroom[%s]: ignored, the signal has no threshold", s)
		}
	}
	if c.EvictionPressureTransitionPeriod < 0 {
		warn("evictionPressureTransitionPeriod: below zero, no condition is ever published")
	}
	return ws
}
