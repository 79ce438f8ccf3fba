package decide

import "github.com/ebpf-evict/ebpf-evict/pkg/signal"

// NodeReclaim is what is done for a node's disks before any pod is evicted.
type NodeReclaim struct {
	// Containers are dead ones, Images unused ones: they are freed.
	Containers, Images bool
	// Figures are those of the units that grow: they are made anew.
	Figures bool
}

// Any reports whether there is anything to free.
func (r NodeReclaim) Any() bool { return r.Containers || r.Images }

// within reports whether nothing of r is missing in done.
func (r NodeReclaim) within(done NodeReclaim) bool {
	return (!r.Containers || done.Containers) && (!r.Images || done.Images) && (!r.Figures || done.Figures)
}

// reclaimFor is the kubelet's table (buildSignalToNodeReclaimFuncs in pkg/kubelet/eviction), and
// figures for whatever disk: the last ones may be of before somebody filled it.
func (s *Settings) reclaimFor(r resource) NodeReclaim {
	switch {
	case !r.disk():
		return NodeReclaim{}
	case !s.Layout.DedicatedImageFs:
		return NodeReclaim{Containers: true, Images: true, Figures: true}
	case s.Layout.SplitImageFs:
		return NodeReclaim{Containers: r.nodeFs(), Images: !r.nodeFs(), Figures: true}
	}
	return NodeReclaim{Containers: !r.nodeFs(), Images: !r.nodeFs(), Figures: true}
}

// isRelieved reports whether no bound of a resource is below its threshold plus minimum
// reclaim any more, whatever its grace period. The kubelet looks at the bounds of all
// resources: there a pod dies for the disk because memory is short.
func (s *Settings) isRelieved(r resource, after []signal.Observation) bool {
	for i := range s.Bounds {
		b := &s.Bounds[i]
		if s.Compat && b.Passes == FirstPass || !s.Compat && s.resourceOf(b.Signal) != r {
			continue
		}
		if o, ok := observed(after, b); ok && b.measure(o, true).Reason != "" {
			return false
		}
	}
	return true
}
