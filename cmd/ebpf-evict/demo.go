package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// demoResult is the contract of `demo -o json`.
type demoResult struct {
	Evictions       []record.Line `json:"evictions"`
	BystandersAlive bool          `json:"bystandersAlive"`
	CleanedUp       bool          `json:"cleanedUp"`
}

func newDemoCmd(out io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Evict a real memory hog and a real fork bomb, safely",
		Long: "Makes a cgroup root of its own with a limit, idle bystanders in it, and lets the real agent\n" +
			"evict a memory hog twice and a fork bomb once. Touches nothing else and cleans up.",
		Example: "  ebpf-evict demo\n  ebpf-evict demo -o json | jq .evictions[].timelineNs",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := log(); err != nil { // a bad --log-level
				return err
			}
			if format != "table" && format != "json" {
				return usageError{errors.New("-o: want table or json")}
			}
			if os.Geteuid() != 0 {
				return loader.ErrPrivilege
			}
			runtime.LockOSThread() // the agent's parent-death signal is tied to this thread
			return demo(cmd.Context(), out, format == "json")
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

func demo(ctx context.Context, out io.Writer, asJSON bool) (err error) {
	text := out
	if asJSON {
		text = io.Discard
	}
	var result demoResult
	w, err := newWorld()
	if err == nil {
		result.Evictions, err = w.play(ctx, text)
		result.BystandersAlive = err == nil && w.bystandersAlive()
	}
	cleanErr := w.destroy()
	result.CleanedUp = cleanErr == nil
	if err = errors.Join(err, cleanErr); err != nil {
		return err
	}
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	fmt.Fprintf(text, "\n%d evictions; every bystander lives: %v; cleaned up: %v\n",
		len(result.Evictions), result.BystandersAlive, result.CleanedUp)
	return nil
}

// play runs the scenes in order.
func (w *world) play(ctx context.Context, text io.Writer) ([]record.Line, error) {
	var lines []record.Line
	for _, s := range scenes {
		fmt.Fprintf(text, "\n== %s\n", s.title)
		line, err := w.repeat(ctx, text, s)
		if err != nil {
			return lines, fmt.Errorf("scene %s: %w", s.name, err)
		}
		line.Scene = s.name
		lines = append(lines, *line)
		fmt.Fprint(text, record.RenderTimeline(line))
		if !w.bystandersAlive() {
			return lines, fmt.Errorf("scene %s: a bystander died", s.name)
		}
	}
	return lines, nil
}

// rounds is how often a scene on the node's own signals is tried: the rest of the machine
// may move them meanwhile.
const rounds = 4

func (w *world) repeat(ctx context.Context, text io.Writer, s scene) (*record.Line, error) {
	for round := 1; ; round++ {
		line, err := w.round(ctx, s)
		if !errors.Is(err, errDisturbed) || round == rounds {
			return line, err
		}
		fmt.Fprintf(text, "   disturbed: %v; once more\n", err)
	}
}
