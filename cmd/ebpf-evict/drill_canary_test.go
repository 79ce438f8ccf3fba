package main

import (
	"errors"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// A kill that only the clock brought about comes late: that is no drill that was passed.
func TestDrillFailsWhereTheHookHasNotSeenTheCanary(t *testing.T) {
	killed := &record.Line{
		Kind: record.KindDrill, Signal: "allocatableMemory.available", Outcome: record.OutcomeKilled,
		Timeline: &record.Timeline{Crossed: 1, Woke: 2, Decided: 3, Signalled: 4, SignalledAll: 4, Dead: 5},
	}
	if err := verdict(&drill.Reply{State: drill.Done, Line: killed}); err != nil {
		t.Errorf("seen by the hook: %v", err)
	}
	var missed stageError
	err := verdict(&drill.Reply{State: drill.Done, Line: killed, ByClock: true})
	if !errors.As(err, &missed) || missed.stage != drill.StageCrossed {
		t.Errorf("seen by the clock alone: %v, want the stage %q missed", err, drill.StageCrossed)
	}
}
