package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// said is what a command left behind.
type said struct {
	out, errOut string
	exit        int
}

// ask runs a command line; a "-" in it reads input.
func ask(t *testing.T, input string, args ...string) said {
	t.Helper()
	var out, errOut bytes.Buffer
	root := newRootCmd(&out, &errOut)
	root.SetArgs(args)
	root.SetIn(strings.NewReader(input))
	err := root.Execute()
	if err != nil {
		fmt.Fprintf(&errOut, "ebpf-evict: %v\n", err)
	}
	return said{out.String(), errOut.String(), exitCode(err)}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	good      = `{"time":"2026-01-02T03:04:05Z","signals":{},"workloads":[{"uid":"b"},{"uid":"a"}]}` + "\n"
	later     = `{"time":"2026-01-02T03:04:06Z","signals":{},"workloads":[]}` + "\n"
	twice     = `{"time":"2026-01-02T03:04:05Z","workloads":[{"uid":"a"},{"uid":"a"}]}` + "\n"
	text      = `{"time":"2026-01-02T03:04:05Z","workloads":[{"uid":"a","tasks":"5"}]}` + "\n"
	negative  = `{"time":"2026-01-02T03:04:05Z","workloads":[{"uid":"a"},{"uid":"b","memory":{"workingSetBytes":-1}}]}` + "\n"
	capacity  = `{"time":"2026-01-02T03:04:05Z","signals":{"pid.available":{"available":1,"capacity":-2}}}` + "\n"
	earlier   = `{"time":"2026-01-02T03:04:04Z"}` + "\n"
	ranking   = `{"signal":"memory.available","ranked":[{"uid":"a","evictable":false,"reason":"no usage known"},{"uid":"b","evictable":false,"reason":"no usage known"}]}` + "\n"
	calm      = `,"thresholdsMet":[],"conditions":{"MemoryPressure":false,"DiskPressure":false,"PIDPressure":false},"acted":null,"nodeReclaim":[],"ranked":[],"victims":[],"localStorage":[]}` + "\n"
	goodSaid  = `{"time":"2026-01-02T03:04:05.000000000Z"` + calm
	laterSaid = `{"time":"2026-01-02T03:04:06.000000000Z"` + calm
)

// A bad snapshot is refused with its line, the path and the reason; what came before is
// answered.
func TestBadSnapshots(t *testing.T) {
	tests := map[string]struct{ line, want string }{
		"a uid twice":         {twice, `workloads[1].uid: "a" is workloads[0] already`},
		"a wrong type":        {text, "workloads[0].tasks: string where an integer is wanted"},
		"a negative usage":    {negative, "workloads[1].memory.workingSetBytes: -1 is negative"},
		"a negative capacity": {capacity, "signals[pid.available].capacity: -2 is negative"},
		"no JSON":             {"snapshot\n", "byte 1: invalid character 's' looking for beginning of value"},
	}
	for name, tc := range tests {
		refusal := "ebpf-evict: snapshot refused: line 3: " + tc.want + "\n"
		input := good + "\n" + tc.line + later
		for command, c := range map[string]struct {
			args          []string
			first, second string
		}{
			"rank":   {[]string{"rank", "--snapshot", "-"}, ranking, `{"signal":"memory.available","ranked":[]}` + "\n"},
			"replay": {[]string{"replay", "-"}, goodSaid, laterSaid},
		} {
			t.Run(command+" "+name, func(t *testing.T) {
				want := said{c.first, refusal, exitFailed}
				if diff := cmp.Diff(want, ask(t, input, c.args...), cmp.AllowUnexported(said{})); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				want = said{c.first + c.second, refusal + "ebpf-evict: snapshot refused: 1 in all\n", exitFailed}
				if diff := cmp.Diff(want, ask(t, input, append(c.args, "--keep-going")...), cmp.AllowUnexported(said{})); diff != "" {
					t.Errorf("--keep-going (-want +got)\n%s", diff)
				}
			})
		}
	}
}

// A time that goes back, or is missing, is wrong in a series alone.
func TestTimeInASeries(t *testing.T) {
	input := good + earlier + `{"signals":{}}` + "\n" + later
	want := said{goodSaid + laterSaid,
		"ebpf-evict: snapshot refused: line 2: time: 2026-01-02T03:04:04.000000000Z is before the last snapshot\n" +
			"ebpf-evict: snapshot refused: line 3: time: missing\n" +
			"ebpf-evict: snapshot refused: 2 in all\n", exitFailed}
	if diff := cmp.Diff(want, ask(t, input, "replay", "--keep-going", "-"), cmp.AllowUnexported(said{})); diff != "" {
		t.Errorf("replay (-want +got)\n%s", diff)
	}
	if got := ask(t, input, "rank", "--snapshot", "-"); got.exit != exitDone || strings.Count(got.out, "\n") != 4 {
		t.Errorf("rank: %+v, want four rankings", got)
	}
}

func TestSnapshotsFromAFile(t *testing.T) {
	path := writeFile(t, "snapshots.jsonl", good+later)
	if diff := cmp.Diff(said{out: goodSaid + laterSaid}, ask(t, "", "replay", path), cmp.AllowUnexported(said{})); diff != "" {
		t.Errorf("replay (-want +got)\n%s", diff)
	}
	if got := ask(t, "", "rank", "--snapshot", path, "--signal", "pid.available"); got.exit != exitDone || !strings.HasPrefix(got.out, `{"signal":"pid.available",`) {
		t.Errorf("rank: %+v", got)
	}
	if got := ask(t, "", "replay", "-"); got != (said{}) {
		t.Errorf("no snapshot at all: %+v, want no answer", got)
	}
}

// Bad usage and a rejected configuration: exit code 2, nothing on standard output.
func TestSnapshotCommandsRefuseTheirUsage(t *testing.T) {
	path := writeFile(t, "snapshots.jsonl", good)
	bad := writeFile(t, "config.yaml", "evictionHard:\n  memory.available: \"101%\"\n")
	grace := writeFile(t, "grace.yaml", "evictionSoft:\n  memory.available: \"1Gi\"\n")
	unknown := writeFile(t, "unknown.yaml", "evictionHarder: {}\n")
	tests := map[string]struct {
		args []string
		want string
	}{
		"replay, a value out of range":      {[]string{"replay", "--config", bad, path}, "evictionHard[memory.available]"},
		"rank, a value out of range":        {[]string{"rank", "--config", bad, "--snapshot", path}, "evictionHard[memory.available]"},
		"replay, soft without grace period": {[]string{"replay", "--config", grace, path}, "evictionSoftGracePeriod[memory.available]"},
		"replay, an unknown key":            {[]string{"replay", "--config", unknown, path}, "evictionHarder"},
		"rank, an unknown signal":           {[]string{"rank", "--snapshot", path, "--signal", "cpu.available"}, `--signal "cpu.available": want one of memory.available, `},
		"replay, no file named":             {[]string{"replay"}, "a file of snapshots, or - for standard input"},
		"replay, two files":                 {[]string{"replay", path, path}, "a file of snapshots, or - for standard input"},
		"replay, a file that is not there":  {[]string{"replay", path + "x"}, "no such file"},
		"rank, a file that is not there":    {[]string{"rank", "--snapshot", path + "x"}, "no such file"},
		"rank, an argument":                 {[]string{"rank", "--snapshot", path, "x"}, "x"},
		"replay, an unknown flag":           {[]string{"replay", "--fast", path}, "--fast"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ask(t, "", tc.args...)
			if got.exit != exitUsage || got.out != "" || !strings.Contains(got.errOut, tc.want) {
				t.Errorf("%+v, want exit code 2, no output and a word on %q", got, tc.want)
			}
		})
	}
}

// Answers that can't be written end the run; whoever reads them has gone.
func TestAnswersThatCantBeWritten(t *testing.T) {
	var errOut bytes.Buffer
	for name, cmd := range map[string]*cobra.Command{"rank": newRankCmd(broken{}, &errOut), "replay": newReplayCmd(broken{}, &errOut)} {
		cmd.SetIn(strings.NewReader(good + later))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		args := []string{"-"}
		if name == "rank" {
			args = []string{"--snapshot", "-"}
		}
		cmd.SetArgs(append(args, "--keep-going"))
		if err := cmd.Execute(); err == nil || exitCode(err) != exitFailed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, os.ErrClosed }

// The configuration's compat reaches both commands.
func TestCompatFromTheConfiguration(t *testing.T) {
	compat := writeFile(t, "config.yaml", "compat: kubelet\n")
	const unknown = `{"time":"2026-01-02T03:04:05Z","workloads":[{"uid":"known","memory":{"workingSetBytes":1}},{"uid":"unknown"}]}`
	for config, want := range map[string]string{"": `"ranked":[{"uid":"known"`, compat: `"ranked":[{"uid":"unknown"`} {
		args := []string{"rank", "--snapshot", "-"}
		if config != "" {
			args = append(args, "--config", config)
		}
		if got := ask(t, unknown, args...); !strings.Contains(got.out, want) {
			t.Errorf("config %q: %s, want %s", config, got.out, want)
		}
	}
}

// A thousand rankings of a node of a hundred pods in one process.
func BenchmarkRank1000Snapshots(b *testing.B) {
	var pods []string
	for i := range 100 {
		pods = append(pods, fmt.Sprintf(`{"uid":"%d","memory":{"workingSetBytes":%d},"containers":[{"name":"c","memoryWorkingSetBytes":1}]}`, i, i))
	}
	input := strings.Repeat(`{"workloads":[`+strings.Join(pods, ",")+"]}\n", 1000)
	for b.Loop() {
		var out bytes.Buffer
		cmd := newRankCmd(&out, &out)
		cmd.SetIn(strings.NewReader(input))
		cmd.SetArgs([]string{"--snapshot", "-"})
		if err := cmd.Execute(); err != nil {
			b.Fatal(err)
		}
	}
}

// Whoever waits for a terminal or a pipe can be interrupted.
func TestInterruptedWhileItWaitsForASnapshot(t *testing.T) {
	for _, args := range [][]string{{"replay", "-"}, {"rank", "--snapshot", "-"}} {
		t.Run(args[0], func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			in, writer := io.Pipe()
			defer func() { _ = writer.Close() }()
			go func() {
				_, _ = io.WriteString(writer, good)
				interrupt()
			}()
			root := newRootCmd(io.Discard, io.Discard)
			root.SetArgs(args)
			root.SetIn(in)
			if err := root.ExecuteContext(ctx); !errors.Is(err, errInterrupted) || exitCode(err) != exitFailed {
				t.Errorf("ended with %v, want that it was interrupted", err)
			}
		})
	}
}

func TestBadUsageOfAnyCommand(t *testing.T) {
	for _, args := range [][]string{
		{"bogus"}, {"--bogus"}, {"rank", "extra"}, {"version", "extra"},
		{"replay", "--log-level", "x", "-"}, {"rank", "--log-format", "x", "--snapshot", "-"},
	} {
		if got := ask(t, "", args...); got.exit != exitUsage || got.out != "" || strings.Count(got.errOut, "\n") != 1 {
			t.Errorf("%v: %+v, want exit code 2 and one line", args, got)
		}
	}
	if got := ask(t, ""); got.exit != exitDone || !strings.Contains(got.out, "replay") {
		t.Errorf("without a command: %+v, want the help", got)
	}
}
