package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/snapshot"
)

func newRankCmd(out, errOut io.Writer) *cobra.Command {
	var file, snapshots, name string
	var keepGoing bool
	cmd := &cobra.Command{
		Use:   "rank",
		Short: "Rank the workloads of snapshots, first victim first",
		Long:  "Reads snapshots, one a line, and answers each with one JSON line: all its workloads, first victim first.",
		Example: "  ebpf-evict rank --snapshot snapshots.jsonl --signal pid.available\n" +
			"  ebpf-evict rank --config config.yaml --snapshot - < snapshot.json",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := loadSettings(file)
			if err != nil {
				return err
			}
			s, err := signalNamed(name)
			if err != nil {
				return err
			}
			return eachSnapshot(snapshots, cmd.InOrStdin(), out, errOut, keepGoing, func(shot *snapshot.Snapshot) (any, error) {
				return snapshot.Rank(settings, shot, s), nil
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML); of it compat counts")
	cmd.Flags().StringVar(&snapshots, "snapshot", "", "file of snapshots, one a line; - for standard input")
	cmd.Flags().StringVar(&name, "signal", string(signal.MemoryAvailable), "eviction signal to rank for")
	cmd.Flags().BoolVar(&keepGoing, "keep-going", false, "answer the rest after a bad snapshot; the exit code is still 1")
	return cmd
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
