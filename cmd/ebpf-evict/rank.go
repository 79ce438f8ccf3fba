package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func newRankCmd(out, errOut io.Writer) *cobra.Command {
	var file, snapshots, name, format string
	var keepGoing bool
	cmd := &cobra.Command{
		Use:   "rank",
		Short: "Rank the workloads of this node, or of snapshots, first victim first",
		Long: "Reads the node as it is now, or snapshots, one a line, each answered with one line of JSON.\n" +
			"Loads no program and changes nothing; an agent may run beside it.",
		Example: "  ebpf-evict rank --config config.yaml --signal pid.available\n" +
			"  ebpf-evict rank -o json | jq .snapshot > node.json\n" +
			"  ebpf-evict rank --snapshot - < node.json",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"", "table", "json"}, format) {
				return usageError{fmt.Errorf("-o %q: want table or json", format)}
			}
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			settings, err := settingsOf(c)
			if err != nil {
				return err
			}
			s, err := signalNamed(name)
			if err != nil {
				return err
			}
			if snapshots == "" {
				if s.Disk() {
					warnOfFigures(errOut, c)
				}
				return rankLive(cmd.Context(), out, c, settings, s, format == "json")
			}
			if format == "table" {
				return usageError{errors.New("-o table: snapshots are answered in JSON, one line each")}
			}
			return eachSnapshot(cmd.Context(), answers{
				snapshots, cmd.InOrStdin(), out, errOut, keepGoing,
				func(shot *snapshot.Snapshot) (any, error) { return snapshot.Rank(settings, shot, s), nil },
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	cmd.Flags().StringVar(&snapshots, "snapshot", "", "file of snapshots, one a line; - for standard input; none: this node")
	cmd.Flags().StringVar(&name, "signal", string(signal.MemoryAvailable), "eviction signal to rank for")
	cmd.Flags().StringVarP(&format, "output", "o", "", "table or json; of snapshots always json (default table)")
	cmd.Flags().BoolVar(&keepGoing, "keep-going", false, "answer the rest after a bad snapshot; the exit code is still 1")
	return cmd
}

// warnOfFigures says why the agent would evict nobody by the disk figures that there are.
func warnOfFigures(errOut io.Writer, c *config.Config) {
	if _, err := readFigures(c); err != nil {
		fmt.Fprintf(errOut, "nobody is evicted for a disk: %v\n", err)
	}
}

// liveRanking is a ranking with the snapshot that led to it.
type liveRanking struct {
	snapshot.Ranking
	Snapshot *snapshot.Snapshot `json:"snapshot"`
}

func rankLive(ctx context.Context, out io.Writer, c *config.Config, settings decide.Settings, name signal.Signal, asJSON bool) error {
	shot, figures, err := liveSnapshot(ctx, c)
	if err != nil {
		return err
	}
	r := snapshot.Rank(settings, shot, name)
	if asJSON {
		return json.NewEncoder(out).Encode(liveRanking{r, shot})
	}
	units := make(map[string]*workload.Workload, len(shot.Workloads))
	for i := range shot.Workloads {
		units[shot.Workloads[i].UID] = &shot.Workloads[i]
	}
	settings.Layout = shot.Layout
	held := liveColumns(settings, name, figures)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "RANK\tUNIT\t%s\tPRIORITY\tEVICTABLE\tNOTE\n", held(nil))
	for i, place := range r.Ranked {
		u, may := units[place.UID], "no"
		if place.Evictable {
			may = "yes"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\t%s\n", i+1, record.Printable(unitName(u)), held(u), u.Priority, may, record.Printable(place.Reason))
	}
	return w.Flush()
}

// liveColumns returns what says what a unit holds, and of nil the columns' names: memory and
// tasks, or what counts for a disk signal and how old the figure is.
func liveColumns(settings decide.Settings, name signal.Signal, figures *workload.DiskTable) func(*workload.Workload) string {
	if !name.Disk() {
		return func(u *workload.Workload) string {
			if u == nil {
				return "MEMORY\tTASKS"
			}
			return amountText(u.Usage.WorkingSetBytes, record.FormatBytes) + "\t" + amountText(u.Usage.Tasks, countText)
		}
	}
	b, head, text := decide.Bound{Threshold: signal.Threshold{Signal: name}}, "INODES", countText
	if name.Bytes() {
		head, text = "DISK", record.FormatBytes
	}
	return func(u *workload.Workload) string {
		if u == nil {
			return head + "\tREAD"
		}
		return amountText(settings.Use(&b, u), text) + "\t" + ageText(figures, u.UID)
	}
}

func countText(n int64) string { return fmt.Sprint(n) }

// ageText is how long ago a unit's figures were read.
func ageText(figures *workload.DiskTable, uid string) string {
	if figures == nil {
		return "-"
	}
	e := figures.Entry(uid)
	if e == nil {
		return "-"
	}
	if age, ok := e.OldestAge(sample.Now()); ok {
		return fmt.Sprintf("%.0f s ago", age.Seconds())
	}
	return "-"
}

func unitName(w *workload.Workload) string {
	if w.Namespace != "" {
		return w.Namespace + "/" + w.Name
	}
	return w.Name
}

func amountText(n int64, format func(int64) string) string {
	if n == workload.NoData {
		return "-"
	}
	return format(n)
}

func signalNamed(name string) (signal.Signal, error) {
	s := signal.Signal(name)
	if !slices.Contains(signal.Names(), s) {
		var all []string
		for _, s := range signal.Names() {
			all = append(all, string(s))
		}
		return s, usageError{fmt.Errorf("--signal %q: want one of %s", name, strings.Join(all, ", "))}
	}
	return s, nil
}
