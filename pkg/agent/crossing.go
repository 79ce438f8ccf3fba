package agent

import (
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// crossings are the records that woke us, oldest first; none when the clock did.
type crossings []sample.Sample

// of returns the crossing of a wire's sequence, nil when that is none of them.
func (c crossings) of(wire int, seq uint64) *sample.Sample {
	for i := range c {
		if c[i].Wire == wire && c[i].Seq == seq {
			return &c[i]
		}
	}
	return nil
}

func (a *Agent) anyStranger(c crossings) bool {
	for i := range c {
		if a.isStranger(&c[i]) {
			return true
		}
	}
	return false
}

// isStranger reports whether a crossing comes from a cgroup below a root that no handle of
// the scene would kill: a unit, or a container of a known pod, that is younger than the
// scene; or from a victim's that is dead, which so has somebody else in it.
func (a *Agent) isStranger(s *sample.Sample) bool {
	if s.CSSID == 0 || s.By == sample.ObserverTimer {
		return false
	}
	controller, known := loader.Memory, a.scene.knownMemory
	if s.By == sample.ObserverTask {
		controller, known = loader.Pids, a.scene.knownPids
	}
	stranger := false
	a.kernel.Climb(controller, s.CSSID, func(_ uint32, id uint64) bool {
		if _, ok := known[id]; ok {
			stranger = a.isDead(controller, id)
			return false
		}
		stranger = a.isRoot(id)
		return !stranger
	})
	return stranger && s.CgroupID != 0 && !a.isRoot(s.CgroupID)
}

func (a *Agent) isDead(c loader.Controller, id uint64) bool {
	for i := range a.open {
		e := &a.open[i]
		for t := range e.targets {
			of := e.targets[t].id
			if e.used && e.timeline.Dead != 0 && (c == loader.Memory && of.MemoryID == id || c == loader.Pids && of.PidsID == id) {
				return !e.revived
			}
		}
	}
	return false
}

func (a *Agent) isRoot(id uint64) bool {
	for i := range a.scene.roots {
		if r := &a.scene.roots[i]; id == r.id.MemoryID || id == r.id.PidsID {
			return true
		}
	}
	return false
}
