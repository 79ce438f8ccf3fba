package drill

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mailbox(t *testing.T) *Mailbox {
	t.Helper()
	m, err := MakeMailbox(filepath.Join(t.TempDir(), "drill"))
	must(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestCanariesAreKnownByTheirPath(t *testing.T) {
	ours, name := CgroupOf(NewID(), 1)
	for cgroup, want := range map[string]bool{
		ours:                               true,
		Parent:                             false,
		Parent + "/":                       false,
		Parent + "/web":                    false,
		"/kubepods/" + name:                false,
		ours + "/below":                    false,
		Parent + "/../kubepods":            false,
		Parent + "//" + name:               false,
		strings.TrimPrefix(ours, "/"):      false,
		"/kubepods/.." + ours:              false,
		"/kubepods" + ours:                 false,
		Parent + "/1-" + name:              false,
		Parent + "/" + name + "\n":         false,
		Parent + "/" + name + "/../" + "x": false,
	} {
		if got := IsCanary(cgroup); got != want {
			t.Errorf("IsCanary(%q) = %v, want %v", cgroup, got, want)
		}
	}
}

func TestRequestAndReplyArriveAsTheyWereSent(t *testing.T) {
	m := mailbox(t)
	cgroup, name := CgroupOf(NewID(), 1)
	sent := Request{ID: NewID(), Signal: "allocatablePID.available", Cgroup: cgroup}
	must(t, m.Ask(name, sent))
	waiting, err := m.Requests()
	must(t, err)
	if d := cmp.Diff([]string{name}, waiting); d != "" {
		t.Fatalf("waiting (-want +got)\n%s", d)
	}
	got, err := m.Take(name)
	must(t, err)
	sent.Schema = Schema
	if d := cmp.Diff(sent, got); d != "" {
		t.Errorf("request (-want +got)\n%s", d)
	}
	if waiting, err := m.Requests(); err != nil || len(waiting) != 0 {
		t.Errorf("still waiting: %v, %v", waiting, err)
	}
	must(t, m.Answer(name, Reply{State: Armed}))
	if r, err := m.Await(t.Context(), name, true); err != nil || r.State != Armed {
		t.Errorf("first reply %+v, %v", r, err)
	}
	go func() {
		time.Sleep(5 * time.Millisecond)
		_ = m.Answer(name, Reply{State: Done, Line: &record.Line{Kind: record.KindDrill}})
	}()
	if r, err := m.Await(t.Context(), name, false); err != nil || r.State != Done || r.Line == nil {
		t.Errorf("last reply %+v, %v", r, err)
	}
	must(t, m.Forget(name))
	if names, err := m.names(); err != nil || len(names) != 1 || names[0] != ownerName {
		t.Errorf("left in the mailbox: %v, %v", names, err)
	}
}

// Whatever is put in a request's place is refused at once, and gone afterwards.
func TestOddRequestsAreRefusedAndRemoved(t *testing.T) {
	for name, tc := range map[string]struct {
		put  func(file string) error
		want string
	}{
		"a link":         {func(f string) error { return os.Symlink("/etc/hostname", f) }, "link"},
		"a fifo":         {func(f string) error { return syscall.Mkfifo(f, 0o600) }, "regular"},
		"a directory":    {func(f string) error { return os.Mkdir(f, 0o700) }, "regular"},
		"no JSON":        {func(f string) error { return os.WriteFile(f, []byte("kill 1"), 0o600) }, "decode"},
		"empty":          {func(f string) error { return os.WriteFile(f, nil, 0o600) }, "decode"},
		"another schema": {func(f string) error { return os.WriteFile(f, []byte(`{"schema":"v0"}`), 0o600) }, "schema"},
		"too long":       {func(f string) error { return os.WriteFile(f, make([]byte, maxBytes+1), 0o600) }, "larger"},
		"one with other names": {func(f string) error {
			if err := os.WriteFile(f+".x", []byte("{}"), 0o600); err != nil {
				return err
			}
			return os.Link(f+".x", f)
		}, "another name"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mailbox(t)
			must(t, tc.put(filepath.Join(m.Path(), "x"+requestSuffix)))
			if _, err := m.Take("x"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if waiting, err := m.Requests(); err != nil || len(waiting) != 0 {
				t.Errorf("still waiting: %v, %v", waiting, err)
			}
		})
	}
}

func TestRequestOfAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: gives a file away; `make test` has it")
	}
	m := mailbox(t)
	file := filepath.Join(m.Path(), "x"+requestSuffix)
	must(t, os.WriteFile(file, []byte("{}"), 0o600))
	must(t, os.Chown(file, 65534, 65534))
	if _, err := m.Take("x"); err == nil || !strings.Contains(err.Error(), "uid 65534") {
		t.Errorf("error %v", err)
	}
}

func TestMailboxOfADeadAgentIsEmptiedAndAnotherUsersRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent", "drill")
	m, err := MakeMailbox(path)
	must(t, err)
	must(t, m.Ask("old", Request{}))
	client, err := OpenMailbox(path)
	must(t, err)
	defer func() { _ = client.Close() }()
	if !client.IsOwned() {
		t.Error("nobody's while the agent lives")
	}
	must(t, m.Close())
	if client.IsOwned() {
		t.Error("owned by a dead agent")
	}
	must(t, os.Chmod(path, 0o777))
	m, err = MakeMailbox(path)
	must(t, err)
	if waiting, err := m.Requests(); err != nil || len(waiting) != 0 {
		t.Errorf("left over: %v, %v", waiting, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v, want 0700", fi.Mode(), err)
	}
	must(t, m.Remove())
	if _, err := OpenMailbox(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open after the agent's end: %v", err)
	}
	must(t, os.Symlink(t.TempDir(), path))
	if _, err := MakeMailbox(path); err == nil {
		t.Error("a link is taken for a mailbox")
	}
}

func TestClientSeesThatTheAgentEnded(t *testing.T) {
	agent := mailbox(t)
	client, err := OpenMailbox(agent.Path())
	must(t, err)
	defer func() { _ = client.Close() }()
	must(t, agent.Remove())
	if _, err := client.Await(t.Context(), "x", true); !errors.Is(err, ErrAgentEnded) {
		t.Errorf("error %v", err)
	}
}

func TestOneClientAtATime(t *testing.T) {
	m := mailbox(t)
	release, err := m.Lock(t.Context())
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := m.Lock(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("a second lock: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = release() })
	second, err := m.Lock(t.Context())
	must(t, err)
	must(t, second())
}

func TestMissedStageIsTheFirstThatIsMissing(t *testing.T) {
	for want, tl := range map[string]*record.Timeline{
		StageCrossed:   nil,
		StageDecided:   {Crossed: 1, Woke: 2},
		StageSignalled: {Crossed: 1, Woke: 2, Decided: 3},
		StageDead:      {Crossed: 1, Woke: 2, Decided: 3, Signalled: 4},
		"":             {Crossed: 1, Woke: 2, Decided: 3, Signalled: 4, Dead: 5},
	} {
		if got := MissedStage(&record.Line{Timeline: tl}); got != want {
			t.Errorf("of %+v: %q, want %q", tl, got, want)
		}
	}
}
