package agent

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// ErrRenew means that Run has ended because BPF can be had now, and could not at its start.
var ErrRenew = errors.New("the BPF programs can be loaded now: the agent starts anew")

// awaitHooks tries again what a start could not load, and ends the agent for a new start when
// the programs can be had and nobody is being killed.
func (a *Agent) awaitHooks(ctx context.Context, o Options, end context.CancelCauseFunc) {
	if _, ok := a.kernel.(*lesser); !ok || o.Tier != "" || o.Renew == nil {
		return
	}
	var pause rest
	for {
		pause.begin(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause.pause):
		}
		if a.wires.killing.Load() == 0 && canHook(o) && a.wires.killing.Load() == 0 && o.Renew() {
			end(ErrRenew)
			return
		}
	}
}

// canHook loads, attaches and pins all, elsewhere than the next start will, and lets go of it.
func canHook(o Options) bool {
	if o.Log = zerolog.Nop(); o.PinDir != "" {
		o.PinDir += "-trial"
	}
	l, err := loader.Open(loaderOptions(o))
	return err == nil && l.Close() == nil
}
