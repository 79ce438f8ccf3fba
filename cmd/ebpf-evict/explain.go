package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

func newExplainCmd(out io.Writer) *cobra.Command {
	var flags journalFlags
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Tell one eviction, reclaim or drill: what crossed, who was chosen and why, and each stage's time",
		Long: "Tells one eviction, reclaim or drill of the journal. The start of an ID is enough where only one begins so,\n" +
			"and a pod's annotation ebpf-evict/eviction is as good.",
		Example: "  ebpf-evict explain 01KDYAK383041061050R3GG28A\n" +
			"  ebpf-evict explain 01kdyak3 -o json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || idIn(args[0]) == "" {
				return usageError{errors.New("explain: want one ID, as history shows them")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := flags.read(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			id := idIn(args[0])
			e, err := find(all, id)
			if errors.Is(err, errNotFound) {
				if lines, drillErr := flags.drill(id); drillErr != nil || len(lines) > 0 {
					return errors.Join(drillErr, printDrillOf(out, flags.output, lines))
				}
			}
			if err != nil {
				return err
			}
			if flags.output == "json" {
				return printRaw(out, []record.Eviction{e})
			}
			return printEviction(out, e)
		},
	}
	flags.add(cmd)
	return cmd
}

// idIn is the ID in a pod's annotation, which has the time of another try behind it.
func idIn(s string) string {
	id, _, _ := strings.Cut(s, ".")
	return id
}

var errNotFound = errors.New("no eviction or drill")

// drill is the lines of the one drill whose ID begins so.
func (f *journalFlags) drill(prefix string) (lines []record.Entry, err error) {
	path, err := f.journal()
	if err != nil {
		return nil, err
	}
	all, err := record.ReadDrills(path)
	for _, l := range all {
		if !strings.HasPrefix(l.ID.String(), strings.ToUpper(prefix)) {
			continue
		}
		if len(lines) > 0 && lines[0].ID != l.ID {
			return nil, usageError{fmt.Errorf("drills begin with %q, such as %s and %s", prefix, lines[0].ID, l.ID)}
		}
		lines = append(lines, l)
	}
	return lines, err
}

func printDrillOf(out io.Writer, format string, lines []record.Entry) error {
	for i := range lines {
		l := &lines[i].Line
		if format == "json" {
			if _, err := fmt.Fprintf(out, "%s\n", lines[i].Raw); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(out, "drill %s\n%s\n\n%s\noutcome: %s\n", l.ID, record.Printable(origin(l)), record.RenderTimeline(l), ending(record.Eviction{Closed: &lines[i]})); err != nil {
			return err
		}
	}
	return nil
}

func find(all []record.Eviction, prefix string) (record.Eviction, error) {
	var found []record.Eviction
	for _, e := range all {
		if strings.HasPrefix(e.Last().ID.String(), strings.ToUpper(prefix)) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return record.Eviction{}, fmt.Errorf("%w %q among the %d of the journal", errNotFound, prefix, len(all))
	case 1:
		return found[0], nil
	}
	return record.Eviction{}, usageError{fmt.Errorf("%d evictions begin with %q, such as %s and %s",
		len(found), prefix, found[0].Last().ID, found[1].Last().ID)}
}

func printEviction(out io.Writer, e record.Eviction) error {
	l := e.Last()
	var b strings.Builder
	what := "eviction"
	if l.Kind == record.KindReclaim {
		what = "reclaim"
	}
	fmt.Fprintf(&b, "%s %s\n%s\n\n", what, l.ID, record.Printable(origin(l)))
	fmt.Fprintf(&b, "%s\n", record.RenderTimeline(l))
	printRanking(&b, l)
	fmt.Fprintf(&b, "outcome: %s\n", ending(e))
	_, err := io.WriteString(out, b.String())
	return err
}

// origin says when, where and by whom.
func origin(l *record.Line) string {
	parts := []string{l.Time.UTC().Format("2006-01-02 15:04:05.000000 UTC")}
	for _, p := range []struct{ label, value string }{
		{"node ", l.Node}, {"mode ", l.Mode}, {"seen by ", l.Tier}, {"by the ", l.By}, {"scene ", l.Scene},
	} {
		if p.value != "" {
			parts = append(parts, p.label+p.value)
		}
	}
	return strings.Join(parts, ", ")
}

func printRanking(out io.Writer, l *record.Line) {
	if len(l.Ranked) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RANK\tUNIT\tUSES\tREQUESTS\tTASKS\tPRIORITY\tEVICTABLE\tNOTE")
	for i, r := range l.Ranked {
		usage, tasks, may, note := "-", "-", "no", r.Reason
		if r.UsageBytes != nil {
			usage = record.FormatBytes(*r.UsageBytes)
		}
		if r.Tasks != nil {
			tasks = fmt.Sprint(*r.Tasks)
		}
		if r.Evictable {
			may = "yes"
		}
		if l.Victim != nil && r.UID == l.Victim.UID {
			note = strings.TrimPrefix(note+"; the victim", "; ")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", i+1, record.Printable(r.FullName()), usage,
			record.FormatBytes(r.RequestBytes), tasks, r.Priority, may, record.Printable(note))
	}
	_ = w.Flush() // to a strings.Builder
	fmt.Fprintln(out)
}

// ending is the outcome with its figures.
func ending(e record.Eviction) string {
	l := e.Last()
	parts := []string{outcome(e)}
	if l.Reason != "" {
		parts = append(parts, record.Printable(l.Reason))
	}
	if l.ProcessesKilled > 0 {
		parts = append(parts, fmt.Sprintf("%d processes killed", l.ProcessesKilled))
	}
	if l.FreedBytes != nil {
		parts = append(parts, record.FormatBytes(*l.FreedBytes)+" freed")
	}
	if l.Attempts > 1 {
		parts = append(parts, fmt.Sprintf("%d attempts", l.Attempts))
	}
	return strings.Join(parts, "; ")
}
