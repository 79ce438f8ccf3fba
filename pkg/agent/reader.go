package agent

import (
	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/fallback"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// reader is a watcher without BPF: it reads counters, and the wires are pkg/fallback's.
type reader struct {
	*fallback.Watcher
	log zerolog.Logger
}

var _ watcher = (*reader)(nil)

// SetWire switches a wire off whose cgroup is gone.
func (r *reader) SetWire(index int, w loader.Wire) {
	if err := r.Watcher.SetWire(index, read(&w)); err != nil {
		r.log.Debug().Err(err).Int("wire", index).Msg("wire not placed")
	}
}

// AddDrillWire is loader.AddDrillWire.
func (r *reader) AddDrillWire(w loader.Wire) (index int, seq uint64, err error) {
	return r.Watcher.AddDrillWire(read(&w))
}

func read(w *loader.Wire) fallback.Wire {
	return fallback.Wire{Scope: w.Scope, Limit: w.Limit, Capacity: w.Capacity, Cgroup: w.Cgroup, CgroupID: w.CgroupID}
}
