package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

const (
	memorySignal = "allocatableMemory.available"
	tasksSignal  = "allocatablePID.available"
)

// tiers are those that a signal can be forced to here.
func tiers(t *testing.T, signal string) []string {
	t.Helper()
	all := []string{record.TierAlloc, record.TierEvent, record.TierPoll}
	if signal == memorySignal && memoryTier(t) == record.TierCharge {
		all = append(all, record.TierCharge)
	}
	return all
}

func isBPF(tier string) bool { return strings.HasPrefix(tier, "bpf-") }

// seenBy are the tiers that a line of a signal may have when the agent was forced to one: a
// reading that was due may come before the event, and BPF's timer before the allocation hook is
// attached, which helps the charge hook until the last victim is dead for a while. Before 5.15
// that timer is a real-time thread, which may look between two forks.
func seenBy(t *testing.T, forced, signal string) []string {
	t.Helper()
	switch {
	case forced == record.TierEvent:
		return []string{record.TierEvent, record.TierPoll}
	case forced == record.TierPoll:
		return []string{record.TierPoll}
	case signal == memorySignal && forced == record.TierCharge:
		return []string{record.TierCharge, record.TierAlloc, record.TierPoll}
	case signal == memorySignal:
		return []string{record.TierAlloc, record.TierPoll}
	}
	if !hasBackstop(t) {
		return []string{record.TierTask, record.TierPoll}
	}
	return []string{record.TierTask}
}

// tally counts by which tiers the evictions were seen.
type tally map[string]int

func (c tally) take(t *testing.T, forced string, l record.Line) {
	t.Helper()
	c[l.Tier]++
	if !slices.Contains(seenBy(t, forced, l.Signal), l.Tier) {
		t.Errorf("seen by %s, forced to %s", l.Tier, forced)
	}
}

// Every tier plays the same scenes to the same end, and the journal says by which.
func TestEveryTierEvictsTheHogAndTheBomb(t *testing.T) {
	binary(t)
	for _, tc := range []struct {
		name, signal, threshold string
		spec                    load.Spec
	}{
		{"hog", memorySignal, "400Mi", load.Spec{Kind: load.Hog, Bytes: 800 << 20}},
		{"bomb", tasksSignal, "200", forkBomb},
	} {
		for _, tier := range tiers(t, tc.signal) {
			t.Run(tc.name+" by "+tier, func(t *testing.T) {
				w := newWorld(t)
				w.tier, w.extra = tier, noDrill
				bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 200 << 20})
				w.start(map[string]string{tc.signal: tc.threshold})
				if len(ourPrograms(t)) > 0 != isBPF(tier) {
					t.Errorf("loaded are %v", ourPrograms(t))
				}
				seen := tally{}
				w.play(5, tc.name, tc.spec, func(round int, unit string, l record.Line) {
					seen.take(t, tier, l)
					w.killedAlone(round, unit, bystander)
				})
				t.Logf("seen by %v", seen)
				w.saysTier(tier, tc.signal)
			})
		}
	}
}

// saysTier checks that start line, degraded line and state file tell of a tier without BPF, and
// tell of none where there is BPF.
func (w *world) saysTier(tier, signal string) {
	w.t.Helper()
	start, degraded := w.lines(record.KindStart)[0], slices.DeleteFunc(w.lines(record.KindDegraded), func(l record.Line) bool {
		return l.Signal == "" // of a kernel without a backstop
	})
	state, err := record.ReadState(w.state())
	must(w.t, err)
	if isBPF(tier) {
		if len(degraded) != 0 || state.Signals[0].TierReason != "" || !strings.Contains(start.Reason, record.TierTask) ||
			signal == memorySignal && !strings.Contains(start.Reason, tier) {
			w.t.Errorf("start line %q, degraded lines %+v, state %+v", start.Reason, degraded, state.Signals)
		}
		return
	}
	got := state.Signals[0].Tier
	if got != tier && !(tier == record.TierEvent && signal == memorySignal && w.fs.Version() == cgroupfs.V2) {
		w.t.Errorf("the state file says tier %s, forced to %s", got, tier)
	}
	if state.Signals[0].TierReason == "" || !strings.Contains(start.Reason, got) {
		w.t.Errorf("start line %q, state %+v", start.Reason, state.Signals)
	}
	if len(degraded) != 1 || degraded[0].Tier != got || degraded[0].Signal != signal || !strings.Contains(degraded[0].Reason, "backstop") {
		w.t.Errorf("degraded lines %+v, want one with the tier %s", degraded, got)
	}
}

// Two wires at once, one of them soft, and a drill: by each tier.
func TestEveryTierPlaysTheOtherScenes(t *testing.T) {
	binary(t)
	for _, tier := range tiers(t, memorySignal) {
		t.Run("several wires by "+tier, func(t *testing.T) {
			w := newWorld(t)
			w.tier = tier
			bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 100 << 20})
			w.start(map[string]string{memorySignal: "400Mi", tasksSignal: "200", "memory.available": "1Mi", "pid.available": "1"})
			for round := 0; ; round++ {
				seen := w.playBoth(round)
				if !bystander.Alive() {
					t.Error("the bystander died")
				}
				tally{}.take(t, tier, seen[memorySignal])
				// For each victim that dies the agent looks each millisecond, and may do so
				// when the tasks are counted already, and the hook is yet to come.
				if round < 2 && isBPF(tier) && hasBackstop(t) && seen[tasksSignal].Tier == record.TierPoll {
					continue
				}
				tally{}.take(t, tier, seen[tasksSignal])
				break
			}
		})
		t.Run("soft by "+tier, func(t *testing.T) {
			w := newWorld(t)
			w.tier = tier
			w.extra = "evictionSoft: {" + memorySignal + ": 400Mi}\nevictionSoftGracePeriod: {" + memorySignal + ": 1s}\nevictionMaxPodGracePeriod: 1\n"
			bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 100 << 20})
			w.start(map[string]string{})
			hog := w.load("hog", load.Spec{Kind: load.Hog, Bytes: 700 << 20, Rate: 1 << 30})
			w.await("the eviction", func() bool { return w.count(record.KindEviction) == 1 })
			_ = hog.Stop()
			l := w.lines(record.KindEviction)[0]
			if l.Outcome != record.OutcomeKilled || l.Victim.Cgroup != path.Join(w.root, "hog") || l.Timeline.Asked == 0 || !bystander.Alive() {
				t.Errorf("got %+v, want the hog asked to end; the bystander lives: %v", l, bystander.Alive())
			}
			if l.Tier != record.TierPoll { // which watches a soft threshold, whatever the hard ones have
				t.Errorf("seen by %s", l.Tier)
			}
		})
		t.Run("drill by "+tier, func(t *testing.T) {
			w := newWorld(t)
			w.tier, w.extra = tier, noDrill
			w.start(hogsOnly)
			r, code, errText := w.drill()
			if code != 0 || !r.OK || len(r.Drills) != 2 {
				t.Fatalf("exit code %d, %+v: %s", code, r, errText)
			}
			for _, l := range r.Drills {
				tally{}.take(t, tier, l)
			}
		})
	}
}

// playBoth has a hog and a fork bomb evicted at once, each for its own signal.
func (w *world) playBoth(round int) (seen map[string]record.Line) {
	w.t.Helper()
	units := map[string]string{memorySignal: fmt.Sprintf("hog-%d", round), tasksSignal: fmt.Sprintf("bomb-%d", round)}
	hog := w.load(units[memorySignal], load.Spec{Kind: load.Hog, Bytes: 800 << 20})
	bomb := w.load(units[tasksSignal], forkBomb)
	w.await("both evictions", func() bool { return w.count(record.KindEviction) >= 2*(round+1) })
	_, _ = hog.Stop(), bomb.Stop()
	seen = map[string]record.Line{}
	for _, l := range w.lines(record.KindEviction)[2*round:] {
		evicted(w.t, l, path.Join(w.root, units[l.Signal]))
		seen[l.Signal] = l
	}
	if len(seen) != 2 || w.count(record.KindEviction) != 2*(round+1) {
		w.t.Fatalf("round %d: %d evictions, seen %v", round, w.count(record.KindEviction), seen)
	}
	for _, unit := range units {
		w.remove(unit)
	}
	return seen
}

// A node whose kernel has no BTF, or whose agent may not use BPF, is protected all the same.
func TestWithoutBPFTheBestThatIsLeftIsUsed(t *testing.T) {
	for _, tc := range []struct{ without, reason string }{
		{"without-btf", "CONFIG_DEBUG_INFO_BTF"},
		{"without-cap-bpf", "CAP_BPF"},
	} {
		t.Run(tc.without, func(t *testing.T) { withoutBPF(t, tc.reason, "/proc/self/exe", tc.without) })
	}
}

func TestRunUnderLockdown(t *testing.T) {
	needsLockdown(t)
	withoutBPF(t, "lockdown=confidentiality")
}

// withoutBPF plays an eviction by an agent that by leads to, where BPF can't be used for a
// reason: it takes the tiers that check names, and the journal says which and why. One that is
// told to put up with no less than BPF ends at once, and says the same.
func withoutBPF(t *testing.T, reason string, by ...string) {
	t.Helper()
	command := append(by[:len(by):len(by)], binary(t))
	t.Run("evicts", func(t *testing.T) {
		best, _ := checked(t, exec.Command(command[0], command[1:]...))
		w := newWorld(t)
		w.by, w.extra = by, noDrill // a canary needs CAP_SYS_ADMIN, as BPF does
		w.start(map[string]string{memorySignal: "900Mi"})
		hog := w.load("hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20})
		w.await("the eviction", func() bool { return w.count(record.KindEviction) > 0 })
		_ = hog.Stop()
		line := w.lines(record.KindEviction)[0]
		evicted(t, line, path.Join(w.root, "hog"))
		tally{}.take(t, best.Fallback.Memory, line)
		want := fmt.Sprintf("memory by %s, pids by %s", best.Fallback.Memory, best.Fallback.Tasks)
		if begun := w.lines(record.KindStart)[0]; begun.Reason != want {
			t.Errorf("started with %q, want %q", begun.Reason, want)
		}
		if d := w.lines(record.KindDegraded); len(d) == 0 || !strings.Contains(d[0].Reason, reason) {
			t.Errorf("degraded lines: %+v", d)
		}
	})
	t.Run("is refused where it is not enough", func(t *testing.T) {
		w := newWorld(t)
		w.extra = "leastTier: bpf\n"
		file := w.config(map[string]string{"memory.available": "1Mi"})
		args := append(command[1:len(command):len(command)], "run", "--config", file, "--log-level", "error")
		refused(t, exec.Command(command[0], args...), 3, reason)
	})
}

// What keeps BPF away at the start may go: here the file of the kernel's types comes later.
func TestAStartWithoutBPFIsMadeGood(t *testing.T) {
	w := newWorld(t)
	types := filepath.Join(w.dir, "btf")
	w.extra = noDrill + "btf: " + types + "\n"
	w.start(hogsOnly)
	begun := w.lines(record.KindStart)
	if !strings.Contains(begun[0].Reason, "memory by poll") && !strings.Contains(begun[0].Reason, "memory by event") {
		t.Fatalf("started with %q", begun[0].Reason)
	}
	found, err := os.ReadFile(loader.KernelBTF)
	must(t, err)
	must(t, os.WriteFile(types+"-new", found, 0o600))
	must(t, os.Rename(types+"-new", types))
	w.await("another start", func() bool { return w.count(record.KindStart) == 2 })
	if again := w.lines(record.KindStart)[1]; !strings.Contains(again.Reason, "memory by bpf-") {
		t.Errorf("started again with %q", again.Reason)
	}
	hog := w.load("hog", load.Spec{Kind: load.Hog, Bytes: 800 << 20})
	w.await("the eviction", func() bool { return w.count(record.KindEviction) > 0 })
	_ = hog.Stop()
	l := w.lines(record.KindEviction)[0]
	evicted(t, l, path.Join(w.root, "hog"))
	if !strings.HasPrefix(l.Tier, "bpf-") && l.Tier != record.TierPoll { // BPF's timer may be first
		t.Errorf("seen by %s", l.Tier)
	}
}

// withoutCapBPF executes a program as a root that may not use BPF.
func withoutCapBPF(args []string) int {
	runtime.LockOSThread()
	var err error
	for _, c := range []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_ADMIN} {
		err = errors.Join(err, unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0))
	}
	if err == nil {
		err = unix.Exec(args[0], args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "without-cap-bpf:", err)
	return 1
}
