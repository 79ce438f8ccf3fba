package record

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func openJournal(t *testing.T, path string, o JournalOptions) *Journal {
	t.Helper()
	j, err := OpenJournal(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func appendLines(t *testing.T, path string, lines ...*Line) {
	t.Helper()
	j := openJournal(t, path, JournalOptions{})
	for _, l := range lines {
		if err := j.Append(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(j.Sync(), j.Close()); err != nil {
		t.Fatal(err)
	}
}

// note is a small line that is told by its reason.
func note(reason string) *Line { return &Line{Kind: KindDegraded, Reason: reason} }

// reasons are those of all lines of a journal.
func reasons(t *testing.T, path string) (all []string, skipped int) {
	t.Helper()
	lines, skipped, err := ReadJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		all = append(all, l.Reason)
	}
	return all, skipped
}

func TestOpenJournalMakesReadableFileAndDirectory(t *testing.T) {
	defer unix.Umask(unix.Umask(0o022))
	path := filepath.Join(t.TempDir(), "agent", "journal.jsonl")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	unix.Umask(0o077)
	appendLines(t, path, note("a"))
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o644 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	unix.Umask(0o022)
	nested := filepath.Join(filepath.Dir(path), "x", "y", "journal")
	appendLines(t, nested, note("a"))
	if fi, err := os.Stat(filepath.Dir(nested)); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("directory mode %v, %v", fi.Mode(), err)
	}
}

func TestOpenJournalRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	target, link, fifo := filepath.Join(dir, "target"), filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(target, []byte("precious"), 0o644), os.Symlink(target, link), unix.Mkfifo(fifo, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"symbolic link": link, "fifo": fifo, "directory": dir, "file as directory": target + "/j"} {
		t.Run(name, func(t *testing.T) {
			if j, err := OpenJournal(path, JournalOptions{}); err == nil {
				j.Close()
				t.Error("was opened")
			}
		})
	}
	if got, _ := os.ReadFile(target); string(got) != "precious" {
		t.Errorf("the link's target became %q", got)
	}
}

func TestJournalAfterACrash(t *testing.T) {
	first, err := encode(note("first"))
	if err != nil {
		t.Fatal(err)
	}
	torn := first[:len(first)/2]
	for name, c := range map[string]struct {
		content string
		want    []string
		skipped int
	}{
		"whole":                        {string(first), []string{"first", "next"}, 0},
		"torn last line":               {string(first) + string(torn), []string{"first", "next"}, 1},
		"only the newline is missing":  {strings.TrimSpace(string(first)), []string{"first", "next"}, 0},
		"zeros after the last line":    {string(first) + "\x00\x00\x00", []string{"first", "next"}, 0},
		"zeros before a line":          {"\x00\x00" + string(first), []string{"first", "next"}, 0},
		"torn, then zeros":             {string(torn) + "\x00\x00", []string{"next"}, 1},
		"not JSON between lines":       {string(first) + "#\n" + string(first), []string{"first", "first", "next"}, 1},
		"another schema, unknown keys": {`{"schema":"ebpf-evict/v2","kind":"kill"}` + "\n" + `{"schema":"ebpf-evict/v1","kind":"stop","reason":"x","new":{"a":1}}` + "\n", []string{"x", "next"}, 1},
		"no kind":                      {`{"schema":"ebpf-evict/v1"}` + "\n", []string{"next"}, 1},
		"wrong type":                   {`{"schema":"ebpf-evict/v1","kind":"stop","id":7}` + "\n", []string{"next"}, 1},
		"line without end":             {strings.Repeat("x", 3*maxLineBytes) + "\n" + string(first), []string{"first", "next"}, 1},
		"good line that is too long":   {strings.TrimSpace(string(first)) + strings.Repeat(" ", maxLineBytes) + "\n", []string{"next"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			if err := os.WriteFile(path, []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			appendLines(t, path, note("next"))
			got, skipped := reasons(t, path)
			if d := cmp.Diff(c.want, got); d != "" || skipped != c.skipped {
				t.Errorf("%d skipped, want %d (-want +got)\n%s", skipped, c.skipped, d)
			}
		})
	}
}

func TestReadJournalErrors(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := ReadJournal(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no journal: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadJournal(fifo); err == nil {
		t.Error("read a fifo")
	}
	path := filepath.Join(dir, "journal")
	appendLines(t, path, note("a"), note("b"))
	enough := errors.New("enough")
	n := 0
	if _, err := ScanJournal(path, func(Entry) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("%v after %d lines", err, n)
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path, JournalOptions{MaxBytes: 250, Keep: 2, PreallocBytes: 1 << 16})
	var want []string
	for i := range 12 {
		want = append(want, fmt.Sprintf("line %02d", i))
		if err := errors.Join(j.Append(note(want[i])), j.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	got, skipped := reasons(t, path)
	// 250 bytes are passed by the third line of a file; two former files stay.
	if d := cmp.Diff(want[6:], got); d != "" || skipped != 0 {
		t.Errorf("%d skipped (-want +got)\n%s", skipped, d)
	}
	names, err := filepath.Glob(path + "*")
	if d := cmp.Diff([]string{path, path + ".1", path + ".2"}, names); d != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, d)
	}
	var st unix.Stat_t
	if err := unix.Stat(path+".1", &st); err != nil || st.Blocks*512 > 8192 {
		t.Errorf("a former file holds %d bytes, %v", st.Blocks*512, err)
	}
}

func TestReadDuringRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	appendLines(t, path+".1", note("a"))
	appendLines(t, path, note("b"))
	t.Run("a file is seen under its former and its new name", func(t *testing.T) {
		if err := os.Link(path+".1", path+".2"); err != nil {
			t.Fatal(err)
		}
		got, _ := reasons(t, path)
		if d := cmp.Diff([]string{"a", "b"}, got); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	})
	t.Run("the newest name is missing for a moment", func(t *testing.T) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		got, _ := reasons(t, path)
		if d := cmp.Diff([]string{"a"}, got); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	})
}

func TestAppendAndSyncTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path, JournalOptions{MaxBytes: 1000, Keep: 1000})
	var wg sync.WaitGroup
	var want []string
	for i := range 4 {
		for n := range 50 {
			want = append(want, fmt.Sprintf("%d/%02d", i, n))
		}
		wg.Go(func() {
			for n := range 50 {
				if err := errors.Join(j.Append(note(fmt.Sprintf("%d/%02d", i, n))), j.Sync()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, skipped := reasons(t, path)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" || skipped != 0 {
		t.Errorf("%d skipped (-want +got)\n%s", skipped, d)
	}
}

// smallDisk mounts a tmpfs and returns its directory.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root to mount a small filesystem; `make test` has it")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func fill(t *testing.T, path string) {
	t.Helper()
	err := os.WriteFile(path, make([]byte, 8<<20), 0o644)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v, want ENOSPC", err)
	}
}

func TestFullDiskDoesNotStopTheRecord(t *testing.T) {
	dir := smallDisk(t, "2m")
	path := filepath.Join(dir, "journal")
	j := openJournal(t, path, JournalOptions{MaxBytes: 16 << 10, PreallocBytes: 64 << 10, Keep: 2})
	var want []string
	write := func(n int) {
		t.Helper()
		for range n {
			want = append(want, fmt.Sprint(len(want)))
			if err := j.Append(note(want[len(want)-1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(10)
	fill(t, filepath.Join(dir, "full"))
	write(400) // 33 KiB
	if err := j.Sync(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("rotation on a full disk: %v, want ENOSPC", err)
	}
	write(100)
	got, skipped := reasons(t, path)
	if d := cmp.Diff(want, got); d != "" || skipped != 0 {
		t.Errorf("%d skipped (-want +got)\n%s", skipped, d)
	}
	if err := os.Remove(filepath.Join(dir, "full")); err != nil {
		t.Fatal(err)
	}
	if err := j.Sync(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path + ".1"); err != nil {
		t.Errorf("with space again there was no rotation: %v", err)
	}
}

func TestSyncAllocatesAhead(t *testing.T) {
	dir := smallDisk(t, "1m")
	j := openJournal(t, filepath.Join(dir, "journal"), JournalOptions{PreallocBytes: 64 << 10})
	half := note(strings.Repeat("x", 40<<10))
	if err := errors.Join(j.Append(half), j.Sync()); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(dir, "full"))
	if err := j.Append(half); err != nil {
		t.Error(err)
	}
}

func TestFullDiskDropsOldestFile(t *testing.T) {
	dir := smallDisk(t, "2m")
	path := filepath.Join(dir, "journal")
	if err := os.WriteFile(path+".2", make([]byte, 256<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, path, JournalOptions{MaxBytes: 1, PreallocBytes: 64 << 10, Keep: 3})
	fill(t, filepath.Join(dir, "full"))
	if err := errors.Join(j.Append(note("a")), j.Sync(), j.Append(note("b"))); err != nil {
		t.Fatal(err)
	}
	got, _ := reasons(t, path)
	if d := cmp.Diff([]string{"a", "b"}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestAppendGoesOnAfterATornWrite(t *testing.T) {
	dir := smallDisk(t, "64k")
	path := filepath.Join(dir, "journal")
	j := openJournal(t, path, JournalOptions{PreallocBytes: -1})
	big := note(strings.Repeat("x", 30<<10))
	var err error
	for range 3 {
		err = errors.Join(err, j.Append(big))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v, want ENOSPC", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(note("after")); err != nil {
		t.Fatal(err)
	}
	got, skipped := reasons(t, path)
	if len(got) != 3 || got[2] != "after" || skipped != 1 {
		t.Errorf("%d lines, %d skipped", len(got), skipped)
	}
}

func TestReadEvictions(t *testing.T) {
	other := MakeID(5, [10]byte{})
	again := killLine()
	again.Attempts = 2
	openKill := killLine()
	openKill.ID = other
	path := filepath.Join(t.TempDir(), "journal")
	appendLines(t, path, note("start"), killLine(), openKill, again, evictionLine(),
		&Line{Kind: KindReclaim, ID: MakeID(6, [10]byte{})},
		&Line{Kind: KindEviction, Reason: "no id"}, &Line{Kind: KindEviction, Reason: "no id either"})
	all, _, err := ReadEvictions(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all {
		var kinds []string
		for _, entry := range e.Entries() {
			kinds = append(kinds, fmt.Sprintf("%s %d", entry.Kind, entry.Attempts))
		}
		got = append(got, fmt.Sprintf("%s: %s, last %s", e.Last().ID, strings.Join(kinds, ", "), e.Last().Kind))
	}
	want := []string{
		testID.String() + ": kill 1, eviction 1, last eviction",
		other.String() + ": kill 1, last kill",
		MakeID(6, [10]byte{}).String() + ": reclaim 0, last reclaim",
		ID{}.String() + ": eviction 0, last eviction",
		ID{}.String() + ": eviction 0, last eviction",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func FuzzScan(f *testing.F) {
	kill, err := encode(killLine())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(kill)
	f.Add(kill[:len(kill)/2])
	f.Add([]byte("\x00\x00\n{}\n[]\nnull\n"))
	f.Add([]byte(`{"schema":"ebpf-evict/v1","kind":"eviction","victim":{},"ranked":[{}],"timelineNs":{"woke":18446744073709551615,"dead":1}}`))
	f.Fuzz(func(t *testing.T, before []byte) {
		var last Entry
		n := 0
		skipped, err := scan(bytes.NewReader(slices.Concat(before, []byte("\n"), kill)), func(e Entry) error {
			RenderTimeline(&e.Line)
			last, n = e, n+1
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if last.ID != testID || string(last.Raw)+"\n" != string(kill) {
			t.Fatalf("the whole line after %q was lost", before)
		}
		if most := bytes.Count(before, []byte("\n")) + 2; n+skipped > most {
			t.Fatalf("%d lines and %d skipped of %d", n, skipped, most)
		}
	})
}
