package main

import (
	"fmt"
	"io"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
)

func newBenchScaleCmd(out, errOut io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var (
		output benchOutput
		o      = bench.ScaleOptions{Version: version}
	)
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Time, memory and CPU of the agent with thousands of units",
		Long: "Makes that many cgroups below a root of its own, most of them empty, and lets the agent\n" +
			"evict hogs among them. A memory cgroup takes some 100 KiB of the kernel's memory.",
		Example: "  ebpf-evict bench scale --workloads 100,1000",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.ready(log); err != nil {
				return err
			}
			if !output.quiet {
				o.Progress = func(n int, doing string) { fmt.Fprintf(errOut, "%d workloads: %s\n", n, doing) }
			}
			result, err := bench.MeasureScale(cmd.Context(), o)
			if err != nil {
				return err
			}
			return output.print(out, result, result.WriteTable)
		},
	}
	output.add(cmd)
	cmd.Flags().IntSliceVar(&o.Workloads, "workloads", []int{100, 1000, 5000, 10000}, "numbers of units")
	cmd.Flags().IntVar(&o.Rounds, "rounds", 30, "evictions at each number")
	return cmd
}
