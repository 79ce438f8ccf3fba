package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// far is a threshold that no canary and no sleeper of these tests meets.
var far = map[string]string{"allocatableMemory.available": "1Mi", "allocatablePID.available": "1"}

var canaryLoads = map[signal.Signal]load.Spec{
	signal.AllocatableMemoryAvailable: {Kind: load.Hog, Bytes: 2 * drill.MemoryDistanceBytes},
	signal.AllocatablePIDAvailable:    {Kind: load.Bomb, Tasks: 2 * drill.TaskDistance},
}

// cage makes a canary's cgroup with its limits, as a client does.
func (b *bed) cage(id record.ID, n int) (cgroup string) {
	b.t.Helper()
	cgroup, _ = drill.CgroupOf(id, n)
	must(b.t, b.fs.Create(cgroup))
	b.t.Cleanup(func() {
		if err := errors.Join(b.fs.Remove(cgroup), drill.Sweep(b.fs)); err != nil {
			b.t.Errorf("remove a canary's cgroup: %v", err)
		}
	})
	b.limit(cgroup, drill.MaxMemoryBytes, drill.MaxTasks)
	return cgroup
}

// canary makes a paused canary, as a client does, and the request for it.
func (b *bed) canary(s signal.Signal, n int) (*load.Load, drill.Request) {
	b.t.Helper()
	id := drill.NewID()
	cgroup := b.cage(id, n)
	spec := canaryLoads[s]
	spec.Held, spec.ProcsFiles, spec.Deadline = true, b.fs.ProcsFiles(cgroup), 8*time.Minute
	l, err := load.Start("/proc/self/exe", []string{"load"}, spec)
	must(b.t, err)
	b.t.Cleanup(func() { _ = l.Stop() })
	return l, drill.Request{ID: id, Signal: string(s), Cgroup: cgroup}
}

// arm opens a canary and arms its wire, as a rehearsal does.
func (b *bed) arm(a *Agent, q drill.Request) *canary {
	b.t.Helper()
	c, err := a.openCanary(&q)
	must(b.t, err)
	b.t.Cleanup(func() {
		if !c.handle.Busy() {
			_ = c.handle.Close()
		}
	})
	must(b.t, a.armCanary(c))
	b.t.Cleanup(func() { must(b.t, a.disarmCanary()) })
	return c
}

func isDone(c *canary) bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func TestNothingIsAllocatedBetweenACanarysWakeUpAndSIGKILL(t *testing.T) {
	profileEachAllocation(t)
	b := newBed(t)
	b.sleeper("bystander", 8<<20)
	var before, struck map[string]int64
	a := b.open(far, func(s stage) {
		if s == stageCanaryStruck {
			struck = allocationsOfPasses()
		}
	})
	must(t, a.turn(sample.Now()))
	for s := range canaryLoads {
		struck = nil
		l, q := b.canary(s, 1)
		c := b.arm(a, q)
		must(t, l.Go())
		for end := time.Now().Add(time.Minute); struck == nil && time.Now().Before(end); {
			a.poller.wait(farTick)
			before = allocationsOfPasses()
			must(t, a.turn(sample.Now()))
		}
		if struck == nil {
			t.Fatalf("%s: the canary was not struck: %s %s", s, c.outcome, c.reason)
		}
		for stack, n := range struck {
			if n != before[stack] {
				t.Errorf("%s: %d allocations at\n%s", s, n-before[stack], stack)
			}
		}
		c.handle.Finish(nil, sample.Now, time.Minute)
		if l.Alive() {
			t.Errorf("%s: the canary lives", s)
		}
		if t := c.timeline; t.Crossed == 0 || t.Woke < t.Crossed || t.Decided < t.Woke || t.Signalled < t.Decided {
			b.t.Errorf("%s: times out of order: %+v", s, t)
		}
		must(t, a.disarmCanary())
		a.wires.killing.Add(1) // for the clean-up's
	}
}

// Both crossed their wire before the agent woke.
func TestARealCrossingDuringADrillWins(t *testing.T) {
	b := newBed(t)
	b.create("victim")
	victim := b.run("victim", load.Spec{Kind: load.Hog, Bytes: 64 << 20, Held: true})
	a := b.open(met, nil)
	must(t, a.scout.round(true))
	must(t, a.turn(sample.Now()))
	canary, q := b.canary(signal.AllocatableMemoryAvailable, 1)
	c := b.arm(a, q)
	must(t, canary.Go())
	b.await("the canary's fill", func() bool { n, _ := canary.Progress(); return n >= 2*drill.MemoryDistanceBytes })
	must(t, victim.Go())
	b.await("the victim's fill", func() bool { n, _ := victim.Progress(); return n >= 64<<20 || !victim.Alive() })
	b.turns(a, "the drill's end", func() bool { return isDone(c) })
	if !victim.Wait(time.Minute) {
		t.Error("the victim lives")
	}
	if !c.skipped || c.timeline.Signalled != 0 || !canary.Alive() {
		t.Errorf("the drill was not skipped: %s %s, %+v", c.outcome, c.reason, c.timeline)
	}
	b.turns(a, "the eviction's end", func() bool { return len(b.outcomes("victim")) == 1 })
	if got := b.outcomes("victim"); got[0] != record.OutcomeKilled {
		t.Errorf("outcomes %v:\n%s", got, b.journal())
	}
}

// The task whose allocation shows that a wire is crossed may be anybody's.
func TestWhoeverSeesACanaryCrossIsSpared(t *testing.T) {
	b := newBed(t)
	bystander := b.sleeper("bystander", 8<<20)
	a := b.open(far, nil)
	must(t, a.turn(sample.Now()))
	canary, q := b.canary(signal.AllocatableMemoryAvailable, 1)
	c := b.arm(a, q)
	must(t, canary.Go())
	b.await("the canary's fill", func() bool { n, _ := canary.Progress(); return n >= 2*drill.MemoryDistanceBytes })
	seen := b.crossing(a, "bystander", bystander.PID())
	seen.Wire, seen.Seq = c.wire, c.seq
	a.strikeCanary(&seen, sample.Now())
	if !isDone(c) || c.timeline.Signalled == 0 {
		t.Fatalf("the canary was not struck: %s %s", c.outcome, c.reason)
	}
	c.handle.Finish(nil, sample.Now, time.Minute)
	if canary.Alive() || !bystander.Alive() {
		t.Errorf("the canary lives: %v, the bystander: %v", canary.Alive(), bystander.Alive())
	}
}

func TestAReloadDoesNotDisturbADrill(t *testing.T) {
	b := newBed(t)
	a := b.open(far, nil)
	must(t, a.turn(sample.Now()))
	canary, q := b.canary(signal.AllocatableMemoryAvailable, 1)
	c := b.arm(a, q)
	p, err := a.plan(t.Context(), b.conf)
	must(t, err)
	a.observeDisks(t.Context(), p)
	must(t, a.take(p))
	must(t, a.turn(sample.Now()))
	must(t, canary.Go())
	b.turns(a, "the drill's end", func() bool { return isDone(c) })
	if c.timeline.Signalled == 0 {
		t.Fatalf("the canary was not struck: %s %s", c.outcome, c.reason)
	}
	c.handle.Finish(nil, sample.Now, time.Minute)
}

func TestACanaryIsStruckOnceAndByWhomClaimsIt(t *testing.T) {
	b := newBed(t)
	a := b.open(far, nil)
	must(t, a.turn(sample.Now()))
	canary, q := b.canary(signal.AllocatableMemoryAvailable, 1)
	c := b.arm(a, q)
	if !a.kernel.Claim(c.wire, c.seq) {
		t.Fatal("the claim was refused")
	}
	must(t, canary.Go())
	b.turns(a, "the drill's end", func() bool { return isDone(c) })
	if line := a.drillLine(c); c.outcome != record.OutcomeFailed || drill.MissedStage(line) != drill.StageSignalled || !canary.Alive() {
		t.Errorf("%s (%s), stage %q, alive %v", c.outcome, c.reason, drill.MissedStage(line), canary.Alive())
	}
}

// hold answers one request while the test makes passes.
func (b *bed) hold(a *Agent, name string) drill.Reply {
	b.t.Helper()
	reply := make(chan drill.Reply, 1)
	go func() { reply <- a.rehearsals.hold(b.t.Context(), name) }()
	for {
		must(b.t, a.turn(sample.Now()))
		select {
		case r := <-reply:
			return r
		case <-time.After(time.Millisecond):
		}
	}
}

func TestADrillTellsOfTheCanarysEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		mode string
		play func(*load.Load)
		want record.Outcome
	}{
		"killed in shadow mode":  {config.ModeShadow, func(l *load.Load) { _ = l.Go() }, record.OutcomeKilled},
		"killed in enforce mode": {config.ModeEnforce, func(l *load.Load) { _ = l.Go() }, record.OutcomeKilled},
		"gone before it crossed": {config.ModeEnforce, func(l *load.Load) { _ = l.Stop() }, record.OutcomeGone},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.conf.Mode = tc.mode
			a := b.open(far, nil)
			canary, q := b.canary(signal.AllocatablePIDAvailable, 1)
			must(t, a.rehearsals.box.Ask("x", q))
			go func() {
				if r, err := a.rehearsals.box.Await(t.Context(), "x", true); err == nil && r.State == drill.Armed {
					tc.play(canary)
				}
			}()
			r := b.hold(a, "x")
			if r.State != drill.Done || r.Line.Outcome != tc.want || r.Line.Mode != tc.mode {
				t.Fatalf("reply %+v, line %+v", r, r.Line)
			}
			killed := tc.want == record.OutcomeKilled
			if s := a.drills.state.Load(); s == nil || s.OK != killed || s.SignalledNs > 0 != killed {
				t.Errorf("state %+v", s)
			}
			if !canary.Wait(time.Minute) {
				t.Error("the canary lives")
			}
			b.written(a)
			if l := b.lines(record.KindDrill); len(l) != 1 || l[0].Outcome != tc.want || l[0].ID != q.ID {
				t.Errorf("journal: %+v", l)
			}
			if len(b.lines(record.KindKill)) != 0 || len(b.lines(record.KindEviction)) != 0 {
				t.Errorf("a drill is no eviction:\n%s", b.journal())
			}
			if minute, _ := a.memory.Left(&a.settings, sample.Now()); minute != b.conf.Budget.KillsPerMinute {
				t.Error("a drill costs a kill of the budget")
			}
		})
	}
}

func TestNoDrillWhileAThresholdIsMet(t *testing.T) {
	b := newBed(t)
	b.conf.Mode = config.ModeShadow
	b.sleeper("big", 64<<20)
	a := b.open(met, nil)
	canary, q := b.canary(signal.AllocatableMemoryAvailable, 1)
	must(t, a.rehearsals.box.Ask("x", q))
	if r := b.hold(a, "x"); r.State != drill.Skipped || r.Reason != unrestMet {
		t.Errorf("reply %+v", r)
	}
	b.written(a)
	if l := b.lines(record.KindDrill); len(l) != 0 || !canary.Alive() {
		t.Errorf("a skipped drill left %+v", l)
	}
}

// A canary must not be what takes the node below a threshold.
func TestNoDrillWhereACanaryHasNoRoom(t *testing.T) {
	b := newBed(t)
	a := b.open(map[string]string{"memory.available": "1Gi", "pid.available": "1000", "allocatablePID.available": "10"}, nil)
	for name, tc := range map[string]struct {
		signal    signal.Signal
		root      string
		available int64
		want      *string
	}{
		"memory is near":       {signal.MemoryAvailable, "", 1<<30 + 2*drill.MaxMemoryBytes - 1, &unrestNear},
		"memory is far":        {signal.MemoryAvailable, "", 1<<30 + 2*drill.MaxMemoryBytes, nil},
		"tasks are near":       {signal.PIDAvailable, "", 1000 + 2*drill.MaxTasks - 1, &unrestNear},
		"tasks are far":        {signal.PIDAvailable, "", 1000 + 2*drill.MaxTasks, nil},
		"a root's own is near": {signal.AllocatablePIDAvailable, b.root, 11, nil},
	} {
		a.input.Observations = []signal.Observation{{Signal: tc.signal, Root: tc.root, Available: tc.available, Capacity: 1 << 40}}
		if got := a.unrest(&decide.Decision{}); got != tc.want {
			t.Errorf("%s: unrest %v, want %v", name, got, tc.want)
		}
	}
	a.input.Observations = make([]signal.Observation, 0, decide.MaxBounds)
}

// Whatever a request says, who is no canary is not touched.
func TestHostileRequestsAreRefusedAndNobodyIsHit(t *testing.T) {
	b := newBed(t)
	bystander := b.sleeper("bystander", 8<<20)
	a := b.open(far, nil)
	mem := string(signal.AllocatableMemoryAvailable)
	var others []*load.Load
	// put starts a sleeper that is no canary of the cgroup, and moves it there.
	put := func(cgroup string) {
		other := b.sleeperIn("bystander", 1<<20)
		others = append(others, other)
		for _, procs := range b.fs.ProcsFiles(cgroup) {
			must(t, os.WriteFile(procs, []byte(strconv.Itoa(other.PID())), 0))
		}
	}
	for n, tc := range []struct {
		name string
		make func(q *drill.Request)
		want string
	}{
		{"a unit's cgroup", func(q *drill.Request) { q.Cgroup = path.Join(b.root, "bystander") }, "no canary's"},
		{"a way out", func(q *drill.Request) { q.Cgroup = drill.Parent + "/.." + b.root + "/bystander" }, "no canary's"},
		{"the parent of all canaries", func(q *drill.Request) { q.Cgroup = drill.Parent }, "no canary's"},
		{"the top", func(q *drill.Request) { q.Cgroup = "/" }, "no canary's"},
		{"a signal of the node", func(q *drill.Request) { q.Signal = "memory.available" }, "none of a canary's"},
		{"a cgroup that is not there", func(q *drill.Request) { q.Cgroup, _ = drill.CgroupOf(q.ID, 99) }, "gone"},
		{"nobody in it", func(*drill.Request) {}, "0 processes"},
		{"a bystander in it", func(q *drill.Request) { put(q.Cgroup) }, "no canary of this cgroup"},
		{"two in it", func(q *drill.Request) { put(q.Cgroup); put(q.Cgroup) }, "2 processes"},
		{"much memory", func(q *drill.Request) { put(q.Cgroup); b.limit(q.Cgroup, drill.MaxMemoryBytes+1<<20, drill.MaxTasks) }, "limit of memory"},
		{"many tasks", func(q *drill.Request) { put(q.Cgroup); b.limit(q.Cgroup, drill.MaxMemoryBytes, drill.MaxTasks+1) }, "limit of tasks"},
		{"a cgroup below it", func(q *drill.Request) { must(t, b.fs.Create(q.Cgroup+"/below")) }, "below"},
		{"another user's process", func(q *drill.Request) {
			cmd := exec.Command("/proc/self/exe", "wait", b.fs.ProcsFiles(q.Cgroup)[0])
			in, err := cmd.StdinPipe()
			must(t, err)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Pdeathsig: syscall.SIGKILL}
			must(t, cmd.Start())
			t.Cleanup(func() {
				_ = in.Close()
				if err := cmd.Wait(); err != nil {
					t.Errorf("another user's process ended with %v, want the end of its input", err)
				}
			})
			for _, procs := range b.fs.ProcsFiles(q.Cgroup) {
				must(t, os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)), 0))
			}
		}, "another user's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			id := drill.NewID()
			q := drill.Request{ID: id, Signal: mem, Cgroup: b.cage(id, n)}
			tc.make(&q)
			must(t, a.rehearsals.box.Ask("x", q))
			if r := b.hold(a, "x"); r.State != drill.Refused || !strings.Contains(r.Reason, tc.want) {
				t.Errorf("reply %+v, want it refused with %q", r, tc.want)
			}
			b.written(a)
			lines := b.lines(record.KindDrill)
			if len(lines) != n+1 || lines[n].Outcome != record.OutcomeRefused {
				t.Errorf("journal: %+v, want one more refusal", lines)
			}
		})
	}
	for i, l := range append(others, bystander) {
		if !l.Alive() {
			t.Errorf("bystander %d died", i)
		}
	}
}

// It was attached for the canary alone, and the wires are farther than the margin.
func TestTheHookGoesAfterADrill(t *testing.T) {
	b := newBed(t)
	b.tier = loader.TierAlloc
	b.conf.MarginBytes = 300 << 20 // where a hook that was attached for a wire would stay
	a := b.open(far, nil)
	canary, q := b.canary(signal.AllocatableMemoryAvailable, 1)
	must(t, a.rehearsals.box.Ask("x", q))
	go func() {
		if _, err := a.rehearsals.box.Await(t.Context(), "x", true); err == nil {
			_ = canary.Go()
		}
	}()
	if r := b.hold(a, "x"); r.State != drill.Done || r.Line.Outcome != record.OutcomeKilled || !a.kernel.Armed() {
		t.Fatalf("reply %+v, attached: %v", r, a.kernel.Armed())
	}
	b.await("the hook to go", func() bool {
		must(t, a.scout.round(false))
		return !a.kernel.Armed()
	})
}

func TestNoDrillInsideARoot(t *testing.T) {
	b := newBed(t)
	a := b.open(far, nil)
	_, q := b.canary(signal.AllocatableMemoryAvailable, 1)
	for _, root := range []string{drill.Parent, q.Cgroup} {
		a.wires.roots = []string{root}
		if c, err := a.openCanary(&q); err == nil || !strings.Contains(err.Error(), "lie in each other") {
			t.Errorf("root %s: opened %+v, %v", root, c, err)
		}
	}
	a.wires.roots = []string{b.root}
}

// What a client left that was killed goes with the next start, and nothing else does.
func TestStartRemovesWhatADeadDrillLeft(t *testing.T) {
	b := newBed(t)
	dead := b.cage(drill.NewID(), 1)
	_, q := b.canary(signal.AllocatablePIDAvailable, 1)
	foreign := drill.Parent + "/not-ours"
	must(t, b.fs.Create(foreign))
	t.Cleanup(func() { must(t, b.fs.Remove(foreign)) })
	b.open(far, nil)
	for cgroup, want := range map[string]bool{dead: false, q.Cgroup: true, foreign: true} {
		c, err := b.fs.Open(cgroup)
		if err == nil {
			_ = c.Close()
		}
		if got := err == nil; got != want {
			t.Errorf("%s is there: %v, want %v", cgroup, got, want)
		}
	}
}

// In the middle of a fork bomb a canary may get no CPU, and whoever ends then protects nobody.
func TestADrillThatFailsAtStartEndsNoAgentThatIsNeeded(t *testing.T) {
	hog := load.Spec{Kind: load.Hog, Bytes: 400 << 20}
	opened := func(b *bed) *Agent { return b.open(map[string]string{"allocatableMemory.available": "200Mi"}, nil) }
	for name, tc := range map[string]struct {
		start func(*bed) *Agent
		ends  bool
	}{
		"nothing has happened": {opened, true},
		"it has evicted a hog": {func(b *bed) *Agent {
			a := opened(b)
			b.evictBy(a, "hog", hog)
			return a
		}, false},
		"the kernel has evicted one in its place": {func(b *bed) *Agent {
			hog := b.leak("hog")
			a := b.stalled()
			must(b.t, hog.Go())
			b.turns(a, "the eviction's end", func() bool { return len(b.outcomes("hog")) == 1 })
			return a
		}, false},
		"a hog has crossed that it has not seen yet": {func(b *bed) *Agent {
			a := opened(b)
			b.sleeper("hog", hog.Bytes)
			return a
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			a := tc.start(b)
			ctx, end := context.WithCancelCause(t.Context())
			defer end(nil)
			results, heard := make(chan drill.Result), make(chan struct{})
			go a.hear(ctx, Options{Config: b.conf, Drills: results}, end)
			results <- drill.Result{AtStart: true, Stage: "canary", Reason: "not ready"}
			go func() {
				defer close(heard)
				select {
				case results <- drill.Result{OK: true}: // it goes on to listen
				case <-ctx.Done():
				}
			}()
			b.turns(a, "the result to be heard", func() bool {
				select {
				case <-heard:
					return true
				default:
					return false
				}
			})
			if got := errors.Is(context.Cause(ctx), ErrDrill); got != tc.ends {
				t.Errorf("it ends: %v (%v)", got, context.Cause(ctx))
			}
		})
	}
}
