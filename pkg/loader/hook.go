package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
)

// Arm attaches kmem:mm_page_alloc. It takes 0.2 to 0.5 ms, and up to 20 ms within an RCU
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
	return nil
}

// Disarm detaches kmem:mm_page_alloc: detached it costs nothing, attached it costs every
// allocation, whatever the program does.
func (l *Loader) Disarm() error {
	l.hookMu.Lock()
	defer l.hookMu.Unlock()
	if l.hook == nil {
		return nil
	}
	err := l.hook.Close()
	l.hook = nil
	l.armed.Store(false)
	return errors.Join(err, l.objs.AllocationHookSeen.Set(uint32(0)))
}

// Armed reports whether the allocation hook is attached. It does not wait for an Arm or
// Disarm that is under way.
func (l *Loader) Armed() bool { return l.armed.Load() }
