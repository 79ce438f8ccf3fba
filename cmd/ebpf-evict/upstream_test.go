package main

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
)

// Every tenth series that the kubelet's own code answered, and every configuration that it
// rejected, through the command. pkg/snapshot has them all.
func TestReplayCommandIsTheKubeletsAnswer(t *testing.T) {
	f, err := os.Open("../../test/upstream/testdata/replay.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 16<<20)
	asked, rejected := 0, 0
	for number := 0; lines.Scan(); number++ {
		var c struct {
			Name, Config, Rejected string
			Snapshots              []json.RawMessage
			Answers                [][]snapshot.Answer
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if c.Rejected == "" && number%10 != 0 {
			continue
		}
		var input strings.Builder
		for _, s := range c.Snapshots {
			input.Write(append(s, '\n'))
		}
		got := ask(t, input.String(), "replay", "--config", writeFile(t, "config.yaml", c.Config), "-")
		if c.Rejected != "" {
			rejected++
			if got.exit != exitUsage || got.out != "" {
				t.Errorf("%s: %+v, want exit code 2 and no output: %s", c.Name, got, c.Rejected)
			}
			continue
		}
		asked++
		if got.exit != exitDone || got.errOut != "" {
			t.Errorf("%s: %+v", c.Name, got)
		}
		var want, said []snapshot.Answer
		for _, answers := range c.Answers {
			want = append(want, answers[0])
		}
		for line := range strings.Lines(got.out) {
			var a snapshot.Answer
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			said = append(said, a)
		}
		anyOrder := cmpopts.SortSlices(func(x, y snapshot.Threshold) bool {
			return x.Signal < y.Signal || x.Signal == y.Signal && x.Hard && !y.Hard
		})
		if diff := cmp.Diff(want, said, anyOrder); diff != "" {
			t.Errorf("%s (-kubelet +ours):\n%s", c.Name, diff)
		}
	}
	if err := lines.Err(); err != nil || asked < 100 || rejected < 20 {
		t.Errorf("%d series and %d rejected configurations asked about: %v", asked, rejected, err)
	}
}
