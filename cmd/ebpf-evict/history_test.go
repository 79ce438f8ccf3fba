package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const (
	killLine = `{"schema":"ebpf-evict/v1","kind":"kill","id":"01KDYAK383041061050R3GG28A","time":"2026-01-02T03:04:05.123000000Z","mode":"enforce","signal":"memory.available","victim":{"uid":"u1","namespace":"default","name":"hog"},"timelineNs":{"crossed":1000,"signalled":86000},"future":1}`
	doneLine = `{"schema":"ebpf-evict/v1","kind":"eviction","id":"01KDYAK383041061050R3GG28A","time":"2026-01-02T03:04:05.123000000Z","node":"n1","mode":"enforce","tier":"bpf-alloc","signal":"memory.available",` +
		`"threshold":{"signal":"memory.available","hard":true,"value":"500Mi","valueBytes":524288000,"minReclaimBytes":0,"gracePeriodSeconds":0},"observed":{"available":523239424,"capacity":17179869184},` +
		`"victim":{"uid":"u1","namespace":"default","name":"hog","priority":0,"usageBytes":641728512,"requestBytes":104857600,"tasks":5},` +
		`"ranked":[{"uid":"u0","name":"proxy","usageBytes":31457280,"priority":2000001000,"evictable":false,"reason":"critical priority"},{"uid":"u1","name":"hog","usageBytes":641728512,"requestBytes":104857600,"tasks":5,"evictable":true},{"uid":"u2","name":"idle","evictable":true}],` +
		`"timelineNs":{"crossed":1000,"signalled":86000,"dead":1321000},"freedBytes":629145600,"processesKilled":5,"attempts":2,"outcome":"killed","reason":"threshold met","by":"agent"}`
	openLine    = `{"schema":"ebpf-evict/v1","kind":"kill","id":"01KDYAZZZZ041061050R3GG28A","time":"2026-01-02T03:05:05.000000000Z","signal":"pid.available","victim":{"uid":"/root/bo\tmb"}}`
	reclaimLine = `{"schema":"ebpf-evict/v1","kind":"reclaim","id":"01KDYB0000004106105000R3GG","time":"2026-01-02T03:05:30.000000000Z","signal":"imagefs.available","observed":{"available":4294967296,"capacity":17179869184},"freedBytes":3221225472,"reclaim":{"id":"01KDYB0000004106105000R3GG","signal":"imagefs.available","containers":0,"images":5,"freedBytes":3221225472},"outcome":"recovered","reason":"node-level reclaim was enough"}`
	bareLine    = `{"schema":"ebpf-evict/v1","kind":"eviction","time":"2026-01-02T03:06:05.000000000Z","outcome":"refused"}`
)

func writeJournal(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// execute runs a command and returns both of its outputs.
func execute(t *testing.T, cmd *cobra.Command, out *bytes.Buffer, args ...string) (string, string, error) {
	t.Helper()
	var errOut bytes.Buffer
	cmd.SetErr(&errOut)
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.Execute()
	return out.String(), errOut.String(), err
}

func history(t *testing.T, args ...string) (string, string, error) {
	t.Helper()
	var out bytes.Buffer
	return execute(t, newHistoryCmd(&out), &out, args...)
}

func explain(t *testing.T, args ...string) (string, string, error) {
	t.Helper()
	var out bytes.Buffer
	return execute(t, newExplainCmd(&out), &out, args...)
}

func TestHistory(t *testing.T) {
	path := writeJournal(t, killLine, openLine, "torn", doneLine, reclaimLine, bareLine)
	const head = "TIME                 ID                          SIGNAL             VICTIM       SIGKILL  DEAD     FREED     OUTCOME\n"
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"table": {nil, head +
			"2026-01-02 03:04:05  01KDYAK383041061050R3GG28A  memory.available   default/hog  85.0 µs  1.32 ms  600 MiB   killed, 2 attempts\n" +
			"2026-01-02 03:05:05  01KDYAZZZZ041061050R3GG28A  pid.available      /root/bo?mb  -        -        -         still open, or the agent died\n" +
			"2026-01-02 03:05:30  01KDYB0000004106105000R3GG  imagefs.available  -            -        -        3.00 GiB  recovered\n" +
			"2026-01-02 03:06:05  00000000000000000000000000                     -            -        -        -         refused\n"},
		"the newest": {[]string{"--limit", "1", "-o", "json"}, bareLine + "\n"},
		"all":        {[]string{"--limit", "0", "-o", "json"}, strings.Join([]string{killLine, doneLine, openLine, reclaimLine, bareLine}, "\n") + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, warned, err := history(t, append(c.args, "--journal", path)...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if !strings.Contains(warned, "1 torn") {
				t.Errorf("warned %q of the torn line", warned)
			}
		})
	}
	if got, _, err := history(t, "--journal", writeJournal(t)); got != "no evictions\n" || err != nil {
		t.Errorf("empty journal: %q, %v", got, err)
	}
}

// A victim is dead long before its disk is back, and its line is closed with that.
func TestDeathOfAnOpenEviction(t *testing.T) {
	const id = "01KDYAK383041061050R3GG28A"
	journal := writeJournal(t, strings.ReplaceAll(killLine, "memory.available", "nodefs.available"))
	state := writeFile(t, "state.json", `{"schema":"ebpf-evict/state/v1","evictions":[{"id":"`+id+`","timelineNs":{"crossed":1000,"signalled":86000,"dead":1321000}}]}`)
	file := writeFile(t, "config.yaml", "journal: "+journal+"\nstate: "+state+"\n")
	if got, _, err := history(t, "--config", file); err != nil || !strings.Contains(got, " 1.32 ms ") {
		t.Errorf("history: %q, %v", got, err)
	}
	got, _, err := explain(t, "--config", file, id)
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{"dead": "1.32 ms", "space back": "not yet"} {
		if !strings.Contains(got, fmt.Sprintf("  %-14s %10s", label, want)) {
			t.Errorf("%s is not %q in\n%s", label, want, got)
		}
	}
}

func TestJournalIsFoundByTheConfiguration(t *testing.T) {
	named, other := writeJournal(t, killLine, doneLine), writeJournal(t, bareLine)
	file := writeFile(t, "config.yaml", "journal: "+named+"\n")
	const id = "01KDYAK383041061050R3GG28A"
	if got, _, err := history(t, "--config", file, "-o", "json"); err != nil || got != killLine+"\n"+doneLine+"\n" {
		t.Errorf("history: %q, %v", got, err)
	}
	if got, _, err := explain(t, "--config", file, id); err != nil || !strings.Contains(got, "eviction "+id) {
		t.Errorf("explain: %q, %v", got, err)
	}
	if got, _, err := history(t, "--config", file, "--journal", other, "-o", "json"); err != nil || got != bareLine+"\n" {
		t.Errorf("another journal than the configuration's: %q, %v", got, err)
	}
	var usage usageError
	bad := writeFile(t, "bad.yaml", "jurnal: /x\n")
	if got, _, err := history(t, "--config", bad); !errors.As(err, &usage) || got != "" {
		t.Errorf("a bad configuration: %q, %v", got, err)
	}
}

func TestExplain(t *testing.T) {
	path := writeJournal(t, killLine, doneLine, openLine)
	want := `eviction 01KDYAK383041061050R3GG28A
2026-01-02 03:04:05.123000 UTC, node n1, mode enforce, seen by bpf-alloc, by the agent

memory.available 499 MiB of 16.0 GiB, hard threshold 500Mi
  crossed              0 µs
  woke           not reached
  decided        not reached
  SIGKILL           85.0 µs     +85.0 µs
  all signalled  not reached
  dead              1.32 ms     +1.24 ms
  memory back    not reached
  victim         default/hog (priority 0, uses 612 MiB, requests 100 MiB, 5 tasks)
  why first      priority 0, 512 MiB above its request; 1 before it may not be evicted; next idle: priority 0, no usage known

RANK  UNIT   USES      REQUESTS  TASKS  PRIORITY    EVICTABLE  NOTE
1     proxy  30.0 MiB  0 B       -      2000001000  no         critical priority
2     hog    612 MiB   100 MiB   5      0           yes        the victim
3     idle   -         0 B       -      0           yes        

outcome: killed; threshold met; 5 processes killed; 600 MiB freed; 2 attempts
`
	for name, id := range map[string]string{"whole id": "01KDYAK383041061050R3GG28A", "start in small letters": "01kdyak", "a pod's annotation": "01KDYAK383041061050R3GG28A.1795721976473"} {
		t.Run(name, func(t *testing.T) {
			got, _, err := explain(t, "--journal", path, id)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
	if _, _, err := explain(t, "--journal", path, ".1795721976473"); err == nil || !strings.Contains(err.Error(), "want one ID") {
		t.Errorf("no id: %v", err)
	}
	if got, _, err := explain(t, "--journal", path, "01KDYAZ"); err != nil || !strings.Contains(got, "outcome: still open, or the agent died\n") {
		t.Errorf("open eviction: %q, %v", got, err)
	}
	if got, _, err := explain(t, "--journal", path, "01KDYAK", "-o", "json"); err != nil || got != killLine+"\n"+doneLine+"\n" {
		t.Errorf("json: %q, %v", got, err)
	}
}

func TestExplainOfAReclaim(t *testing.T) {
	got, _, err := explain(t, "--journal", writeJournal(t, killLine, reclaimLine), "01KDYB")
	for _, want := range []string{"reclaim 01KDYB0000004106105000R3GG\n", "0 containers and 5 images removed, 3.00 GiB freed\n", "outcome: recovered; node-level reclaim was enough"} {
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%v, no %q in\n%s", err, want, got)
		}
	}
}

func TestExplainOfADrill(t *testing.T) {
	const other = `{"schema":"ebpf-evict/v1","kind":"drill","id":"01KDYB0000041061050R3GG28A","time":"2026-01-02T03:07:05.000000000Z","tier":"bpf-alloc","signal":"allocatableMemory.available","outcome":"killed"}`
	first := strings.Replace(doneLine, `"kind":"eviction"`, `"kind":"drill"`, 1)
	second := strings.Replace(first, `"signal":"memory.available"`, `"signal":"pid.available"`, 1)
	path := writeJournal(t, first, second, other)
	got, _, err := explain(t, "--journal", path, "01KDYAK")
	if err != nil || strings.Count(got, "drill 01KDYAK383041061050R3GG28A\n") != 2 || strings.Count(got, "SIGKILL           85.0 µs") != 2 {
		t.Errorf("%v:\n%s", err, got)
	}
	if got, _, err := explain(t, "--journal", path, "01KDYAK", "-o", "json"); err != nil || got != first+"\n"+second+"\n" {
		t.Errorf("json: %q, %v", got, err)
	}
	if _, _, err := explain(t, "--journal", path, "01KDY"); err == nil || !strings.Contains(err.Error(), "drills begin with") {
		t.Errorf("of two drills: %v", err)
	}
}

func TestJournalCommandsFail(t *testing.T) {
	path := writeJournal(t, killLine, openLine)
	for name, c := range map[string]struct {
		args  []string
		run   func(*testing.T, ...string) (string, string, error)
		usage bool
		want  string
	}{
		"unknown output":  {[]string{"-o", "yaml"}, history, true, "want table or json"},
		"negative limit":  {[]string{"--limit", "-1"}, history, true, "--limit -1"},
		"argument":        {[]string{"x"}, history, true, `"x"`},
		"no id":           {nil, explain, true, "want one ID"},
		"empty id":        {[]string{""}, explain, true, "want one ID"},
		"two ids":         {[]string{"a", "b"}, explain, true, "want one ID"},
		"start of two":    {[]string{"01KDYA"}, explain, true, "01KDYAZZZZ041061050R3GG28A"},
		"no such id":      {[]string{"02"}, explain, false, `no eviction or drill "02"`},
		"missing journal": {[]string{"--journal", path + "x"}, history, false, "has the agent run?"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := c.run(t, append([]string{"--journal", path}, c.args...)...)
			var usage usageError
			if err == nil || errors.As(err, &usage) != c.usage || !strings.Contains(err.Error(), c.want) || out != "" {
				t.Errorf("got %v (usage error: %v), want one with %q; printed %q", err, !c.usage, c.want, out)
			}
		})
	}
	if _, _, err := history(t, "--journal", path+"x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing journal: %v", err)
	}
}

func TestVersion(t *testing.T) {
	for format, want := range map[string]string{"table": "ebpf-evict devel (go", "json": `"journalSchema":"ebpf-evict/v1"`} {
		var out bytes.Buffer
		if got, _, err := execute(t, newVersionCmd(&out), &out, "-o", format); err != nil || !strings.Contains(got, want) {
			t.Errorf("-o %s: %q, %v", format, got, err)
		}
	}
	var out bytes.Buffer
	var usage usageError
	if _, _, err := execute(t, newVersionCmd(&out), &out, "-o", "x"); !errors.As(err, &usage) {
		t.Errorf("-o x: %v", err)
	}
}
