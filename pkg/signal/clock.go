package signal

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// monotonicNs is CLOCK_MONOTONIC, the clock of all observations.
func monotonicNs() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w: %w", err, ErrNoData)
	}
	return uint64(now.Nano()), nil
}
