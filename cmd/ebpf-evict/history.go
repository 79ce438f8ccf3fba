package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// journalFlags are those of the commands that read the journal.
type journalFlags struct{ config, path, output string }

func (f *journalFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "", "the agent's configuration file, for the path of its journal")
	cmd.Flags().StringVar(&f.path, "journal", "", "journal to read, its former files (.1, .2, ...) included; outranks the configuration's (default "+config.Default().Journal+")")
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "table, or json: the lines as they stand in the journal")
}

func (f *journalFlags) journal() (string, error) {
	c, err := loadPaths(f.config)
	if err != nil {
		return "", err
	}
	return cmp.Or(f.path, c.Journal), nil
}

// read says on warnings how many lines were skipped.
func (f *journalFlags) read(warnings io.Writer) ([]record.Eviction, error) {
	if f.output != "table" && f.output != "json" {
		return nil, usageError{fmt.Errorf("-o %q: want table or json", f.output)}
	}
	c, err := loadPaths(f.config)
	if err != nil {
		return nil, err
	}
	all, skipped, err := record.ReadEvictions(cmp.Or(f.path, c.Journal))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (has the agent run? --config names its configuration, --journal another file)", err)
	}
	if skipped > 0 {
		fmt.Fprintf(warnings, "ebpf-evict: %d torn or unknown lines of the journal were skipped\n", skipped)
	}
	if state, stateErr := record.ReadState(c.State); stateErr == nil { // while the agent runs
		record.AddOpen(all, &state)
	}
	return all, err
}

func newHistoryCmd(out io.Writer) *cobra.Command {
	var flags journalFlags
	var limit int
	cmd := &cobra.Command{
		Use:     "history",
		Short:   "List the evictions of the journal, and what reclaim made needless, the newest last",
		Example: "  ebpf-evict history --config /etc/ebpf-evict/config.yaml --limit 5\n  ebpf-evict history -o json | jq .victim.name",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usageError{fmt.Errorf("--limit %d: want a number of evictions, or 0 for all", limit)}
			}
			all, err := flags.read(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if limit > 0 && len(all) > limit {
				all = all[len(all)-limit:]
			}
			if flags.output == "json" {
				return printRaw(out, all)
			}
			return printHistory(out, all)
		},
	}
	flags.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "how many of the newest evictions; 0 means all")
	return cmd
}

func printRaw(out io.Writer, all []record.Eviction) error {
	for _, e := range all {
		for _, entry := range e.Entries() {
			if _, err := fmt.Fprintf(out, "%s\n", entry.Raw); err != nil {
				return err
			}
		}
	}
	return nil
}

func printHistory(out io.Writer, all []record.Eviction) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no evictions")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tID\tSIGNAL\tVICTIM\tSIGKILL\tDEAD\tFREED\tOUTCOME")
	for _, e := range all {
		l := e.Last()
		victim, freed := "-", "-"
		if l.Victim != nil {
			victim = l.Victim.FullName()
		}
		if l.FreedBytes != nil {
			freed = record.FormatBytes(*l.FreedBytes)
		}
		var t record.Timeline
		if l.Timeline != nil {
			t = *l.Timeline
		}
		ended := outcome(e)
		if l.Attempts > 1 {
			ended += fmt.Sprintf(", %d attempts", l.Attempts)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Time.UTC().Format("2006-01-02 15:04:05"), l.ID,
			record.Printable(l.Signal), record.Printable(victim), since(t.Crossed, t.Signalled), since(t.Crossed, t.Dead), freed, ended)
	}
	return w.Flush()
}

// since is a stage's time after the crossing, for people.
func since(crossed, stage uint64) string {
	if crossed == 0 || stage == 0 {
		return "-"
	}
	return record.FormatNs(int64(stage - crossed))
}

func outcome(e record.Eviction) string {
	if e.Closed == nil {
		return "still open, or the agent died"
	}
	text := record.Printable(string(e.Closed.Outcome))
	if e.Closed.By == record.ByBackstop {
		text += " by the backstop"
	}
	return text
}
