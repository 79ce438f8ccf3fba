package agent

import (
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// takeOver goes on where a former agent stopped: its kills count against the budget, or an
// agent that dies after each kill would have none, and the lines that it died before it
// could write are written. It kills nobody: what is still wrong is seen again by this agent,
// with its own eyes. It returns whose files may lie on a disk.
func (a *Agent) takeOver(tree *cgroupfs.FS, path string) (victims, error) {
	found, struck := map[record.ID]written{}, victims{}
	_, err := record.ScanJournal(path, func(e record.Entry) error {
		switch w := found[e.ID]; e.Kind {
		case record.KindKill:
			a.remember(e.Time.Time)
			if w.kill == nil && !w.eviction {
				w.kill = &e.Line
			}
			found[e.ID] = w
		case record.KindEviction:
			found[e.ID] = written{eviction: true}
		}
		struck.note(&e.Line)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a.closeStale(tree, a.kernel, found, struck)
	if _, ok := a.kernel.(*lesser); ok {
		return struck, nil
	}
	left, err := leftFile(path) // by an agent that had no BPF
	switch {
	case err != nil:
		a.log.Warn().Err(err).Msg("what an agent without BPF has left can't be read")
	case left != nil:
		a.closeStale(tree, left, found, struck)
	}
	return struck, nil
}

// closeStale writes the lines that are missing of a ledger's open intents, and frees them.
func (a *Agent) closeStale(tree *cgroupfs.FS, of ledger, found map[record.ID]written, struck victims) {
	for _, in := range of.StaleIntents() {
		a.releaseStale(tree, of, in)
		if in.ByBackstop && in.Signalled && found[record.ID(in.ID)] == (written{}) {
			a.remember(wallOf(in))
		}
		for _, l := range a.intentLines(in, isGone(tree, in), found[record.ID(in.ID)]) {
			struck.note(l)
			a.recorder.send(l, nil)
		}
		a.recorder.after(func() { of.FreeIntent(in.Slot) })
	}
}

// remember counts a kill of the past, since the boot: what loops then is not this agent. A
// clock that was set back since makes it one of now.
func (a *Agent) remember(killed time.Time) {
	if age, nowNs := uint64(max(0, time.Since(killed))), sample.Now(); age <= nowNs {
		a.memory.Killed(nowNs - age)
	}
}

// written says which lines of an eviction are in the journal. The kill line is kept while the
// other is not there.
type written struct {
	kill     *record.Line
	eviction bool
}

// intentLines are the lines that are missing. A kill line is written only for a SIGKILL
// that is known to have been sent.
func (a *Agent) intentLines(in loader.Intent, gone bool, w written) (lines []*record.Line) {
	if w.eviction {
		return nil
	}
	line := func(kind record.Kind, outcome record.Outcome, reason string) {
		lines = append(lines, &record.Line{
			Kind: kind, ID: record.ID(in.ID), Node: a.node, Mode: a.mode, Signal: in.Signal,
			Time:     record.Time{Time: wallOf(in)},
			Observed: &record.Observed{Available: in.Available, Capacity: in.Capacity},
			Victim:   &record.Victim{UID: in.UID, Name: filepath.Base(in.Cgroup), Cgroup: in.Cgroup, CgroupID: max(in.MemoryID, in.PidsID)},
			Timeline: &record.Timeline{Crossed: in.Ns, Signalled: in.SignalledNs}, Attempts: 1,
			Outcome: outcome, Reason: reason, By: killerOf(in),
		})
		if in.MemoryID != 0 {
			lines[len(lines)-1].Victim.CgroupID = in.MemoryID
		}
	}
	closeKill := func(outcome record.Outcome, reason string) {
		if w.kill == nil {
			line(record.KindKill, "", "signalled; the agent died before it could write this")
			line(record.KindEviction, outcome, reason)
			return
		}
		closing := *w.kill // which knows the ranking and the stages
		closing.Kind, closing.Outcome, closing.Reason = record.KindEviction, outcome, reason
		lines = append(lines, &closing)
	}
	killed := in.Signalled || w.kill != nil
	switch {
	case killed && gone:
		closeKill(record.OutcomeKilled, "the agent died before it could write this")
	case killed:
		closeKill(record.OutcomeFailed, "signalled; not dead when the next agent started")
	case gone:
		line(record.KindEviction, record.OutcomeGone, "the agent died while it signalled; the unit is gone")
	default:
		line(record.KindEviction, record.OutcomeFailed, "the agent died before it signalled")
	}
	return lines
}

func killerOf(in loader.Intent) string {
	if in.ByBackstop {
		return record.ByBackstop
	}
	return record.ByAgent
}

// wallOf is when an intent was stored; the kernel has no calendar, but the same boot.
func wallOf(in loader.Intent) time.Time {
	if nowNs := sample.Now(); in.ByBackstop && in.SignalledNs <= nowNs {
		return time.Now().Add(-time.Duration(nowNs - in.SignalledNs))
	}
	return time.Unix(0, int64(in.WallNs))
}

// isGone reports whether nothing runs in the intent's cgroup, or its path is another's.
func isGone(tree *cgroupfs.FS, in loader.Intent) bool {
	c, err := tree.Open(in.Cgroup)
	if err != nil {
		return errors.Is(err, cgroupfs.ErrGone)
	}
	defer func() { _ = c.Close() }()
	populated, err := c.Populated()
	return c.MemoryID() != in.MemoryID || c.PidsID() != in.PidsID || err == nil && !populated
}
