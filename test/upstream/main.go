// Upstream answers cases for rank and replay with the kubelet's own eviction manager, and
// makes such cases up. See README.md.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

const usage = `usage: upstream generate | answer < cases.jsonl > answered.jsonl
       upstream generate rank | replay > cases.jsonl`

func main() {
	klog.SetLogger(logr.Discard()) // the manager logs each cycle
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	switch {
	case len(args) == 1 && args[0] == "answer":
		return answer(os.Stdin, out)
	case len(args) == 2 && args[0] == "generate" && args[1] == "replay":
		return write(out, replayCases())
	case len(args) == 2 && args[0] == "generate" && args[1] == "rank":
		return write(out, rankCases())
	}
	return errors.New(usage)
}

// answer tells rank cases by their signal. A case without one answer by our fixed order is
// left out, and counted.
func answer(in io.Reader, out *bufio.Writer) error {
	var tally tally
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var kind struct{ Name, Signal string }
		if err := json.Unmarshal(lines.Bytes(), &kind); err != nil {
			return err
		}
		answered, err := answerLine(lines.Bytes(), kind.Signal != "", &tally)
		switch {
		case errors.Is(err, errUndefined):
			tally.dropped++
			fmt.Fprintf(os.Stderr, "left out: %s: %v\n", kind.Name, err)
		case err != nil:
			return fmt.Errorf("%s: %w", kind.Name, err)
		default:
			if err := write(out, []any{answered}); err != nil {
				return err
			}
		}
	}
	tally.print(os.Stderr)
	return lines.Err()
}

func answerLine(data []byte, rank bool, t *tally) (any, error) {
	if rank {
		var c RankCase
		if err := decodeStrict(data, &c); err != nil {
			return nil, err
		}
		return &c, answerRank(&c)
	}
	var c ReplayCase
	if err := decodeStrict(data, &c); err != nil {
		return nil, err
	}
	err := answerReplay(&c)
	if err == nil {
		t.count(&c)
	}
	return &c, err
}

// write encodes one value a line, without the escapes meant for HTML: a configuration has "<".
func write[T any](out *bufio.Writer, values []T) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	for _, v := range values {
		if err := e.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

// tally tells whether the cases reach what they are meant to reach.
type tally struct {
	cases, rejected, dropped, snapshots           int
	met, acted, victims, local, reclaimed, choice int
	noVictim, enough, held, condition             int
}

func (t *tally) count(c *ReplayCase) {
	t.cases++
	if c.Rejected != "" {
		t.rejected++
	}
	for _, answers := range c.Answers {
		a := answers[0]
		t.snapshots++
		inc(&t.met, len(a.ThresholdsMet) > 0)
		inc(&t.acted, a.Acted != nil)
		inc(&t.victims, len(a.Victims) > 0)
		inc(&t.local, len(a.LocalStorage) > 0)
		inc(&t.reclaimed, len(a.NodeReclaim) > 0)
		inc(&t.choice, len(answers) > 1)
		inc(&t.noVictim, len(a.Ranked) > 0 && len(a.Victims) == 0)
		inc(&t.enough, len(a.NodeReclaim) > 0 && len(a.Ranked) == 0)
		inc(&t.held, len(a.ThresholdsMet) > 0 && a.Acted == nil)
		inc(&t.condition, len(a.ThresholdsMet) == 0 &&
			(a.Conditions["MemoryPressure"] || a.Conditions["DiskPressure"] || a.Conditions["PIDPressure"]))
	}
}

func inc(n *int, when bool) {
	if when {
		*n++
	}
}

func (t *tally) print(w io.Writer) {
	if t.cases == 0 {
		return
	}
	fmt.Fprintf(w, "%d replay cases (%d rejected), %d left out; %d snapshots: %d met, %d acted on, %d with a victim, "+
		"%d with local storage evictions, %d with node reclaim (%d enough), %d with several answers, %d ranked without a victim, "+
		"%d met and not acted on, %d with a condition alone\n",
		t.cases, t.rejected, t.dropped, t.snapshots, t.met, t.acted, t.victims, t.local, t.reclaimed, t.enough, t.choice,
		t.noVictim, t.held, t.condition)
}
