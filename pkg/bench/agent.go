package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Agent is `ebpf-evict run` on a bed, as a process of its own in enforce mode.
type Agent struct {
	// State is the path of its state file.
	State   string
	cmd     *exec.Cmd
	exited  chan error
	said    lastWords
	journal tail
	lines   []record.Line
}

// ErrRefused means that the program does not take the configuration.
var ErrRefused = errors.New("the program refused the configuration")

// StartAgent starts the agent with these evictionHard entries, quantities as in the
// kubelet's grammar, and returns when it watches. The caller's thread must be locked: the
// agent dies with it.
func (b *Bed) StartAgent(ctx context.Context, hard map[signal.Signal]string) (*Agent, error) {
	return b.startAgent(ctx, hard, nil)
}

// startAgent adds more to the configuration, or replaces what is in it. ErrRefused when the
// program does not take it.
func (b *Bed) startAgent(ctx context.Context, hard map[signal.Signal]string, more map[string]any) (*Agent, error) {
	b.agents++
	a := &Agent{State: b.nextName("state", ".json"), exited: make(chan error, 1)}
	a.journal.path = b.nextName("journal", ".jsonl")
	file := b.nextName("config", ".yaml")
	settings := map[string]any{
		"mode": "enforce", "roots": []string{b.Root}, "enforceNodeAllocatable": []string{}, "evictionHard": hard,
		"journal": a.journal.path, "state": a.State, "workloads": b.nextName("no-table", ".json"),
		"budget": map[string]int{"killsPerMinute": MostKills, "killsPerHour": MostKills},
		"drill":  map[string]any{"atStart": false, "every": "0"}, // nothing else is to move
	}
	maps.Copy(settings, more)
	config, err := json.Marshal(settings) // JSON is YAML
	if err == nil {
		err = os.WriteFile(file, config, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("write the agent's configuration: %w", err)
	}
	a.cmd = exec.Command(b.Self, "run", "--config", file, "--log-level", "error")
	if b.Tier != "" {
		a.cmd.Args = append(a.cmd.Args, "--tier", b.Tier)
	}
	a.cmd.Stderr = &a.said
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	go func() { a.exited <- a.cmd.Wait() }()
	if _, err := a.Await(ctx, func(l *record.Line) bool { return l.Kind == record.KindStart }); err != nil {
		_ = a.Stop()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == exitUsage {
			return nil, fmt.Errorf("%w: %s", ErrRefused, refusal(a.said.text(), file))
		}
		return nil, fmt.Errorf("wait for the agent: %w: %s", err, a.said.text())
	}
	a.said.pass()
	return a, nil
}

// refusal is the program's reason without the name of a file of ours, and short: it goes into
// the result.
func refusal(said, file string) string {
	if _, reason, ok := strings.Cut(said, file+": "); ok {
		said = reason
	}
	reason, _, _ := strings.Cut(said, ", want one of")
	return reason
}

// exitUsage is the program's exit code for a bad configuration.
const exitUsage = 2

// lastWords keeps what an agent writes until it watches: what kept it from that is in there.
// Then it passes on.
type lastWords struct {
	mu   sync.Mutex
	kept []byte
	on   bool
}

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.on {
		return os.Stderr.Write(p)
	}
	w.kept = append(w.kept, p[:min(len(p), mostKept-len(w.kept))]...)
	return len(p), nil
}

// mostKept is enough for a reason; an agent in trouble may write a line for each unit.
const mostKept = 1 << 10

func (w *lastWords) pass() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = true
	_, _ = os.Stderr.Write(w.kept)
}

func (w *lastWords) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(string(w.kept))
}

// MostKills is the largest budget that the configuration takes, and so how many rounds one
// agent can play.
const MostKills = 256

// PID is the agent's.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Lines are the journal's, as far as it has been read.
func (a *Agent) Lines() []record.Line { return a.lines }

// Await reads the journal until a line is wanted.
func (a *Agent) Await(ctx context.Context, want func(*record.Line) bool) (*record.Line, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for asked := 0; ; {
		if err := a.read(); err != nil {
			return nil, err
		}
		for ; asked < len(a.lines); asked++ {
			if want(&a.lines[asked]) {
				return &a.lines[asked], nil
			}
		}
		select {
		case err := <-a.exited:
			a.exited <- err
			return nil, fmt.Errorf("the agent ended: %w", err)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// read takes what was written since.
func (a *Agent) read() error {
	return a.journal.next(func(text []byte) error {
		var l record.Line
		if err := json.Unmarshal(text, &l); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		a.lines = append(a.lines, l)
		return nil
	})
}

func (a *Agent) signal(s syscall.Signal) error { return a.cmd.Process.Signal(s) }

// stalled runs f while all threads of the agent are stopped.
func (a *Agent) stalled(f func() error) (err error) {
	if err := a.signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	defer func() { err = errors.Join(err, a.signal(syscall.SIGCONT)) }()
	if err := unix.Waitid(unix.P_PID, a.PID(), nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		return fmt.Errorf("wait for the agent to stop: %w", err)
	}
	return f()
}

// awaitState waits until the state file, that of this agent, is as is asked for.
func (a *Agent) awaitState(ctx context.Context, want func(*record.State) bool) error {
	for {
		if s, err := record.ReadState(a.State); err == nil && s.PID == a.PID() && want(&s) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the agent's state: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// armed says whether the allocation hook is attached for a signal.
func armed(s *record.State, of signal.Signal) bool {
	return slices.ContainsFunc(s.Signals, func(one record.SignalState) bool { return one.Signal == string(of) && one.Armed })
}

// Stop ends the agent as systemd does and waits for it.
func (a *Agent) Stop() error {
	_ = a.signal(syscall.SIGTERM)
	_ = a.signal(syscall.SIGCONT) // it may be stopped
	select {
	case err := <-a.exited:
		a.exited <- err
		return err
	case <-time.After(10 * time.Second):
		return errors.Join(errors.New("the agent did not end within ten seconds of SIGTERM"), a.cmd.Process.Kill())
	}
}

// tail reads the lines that are added to a file. It costs one read where a whole journal
// is parsed again by record.ReadJournal, beside a measurement.
type tail struct {
	path string
	off  int64
	rest []byte
}

func (t *tail) next(each func([]byte) error) error {
	f, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, t.off, 64<<20))
	if err != nil {
		return err
	}
	t.off += int64(len(text))
	t.rest = append(t.rest, text...)
	for {
		line, rest, found := bytes.Cut(t.rest, []byte{'\n'})
		if !found {
			return nil
		}
		t.rest = rest
		if line = bytes.Trim(line, "\x00 "); len(line) == 0 {
			continue
		}
		if err := each(line); err != nil {
			return err
		}
	}
}
