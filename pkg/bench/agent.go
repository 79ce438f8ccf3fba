package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Agent is `ebpf-evict run` on a bed, as a process of its own in enforce mode.
type Agent struct {
	// State is the path of its state file.
	State   string
	cmd     *exec.Cmd
	exited  chan error
	journal tail
	lines   []record.Line
}

// StartAgent starts the agent with these evictionHard entries, quantities as in the
// kubelet's grammar, and returns when it watches. The caller's thread must be locked: the
// agent dies with it.
func (b *Bed) StartAgent(ctx context.Context, hard map[signal.Signal]string) (*Agent, error) {
	b.agents++
	a := &Agent{State: b.nextName("state", ".json"), exited: make(chan error, 1)}
	a.journal.path = b.nextName("journal", ".jsonl")
	file := b.nextName("config", ".yaml")
	config, err := json.Marshal(map[string]any{ // JSON is YAML
		"mode": "enforce", "roots": []string{b.Root}, "enforceNodeAllocatable": []string{}, "evictionHard": hard,
		"journal": a.journal.path, "state": a.State, "workloads": b.nextName("no-table", ".json"),
		"budget": map[string]int{"killsPerMinute": MostKills, "killsPerHour": MostKills},
	})
	if err == nil {
		err = os.WriteFile(file, config, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("write the agent's configuration: %w", err)
	}
	a.cmd = exec.Command(b.Self, "run", "--config", file, "--log-level", "error")
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	go func() { a.exited <- a.cmd.Wait() }()
	if _, err := a.Await(ctx, func(l *record.Line) bool { return l.Kind == record.KindStart }); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the agent: %w", err), a.Stop())
	}
	return a, nil
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
