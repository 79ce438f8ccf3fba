package snapshot_test

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
)

// The answers of the eviction manager of k8s.io/kubernetes v1.34.2 itself; how they were
// got is in test/upstream/README.md.
const upstream = "../../test/upstream/testdata"

type replayCase struct {
	Name      string              `json:"name"`
	Config    string              `json:"config"`
	Snapshots []json.RawMessage   `json:"snapshots"`
	Answers   [][]snapshot.Answer `json:"answers"`
	Rejected  string              `json:"rejected"`
}

type rankCase struct {
	Name     string           `json:"name"`
	Config   string           `json:"config"`
	Signal   signal.Signal    `json:"signal"`
	Snapshot json.RawMessage  `json:"snapshot"`
	Answer   snapshot.Ranking `json:"answer"`
}

func TestReplayIsTheKubeletsAnswer(t *testing.T) {
	cases, snapshots := 0, 0
	for c := range lines[replayCase](t, "replay.jsonl.gz") {
		cases++
		t.Run(c.Name, func(t *testing.T) {
			settings, err := config.Parse([]byte(c.Config))
			if c.Rejected != "" {
				if err == nil {
					t.Errorf("accepted, and the kubelet says %q:\n%s", c.Rejected, c.Config)
				}
				return
			}
			if err != nil {
				t.Fatalf("rejected: %v\n%s", err, c.Config)
			}
			s, err := settings.Settings()
			if err != nil {
				t.Fatal(err)
			}
			r := snapshot.NewReplay(s)
			for i, line := range c.Snapshots {
				snapshots++
				shot, err := snapshot.Parse(line)
				if err != nil {
					t.Fatalf("snapshot %d refused: %v", i, err)
				}
				got, err := r.Next(shot)
				if err != nil {
					t.Fatalf("snapshot %d refused: %v", i, err)
				}
				want := c.Answers[i][0]
				slices.SortFunc(got.ThresholdsMet, byName)
				slices.SortFunc(want.ThresholdsMet, byName)
				if diff := gocmp.Diff(&want, got); diff != "" {
					t.Errorf("snapshot %d (-kubelet +ours):\n%s\nconfiguration:\n%s", i, diff, c.Config)
				}
			}
		})
	}
	if cases < 1000 || snapshots < 3000 {
		t.Errorf("%d cases of %d snapshots: some are missing", cases, snapshots)
	}
}

func TestRankIsTheKubeletsAnswer(t *testing.T) {
	cases := 0
	for c := range lines[rankCase](t, "rank.jsonl.gz") {
		cases++
		t.Run(c.Name, func(t *testing.T) {
			settings, err := config.Parse([]byte(c.Config))
			if err != nil {
				t.Fatal(err)
			}
			s, err := settings.Settings()
			if err != nil {
				t.Fatal(err)
			}
			shot, err := snapshot.Parse(c.Snapshot)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			got := snapshot.Rank(s, shot, c.Signal)
			for i := range got.Ranked {
				got.Ranked[i].Reason = ""
			}
			if diff := gocmp.Diff(c.Answer, got); diff != "" {
				t.Errorf("ranking (-kubelet +ours):\n%s", diff)
			}
		})
	}
	if cases < 400 {
		t.Errorf("%d cases: some are missing", cases)
	}
}

func byName(x, y snapshot.Threshold) int {
	return cmp.Or(cmp.Compare(x.Signal, y.Signal), strings.Compare(fmt.Sprint(x.Hard), fmt.Sprint(y.Hard)))
}

// lines yields the cases of a file, one a line.
func lines[T any](t *testing.T, name string) func(func(T) bool) {
	t.Helper()
	f, err := os.Open(filepath.Join(upstream, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func(T) bool) {
		scan := bufio.NewScanner(z)
		scan.Buffer(nil, 16<<20)
		for scan.Scan() {
			var c T
			if err := json.Unmarshal(scan.Bytes(), &c); err != nil {
				t.Fatal(err)
			}
			if !yield(c) {
				return
			}
		}
		if err := scan.Err(); err != nil {
			t.Fatal(err)
		}
	}
}
