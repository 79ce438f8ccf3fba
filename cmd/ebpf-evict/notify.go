package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// manager is systemd, where it started this process with Type=notify; else nobody hears.
type manager struct {
	log   zerolog.Logger
	begun time.Time
	// beaten is when the hot thread last went round, since begun.
	beaten atomic.Int64
}

func newManager(log zerolog.Logger) *manager { return &manager{log: log, begun: time.Now()} }

// beat is called by the hot thread: it neither waits nor allocates.
func (m *manager) beat() { m.beaten.Store(int64(time.Since(m.begun))) }

func (m *manager) ready() { m.tell(daemon.SdNotifyReady) }

// keepAwake feeds the watchdog (WatchdogSec) until ctx is done, while the hot thread goes
// round: one that hangs is started anew.
func (m *manager) keepAwake(ctx context.Context) {
	patience, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn().Err(err).Msg("degraded: the watchdog of systemd is not fed")
	}
	if err != nil || patience == 0 {
		return
	}
	tick := time.NewTicker(patience / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(m.begun)-time.Duration(m.beaten.Load()) < patience/2 {
			m.tell(daemon.SdNotifyWatchdog)
		}
	}
}

func (m *manager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn().Err(err).Str("state", state).Msg("systemd not told")
	}
}
