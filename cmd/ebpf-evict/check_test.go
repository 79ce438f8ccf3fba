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

func TestCheckSaysWhatFollowsWithoutAWorkloadTable(t *testing.T) {
	for name, tt := range map[string]struct {
		table preflight.WorkloadTable
		want  string
	}{
		"none among pods":    {preflight.WorkloadTable{Wanted: true, Error: "there is none", Effect: "who knows"}, "no  workload table                there is none; who knows"},
		"a good one":         {preflight.WorkloadTable{Wanted: true, OK: true, Workloads: 3, AgeSeconds: 7}, "ok  workload table                of 3 units, written 7 s ago"},
		"none and no pods":   {preflight.WorkloadTable{Error: "there is none"}, ""},
		"one that is unused": {preflight.WorkloadTable{OK: true, Workloads: 3}, "of 3 units"},
	} {
		text := reportTable(&preflight.Report{WorkloadTable: tt.table})
		if !strings.Contains(text, tt.want) || tt.want == "" && strings.Contains(text, "workload table") {
			t.Errorf("%s: want %q in\n%s", name, tt.want, text)
		}
	}
}
