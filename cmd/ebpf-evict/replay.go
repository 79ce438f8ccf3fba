package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
)

func newReplayCmd(out, errOut io.Writer) *cobra.Command {
	var file string
	var keepGoing bool
	cmd := &cobra.Command{
		Use:   "replay --config FILE SNAPSHOTS.jsonl",
		Short: "Say what would have been decided over a series of snapshots",
		Long: "Reads snapshots, one a line, and answers each with one JSON line: thresholds met, conditions,\n" +
			"what was acted on, the ranking, the victims. The clock is the snapshots' own.",
		Example: "  ebpf-evict replay --config config.yaml snapshots.jsonl\n  ebpf-evict replay --config config.yaml - < snapshots.jsonl",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := loadSettings(file)
			if err != nil {
				return err
			}
			r := snapshot.NewReplay(settings)
			return eachSnapshot(cmd.Context(), answers{
				args[0], cmd.InOrStdin(), out, errOut, keepGoing,
				func(s *snapshot.Snapshot) (any, error) { return r.Next(s) },
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML); none: the kubelet's defaults")
	cmd.Flags().BoolVar(&keepGoing, "keep-going", false, "answer the rest after a bad snapshot; the exit code is still 1")
	return cmd
}

func oneFile(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return usageError{fmt.Errorf("%w: a file of snapshots, or - for standard input", err)}
	}
	return nil
}

func loadSettings(file string) (decide.Settings, error) {
	c, err := loadConfig(file)
	if err != nil {
		return decide.Settings{}, err
	}
	return settingsOf(c)
}

func settingsOf(c *config.Config) (decide.Settings, error) {
	s, err := c.Settings()
	var bad *config.Error
	if errors.As(err, &bad) {
		return s, usageError{err}
	}
	return s, err
}

// errBadSnapshot is about a snapshot that was refused: exit code 1.
var errBadSnapshot = errors.New("snapshot refused")

// errInterrupted is about a signal that came while input was waited for.
var errInterrupted = errors.New("interrupted")

// answers are what eachSnapshot needs to know of its command.
type answers struct {
	path        string // "-": standard input
	in          io.Reader
	out, errOut io.Writer
	keepGoing   bool
	answer      func(*snapshot.Snapshot) (any, error)
}

// eachSnapshot answers every snapshot of a file with one line of JSON. A snapshot that is
// refused ends it, or is reported and left out.
func eachSnapshot(ctx context.Context, o answers) error {
	if o.path != "-" {
		f, err := os.Open(o.path)
		if err != nil {
			return usageError{fmt.Errorf("open snapshots: %w", err)}
		}
		defer func() { _ = f.Close() }()
		o.in = f
	}
	lines := json.NewEncoder(o.out) // one write a line: whoever asks may be waiting for it
	lines.SetEscapeHTML(false)
	refused := 0
	for line := range readLines(ctx, o.in) {
		a, err := answerTo(line, o.answer)
		if err == nil {
			if err := lines.Encode(a); err != nil {
				return err
			}
			continue
		}
		err = fmt.Errorf("%w: line %d: %w", errBadSnapshot, line.Number, err)
		if !o.keepGoing {
			return err
		}
		refused++
		fmt.Fprintf(o.errOut, "ebpf-evict: %v\n", err)
	}
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case refused > 0:
		return fmt.Errorf("%w: %d in all", errBadSnapshot, refused)
	}
	return nil
}

// readLines ends also when ctx is done: a read of a terminal or pipe can't be interrupted,
// so it is left behind.
func readLines(ctx context.Context, in io.Reader) iter.Seq[snapshot.Line] {
	lines := make(chan snapshot.Line)
	go func() {
		defer close(lines)
		for line := range snapshot.Read(in) {
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(yield func(snapshot.Line) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case line, ok := <-lines:
				if !ok || !yield(line) {
					return
				}
			}
		}
	}
}

func answerTo(line snapshot.Line, answer func(*snapshot.Snapshot) (any, error)) (any, error) {
	if line.Err != nil {
		return nil, line.Err
	}
	return answer(line.Snapshot)
}
