package main

import (
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/preflight"
)

// The latencies were measured with SCHED_FIFO.
func TestCheckSaysWhereItsLatenciesDoNotHold(t *testing.T) {
	const caveat = "(under load, with normal scheduling, milliseconds)"
	for name, tt := range map[string]struct {
		scheduling preflight.Scheduling
		want       bool
	}{
		"real-time": {preflight.Scheduling{OK: true, Class: "SCHED_FIFO"}, false},
		"normal":    {preflight.Scheduling{Class: "normal", Error: "SCHED_FIFO: operation not permitted"}, true},
	} {
		text := reportTable(&preflight.Report{Scheduling: tt.scheduling, Tiers: []preflight.Tier{{Signal: "memory.available", Tier: "poll"}}})
		if strings.Contains(text, caveat) != tt.want {
			t.Errorf("%s: want the caveat %t in\n%s", name, tt.want, text)
		}
	}
}
