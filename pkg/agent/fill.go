package agent

import (
	"math"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// fill is how fast a figure grows, of readings at any distance. Readings weigh less the
// older they are: after fillMemory a third is left.
type fill struct {
	ns        uint64
	level     int64
	perSecond float64
	readings  int
}

const (
	fillMemory = time.Second
	// fillFresh is how long a rate says something: a hog that stopped sends no movement.
	fillFresh = 2 * time.Second
)

func (f *fill) add(ns uint64, level int64) {
	if f.readings > 0 && ns <= f.ns {
		return // CPUs send out of order
	}
	if f.readings > 0 {
		took := float64(ns-f.ns) / float64(time.Second)
		rate := (float64(level) - float64(f.level)) / took
		weight := 1 - math.Exp(-took/fillMemory.Seconds())
		if f.readings == 1 {
			weight = 1
		}
		f.perSecond += weight * (rate - f.perSecond)
	}
	f.ns, f.level = ns, level
	f.readings++
}

// rate is false when nothing is known, or nothing recent.
func (f *fill) rate(nowNs uint64) (perSecond float64, ok bool) {
	if f.readings < 2 || nowNs > f.ns && nowNs-f.ns > uint64(fillFresh) {
		return 0, false
	}
	return f.perSecond, true
}

// mostDeltas bounds a drain; the ring buffer holds about as many.
const mostDeltas = 1024

// drain reads how the roots moved since the last round: near a wire the hooks report every
// few MiB, with the kernel's time, where two rounds see one difference.
func (s *scout) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var d sample.Sample
	for range mostDeltas {
		if ok, err := s.kernel.NextDelta(&d); !ok || err != nil {
			return
		}
		if f := s.fills[d.CgroupID]; f != nil {
			f.add(d.Ns, d.Usage)
		}
	}
}

// fillOf is the movement of a root by its memory cgroup's id, in bytes.
func (s *scout) fillOf(id uint64) fill {
	if s.fills[id] == nil {
		s.fills[id] = &fill{}
	}
	return *s.fills[id]
}
