package config

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// notYetKeys are accepted and not acted upon by this version.
var notYetKeys = []string{"compat", "allowEvictFirst", "nodefs", "imagefs", "containerfs", "disk", "hugepages"}

// notYet are the settings that a later version acts upon. This file goes with the last.
func (c *Config) notYet() []string {
	var ws []string
	warn := func(format string, args ...any) { ws = append(ws, fmt.Sprintf(format, args...)) }
	for _, s := range slices.Sorted(maps.Keys(c.EvictionHard)) {
		if signal.Signal(s).Disk() && !off(c.EvictionHard[s]) {
			warn("evictionHard[%s]: disk signals are not acted upon by this version", s)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(c.EvictionSoft)) {
		d, _ := time.ParseDuration(c.EvictionSoftGracePeriod[s])
		if (d > 0 || signal.Signal(s).Disk()) && !off(c.EvictionSoft[s]) {
			warn("evictionSoft[%s]: soft thresholds and disk signals are not acted upon by this version", s)
		}
	}
	for _, key := range Default().Diff(c) {
		if slices.Contains(notYetKeys, key) {
			warn("%s: not acted upon by this version", key)
		}
	}
	return ws
}
