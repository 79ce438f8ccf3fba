package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// drain returns the reasons of all lines there are.
func drain(t *testing.T, tail *Tail) (reasons []string) {
	t.Helper()
	for {
		e, err := tail.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e == nil {
			return reasons
		}
		reasons = append(reasons, e.Reason)
	}
}

func follow(t *testing.T, path string, from Position) *Tail {
	t.Helper()
	tail, err := NewTail(path, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tail.Close() })
	return tail
}

func position(t *testing.T, tail *Tail) Position {
	t.Helper()
	p, err := tail.Position()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func text(reason string) string {
	return fmt.Sprintf(`{"schema":"ebpf-evict/v1","kind":"stop","time":"2026-01-02T03:04:05Z","reason":%q}`+"\n", reason)
}

func appendText(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got)\n%s", diff)
	}
}

func TestATailWaitsForTheRestOfALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	tail := follow(t, path, Position{})
	expect(t, drain(t, tail)) // no journal yet
	whole := text("a")
	appendText(t, path, whole[:20])
	expect(t, drain(t, tail))
	appendText(t, path, whole[20:]+text("b"))
	expect(t, drain(t, tail), "a", "b")
	// A crash, and the next agent's lines after it.
	appendText(t, path, whole[:30])
	expect(t, drain(t, tail))
	appendText(t, path, "\n\x00\x00"+text("c"))
	expect(t, drain(t, tail), "c")
	if tail.Skipped != 1 {
		t.Errorf("skipped %d, want the torn one", tail.Skipped)
	}
}

func TestATailBeginsAnewWhereItsFileWasCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	appendText(t, path, text("a")+text("b")+`{"half`)
	tail := follow(t, path, Position{})
	expect(t, drain(t, tail), "a", "b")
	cut := func(size int) {
		t.Helper()
		if err := os.Truncate(path, int64(size)); err != nil {
			t.Fatal(err)
		}
	}
	isCut := func() {
		t.Helper()
		if e, err := tail.Next(); e != nil || !errors.Is(err, ErrCut) {
			t.Fatalf("%v, %v: want it to say that the file was cut", e, err)
		}
		if at := position(t, tail); at.Offset != 0 {
			t.Errorf("offset %d", at.Offset)
		}
	}
	cut(0)
	isCut()
	expect(t, drain(t, tail))
	appendText(t, path, text("c")+text("d"))
	expect(t, drain(t, tail), "c", "d")
	cut(len(text("c")))
	isCut()
	expect(t, drain(t, tail), "c")
	appendText(t, path, `{"half`)
	expect(t, drain(t, tail))
	cut(len(text("c"))) // nothing of what was returned
	expect(t, drain(t, tail))
	appendText(t, path, text("e"))
	expect(t, drain(t, tail), "e")
}

func TestATailGoesOnThroughRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := OpenJournal(path, JournalOptions{MaxBytes: 1, Keep: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	put := func(reason string, rotate bool) {
		t.Helper()
		if err := j.Append(&Line{Kind: KindStop, Reason: reason}); err != nil {
			t.Fatal(err)
		}
		if rotate {
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("a", false)
	tail := follow(t, path, Position{})
	expect(t, drain(t, tail), "a")
	put("b", true)
	put("c", true)
	put("d", false)
	expect(t, drain(t, tail), "b", "c", "d")
	put("e", true)
	put("f", true)
	at := position(t, tail)
	expect(t, drain(t, follow(t, path, at)), "e", "f")
	put("g", false)
	expect(t, drain(t, tail), "e", "f", "g")
}

func TestAPositionOfAnotherFileBeginsWithTheOldest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	appendText(t, path, text("a")+text("b"))
	tail := follow(t, path, Position{})
	if _, err := tail.Next(); err != nil {
		t.Fatal(err)
	}
	at := position(t, tail)
	expect(t, drain(t, follow(t, path, at)), "b")
	for name, other := range map[string]Position{
		"another inode":    {Inode: at.Inode + 1, Offset: at.Offset, Head: at.Head},
		"an inode anew":    {Inode: at.Inode, Offset: at.Offset, Head: at.Head + 1},
		"beyond its end":   {Inode: at.Inode, Offset: 1 << 20, Head: at.Head},
		"nothing read yet": {},
	} {
		t.Run(name, func(t *testing.T) { expect(t, drain(t, follow(t, path, other)), "a", "b") })
	}
}

func TestATailSkipsWhatIsNoLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	garbage := make([]byte, 3*maxLineBytes)
	for i := range garbage {
		garbage[i] = 'x'
	}
	appendText(t, path, text("a")+string(garbage)+"\n"+text("b"))
	tail := follow(t, path, Position{})
	expect(t, drain(t, tail), "a", "b")
	if at := position(t, tail); at.Offset != int64(len(garbage)+1+2*len(text("a"))) {
		t.Errorf("offset %d is not the end", at.Offset)
	}
}
