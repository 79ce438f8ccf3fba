package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// target is a cgroup with a process that the backstop may kill.
type target struct {
	t       *testing.T
	process *os.Process
	dirs    cgroupDirs
	gone    chan struct{}
}

func newTarget(t *testing.T, name string) *target {
	t.Helper()
	return newTargetThat(t, "fork", name)
}

func newTargetThat(t *testing.T, role, name string) *target {
	t.Helper()
	x := &target{t: t, dirs: newNamedCgroup(t, name)}
	x.process, _, x.gone = child(t, role)
	x.join(x.process.Pid)
	return x
}

// newNamedCgroup makes one more cgroup of our own.
func newNamedCgroup(t *testing.T, name string) cgroupDirs {
	t.Helper()
	d := cgroupDirs{memory: "/sys/fs/cgroup/memory", pids: "/sys/fs/cgroup/pids"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		d = cgroupDirs{memory: "/sys/fs/cgroup", pids: "/sys/fs/cgroup"}
	}
	name = "ebpf-evict-backstop-test-" + strconv.Itoa(os.Getpid()) + "-" + name
	d.memory, d.pids = filepath.Join(d.memory, name), filepath.Join(d.pids, name)
	for _, dir := range []string{d.memory, d.pids} {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
	}
	return d
}

func (x *target) join(pid int) {
	x.t.Helper()
	for _, dir := range []string{x.dirs.memory, x.dirs.pids} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			x.t.Fatal(err)
		}
	}
}

// keepForking is the process of a target: the fork hook sees it all the time, on kernels
// without bpf_send_signal_task too.
func keepForking() {
	go func() {
		for ; ; time.Sleep(5 * time.Millisecond) {
			p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
			if err == nil {
				_, _ = p.Wait()
			}
			// Without /bin/true the clone is there all the same: it is the exec that fails.
		}
	}()
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the other end is closed
}

// keepRunning is the process of a target that no hook sees.
func keepRunning() {
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the other end is closed
		os.Exit(0)
	}()
	for n := uint64(0); ; n++ {
		spins.Store(n)
	}
}

var spins atomic.Uint64

func (x *target) dead(within time.Duration) bool {
	select {
	case <-x.gone:
	case <-time.After(within):
	}
	select {
	case <-x.gone:
		return true
	default:
		return false
	}
}

// awaitNobody waits until no task is counted, which goes on for a while after its death.
func (x *target) awaitNobody() {
	x.t.Helper()
	for end := time.Now().Add(soon); readInt(x.t, filepath.Join(x.dirs.pids, "pids.current")) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatal("somebody is counted for good")
		}
	}
}

// lead is the process with its start time, moved by so many ticks.
func (x *target) lead(ticks int64) Lead {
	x.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", x.process.Pid))
	if err != nil {
		x.t.Fatal(err)
	}
	text := string(stat)
	start, err := strconv.ParseUint(strings.Fields(text[strings.LastIndexByte(text, ')')+1:])[19], 10, 64)
	if err != nil {
		x.t.Fatal(err)
	}
	return Lead{StartTicks: uint64(int64(start) + ticks), TGID: uint32(x.process.Pid)}
}

// row of the target's tasks, read now.
func (x *target) row(l *Loader) sample.Cgroup {
	x.t.Helper()
	if _, err := l.Walk(); err != nil {
		x.t.Fatal(err)
	}
	id := inode(x.t, x.dirs.pids)
	for _, r := range l.Index(Pids, nil) {
		if r.CgroupID == id && r.Usage > 0 {
			return r
		}
	}
	x.t.Fatal("no row of the target")
	return sample.Cgroup{}
}

const plenty = 1 << 30 // of tasks: no figure stands in the way

// nominee names the target, with nothing that would spare it.
func (x *target) nominee(l *Loader) Nominee {
	x.t.Helper()
	r := x.row(l)
	return Nominee{
		Intent:   Intent{ID: [16]byte{7}, Cgroup: x.dirs.pids, UID: x.dirs.pids, Signal: "pid.available"},
		MemoryID: inode(x.t, x.dirs.memory), PidsID: r.CgroupID,
		UnitID: r.CgroupID, UnitCSS: r.CSSID, Use: r.Usage, Least: 1, Others: plenty,
		Leads: []Lead{x.lead(0)},
	}
}

// armTaskWire arms a wire on the node's tasks that is crossed whoever looks.
func armTaskWire(t *testing.T, l *Loader) (wire int, seq uint64) {
	t.Helper()
	wire, err := l.AddWire(sample.ScopeNodeTasks)
	if err != nil {
		t.Fatal(err)
	}
	l.SetWire(wire, Wire{Scope: sample.ScopeNodeTasks, Limit: plenty})
	return wire, l.ArmWire(wire)
}

func (l *Loader) nominateOrFail(t *testing.T, wire int, n Nominee) {
	t.Helper()
	if !l.Withdraw() || !l.Nominate(wire, &n) {
		t.Fatal("not nominated")
	}
}

// provoke licenses the kernel and has it look.
func provoke(t *testing.T, l *Loader, grace time.Duration) {
	t.Helper()
	l.SetGrace(grace)
	if !l.License(ktime(t) + uint64(10*time.Second)) {
		t.Fatal("no licence")
	}
	if err := l.Tick(); err != nil {
		t.Fatal(err)
	}
}

const (
	soon     = 20 * time.Second       // within the licence and a slow machine's time
	meantime = 300 * time.Millisecond // for what must not happen
)

func TestBackstopKillsTheNomineeAndLeavesItsTrace(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Millisecond} {
		t.Run(grace.String(), func(t *testing.T) {
			l, x := openWithBackstop(t), newTarget(t, "nominee")
			wire, seq := armTaskWire(t, l)
			n := x.nominee(l)
			n.Rivals = []Rival{ // both are there and did not outgrow it
				{CgroupID: n.UnitID, CSSID: n.UnitCSS, Use: n.Use, Growth: plenty},
				{CgroupID: n.UnitID, CSSID: n.UnitCSS, Use: n.Use, Growth: 0, Relative: true},
				{CgroupID: 1 << 62, CSSID: 9999, Use: 1, Growth: 0}, // and this one is gone
			}
			l.nominateOrFail(t, wire, n)
			before := ktime(t)
			provoke(t, l, grace)
			if !x.dead(soon) {
				t.Fatal("it lives")
			}
			if l.Withdraw() || l.License(ktime(t)+uint64(time.Second)) {
				t.Error("the licence was given back, or anew, before anybody took note of the kill")
			}
			k, ok := l.TakeNote()
			if !ok || k.Wire != wire || k.Seq != seq || k.CrossedNs < before || k.SignalledNs < k.CrossedNs || k.SignalledNs > ktime(t) {
				t.Fatalf("%+v, %v", k, ok)
			}
			if least := uint64(grace); k.SignalledNs-k.CrossedNs < least {
				t.Errorf("killed after %d ns, the grace is %d", k.SignalledNs-k.CrossedNs, least)
			}
			if l.Claim(wire, seq) {
				t.Error("the crossing can be acted on again")
			}
			if _, ok := l.TakeNote(); ok {
				t.Error("a kill was taken note of twice")
			}
			n = absent()
			if l.Nominate(wire, &n) {
				t.Error("the trace of a kill was overwritten")
			}
			if !l.openIntents() {
				t.Error("the kill left no open intent")
			}
			l.FreeIntent(k.Slot)
			if !l.Withdraw() || !l.Nominate(wire, &n) || l.openIntents() {
				t.Error("the wire has no nominee again, or one counts as a kill")
			}
		})
	}
}

// absent is a nominee that is not there.
func absent() Nominee {
	return Nominee{MemoryID: 1 << 62, PidsID: 1 << 62, UnitID: 1 << 62, UnitCSS: 1, Use: 1, Least: 1}
}

func TestBackstopSparesInDoubt(t *testing.T) {
	for name, spoil := range map[string]func(*Loader, *Nominee, *target, int, uint64){
		"no licence any more": func(l *Loader, _ *Nominee, _ *target, _ int, _ uint64) { l.SetGrace(100 * time.Millisecond) },
		"the agent has claimed the crossing": func(l *Loader, _ *Nominee, _ *target, wire int, seq uint64) {
			l.Claim(wire, seq)
		},
		"it shrank": func(_ *Loader, n *Nominee, _ *target, _ int, _ uint64) { n.Least = plenty },
		"a rival outgrew it": func(_ *Loader, n *Nominee, _ *target, _ int, _ uint64) {
			n.Rivals = []Rival{{CgroupID: n.UnitID, CSSID: n.UnitCSS, Use: -5, Growth: 4}}
		},
		"a rival outgrew it and its own growth": func(_ *Loader, n *Nominee, _ *target, _ int, _ uint64) {
			n.Use -= 3
			n.Rivals = []Rival{{CgroupID: n.UnitID, CSSID: n.UnitCSS, Use: -5, Growth: 2, Relative: true}}
		},
		"others outgrew it": func(_ *Loader, n *Nominee, _ *target, _ int, _ uint64) {
			n.Available, n.Others = plenty, 1
		},
		"its counters are another cgroup's": func(_ *Loader, n *Nominee, _ *target, _ int, _ uint64) { n.UnitID++ },
		"it is nobody":                      func(l *Loader, _ *Nominee, _ *target, wire int, _ uint64) { l.Nominate(wire, nil) },
		"it is a root of the hierarchies": func(l *Loader, n *Nominee, _ *target, wire int, _ uint64) {
			root := *n
			root.MemoryID = rootID
			if l.Nominate(wire, &root) {
				panic("the root was nominated")
			}
			n.MemoryID, n.PidsID = 0, 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, x := openWithBackstop(t), newTarget(t, "nominee")
			wire, seq := armTaskWire(t, l)
			n := x.nominee(l)
			l.SetGrace(time.Millisecond)
			spoil(l, &n, x, wire, seq)
			if n.MemoryID != 0 && name != "it is nobody" {
				l.nominateOrFail(t, wire, n)
			}
			grace := time.Millisecond
			if name == "no licence any more" {
				grace = 100 * time.Millisecond
			}
			provoke(t, l, grace)
			if name == "no licence any more" && !l.Withdraw() {
				t.Fatal("the grace did not hold")
			}
			if x.dead(meantime) {
				t.Error("killed")
			}
			if _, ok := l.TakeNote(); ok {
				t.Error("a kill to take note of")
			}
		})
	}
}

// Each CPU has a lookout: with no number to hit it by, and in no hook, it is found there.
func TestBackstopHitsWhoMerelyRuns(t *testing.T) {
	l, x := openWithBackstop(t), newTargetThat(t, "run", "nominee")
	wire, _ := armTaskWire(t, l)
	n := x.nominee(l)
	n.Leads = nil
	time.Sleep(meantime) // its threads are there: it forks no more
	l.nominateOrFail(t, wire, n)
	provoke(t, l, time.Millisecond)
	if !x.dead(soon) {
		t.Fatal("it lives")
	}
	if _, ok := l.TakeNote(); !ok {
		t.Error("no kill to take note of")
	}
}

// Both cost their process its life if the kernel takes a number for a process.
func TestBackstopTellsAProcessFromItsNumber(t *testing.T) {
	for name, lead := range map[string]func(x, other *target) Lead{
		"the number was given to a later process": func(x, _ *target) Lead { return x.lead(-100) },
		"the process is in another cgroup":        func(_, other *target) Lead { return other.lead(0) },
	} {
		t.Run(name, func(t *testing.T) {
			l, x, other := openWithBackstop(t), newTarget(t, "nominee"), newTarget(t, "other")
			if l.Reach() != ReachAll {
				t.Skip("needs 6.13, bpf_send_signal_task: here nobody is hit by number")
			}
			wire, _ := armTaskWire(t, l)
			n := x.nominee(l)
			n.Leads = []Lead{lead(x, other)}
			// In no hook can it be hit either: it is not in that cgroup by its own id.
			n.PidsID, n.MemoryID = inode(t, x.dirs.pids), inode(t, x.dirs.memory)
			stopForking(t, x)
			l.nominateOrFail(t, wire, n)
			provoke(t, l, 0)
			if x.dead(meantime) || other.dead(0) {
				t.Error("killed by a number")
			}
			if signals, _ := l.BackstopSignals(); signals != 0 {
				t.Errorf("%d signals sent", signals)
			}
		})
	}
}

// stopForking keeps a target out of the hooks.
func stopForking(t *testing.T, x *target) {
	t.Helper()
	if err := x.process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
}

func TestBackstopStandsDownWhenTheNomineeIsGone(t *testing.T) {
	l, x := openWithBackstop(t), newTarget(t, "nominee")
	wire, _ := armTaskWire(t, l)
	l.nominateOrFail(t, wire, x.nominee(l))
	_ = x.process.Kill()
	x.awaitNobody()
	_, before := l.BackstopSignals()
	provoke(t, l, time.Millisecond)
	time.Sleep(meantime)
	signals, stoodDown := l.BackstopSignals()
	if signals != 0 || stoodDown == before {
		t.Errorf("%d signals, stood down %d times", signals, stoodDown-before)
	}
	if _, ok := l.TakeNote(); ok {
		t.Error("a kill to take note of")
	}
	if !l.Withdraw() {
		t.Error("the licence can't be taken back")
	}
}

// One fill can cross several wires at once.
func TestBackstopKillsOneForTwoWires(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Millisecond} {
		t.Run(grace.String(), func(t *testing.T) {
			l, x, y := openWithBackstop(t), newTarget(t, "x"), newTarget(t, "y")
			for _, of := range []*target{x, y} {
				wire, _ := armTaskWire(t, l)
				l.nominateOrFail(t, wire, of.nominee(l))
			}
			provoke(t, l, grace)
			deadline := time.Now().Add(soon)
			for !x.dead(0) && !y.dead(0) && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(meantime)
			if x.dead(0) == y.dead(0) {
				t.Errorf("x dead: %v, y dead: %v, want one", x.dead(0), y.dead(0))
			}
		})
	}
}

func TestBackstopEndsWithItsLicence(t *testing.T) {
	l, x := openWithBackstop(t), newTarget(t, "nominee")
	wire, _ := armTaskWire(t, l)
	l.nominateOrFail(t, wire, x.nominee(l))
	l.SetGrace(100 * time.Millisecond)
	if !l.License(ktime(t) + uint64(50*time.Millisecond)) {
		t.Fatal("no licence")
	}
	if err := l.Tick(); err != nil {
		t.Fatal(err)
	}
	if x.dead(2 * meantime) {
		t.Error("killed after the licence had ended")
	}
}

// A pass of the agent that finds nothing to do gives a licence anew: what was seen under
// the former one is void.
func TestBackstopLeavesWhatAHealthyPassHasSeen(t *testing.T) {
	l, x := openWithBackstop(t), newTarget(t, "nominee")
	wire, _ := armTaskWire(t, l)
	l.nominateOrFail(t, wire, x.nominee(l))
	provoke(t, l, 200*time.Millisecond)
	time.Sleep(50 * time.Millisecond)
	l.DisarmWire(wire) // it is seen no more, and would not be alerted again
	if !l.License(ktime(t) + uint64(10*time.Second)) {
		t.Fatal("not renewed")
	}
	l.ArmWire(wire)
	if x.dead(meantime) && func() bool { k, _ := l.TakeNote(); return k.SignalledNs-k.CrossedNs < uint64(200*time.Millisecond) }() {
		t.Error("killed for what was seen under the former licence")
	}
}

// Agent and kernel reach for the licence at the same time, over and over.
func TestBackstopLicenceBelongsToOne(t *testing.T) {
	l := openWithBackstop(t)
	wire, _ := armTaskWire(t, l)
	var kernel, agent int
	for round := range 20 {
		x := newTarget(t, "raced")
		if !l.Withdraw() {
			t.Fatalf("round %d: not withdrawn", round)
		}
		seq := l.ArmWire(wire)
		l.nominateOrFail(t, wire, x.nominee(l))
		provoke(t, l, 0)
		for until := ktime(t) + uint64(round)*200_000; ktime(t) < until; {
		}
		mine := l.Withdraw() && l.Claim(wire, seq)
		if mine {
			agent++
			if x.dead(50 * time.Millisecond) {
				t.Fatalf("round %d: the agent had it, and the kernel killed", round)
			}
			_ = x.process.Kill()
		} else {
			if !x.dead(soon) {
				t.Fatalf("round %d: nobody killed", round)
			}
			deadline := time.Now().Add(soon)
			for k, ok := l.TakeNote(); ; k, ok = l.TakeNote() {
				if ok {
					l.FreeIntent(k.Slot)
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("round %d: the kernel had it, and there is no kill", round)
				}
			}
			kernel++
		}
		<-x.gone
		l.DisarmWire(wire)
	}
	t.Logf("kernel %d, agent %d", kernel, agent)
}
