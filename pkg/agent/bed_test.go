package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "load":
			os.Exit(load.Main(os.Args[2:]))
		case "agent":
			os.Exit(agentMain(os.Args[2:]))
		case "leave-memory":
			os.Exit(leaveMemory(os.Args[2:]))
		case "wait": // for the end of its input
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		case "pretend":
			os.Exit(pretend(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// bed is a cgroup root with a limit and what an agent on it needs.
type bed struct {
	t    *testing.T
	fs   *cgroupfs.FS
	root string
	conf *config.Config
	tier string // forced, "" for the best
}

const (
	bedMemory = 512 << 20
	bedTasks  = 400
)

func newBed(t *testing.T) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: loads BPF programs and makes cgroups; `make test` has it")
	}
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	must(t, err)
	b := &bed{t: t, fs: fs, root: "/ebpf-evict-agent-test-" + strconv.Itoa(os.Getpid())}
	must(t, fs.Create(b.root))
	t.Cleanup(func() {
		if err := fs.Remove(b.root); err != nil {
			t.Errorf("remove the test's root: %v", err)
		}
	})
	b.limit(b.root, bedMemory, bedTasks)
	dir := t.TempDir()
	b.conf = config.Default()
	b.conf.Mode = config.ModeEnforce
	b.conf.Roots, b.conf.RootsGiven = []string{b.root}, true
	b.conf.EnforceNodeAllocatable = nil
	b.conf.Journal = filepath.Join(dir, "journal.jsonl")
	b.conf.State = filepath.Join(dir, "state.json")
	b.conf.Workloads = filepath.Join(dir, "none.json")
	b.conf.Backstop.Enabled = false // the passes are driven by hand; it would take that for an agent that stalls
	b.conf.Budget = config.Budget{KillsPerMinute: 256, KillsPerHour: 256}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bed) limit(dir string, memoryBytes, tasks int64) {
	b.t.Helper()
	c, err := b.fs.Open(dir)
	must(b.t, err)
	defer c.Close()
	must(b.t, c.SetMemoryMax(memoryBytes))
	must(b.t, c.SetPidsMax(tasks))
}

// create makes a cgroup below the root.
func (b *bed) create(unit string) {
	b.t.Helper()
	must(b.t, b.fs.Create(path.Join(b.root, unit)))
}

// run starts a load in a cgroup below the root that exists.
func (b *bed) run(unit string, s load.Spec) *load.Load {
	b.t.Helper()
	s.ProcsFiles = b.fs.ProcsFiles(path.Join(b.root, unit))
	s.Deadline = 8 * time.Minute
	l, err := load.Start("/proc/self/exe", []string{"load"}, s)
	must(b.t, err)
	b.t.Cleanup(func() { _ = l.Stop() })
	return l
}

// sleeper makes a unit that holds some memory and waits until that is charged.
func (b *bed) sleeper(unit string, holdBytes int64) *load.Load {
	b.t.Helper()
	b.create(unit)
	return b.sleeperIn(unit, holdBytes)
}

func (b *bed) sleeperIn(unit string, holdBytes int64) *load.Load {
	b.t.Helper()
	l := b.run(unit, load.Spec{Kind: load.Sleeper, Hold: holdBytes})
	b.await("the sleeper's memory", func() bool {
		n, err := l.Progress()
		must(b.t, err)
		return n >= holdBytes
	})
	return l
}

// open makes an agent whose passes the test drives by hand.
func (b *bed) open(thresholds map[string]string, onStage func(stage)) *Agent {
	b.t.Helper()
	b.conf.EvictionHard = thresholds
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	a, _, err := open(ctx, Options{Config: b.conf, Tier: b.tier, Log: zerolog.New(io.Discard), onStage: onStage})
	must(b.t, err)
	b.t.Cleanup(func() {
		b.settle(a)
		if err := a.close(); err != nil && !errors.Is(err, errDisk) { // a busy machine's disk
			b.t.Errorf("close: %v", err)
		}
	})
	return a
}

// settle makes passes until no finisher works.
func (b *bed) settle(a *Agent) {
	b.t.Helper()
	b.await("the finishers", func() bool { return a.wires.killing.Load() == 0 })
}

func (b *bed) await(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	b.t.Fatalf("waited for %s; journal:\n%s", what, b.journal())
}

// turns makes passes, as the clock does, until ok.
func (b *bed) turns(a *Agent, what string, ok func() bool) {
	b.t.Helper()
	b.await(what, func() bool {
		must(b.t, a.turn(sample.Now()))
		return ok()
	})
}

// look makes the scout scan, and one pass.
func (b *bed) look(a *Agent) {
	b.t.Helper()
	must(b.t, a.scout.round(true))
	must(b.t, a.turn(sample.Now()))
}

// lines are the journal's lines of a kind, of all with "".
func (b *bed) lines(kind record.Kind) (found []record.Line) {
	b.t.Helper()
	lines, _, err := record.ReadJournal(b.conf.Journal)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	for _, l := range lines {
		if kind == "" || l.Kind == kind {
			found = append(found, l)
		}
	}
	return found
}

// journal is what the journal says, in short.
func (b *bed) journal() string {
	var text strings.Builder
	for _, l := range b.lines("") {
		unit := ""
		if l.Victim != nil {
			unit = path.Base(l.Victim.Cgroup)
		}
		fmt.Fprintln(&text, l.ID, l.Kind, unit, l.Outcome, l.Reason)
	}
	return text.String()
}

// outcomes are how the closed evictions of a unit ended, in order.
func (b *bed) outcomes(unit string) (found []record.Outcome) {
	b.t.Helper()
	for _, l := range b.lines(record.KindEviction) {
		if l.Victim != nil && l.Victim.Cgroup == path.Join(b.root, unit) {
			found = append(found, l.Outcome)
		}
	}
	return found
}

// written waits until the recorder has written what was sent.
func (b *bed) written(a *Agent) {
	b.t.Helper()
	done := make(chan struct{})
	a.recorder.after(func() { close(done) })
	select {
	case <-done:
	case <-time.After(time.Minute):
		b.t.Fatal("the recorder does not write")
	}
}

// crossing is a record as the allocation hook sends it from a cgroup below the root.
func (b *bed) crossing(a *Agent, from string, pid int) sample.Sample {
	b.t.Helper()
	c, err := b.fs.Open(path.Join(b.root, from))
	must(b.t, err)
	defer c.Close()
	_, err = a.kernel.Walk()
	must(b.t, err)
	for _, row := range a.kernel.Index(loader.Memory, nil) {
		if row.CgroupID == c.MemoryID() {
			return sample.Sample{
				Kind: sample.KindCrossing, By: sample.ObserverAlloc, Ns: sample.Now(),
				Wire: a.wires.number[0], Seq: a.armedSeq(a.wires.number[0]),
				CgroupID: row.CgroupID, CSSID: row.CSSID, TGID: uint32(pid),
			}
		}
	}
	b.t.Fatalf("no row of %s", from)
	return sample.Sample{}
}
