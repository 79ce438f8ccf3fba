package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// errNoDrill means that there is no agent to hold a drill with.
var errNoDrill = errors.New("no drill can be held")

func newDrillCmd(out io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var file, format string
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Have the running agent evict a canary, and print the stage times",
		Long: "A fire drill on the live node. A small process in a cgroup of its own crosses a wire that is\n" +
			"there for it alone, once for memory and once for tasks, and takes every victim's way: hook, ring\n" +
			"buffer, decision, SIGKILL. It is killed in shadow mode too; nobody else ever is. Exit code 1: the\n" +
			"drill failed, or was skipped because a threshold is met or near, or a victim dies; 3: no agent runs.",
		Example: "  ebpf-evict drill\n  ebpf-evict drill -o json | jq .drills[].timelineNs",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := log()
			if err != nil {
				return err
			}
			if format != "table" && format != "json" {
				return usageError{errors.New("-o: want table or json")}
			}
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			if err := agentRuns(c.State); err != nil {
				return err
			}
			joinHostCgroups(l)
			return printDrill(out, format, holdDrill(cmd.Context(), drill.MailboxOf(c.State)))
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the agent's configuration file, for the path of its state file")
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

// agentRuns says in one sentence why there is nobody to ask.
func agentRuns(stateFile string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: it needs root", errNoDrill)
	}
	path := drill.MailboxOf(stateFile)
	box, err := drill.OpenMailbox(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no agent runs (no %s; --config names its configuration)", errNoDrill, path)
	} else if err != nil {
		return err
	}
	defer func() { _ = box.Close() }()
	if !box.IsOwned() {
		return fmt.Errorf("%w: the agent is dead (%s is nobody's)", errNoDrill, path)
	}
	return nil
}

func printDrill(out io.Writer, format string, r drill.Result) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	} else if len(r.Drills) > 0 {
		if err := printDrillTable(out, r); err != nil {
			return err
		}
	}
	return drillError(r)
}

func printDrillTable(out io.Writer, r drill.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SIGNAL\tSEEN BY\tCROSSED\tWOKE\tDECIDED\tSIGKILL\tDEAD\tOUTCOME")
	for i := range r.Drills {
		l := &r.Drills[i]
		t := record.Timeline{}
		if l.Timeline != nil {
			t = *l.Timeline
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", record.Printable(l.Signal), l.Tier, micros(t.Crossed, t.Crossed),
			micros(t.Crossed, t.Woke), micros(t.Crossed, t.Decided), micros(t.Crossed, t.Signalled), micros(t.Crossed, t.Dead),
			record.Printable(strings.TrimSuffix(string(l.Outcome)+": "+l.Reason, ": ")))
	}
	if err := w.Flush(); err != nil || !r.OK {
		return err
	}
	_, err := fmt.Fprintf(out, "\ndrill passed (%s, %s mode): times in µs after the crossing\n", r.ID, r.Drills[0].Mode)
	return err
}

// micros is a stage's time after the crossing.
func micros(crossed, stage uint64) string {
	if stage == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(stage-crossed)/1000)
}

func drillError(r drill.Result) error {
	switch {
	case r.OK:
		return nil
	case r.Skipped:
		return fmt.Errorf("drill skipped: %s", r.Reason)
	}
	return fmt.Errorf("drill failed at the stage %q: %s", r.Stage, r.Reason)
}

// holdDrill holds a whole drill, with each canary once.
func holdDrill(ctx context.Context, mailbox string) drill.Result {
	ctx, cancel := context.WithTimeoutCause(ctx, drillTimeout, errSlow)
	defer cancel()
	r := drill.Result{ID: drill.NewID(), Drills: []record.Line{}}
	var (
		skipped skipError
		missed  stageError
	)
	switch err := rehearse(ctx, mailbox, &r); {
	case err == nil:
		r.OK = true
	case errors.As(err, &skipped):
		r.Skipped, r.Reason = true, string(skipped)
	case errors.As(err, &missed):
		r.Stage, r.Reason = missed.stage, err.Error()
	default:
		r.Stage, r.Reason = drill.StageCanary, err.Error()
	}
	return r
}
