package loader

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Reach is whom the backstop can kill.
type Reach uint8

const (
	// ReachNone: nobody, the backstop is off, as it needs bpf_timer (5.15).
	ReachNone Reach = iota
	// ReachSelf: who runs, allocates or forks, there and then (before 6.13).
	ReachSelf
	// ReachAll: any process, from the timer too (bpf_send_signal_task, 6.13).
	ReachAll
)

// Reach says whom the backstop can kill on this kernel.
func (l *Loader) Reach() Reach { return l.can.reach }

func reach(types *kernelTypes) (Reach, error) {
	for _, name := range []string{"bpf_send_signal_task", "bpf_task_from_pid"} {
		if has, err := types.has(name); err != nil || !has {
			return ReachSelf, err
		}
	}
	return ReachAll, nil
}

// MaxLeads and MaxRivals are how many of each a nominee has (bpf/sample.h).
const (
	MaxLeads  = 8
	MaxRivals = 32
)

// Nominee is whom the kernel may kill for a wire when the agent does not act.
type Nominee struct {
	// Intent is what the journal is told should it be killed. Its ids are the unit's.
	Intent Intent
	// MemoryID and PidsID name the cgroup that is killed.
	MemoryID, PidsID uint64
	// UnitID and UnitCSS are the unit's row in the wire's hierarchy.
	UnitID  uint64
	UnitCSS uint32
	// Use, Least and Others are as in decide.Nominee, Available is the wire's: bytes or tasks.
	Use, Least, Available, Others int64
	Leads                         []Lead
	Rivals                        []Rival
}

// Lead is a process by its number and its start, field 22 of /proc/PID/stat.
type Lead struct {
	StartTicks uint64
	TGID       uint32
}

// Rival is as in decide.Nominee, by its row in the wire's hierarchy.
type Rival struct {
	CgroupID    uint64
	CSSID       uint32
	Use, Growth int64
	Relative    bool
}

// enum licence of bpf/sample.h.
const (
	licenceNone     = 0
	licenceHunting  = 1
	licenceStriking = 2
	licenceSpent    = 3
	licenceMarks    = 15
)

// startLookouts starts a timer on each CPU that we may run on: the backstop can hit whom it
// finds running there. Where a CPU is not ours, or comes later, the others' have to do.
func (l *Loader) startLookouts() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and ends with the goroutine: its affinity is nobody else's
		done <- l.visitCPUs()
	}()
	return <-done
}

func (l *Loader) visitCPUs() error {
	run := newTestRun(l.objs.StartLookout.FD())
	for cpu := range l.objs.Lookouts.MaxEntries() {
		var here unix.CPUSet
		here.Set(int(cpu))
		if err := unix.SchedSetaffinity(0, &here); err != nil {
			continue // offline, or another cpuset's
		}
		run.args[0] = uint64(cpu)
		if err := startLookout(run); err != nil {
			return fmt.Errorf("start the lookout of CPU %d: %w", cpu, err)
		}
	}
	return nil
}

// busyTries: seen on 6.18 under load, a timer of a new map is EBUSY now and then; the program
// starts one that is there already, too.
const busyTries = 10

func startLookout(run testRun) error {
	var ret uint32
	for range busyTries {
		var err error
		if ret, err = run.run(); err != nil {
			return err
		}
		if int32(ret) != -int32(unix.EBUSY) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if ret != 0 {
		return fmt.Errorf("the program returned %d", int32(ret))
	}
	return nil
}

// SetGrace is how long after a crossing the kernel leaves to the agent; 0: none.
func (l *Loader) SetGrace(d time.Duration) {
	atomic.StoreUint64(&l.backstop.GraceNs, uint64(max(0, d)))
}

// Withdraw takes the kernel's licence away, whoever is to act next. False: the kernel is
// killing or has killed, and nobody else may. For the hot thread, as all that follows.
func (l *Loader) Withdraw() bool {
	word := &l.backstop.Licence
	for {
		old := atomic.LoadUint64(word)
		switch {
		case old == licenceNone:
			return true
		case old == licenceStriking || old == licenceSpent:
			return false
		case atomic.CompareAndSwapUint64(word, old, licenceNone):
			return true
		}
	}
}

// License lets the kernel act until then: what was withdrawn, or anew. It is the last step
// of naming nominees. False: the kernel acts already.
func (l *Loader) License(untilNs uint64) bool {
	word := &l.backstop.Licence
	old := atomic.LoadUint64(word)
	return (old == licenceNone || old > licenceMarks) && untilNs > licenceMarks &&
		atomic.CompareAndSwapUint64(word, old, untilNs)
}

// Licensed reports whether the kernel has a licence that it has not made use of, or is at it.
func (l *Loader) Licensed() bool {
	word := atomic.LoadUint64(&l.backstop.Licence)
	return word != licenceNone && word != licenceSpent
}

// BackstopActs reports whether the kernel is killing or has killed, and nobody has taken
// note of it.
func (l *Loader) BackstopActs() bool {
	word := atomic.LoadUint64(&l.backstop.Licence)
	return word == licenceStriking || word == licenceSpent
}

// Nominate names the kernel's victim for a wire; nil: nobody. Only after Withdraw. False:
// the last one's kill is not on disk yet.
func (l *Loader) Nominate(wire int, n *Nominee) bool {
	k, in := l.nominees.at(wire), l.intents.at(maxIntents+wire)
	k.Ready = 0
	state := atomic.LoadUint32(&in.State)
	if state != intentFree && state != intentNominee {
		return false
	}
	atomic.StoreUint32(&in.State, intentFree)
	if n == nil || n.MemoryID == rootID || n.PidsID == rootID || n.MemoryID == 0 && n.PidsID == 0 {
		return n == nil
	}
	unit := l.unitOf(wire)
	k.MemoryId, k.PidsId, k.UnitId, k.UnitCss = n.MemoryID, n.PidsID, n.UnitID, n.UnitCSS
	k.Use, k.Least, k.Available, k.Others = n.Use/unit, (n.Least+unit-1)/unit, n.Available/unit, n.Others/unit
	k.UsedLeads, k.UsedRivals = uint32(min(len(n.Leads), MaxLeads)), uint32(min(len(n.Rivals), MaxRivals))
	for i := range int(k.UsedLeads) {
		k.Leads[i].StartTicks, k.Leads[i].Tgid = n.Leads[i].StartTicks, n.Leads[i].TGID
	}
	for i := range int(k.UsedRivals) {
		r, from := &k.Rivals[i], &n.Rivals[i]
		r.CgroupId, r.CssId, r.Use, r.Growth, r.Relative = from.CgroupID, from.CSSID, from.Use/unit, from.Growth/unit, 0
		if from.Relative {
			r.Relative = 1
		}
	}
	in.SignalledNs, in.ByBackstop = 0, 1
	fillIntent(in, &n.Intent)
	atomic.StoreUint32(&in.State, intentNominee)
	atomic.StoreUint32(&k.Ready, 1)
	return true
}

// BackstopKill is what the kernel did in the agent's place.
type BackstopKill struct {
	Wire                   int
	Seq                    uint64
	By                     sample.Observer
	CrossedNs, SignalledNs uint64
	// Available was that when it looked last: bytes or tasks.
	Available int64
	// Use is what the nominee held then, its working set or its tasks.
	Use int64
	// Slot is where its intent stands, for FreeIntent.
	Slot int
}

// TakeNote takes over what the kernel did: from now on the victim is the agent's, and there
// is no licence. False: it did nothing, or is at it right now.
func (l *Loader) TakeNote() (k BackstopKill, ok bool) {
	if atomic.LoadUint64(&l.backstop.Licence) != licenceSpent {
		return k, false
	}
	b := l.backstop
	k = BackstopKill{
		Wire: int(b.Wire), Seq: b.Seq, By: sample.Observer(b.By),
		CrossedNs: b.CrossedNs, SignalledNs: b.SignalledNs, Available: b.Available * l.unitOf(int(b.Wire)), Use: b.Use * l.unitOf(int(b.Wire)), Slot: maxIntents + int(b.Wire),
	}
	return k, atomic.CompareAndSwapUint64(&l.backstop.Licence, licenceSpent, licenceNone)
}

// BackstopSignals counts the SIGKILLs of the backstop, and StoodDown how often it was due
// and spared the nominee.
func (l *Loader) BackstopSignals() (signals, stoodDown uint64) {
	n := l.node.at(0)
	return atomic.LoadUint64(&n.BackstopSignals), atomic.LoadUint64(&n.BackstopStoodDown)
}

// backstopSection is where bpf/backstop.h keeps the licence.
const backstopSection = ".data.backstop"

// mapBackstop finds the licence in its section's memory.
func mapBackstop(mem []byte) *gen.EvictBackstop {
	if of := overlaySlice[gen.EvictBackstop](mem, 1); of != nil {
		return &of[0]
	}
	return nil
}
