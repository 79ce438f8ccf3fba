// Package e2e runs the built program against real loads: EBPF_EVICT_BIN names it.
package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "load":
			os.Exit(load.Main(os.Args[2:]))
		case "in-cgroup-namespace":
			os.Exit(inCgroupNamespace(os.Args[2:]))
		case "read-file":
			os.Exit(readFile(os.Args[2:]))
		case "write-into":
			os.Exit(writeInto(os.Args[2:]))
		case "without-btf":
			os.Exit(withoutBTF(os.Args[2:]))
		case "without-cap-bpf":
			os.Exit(withoutCapBPF(os.Args[2:]))
		case "read-only-cgroups":
			os.Exit(withReadOnlyCgroups(os.Args[2:]))
		}
	}
	go forkForGood()
	os.Exit(m.Run())
}

// rounds is how often a scene is played; EBPF_EVICT_ROUNDS changes it.
func rounds(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv("EBPF_EVICT_ROUNDS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("EBPF_EVICT_ROUNDS: %v", err)
	}
	return n
}

func binary(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: loads BPF programs and makes cgroups; `make test` has it")
	}
	bin := os.Getenv("EBPF_EVICT_BIN")
	if bin == "" {
		t.Fatal("EBPF_EVICT_BIN names no program: run `make test`, or `make build` and set it to bin/ebpf-evict")
	}
	return bin
}

// world is a cgroup root of the test's own with a limit, and one agent on it.
type world struct {
	t       *testing.T
	fs      *cgroupfs.FS
	root    string
	dir     string
	journal string
	// mode is enforce or shadow; extra is configuration beside the thresholds.
	mode, extra string
	// by is a command that leads to the agent.
	by []string
	// tier is forced, "" for the best.
	tier  string
	agent *exec.Cmd
	// answersWithin is how long the agent waits for the disk process; a second where nobody answers.
	answersWithin time.Duration
	// reclaimed is what the disk process has answered last.
	reclaimed map[string]any
}

const rootMemory = 1 << 30

// hogsOnly is a threshold that only a test's hog meets: 624 MiB of the root's may be used.
var hogsOnly = map[string]string{"allocatableMemory.available": "400Mi"}

// forkBomb leaves zombies behind for a while.
var forkBomb = load.Spec{Kind: load.Bomb, Tasks: 1000, NoReap: 500 * time.Millisecond}

const noDrill = "drill: {atStart: false, every: 0}\n"

func newWorld(t *testing.T) *world {
	t.Helper()
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, fs: fs, root: "/ebpf-evict-e2e-" + strconv.Itoa(os.Getpid()), dir: t.TempDir(), mode: "enforce"}
	w.journal = filepath.Join(w.dir, "journal.jsonl")
	must(t, fs.Create(w.root))
	t.Cleanup(func() {
		if err := fs.Remove(w.root); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			t.Errorf("remove the test's root: %v", err)
		}
	})
	c, err := fs.Open(w.root)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.SetMemoryMax(rootMemory))
	must(t, c.SetPidsMax(400))
	return w
}

func (w *world) load(unit string, s load.Spec) *load.Load {
	w.t.Helper()
	dir := path.Join(w.root, unit)
	must(w.t, w.fs.Create(dir))
	s.ProcsFiles = w.fs.ProcsFiles(dir)
	if s.Deadline == 0 {
		s.Deadline = 8 * time.Minute // beyond every wait of a test
	}
	l, err := load.Start("/proc/self/exe", []string{"load"}, s)
	must(w.t, err)
	w.t.Cleanup(func() { _ = l.Stop() })
	return l
}

// config writes a configuration with these thresholds and returns its path.
func (w *world) config(thresholds map[string]string) string {
	w.t.Helper()
	hard, err := json.Marshal(thresholds)
	must(w.t, err)
	file := filepath.Join(w.dir, "config.yaml")
	must(w.t, os.WriteFile(file, []byte(fmt.Sprintf(
		"mode: %s\nroots: [%q]\nenforceNodeAllocatable: []\nevictionHard: %s\njournal: %q\nstate: %q\nworkloads: %q\nbudget: {killsPerMinute: 256, killsPerHour: 256}\n%s",
		w.mode, w.root, hard, w.journal, w.state(), w.table(), w.extra)), 0o600))
	return file
}

func (w *world) state() string { return filepath.Join(w.dir, "state.json") }

// table is the workload table, which is not there unless a test writes it.
func (w *world) table() string { return filepath.Join(w.dir, "workloads.json") }

// start runs the agent with these thresholds and waits until it watches.
func (w *world) start(thresholds map[string]string) {
	w.t.Helper()
	file := w.config(thresholds)
	before := w.count(record.KindStart)
	args := append(w.by[:len(w.by):len(w.by)], binary(w.t), "run", "--config", file, "--log-level", "error", "--tier", w.tier)
	w.agent = exec.Command(args[0], args[1:]...)
	w.agent.Stderr = os.Stderr
	w.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nor does it outlive a test that is killed
	must(w.t, startForGood(w.agent))
	w.t.Cleanup(w.stop)
	w.await("the agent's start", func() bool { return w.count(record.KindStart) > before })
}

// forks are run by a thread that is never let go: PDEATHSIG follows the thread that forked,
// and Go ends threads.
var forks = make(chan func())

func startForGood(cmd *exec.Cmd) error {
	started := make(chan error)
	forks <- func() { started <- cmd.Start() }
	return <-started
}

func forkForGood() {
	runtime.LockOSThread()
	for fork := range forks {
		fork()
	}
}

func (w *world) stop() {
	if w.agent == nil {
		return
	}
	_ = w.agent.Process.Signal(syscall.SIGTERM)
	if err := w.agent.Wait(); err != nil {
		w.t.Errorf("the agent ended with %v", err)
	}
	w.agent = nil
}

func (w *world) lines(kind record.Kind) (found []record.Line) {
	w.t.Helper()
	lines, _, err := record.ReadJournal(w.journal)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	for _, l := range lines {
		if l.Kind == kind {
			found = append(found, l)
		}
	}
	return found
}

func (w *world) count(kind record.Kind) int { return len(w.lines(kind)) }

// patience is no bound on speed: an emulated CPU shared with spinners is a hundred times
// slower than a real one.
const patience = 2 * time.Minute

// soon reports whether something becomes so.
func soon(ok func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	if soon(ok) {
		return
	}
	w.showAgent()
	w.t.Fatalf("waited %v for %s; journal: %+v", patience, what, w.lines(record.KindEviction))
}

// showAgent says where an agent that does not do what it should is: in the kernel, thread by
// thread, then in the program, which ends by that.
func (w *world) showAgent() {
	w.t.Helper()
	if w.agent == nil {
		return
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", w.agent.Process.Pid))
	for _, dir := range threads {
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		stack, _ := os.ReadFile(filepath.Join(dir, "stack"))
		w.t.Logf("%s%s", stat, stack)
	}
	_ = w.agent.Process.Signal(syscall.SIGQUIT)
	time.Sleep(time.Second) // it writes
	_ = w.agent.Process.Kill()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// populated reports whether a unit has processes other than zombies.
func (w *world) populated(unit string) bool {
	w.t.Helper()
	c, err := w.fs.Open(path.Join(w.root, unit))
	if errors.Is(err, cgroupfs.ErrGone) {
		return false
	}
	must(w.t, err)
	defer func() { _ = c.Close() }()
	p, err := c.Populated()
	must(w.t, err)
	return p
}

func (w *world) remove(unit string) {
	w.t.Helper()
	if err := w.fs.Remove(path.Join(w.root, unit)); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
		w.t.Fatal(err)
	}
}

// evicted checks a closed eviction and returns the time from the crossing to SIGKILL.
func evicted(t *testing.T, l record.Line, cgroup string) time.Duration {
	t.Helper()
	if l.Victim == nil || l.Victim.Cgroup != cgroup || l.Outcome != record.OutcomeKilled {
		t.Fatalf("evicted %+v with %s (%s), want %s killed; ranked %+v", l.Victim, l.Outcome, l.Reason, cgroup, l.Ranked)
	}
	if testing.Verbose() {
		t.Log(record.RenderTimeline(&l))
	}
	tl := l.Timeline
	if tl.Crossed == 0 || tl.Signalled < tl.Crossed || tl.Dead < tl.Signalled {
		t.Fatalf("timeline out of order: %+v", *tl)
	}
	return time.Duration(tl.Signalled - tl.Crossed)
}

// play has a load evicted over and over, each time in a unit of its own, and says how long it took
// from the crossing to SIGKILL. Then is called before a round's load is taken away. It returns how
// many rounds there were.
func (w *world) play(usual int, name string, s load.Spec, then func(round int, unit string, l record.Line)) int {
	w.t.Helper()
	var took []time.Duration
	for i := range rounds(w.t, usual) {
		unit := fmt.Sprintf("%s-%d", name, i)
		victim := w.load(unit, s)
		w.await("the eviction", func() bool { return w.count(record.KindEviction) > i })
		line := w.lines(record.KindEviction)[i]
		took = append(took, evicted(w.t, line, path.Join(w.root, unit)))
		if then != nil {
			then(i, unit, line)
		}
		_ = victim.Stop()
		w.remove(unit)
	}
	w.t.Logf("crossing to SIGKILL over %d rounds: median %v, worst %v", len(took), median(took), took[len(took)-1])
	return len(took)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// The real kubelet kills the idle bystander here in two of three rounds: its older reading
// looks bigger than the hog's.
func TestYoungFastHogIsTheVictim(t *testing.T) {
	binary(t)
	w := newWorld(t)
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 200 << 20})
	w.start(hogsOnly)
	w.play(5, "hog", load.Spec{Kind: load.Hog, Bytes: 800 << 20}, func(round int, _ string, _ record.Line) {
		if !bystander.Alive() {
			t.Fatalf("round %d: the bystander died", round)
		}
	})
}

func TestJournalNamesTheTierThatCheckNames(t *testing.T) {
	tier := memoryTier(t)
	w := newWorld(t)
	w.extra = near
	w.start(hogsOnly)
	for i := 0; ; i++ {
		unit := fmt.Sprintf("hog-%d", i)
		hog := w.leak(unit, 200<<20, 600<<20)
		time.Sleep(1500 * time.Millisecond) // the hook that helped with the last kill is gone
		must(t, hog.Go())
		w.await("the eviction", func() bool { return w.count(record.KindEviction) > i })
		l := w.lines(record.KindEviction)[i]
		evicted(t, l, path.Join(w.root, unit))
		if l.Tier == tier {
			return
		}
		if l.Tier != record.TierPoll || i == 2 { // the timer may have been faster, once
			t.Fatalf("round %d: seen by %s, want %s", i, l.Tier, tier)
		}
		_ = hog.Stop()
		w.remove(unit)
	}
}

func TestHogIsEvictedWithAllCoresBusy(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.start(map[string]string{"allocatableMemory.available": "900Mi"})
	for i := range 2 * runtime.NumCPU() {
		w.load(fmt.Sprintf("spinner-%d", i), load.Spec{Kind: load.Spinner})
	}
	w.play(5, "hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20}, nil)
}

// The bomb's orphans stay zombies for a while, and zombies count as tasks: nobody else may
// be killed for them.
func TestForkBombIsKilledCompletelyAndNobodyElse(t *testing.T) {
	binary(t)
	w := newWorld(t)
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 16 << 20})
	w.start(map[string]string{"allocatablePID.available": "200"})
	last := w.play(5, "bomb", forkBomb, func(round int, unit string, _ record.Line) { w.killedAlone(round, unit, bystander) }) - 1
	w.killedAlone(last, "bomb", bystander)
}

// killedAlone: nothing runs in a unit any more, and each round so far has cost one unit.
func (w *world) killedAlone(round int, unit string, bystander *load.Load) {
	w.t.Helper()
	if w.populated(unit) || !bystander.Alive() || w.count(record.KindKill) != round+1 {
		w.t.Fatalf("round %d: it has processes: %v; the bystander lives: %v; %d kills",
			round, w.populated(unit), bystander.Alive(), w.count(record.KindKill))
	}
}

// ourPrograms lists the names of our BPF programs that are loaded.
func ourPrograms(t *testing.T) (names []string) {
	t.Helper()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		must(t, err)
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(t, err)
		info, err := p.Info()
		must(t, errors.Join(err, p.Close()))
		if slices.Contains([]string{"page_alloc", "page_charge", "newtask", "start_far_timer", "walk", "look"}, info.Name) {
			names = append(names, info.Name)
		}
	}
	return names
}

// Shadow is what a configuration means that names no mode.
func TestShadowModeNeverKills(t *testing.T) {
	binary(t)
	w := newWorld(t)
	w.mode = ""
	hog := w.load("hog", load.Spec{Kind: load.Hog, Bytes: 700 << 20, Held: true})
	w.start(hogsOnly)
	must(t, hog.Go())
	w.await("the shadow line", func() bool { return w.count(record.KindEviction) > 0 })
	time.Sleep(200 * time.Millisecond)
	l := w.lines(record.KindEviction)
	if len(l) != 1 || l[0].Outcome != record.OutcomeShadow || l[0].Victim.Cgroup != path.Join(w.root, "hog") {
		t.Errorf("journal: %+v", l)
	}
	if !hog.Alive() || w.count(record.KindKill) != 0 {
		t.Error("shadow mode killed")
	}
}
