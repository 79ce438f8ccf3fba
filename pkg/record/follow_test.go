package record

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// poll returns the reasons of the lines since the last poll.
func poll(t *testing.T, f *Follower) (all []string, skipped int) {
	t.Helper()
	skipped, err := f.Poll(func(l *Line) { all = append(all, l.Reason) })
	if err != nil {
		t.Fatal(err)
	}
	return all, skipped
}

func wantPoll(t *testing.T, f *Follower, skipped int, want ...string) {
	t.Helper()
	got, gotSkipped := poll(t, f)
	if d := cmp.Diff(want, got); d != "" || gotSkipped != skipped {
		t.Errorf("skipped %d, want %d; lines (-want +got)\n%s", gotSkipped, skipped, d)
	}
}

func follow(t *testing.T, path string) *Follower {
	t.Helper()
	f := NewFollower(path)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestFollowerReadsFormerFilesThenWhatIsAppended(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	f := follow(t, path)
	wantPoll(t, f, 0) // there is no journal yet
	appendLines(t, path+".2", note("a"))
	appendLines(t, path+".1", note("b"))
	appendLines(t, path, note("c"))
	wantPoll(t, f, 0, "a", "b", "c")
	wantPoll(t, f, 0)
	appendLines(t, path, note("d"), note("e"))
	wantPoll(t, f, 0, "d", "e")
}

func TestFollowerLosesNothingInRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path, JournalOptions{MaxBytes: 300, PreallocBytes: -1})
	f := follow(t, path)
	var want, got []string
	for i := range 60 {
		want = append(want, strconv.Itoa(i))
		if err := j.Append(note(want[i])); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 { // lines that come after this one and before a rotation
			lines, _ := poll(t, f)
			got = append(got, lines...)
		}
		if i%2 == 0 {
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	lines, _ := poll(t, f)
	if d := cmp.Diff(want, append(got, lines...)); d != "" {
		t.Errorf("lines (-want +got)\n%s", d)
	}
	if _, err := os.Stat(path + ".2"); err != nil {
		t.Errorf("no two rotations: %v", err)
	}
}

func TestFollowerWaitsForTheEndOfALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	f := follow(t, path)
	write(t, path, `{"schema":"ebpf-evict/v1","kind":"degraded",`)
	wantPoll(t, f, 0)
	write(t, path, `"reason":"whole"}`+"\n")
	wantPoll(t, f, 0, "whole")
	write(t, path, `{"schema":"ebpf-evict/v1","ki`) // the agent dies; the next one starts a new line
	wantPoll(t, f, 0)
	appendLines(t, path, note("next"))
	wantPoll(t, f, 1, "next")
	write(t, path, `{"schema":"ebpf-evict/v1","ki`)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	appendLines(t, path, note("rotated"))
	wantPoll(t, f, 1, "rotated")
}

func TestFollowerStartsAgainWithAJournalThatIsNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	f := follow(t, path)
	appendLines(t, path, note("a"), note("b"))
	wantPoll(t, f, 0, "a", "b")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	appendLines(t, path, note("c"))
	wantPoll(t, f, 0, "c")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantPoll(t, f, 0)
	appendLines(t, path, note("d"))
	wantPoll(t, f, 0, "d")
}
