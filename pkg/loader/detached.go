package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
)

// ErrDetached means that a hook is not there that was attached. The kernel lets nobody else
// detach a link of these (BPF_LINK_DETACH is EOPNOTSUPP), but whoever debugs this process,
// or a fault of ours, can.
var ErrDetached = errors.New("the hook is detached, and not by the agent")

// CheckHooks says of the allocation hook and of task:task_newtask whether they are lost, and
// lets go of what is left of them: Arm and AttachTasks attach them anew. One system call each.
func (l *Loader) CheckHooks() (allocation, tasks error) {
	l.hookMu.Lock()
	defer l.hookMu.Unlock()
	if l.hook != nil && !isAttached(l.hook) {
		allocation = fmt.Errorf("kmem:mm_page_alloc: %w", ErrDetached)
		_ = l.hook.Close()
		l.hook = nil
		l.armed.Store(false)
		if err := errors.Join(l.turnHook(), l.Tick()); err != nil {
			allocation = errors.Join(allocation, err)
		}
	}
	if l.task == nil || !isAttached(l.task) {
		tasks = fmt.Errorf("task:task_newtask: %w", ErrDetached)
		if l.task != nil {
			_ = l.task.Close()
			l.task = nil
		}
	}
	return allocation, tasks
}

// AttachTasks attaches task:task_newtask where CheckHooks has found it lost.
func (l *Loader) AttachTasks() error {
	l.hookMu.Lock()
	defer l.hookMu.Unlock()
	if l.task != nil {
		return nil
	}
	task, err := link.AttachTracing(link.TracingOptions{Program: l.objs.Newtask})
	if err != nil {
		return fmt.Errorf("attach task:task_newtask: %w", explain(err))
	}
	l.task = task
	return nil
}

// isAttached asks the kernel for the link. Its program is ours as long as it is there.
func isAttached(of link.Link) bool {
	_, err := of.Info()
	return err == nil
}
