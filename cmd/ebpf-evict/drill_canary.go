package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

const (
	// drillTimeout is for a node whose CPUs are all busy; idle, a drill takes 0.2 s.
	drillTimeout = 90 * time.Second
	// lockWithin is how long a drill waits for another one.
	lockWithin = 30 * time.Second
	// armedWithin and doneWithin are longer than the agent's own patience.
	armedWithin = 15 * time.Second
	doneWithin  = 30 * time.Second
)

var errSlow = errors.New("it takes too long")

// canaries are the loads of a drill, twice as much as lies between them and their wire.
var canaries = []struct {
	signal signal.Signal
	load   load.Spec
}{
	{signal.AllocatableMemoryAvailable, load.Spec{Kind: load.Hog, Bytes: 2 * drill.MemoryDistanceBytes}},
	{signal.AllocatablePIDAvailable, load.Spec{Kind: load.Bomb, Tasks: 2 * drill.TaskDistance}},
}

// skipError says why a drill was not held.
type skipError string

func (e skipError) Error() string { return string(e) }

// stageError is of a drill that did not get beyond a stage.
type stageError struct {
	stage string
	error
}

func (e stageError) Unwrap() error { return e.error }

// rehearse sends one canary after the other, and leaves nothing behind, also not what
// drills before it did.
func rehearse(ctx context.Context, mailbox string, r *drill.Result) (err error) {
	box, err := drill.OpenMailbox(mailbox)
	if err != nil {
		return stageError{drill.StageRequest, err}
	}
	defer func() { _ = box.Close() }()
	lockCtx, cancel := context.WithTimeout(ctx, lockWithin)
	defer cancel()
	unlock, err := box.Lock(lockCtx)
	if errors.Is(err, drill.ErrBusy) {
		return skipError(err.Error())
	} else if err != nil {
		return stageError{drill.StageRequest, err}
	}
	defer func() { _ = unlock() }()
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		return err
	}
	if err := drill.Sweep(fs); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drill.Sweep(fs)) }()
	for i, c := range canaries {
		reply, err := send(ctx, box, fs, r.ID, i+1, c.signal, c.load)
		if err != nil {
			return err
		}
		r.Drills = append(r.Drills, *reply.Line)
		if err := verdict(&reply); err != nil {
			return err
		}
	}
	return nil
}

func verdict(r *drill.Reply) error {
	l := r.Line
	if stage := drill.MissedStage(l); stage != "" || l.Outcome != record.OutcomeKilled {
		return stageError{stage, fmt.Errorf("%s: %s: %s", l.Signal, l.Outcome, l.Reason)}
	}
	if r.ByClock {
		return stageError{drill.StageCrossed, fmt.Errorf("%s: the hook has not seen it, only the clock", l.Signal)}
	}
	return nil
}

// send makes a canary, has its wire armed, lets it go and waits for its end.
func send(ctx context.Context, box *drill.Mailbox, fs *cgroupfs.FS, id record.ID, number int, s signal.Signal, spec load.Spec) (r drill.Reply, err error) {
	cgroup, name := drill.CgroupOf(id, number)
	if err := makeCage(fs, cgroup); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, fs.Remove(cgroup)) }()
	self, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("find this program: %w", err)
	}
	spec.Held, spec.Deadline, spec.ProcsFiles = true, drillTimeout, fs.ProcsFiles(cgroup)
	canary, err := load.Start(self, []string{load.Command}, spec)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, canary.Stop()) }()

	defer func() { _ = box.Forget(name) }()
	if err := box.Ask(name, drill.Request{ID: id, Signal: string(s), Cgroup: cgroup}); err != nil {
		return r, stageError{drill.StageRequest, err}
	}
	if _, err := reply(ctx, box, name, true); err != nil {
		return r, err
	}
	if err := canary.Go(); err != nil {
		return r, err
	}
	return reply(ctx, box, name, false)
}

// reply waits for the first reply, or for the last.
func reply(ctx context.Context, box *drill.Mailbox, name string, first bool) (drill.Reply, error) {
	within, stage := doneWithin, drill.StageCrossed
	if first {
		within, stage = armedWithin, drill.StageArmed
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, errors.New("the agent does not answer"))
	defer cancel()
	r, err := box.Await(ctx, name, first)
	switch {
	case err != nil:
		return r, stageError{stage, err}
	case r.State == drill.Skipped:
		return r, skipError(r.Reason)
	case r.State == drill.Refused:
		return r, stageError{drill.StageArmed, fmt.Errorf("refused: %s", r.Reason)}
	case r.State == drill.Done && r.Line != nil:
		return r, nil
	case r.State == drill.Armed && first:
		return r, nil
	}
	return r, stageError{stage, fmt.Errorf("no reply that makes sense: %q", r.State)}
}

// makeCage makes a canary's cgroup with its limits.
func makeCage(fs *cgroupfs.FS, cgroup string) error {
	if err := fs.Create(cgroup); err != nil {
		return err
	}
	c, err := fs.Open(cgroup)
	if err == nil {
		err = errors.Join(c.SetMemoryMax(drill.MaxMemoryBytes), c.SetPidsMax(drill.MaxTasks), c.Close())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("limit %s: %w", cgroup, err), fs.Remove(cgroup))
	}
	return nil
}
