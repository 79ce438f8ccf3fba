package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

const (
	// near: the default margin is half the root. A drill would be stopped with the agent.
	near = noDrill
	far  = near + "marginBytes: 16Mi\n" // the allocation hook stays off
)

// needsBackstop leaves a test out where the kernel can't kill in the agent's place. pkg/loader
// has the test that this is so on old kernels alone.
func needsBackstop(t *testing.T) {
	t.Helper()
	if !hasBackstop(t) {
		t.Skip("needs 5.15, bpf_timer")
	}
}

func hasBackstop(t *testing.T) bool { return backstopReach(t) != "none" }

func backstopReach(t *testing.T) string {
	t.Helper()
	r, _ := checked(t, exec.Command(binary(t)))
	return r.Backstop.Reach
}

// memoryTier is what sees memory on this kernel.
func memoryTier(t *testing.T) string {
	t.Helper()
	r, _ := checked(t, exec.Command(binary(t)))
	return tierOf(t, r, "memory.available").Tier
}

// leak makes a unit that holds memory and waits to take more.
func (w *world) leak(unit string, hold, more int64) *load.Load {
	w.t.Helper()
	return w.load(unit, load.Spec{Kind: load.Hog, Hold: hold, Bytes: more, Held: true})
}

// nominated waits until a unit is whom the kernel may kill, and its processes are known.
func (w *world) nominated(unit string) {
	w.t.Helper()
	m, err := ebpf.LoadPinnedMap("/sys/fs/bpf/ebpf-evict/intents", nil)
	must(w.t, err)
	defer func() { _ = m.Close() }()
	cgroup := path.Join(w.root, unit) + "\x00"
	w.await(unit+" to be nominated", func() bool {
		var value []byte
		for i := range m.MaxEntries() {
			if value, err = m.LookupBytes(i); err == nil && strings.Contains(string(value), cgroup) {
				return true
			}
		}
		return false
	})
	time.Sleep(1500 * time.Millisecond) // a pass more, with the processes listed meanwhile
}

// stopAgent SIGSTOPs the agent and waits until all its threads are stopped.
func (w *world) stopAgent() {
	w.t.Helper()
	pid := w.agent.Process.Pid
	must(w.t, w.agent.Process.Signal(syscall.SIGSTOP))
	w.await("the agent to stop", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		must(w.t, err)
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			if err != nil || !strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " T") {
				return false
			}
		}
		return len(tasks) > 0
	})
}

func (w *world) continueAgent() {
	w.t.Helper()
	must(w.t, w.agent.Process.Signal(syscall.SIGCONT))
}

// killAgent is kill -9.
func (w *world) killAgent() {
	w.t.Helper()
	must(w.t, w.agent.Process.Kill())
	_ = w.agent.Wait()
	w.agent = nil
}

// filled waits until a hog has taken all that it wants.
func (w *world) filled(hog *load.Load, bytes int64) {
	w.t.Helper()
	w.await("the hog to fill", func() bool {
		n, err := hog.Progress()
		must(w.t, err)
		return n >= bytes
	})
}

func TestBackstopActsForAStoppedAgent(t *testing.T) {
	needsBackstop(t)
	for _, scene := range []struct {
		name, extra string
	}{
		{"near", near},
		{"far", far},
		{"near, the kernel first", near + "backstop: {grace: 0}\n"},
		{"far, the kernel first", far + "backstop: {grace: 0}\n"},
	} {
		t.Run(scene.name, func(t *testing.T) {
			w := newWorld(t)
			w.extra = scene.extra
			bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 16 << 20})
			w.start(hogsOnly)
			var took []time.Duration
			for i := range rounds(t, 3) {
				unit := fmt.Sprintf("hog-%d", i)
				hog := w.leak(unit, 300<<20, 500<<20)
				w.nominated(unit)
				w.stopAgent()
				must(t, hog.Go())
				if !hog.Wait(patience) {
					t.Fatalf("round %d: nobody kills the hog", i)
				}
				if n := w.count(record.KindKill); n != i {
					t.Errorf("round %d: %d kill lines while the agent is stopped", i, n)
				}
				w.continueAgent()
				w.await("the eviction", func() bool { return w.count(record.KindEviction) > i })
				line := w.lines(record.KindEviction)[i]
				took = append(took, evicted(t, line, path.Join(w.root, unit)))
				if by := line.By; by != record.ByBackstop {
					t.Errorf("round %d: killed by %q", i, by)
				}
				if n := w.count(record.KindKill); n != i+1 || !bystander.Alive() {
					t.Fatalf("round %d: %d kill lines, the bystander lives: %v", i, n, bystander.Alive())
				}
				_ = hog.Stop()
				w.remove(unit)
			}
			t.Logf("crossing to SIGKILL over %d rounds: median %v, worst %v", len(took), median(took), took[len(took)-1])
			w.toldByBackstop()
		})
	}
}

// toldByBackstop checks what history and explain say of the last eviction.
func (w *world) toldByBackstop() {
	w.t.Helper()
	lines := w.lines(record.KindEviction)
	id := lines[len(lines)-1].ID.String()
	for _, args := range [][]string{{"explain", id}, {"history"}} {
		out, err := exec.Command(binary(w.t), append(args, "--journal", w.journal)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "by the backstop") {
			w.t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// The agent and the kernel are about as fast as each other here.
func TestBackstopAndAgentRaceForOneVictim(t *testing.T) {
	needsBackstop(t)
	w := newWorld(t)
	w.extra = near + "backstop: {grace: 60us}\n"
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 16 << 20})
	w.start(hogsOnly)
	by := map[string]int{}
	for i := range rounds(t, 10) {
		unit := fmt.Sprintf("hog-%d", i)
		hog := w.leak(unit, 300<<20, 500<<20)
		w.nominated(unit)
		must(t, hog.Go())
		w.await("the eviction", func() bool { return w.count(record.KindEviction) > i })
		line := w.lines(record.KindEviction)[i]
		evicted(t, line, path.Join(w.root, unit))
		by[line.By]++
		if n := w.count(record.KindKill); n != i+1 || !bystander.Alive() {
			t.Fatalf("round %d: %d kill lines, the bystander lives: %v", i, n, bystander.Alive())
		}
		_ = hog.Stop()
		w.remove(unit)
	}
	t.Logf("killed by: %v", by)
}

// What can act goes with the agent's process, at once, whatever the licence says.
func TestBackstopDiesWithTheAgent(t *testing.T) {
	needsBackstop(t)
	for _, scene := range []struct {
		name, extra string
		crossed     bool // before the agent dies
	}{
		{"near", near, false},
		{"far", far, false},
		{"near, in the grace", near + "backstop: {grace: 2s}\n", true},
		{"far, in the grace", far + "backstop: {grace: 2s}\n", true},
	} {
		t.Run(scene.name, func(t *testing.T) {
			w := newWorld(t)
			w.extra = scene.extra
			w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 16 << 20})
			w.start(hogsOnly)
			hog := w.leak("hog", 300<<20, 500<<20)
			w.nominated("hog")
			if scene.crossed {
				w.stopAgent()
				must(t, hog.Go())
				w.await("the crossing", func() bool {
					n, err := hog.Progress()
					must(t, err)
					return n >= 340<<20
				})
				w.killAgent()
			} else {
				w.killAgent()
				must(t, hog.Go())
			}
			w.filled(hog, 500<<20)
			time.Sleep(2500 * time.Millisecond) // beyond the grace
			if !hog.Alive() {
				t.Error("somebody killed the hog after the agent's death")
			}
			w.extra = near
			w.start(hogsOnly) // takes the pins over, and does what is to be done
			w.await("the eviction", func() bool { return w.count(record.KindEviction) > 0 })
			if l := w.lines(record.KindEviction)[0]; l.By != record.ByAgent || w.count(record.KindKill) != 1 {
				t.Errorf("killed by %q, %d kill lines", l.By, w.count(record.KindKill))
			}
		})
	}
}

func TestBackstopKillIsRecordedAfterACrash(t *testing.T) {
	needsBackstop(t)
	w := newWorld(t)
	w.extra = near
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 16 << 20})
	w.start(hogsOnly)
	hog := w.leak("hog", 300<<20, 500<<20)
	w.nominated("hog")
	w.stopAgent()
	must(t, hog.Go())
	if !hog.Wait(patience) {
		t.Fatal("nobody kills the hog")
	}
	w.killAgent()
	if n := w.count(record.KindKill) + w.count(record.KindEviction); n != 0 {
		t.Fatalf("%d lines of an agent that was stopped", n)
	}
	w.start(hogsOnly)
	w.await("the eviction's line", func() bool { return w.count(record.KindEviction) > 0 })
	kills, evictions := w.lines(record.KindKill), w.lines(record.KindEviction)
	if len(kills) != 1 || len(evictions) != 1 {
		t.Fatalf("kills %+v, evictions %+v, want one of each", kills, evictions)
	}
	for _, l := range []record.Line{kills[0], evictions[0]} {
		available := l.Observed.Available
		if l.By != record.ByBackstop || l.Victim.Cgroup != path.Join(w.root, "hog") || l.ID != kills[0].ID ||
			l.Timeline.Signalled < l.Timeline.Crossed || available >= 400<<20 || available < 300<<20 {
			t.Errorf("%+v, observed %+v, timeline %+v", l, l.Observed, l.Timeline)
		}
	}
	if evictions[0].Outcome != record.OutcomeKilled || !bystander.Alive() {
		t.Errorf("outcome %s, the bystander lives: %v", evictions[0].Outcome, bystander.Alive())
	}
}

// The nominee was the largest when the agent looked last. By now another one is, and only
// the agent can say so.
func TestBackstopSparesWhoIsNotTheLargestAnyMore(t *testing.T) {
	needsBackstop(t)
	for _, young := range []bool{false, true} {
		t.Run(fmt.Sprintf("made meanwhile %v", young), func(t *testing.T) {
			w := newWorld(t)
			w.extra = near
			nominee := w.load("nominee", load.Spec{Kind: load.Sleeper, Hold: 100 << 20})
			var hog *load.Load
			if !young {
				hog = w.leak("hog", 10<<20, 800<<20)
			}
			w.start(hogsOnly)
			w.nominated("nominee")
			w.stopAgent()
			if young {
				hog = w.leak("hog", 10<<20, 800<<20)
			}
			must(t, hog.Go())
			w.filled(hog, 800<<20)
			time.Sleep(100 * time.Millisecond)
			if !nominee.Alive() || !hog.Alive() {
				t.Fatalf("the nominee lives: %v, the hog: %v", nominee.Alive(), hog.Alive())
			}
			w.continueAgent()
			w.await("the eviction", func() bool { return w.count(record.KindEviction) > 0 })
			line := w.lines(record.KindEviction)[0]
			evicted(t, line, path.Join(w.root, "hog"))
			if line.By != record.ByAgent || !nominee.Alive() {
				t.Errorf("killed by %q, the nominee lives: %v", line.By, nominee.Alive())
			}
		})
	}
}

func TestBackstopNeverKillsInShadowMode(t *testing.T) {
	bin := binary(t)
	w := newWorld(t)
	w.extra = near + "backstop: {enabled: true, grace: 0}\n"
	hog := w.leak("hog", 300<<20, 500<<20)
	w.agent = exec.Command(bin, "run", "--config", w.config(hogsOnly), "--mode", "shadow", "--log-level", "error")
	w.agent.Stderr = os.Stderr
	must(t, w.agent.Start())
	t.Cleanup(w.stop)
	w.await("the start", func() bool { return w.count(record.KindStart) == 1 })
	time.Sleep(2 * time.Second) // passes that could nominate
	w.stopAgent()
	must(t, hog.Go())
	w.filled(hog, 500<<20)
	time.Sleep(100 * time.Millisecond)
	w.continueAgent()
	w.await("the shadow line", func() bool { return w.count(record.KindEviction) > 0 })
	if !hog.Alive() || w.count(record.KindKill) != 0 {
		t.Error("shadow mode killed")
	}
}
