package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

const (
	bombLimit = 70
	bombTasks = 60
)

// bomb makes a unit with a limit of its own and a bomb in it that waits for its go.
func (b *bed) bomb(unit string) *load.Load {
	b.t.Helper()
	b.create(unit)
	c := b.cgroup(unit)
	must(b.t, c.SetPidsMax(bombLimit))
	return b.run(unit, load.Spec{Kind: load.Bomb, Tasks: bombTasks, Held: true})
}

func (b *bed) cgroup(unit string) *cgroupfs.Cgroup {
	b.t.Helper()
	c, err := b.fs.Open(path.Join(b.root, unit))
	must(b.t, err)
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (b *bed) pidsMax(unit string) int64 {
	b.t.Helper()
	v, err := b.cgroup(unit).PidsMax()
	must(b.t, err)
	return v
}

// brakes: where cgroup.kill kills a unit at once there is nothing to brake.
func (b *bed) brakes() bool { return !b.cgroup("").CanKill() }

// bombed is crossed by a bomb.
var bombed = map[string]string{"allocatablePID.available": "360"}

func TestUnitOfADeadBombCanForkAgain(t *testing.T) {
	b := newBed(t)
	bystander := b.sleeper("bystander", 8<<20)
	bomb := b.bomb("bomb")
	var braked []int64
	a := b.open(bombed, func(s stage) {
		if s == stageBraked {
			braked = append(braked, b.pidsMax("bomb"))
		}
	})
	must(t, a.scout.round(true))
	must(t, bomb.Go())
	b.turns(a, "the bomb's end", func() bool { return len(b.outcomes("bomb")) == 1 && a.wires.killing.Load() == 0 })
	if b.brakes() && (len(braked) != 1 || braked[0] != 0) {
		t.Errorf("pids.max while it was killed: %v, want 0 once", braked)
	}
	if v := b.pidsMax("bomb"); v != bombLimit {
		t.Errorf("pids.max %d afterwards, want %d", v, bombLimit)
	}
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
}

func TestEndOfTheAgentTakesTheBrakeOff(t *testing.T) {
	b := newBed(t)
	b.create("victim")
	must(t, b.cgroup("victim").SetPidsMax(bombLimit))
	b.sleeperIn("victim", 8<<20)
	a := b.open(bombed, nil)
	must(t, a.scout.round(true))
	// One that does not die in the time that the agent has left.
	must(t, a.turn(sample.Now())) // takes the roster over
	one := a.scene.units[0]
	handle, err := one.open(b.fs)
	must(t, err)
	e := &a.open[0]
	e.used, e.unit, e.handle, e.victim, e.condemned = true, one, handle, one.Workload, -1
	e.bound, e.wire = a.settings.Bounds[0], noWire
	e.timeline.Signalled = sample.Now()
	e.intent = a.kernel.StoreIntent(&e.intended)
	a.brake(e)
	if v := b.pidsMax("victim"); b.brakes() && v != 0 {
		t.Fatalf("pids.max %d with the brake on", v)
	}
	a.leave()
	if v := b.pidsMax("victim"); v != bombLimit {
		t.Errorf("pids.max %d afterwards, want %d", v, bombLimit)
	}
}

func TestKill9WhileTheVictimIsBraked(t *testing.T) {
	b := newBed(t)
	b.conf.EvictionHard = bombed
	b.sleeper("bystander", 8<<20)
	bomb := b.bomb("bomb")
	first := b.start(stageBraked)
	must(t, bomb.Go())
	_ = first.Wait()
	if ws, ok := first.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != unix.SIGKILL {
		t.Fatalf("the agent ended with %v, want SIGKILL", first.ProcessState)
	}
	if v := b.pidsMax("bomb"); b.brakes() && v != 0 {
		t.Fatalf("pids.max %d after the crash, want 0: this test sees nothing", v)
	}

	b.conf.EvictionHard = map[string]string{"allocatablePID.available": "1"} // kills nobody
	second := b.start(0)
	if v := b.pidsMax("bomb"); v != bombLimit {
		t.Errorf("pids.max %d after the next start, want %d", v, bombLimit)
	}
	b.await("the line of the crashed eviction", func() bool { return len(b.lines(record.KindEviction)) == 1 })
	must(t, second.Process.Signal(unix.SIGTERM))
	must(t, second.Wait())
	must(t, bomb.Stop())
	b.await("an empty cgroup", func() bool {
		populated, err := b.cgroup("bomb").Populated()
		return err == nil && !populated || errors.Is(err, cgroupfs.ErrGone)
	})
}

// The agent is one of hundreds that want a CPU, and each of its sweeps comes late: it must
// win all the same, as nothing is born any more.
func TestBombOfManyParentsDiesThoughTheAgentHasNoPriority(t *testing.T) {
	const parents, each = 50, 20 // more than the root allows
	b := newBed(t)
	b.conf.EvictionHard = bombed
	bystander := b.sleeper("bystander", 8<<20)
	b.create("bomb")
	var bombs []*load.Load
	for range parents {
		bombs = append(bombs, b.run("bomb", load.Spec{Kind: load.Bomb, Tasks: each, Held: true}))
	}
	b.create("busy")
	for range 2 * runtime.NumCPU() {
		b.run("busy", load.Spec{Kind: load.Spinner})
	}
	agent := b.startAs(agentArgs{Ordinary: true})
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", agent.Process.Pid))
	must(t, err)
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == nil && (attr.Policy != unix.SCHED_NORMAL || attr.Nice < 0) {
			t.Fatalf("a thread has policy %d and nice %d: this test sees nothing", attr.Policy, attr.Nice)
		}
	}
	for _, bomb := range bombs {
		_ = bomb.Go() // the first ones cross the wire, and the rest may be dead by its turn
	}
	b.await("the eviction", func() bool { return len(b.lines(record.KindEviction)) > 0 })
	if got := b.outcomes("bomb"); len(got) != 1 || got[0] != record.OutcomeKilled {
		t.Errorf("outcomes %v, want one kill:\n%s", got, b.journal())
	}
	if populated, err := b.cgroup("bomb").Populated(); populated || err != nil {
		t.Errorf("processes are left: %v, %v", populated, err)
	}
	b.eachEvictionOnce(1)
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
	l := b.lines(record.KindEviction)[0]
	t.Logf("SIGKILL %v after the crossing, dead %v after it", time.Duration(l.Timeline.Signalled-l.Timeline.Crossed), time.Duration(l.Timeline.Dead-l.Timeline.Crossed))
}
