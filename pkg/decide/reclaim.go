package decide

import "github.com/ebpf-evict/ebpf-evict/pkg/signal"

// NodeReclaim is what can be freed of a node before any pod is evicted.
type NodeReclaim struct {
	// Containers are dead ones, Images unused ones.
	Containers, Images bool
}

// Any reports whether there is anything to free.
func (r NodeReclaim) Any() bool { return r.Containers || r.Images }

// reclaimFor is the kubelet's table (buildSignalToNodeReclaimFuncs in pkg/kubelet/eviction).
func (s *Settings) reclaimFor(sig signal.Signal) NodeReclaim {
	if !sig.Disk() {
		return NodeReclaim{}
	}
	if !s.Layout.DedicatedImageFs {
		return NodeReclaim{Containers: true, Images: true}
	}
	image := sig == signal.ImageFsAvailable || sig == signal.ImageFsInodesFree
	node := sig == signal.NodeFsAvailable || sig == signal.NodeFsInodesFree
	switch {
	case s.Layout.SplitImageFs:
		return NodeReclaim{Containers: !image, Images: image}
	case node:
		return NodeReclaim{}
	}
	return NodeReclaim{Containers: true, Images: true}
}

// isRelieved reports whether no disk bound is below its threshold plus minimum reclaim any
// more, whatever its grace period. The kubelet looks at all bounds: there a pod dies for
// the disk because memory is short.
func (s *Settings) isRelieved(after []signal.Observation) bool {
	for i := range s.Bounds {
		b := &s.Bounds[i]
		if !s.Compat && !b.Signal.Disk() {
			continue
		}
		if o, ok := observed(after, b); ok && b.measure(o, true).Reason != "" {
			return false
		}
	}
	return true
}
