package loader

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// ticker does on a thread of its own what the far timer does where the kernel has no
// bpf_timer: it compares all wires when that is due, and asks for the allocation hook. It is
// as good as that thread's priority, and stops with this process.
type ticker struct {
	look  testRun
	timer int // timerfd
	// placed counts the calls of Tick: what was placed behind a look wants another.
	placed  atomic.Uint32
	closing atomic.Bool
	ended   chan struct{}
	log     zerolog.Logger
}

// startTicker starts the thread, which calls raise first, if there is one.
func startTicker(look testRun, raise func(), log zerolog.Logger) (*ticker, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a timer: %w", err)
	}
	t := &ticker{look: look, timer: fd, ended: make(chan struct{}), log: log}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread's priority must not leak to others
		if raise != nil {
			raise()
		}
		defer close(t.ended)
		if err := t.run(); err != nil { // no descriptor of ours gives a reason to
			t.log.Error().Err(err).Msg("degraded: nobody compares the wires while the allocation hook is off")
		}
	}()
	return t, nil
}

// run looks whenever the timer says so.
func (t *ticker) run() error {
	var expirations [8]byte
	for {
		if _, err := unix.Read(t.timer, expirations[:]); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for the timer: %w", err)
		}
		if t.closing.Load() {
			return nil
		}
		placed := t.placed.Load()
		next, err := t.look.run()
		if err != nil {
			next = uint32(lookAgain) // the kernel has no memory for the run
		}
		if err := t.set(time.Duration(next)); err != nil {
			return err
		}
		if placed != t.placed.Load() { // its Tick has set the timer before we did
			if err := t.set(atOnce); err != nil {
				return err
			}
		}
	}
}

const (
	atOnce    = time.Duration(1) // 0 would stop the timer
	lookAgain = time.Millisecond
)

// Tick has it look at once.
func (t *ticker) Tick() error {
	t.placed.Add(1)
	return t.set(atOnce)
}

// set has the timer expire once, so much later.
func (t *ticker) set(after time.Duration) error {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(after, atOnce)))}
	if err := unix.TimerfdSettime(t.timer, 0, &at, nil); err != nil {
		return fmt.Errorf("set the timer: %w", err)
	}
	return nil
}

// Close ends the thread.
func (t *ticker) Close() error {
	t.closing.Store(true)
	if err := t.Tick(); err != nil {
		return err // it would wait for good
	}
	<-t.ended
	return unix.Close(t.timer)
}
