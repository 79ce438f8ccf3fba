package record

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with testdata/name, or rewrites it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got)\n%s", name, d)
	}
}

var testID = MakeID(1767323045123, [10]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10})

// killLine is a kill of a hog that crossed memory.available.
func killLine() *Line {
	const mi = 1 << 20
	return &Line{
		Kind: KindKill, ID: testID, Time: Time{time.Date(2026, 1, 2, 4, 4, 5, 123e6, time.FixedZone("", 3600))},
		Node: "node-1", Mode: "enforce", Tier: "bpf-alloc", Signal: "memory.available",
		Threshold: &Threshold{Signal: "memory.available", Hard: true, Value: "500Mi", ValueBytes: new(int64(500 * mi)), MinReclaimBytes: new(int64(0))},
		Observed:  &Observed{Available: 499 * mi, Capacity: 16 << 30},
		Victim: &Victim{UID: "uid-hog", Namespace: "default", Name: "hog", Cgroup: "/kubepods/burstable/poduid-hog", CgroupID: 4711,
			QOSClass: "Burstable", UsageBytes: new(int64(612 * mi)), RequestBytes: 100 * mi, Tasks: new(int64(5))},
		Ranked: []Ranked{
			{UID: "uid-proxy", Name: "kube-proxy", UsageBytes: new(int64(30 * mi)), Priority: 2000001000, Reason: "critical priority"},
			{UID: "uid-hog", Name: "hog", UsageBytes: new(int64(612 * mi)), RequestBytes: 100 * mi, Tasks: new(int64(5)), Evictable: true},
			{UID: "uid-dns", Name: "dns", Reason: "protect: glob kube-system/*"},
			{UID: "uid-idle", Name: "idle", UsageBytes: new(int64(2 * mi)), Evictable: true},
		},
		Timeline: &Timeline{Crossed: 1000_000_000, Woke: 1000_041_000, Decided: 1000_060_200, Signalled: 1000_085_000, SignalledAll: 1000_120_000},
		Attempts: 1, By: ByAgent,
	}
}

// evictionLine closes killLine.
func evictionLine() *Line {
	l := killLine()
	l.Kind = KindEviction
	l.Time = Time{l.Time.Add(65 * time.Millisecond)}
	l.Timeline.Dead, l.Timeline.Recovered = 1001_320_000, 1065_000_000
	l.OvershootBytes, l.FreedBytes = new(int64(3250586)), new(int64(600<<20))
	l.ProcessesKilled, l.Outcome, l.Reason = 5, OutcomeKilled, "threshold met"
	return l
}

// reclaimLine: images were enough.
func reclaimLine() *Line {
	freed := new(int64(3 << 30))
	return &Line{
		Kind: KindReclaim, ID: testID, Time: killLine().Time, Node: "node-1", Mode: "enforce", Tier: TierPoll, Signal: "imagefs.available",
		Threshold: &Threshold{Signal: "imagefs.available", Hard: true, Value: "15%", ValueBytes: new(int64(2 << 30)), MinReclaimBytes: new(int64(0))},
		Observed:  &Observed{Available: 4 << 30, Capacity: 16 << 30}, FreedBytes: freed,
		Reclaim: &Reclaim{ID: testID, Signal: "imagefs.available", Containers: 2, Images: 5, FreedBytes: freed, TookNs: 1_500_000_000},
		Outcome: OutcomeRecovered, Reason: "node-level reclaim was enough",
	}
}

// limitLine is a kill for a limit of the unit's own.
func limitLine() *Line {
	return &Line{
		Kind: KindKill, ID: testID, Time: killLine().Time, Signal: "emptydirfs.limit", Observed: &Observed{Available: -5 << 20, Capacity: 1 << 30},
		Victim:   &Victim{UID: "u", Name: "cache", UsageBytes: new(int64(1<<30 + 5<<20))},
		Timeline: &Timeline{Crossed: 1000_000_000, Woke: 1400_000_000, Signalled: 1400_085_000},
		Message:  `Usage of EmptyDir volume "v" exceeds the limit "1Gi". `,
	}
}

func TestLinesAsWritten(t *testing.T) {
	stop := &Line{Kind: KindStop, Time: Time{time.Unix(0, 0)}, Reason: "a < b & c"}
	for name, l := range map[string]*Line{"kill.json": killLine(), "eviction.json": evictionLine(), "stop.json": stop, "reclaim.json": reclaimLine()} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			appendLines(t, path, l)
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, got)
			lines, skipped, err := ReadJournal(path)
			if err != nil || skipped != 0 {
				t.Fatalf("%d skipped, %v", skipped, err)
			}
			want := *l
			want.Schema = Schema
			if d := cmp.Diff([]Line{want}, lines); d != "" {
				t.Errorf("read back (-want +got)\n%s", d)
			}
		})
	}
}

func TestRenderTimeline(t *testing.T) {
	shadow := evictionLine()
	shadow.Timeline = &Timeline{Crossed: 5, Woke: 9000}
	shadow.OvershootBytes = nil
	shadow.Victim.Name = "evil\n\x1b[2Jname"
	bomb := &Line{
		Kind: KindEviction, Signal: "pid.available",
		Threshold: &Threshold{Signal: "pid.available", Value: "1k"},
		Observed:  &Observed{Available: -3, Capacity: 32768},
		Victim:    &Victim{UID: "/root/bomb", Tasks: new(int64(900))},
		Ranked:    []Ranked{{UID: "/root/bomb", Tasks: new(int64(900)), Evictable: true}},
		Timeline:  &Timeline{Woke: 100, Decided: 50, Dead: 3_000_000_100},
	}
	percent := evictionLine()
	percent.Threshold.Value, percent.Threshold.MinReclaimBytes = "3%", new(int64(50<<20))
	percent.Threshold.Hard = false
	percent.Ranked[1].Reason = "512 MiB above its request"
	for name, l := range map[string]*Line{
		"kill.txt": killLine(), "eviction.txt": evictionLine(), "shadow.txt": shadow,
		"bomb.txt": bomb, "percent.txt": percent, "nothing.txt": {},
		"reclaim.txt": reclaimLine(), "limit.txt": limitLine(),
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, []byte(RenderTimeline(l))) })
	}
}

func TestFormat(t *testing.T) {
	for want, got := range map[string]string{
		"0 B":       FormatBytes(0),
		"-1023 B":   FormatBytes(-1023),
		"1.00 KiB":  FormatBytes(1024),
		"1023 MiB":  FormatBytes(1023 << 20),
		"1.00 GiB":  FormatBytes(1<<30 - 1),
		"-1.50 GiB": FormatBytes(-1536 << 20),
		"8.00 EiB":  FormatBytes(1<<63 - 1),
		"0 µs":      FormatNs(0),
		"0.04 µs":   FormatNs(41),
		"41.2 µs":   FormatNs(41_234),
		"10.0 µs":   FormatNs(9_999),
		"1.00 ms":   FormatNs(999_600),
		"-999 µs":   FormatNs(-999_400),
		"65.0 ms":   FormatNs(65_000_000),
		"3600 s":    FormatNs(3600e9),
		"a?b??c é":  Printable("a\nb\x1b\u202ec é"),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

var sink ID

func TestID(t *testing.T) {
	if got, want := testID.String(), "01KDYAK383041061050R3GG28A"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, s := range []string{testID.String(), "01kdyak383041061050r3gg28a"} {
		if id, err := ParseID(s); err != nil || id != testID {
			t.Errorf("parse %s: %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "01KDYAK383041061050R3GG28", "01KDYAK383041061050R3GG28U", "81KDYAK383041061050R3GG28A"} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("parse %q: %v, want an error", s, id)
		}
	}
	if a, b := MakeID(1, [10]byte{0xff}), MakeID(2, [10]byte{}); a.String() >= b.String() {
		t.Errorf("%s of 1 ms does not sort before %s of 2 ms", a, b)
	}
	if MakeID(1<<63, [10]byte{}) != MakeID(1<<48-1, [10]byte{}) {
		t.Error("a time out of range is not the last one")
	}
	if Entropy() == Entropy() {
		t.Error("the same entropy twice")
	}
	e := Entropy()
	if n := testing.AllocsPerRun(100, func() { sink = MakeID(1, e) }); n != 0 {
		t.Errorf("MakeID allocates %v times", n)
	}
}
