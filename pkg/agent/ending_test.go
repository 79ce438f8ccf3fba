package agent

import (
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// The finisher stores what became of a victim at any moment, also between two looks of one
// pass: a victim that is dead was once closed as "not dead in time".
func TestVictimThatDiesBetweenTwoLooksIsClosedAsKilled(t *testing.T) {
	b := newBed(t)
	a := b.open(map[string]string{"allocatableMemory.available": "1Mi"}, nil)
	e := &a.open[0]
	e.used, e.unit, e.intent, e.condemned, e.wire = true, newUnit(workload.Unit{}), -1, -1, noWire
	e.timeline.Crossed, e.timeline.Signalled = 1, 2
	a.settle(e) // the look at the start of the pass: nothing yet
	e.finished.Store(&actuator.Outcome{DeadNs: 3})
	if e.over(sample.Now(), false) {
		_, reason := e.ending()
		t.Fatalf("closed before it was looked at, as %q", reason)
	}
	a.leave() // an agent that ends closes it at once
	b.written(a)
	lines := b.lines(record.KindEviction)
	if len(lines) != 1 || lines[0].Outcome != record.OutcomeKilled {
		t.Errorf("%+v, want one line, killed", lines)
	}
}
