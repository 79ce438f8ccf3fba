package agent

import (
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// publish records the node conditions when one of them changes.
func (a *Agent) publish(c decide.Conditions) {
	if c == a.conditions {
		return
	}
	a.conditions = c
	a.log.Warn().Bool("memory_pressure", c.MemoryPressure).Bool("disk_pressure", c.DiskPressure).
		Bool("pid_pressure", c.PIDPressure).Msg("node conditions")
	changed := c // else each pass would allocate it
	a.recorder.send(&record.Line{Kind: record.KindCondition, Node: a.node, Mode: a.mode, Conditions: &changed}, nil)
}
