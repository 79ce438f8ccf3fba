package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
)

// Arm attaches kmem:mm_page_alloc; with TierCharge that is for a kill, and for memory that
// nobody is charged for. It takes 0.2 to 0.5 ms, and up to 20 ms within an RCU
// grace period of the last Disarm, so it is for a helper goroutine; the kernel's timer
// stands in until the first event. Arming twice is harmless.
func (l *Loader) Arm() error {
	l.hookMu.Lock()
	defer l.hookMu.Unlock()
	if l.hook != nil {
		return nil
	}
	hook, err := link.AttachTracing(link.TracingOptions{Program: l.objs.PageAlloc})
	if err != nil {
		return fmt.Errorf("attach kmem:mm_page_alloc: %w", explain(err))
	}
	l.hook = hook
	l.armed.Store(true)
	return l.turnHook()
}

// Disarm detaches kmem:mm_page_alloc: detached it costs nothing, attached it costs every
// allocation, whatever the program does.
func (l *Loader) Disarm() error {
	l.hookMu.Lock()
	defer l.hookMu.Unlock()
	if l.hook == nil {
		return nil
	}
	// The timer is told first, and looks once more: it may sleep by the hook that goes.
	err := errors.Join(l.turnHook(), l.hook.Close(), l.Tick())
	l.hook = nil
	l.armed.Store(false)
	return err
}

// turnHook counts an attaching or detaching.
func (l *Loader) turnHook() error {
	l.hookTurns++
	if err := l.objs.AllocationHookTurns.Set(l.hookTurns); err != nil {
		return fmt.Errorf("tell the far timer of the allocation hook: %w", err)
	}
	return nil
}

// Armed reports whether the allocation hook is attached. It does not wait for an Arm or
// Disarm that is under way.
func (l *Loader) Armed() bool { return l.armed.Load() }
