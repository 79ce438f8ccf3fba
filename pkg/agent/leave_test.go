package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// hungJournal is a journal on a disk that does not answer from some moment on.
type hungJournal struct {
	journal
	hung <-chan struct{} // nil: not yet
}

func (j *hungJournal) Append(l *record.Line) error {
	if l.Kind == record.KindKill {
		<-j.hung
	}
	return j.journal.Append(l)
}

func TestHungDiskHoldsUpNeitherTheKillNorTheEnd(t *testing.T) {
	b := newBed(t)
	big := b.sleeper("big", 64<<20)
	b.conf.EvictionHard = met
	answers := make(chan struct{})
	a, _, err := open(t.Context(), Options{Config: b.conf, PinDir: b.pinDir()})
	must(t, err)
	disk := a.recorder.journal
	a.recorder.journal = &hungJournal{disk, answers}
	must(t, a.turn(sample.Now()))
	if !big.Wait(time.Minute) {
		t.Fatal("the kill waits for the disk")
	}
	b.await("the finisher", func() bool { return a.wires.killing.Load() == 0 })
	a.leave()
	if err := a.close(); !errors.Is(err, errDisk) {
		t.Errorf("close says %v, want that the disk does not answer", err)
	}
	entries, err := os.ReadDir(b.pinDir())
	if err != nil || len(entries) != 1 || entries[0].Name() != "intents" {
		t.Errorf("pinned: %v, %v, want the intents for the next start", entries, err)
	}
	close(answers)
	_ = a.recorder.close()

	next, _, err := open(t.Context(), Options{Config: b.conf, PinDir: b.pinDir()})
	must(t, err)
	must(t, next.close())
	b.eachEvictionOnce(1)
	if _, err := os.Stat(b.pinDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins after a clean end: %v", err)
	}
}

// SIGTERM while a bomb of hundreds is being killed.
func TestSIGTERMEndsInASecondAndRecordsWhatIsUnderWay(t *testing.T) {
	b := newBed(t)
	b.conf.EvictionHard = map[string]string{"allocatablePID.available": "150"}
	bystander := b.sleeper("bystander", 8<<20)
	b.create("bomb")
	bomb := b.run("bomb", load.Spec{Kind: load.Bomb, Tasks: 1000, Held: true})
	cmd := b.start(0)
	must(t, bomb.Go())
	b.await("the first SIGKILL", func() bool { return len(b.lines(record.KindKill)) > 0 })
	begun := time.Now()
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	t.Logf("ended after %v", time.Since(begun)) // an emulated CPU takes its time
	b.nothingIsLeft()
	b.eachEvictionOnce(1)
	if _, err := os.Stat(b.pinDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	if _, err := os.Stat(b.conf.State); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file is left: %v", err)
	}
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
}

func TestSecondAgentRefusesToStart(t *testing.T) {
	b := newBed(t)
	b.conf.EvictionHard = met
	b.start(0)
	err := Run(context.Background(), Options{Config: b.conf, PinDir: b.pinDir(), Lock: filepath.Join(filepath.Dir(b.conf.Journal), "lock")})
	if !errors.Is(err, ErrRunning) {
		t.Errorf("got %v, want ErrRunning", err)
	}
}

func TestIntentLines(t *testing.T) {
	type line struct {
		Kind    record.Kind
		Outcome record.Outcome
	}
	kill := line{record.KindKill, ""}
	closed := func(o record.Outcome) line { return line{record.KindEviction, o} }
	killLine := &record.Line{Kind: record.KindKill, Ranked: []record.Ranked{{UID: "/a/b"}}, Timeline: &record.Timeline{Crossed: 1, Decided: 2, Signalled: 3}}
	for name, tc := range map[string]struct {
		signalled, gone bool
		written         written
		want            []line
	}{
		"nothing sent, it lives":              {false, false, written{}, []line{closed(record.OutcomeFailed)}},
		"nobody knows, it is gone":            {false, true, written{}, []line{closed(record.OutcomeGone)}},
		"signalled, gone":                     {true, true, written{}, []line{kill, closed(record.OutcomeKilled)}},
		"signalled, it lives":                 {true, false, written{}, []line{kill, closed(record.OutcomeFailed)}},
		"kill line there, gone":               {true, true, written{kill: killLine}, []line{closed(record.OutcomeKilled)}},
		"kill line there, it lives":           {true, false, written{kill: killLine}, []line{closed(record.OutcomeFailed)}},
		"both lines there":                    {true, true, written{nil, true}, nil},
		"closed as not signalled, slot taken": {false, false, written{eviction: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []line
			a := &Agent{}
			for _, l := range a.intentLines(loader.Intent{ID: [16]byte{1}, Cgroup: "/a/b", Signalled: tc.signalled}, tc.gone, tc.written) {
				got = append(got, line{l.Kind, l.Outcome})
				if tc.written.kill != nil && (len(l.Ranked) != 1 || *l.Timeline != *killLine.Timeline) {
					t.Errorf("the ranking and the stages of the kill line are lost: %+v", l)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
