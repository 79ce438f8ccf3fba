package main

import (
	"fmt"
	"io"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
)

func newBenchOverheadCmd(out, errOut io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var (
		output        benchOutput
		works, states []string
		pairs         int
	)
	cmd := &cobra.Command{
		Use:   "overhead",
		Short: "What the agent costs others, near a wire and far from all",
		Long: "CPU time of a worker with the agent by CPU time without, in pairs off on on off; beside it\n" +
			"the same with the agent off all the time.",
		Example: "  ebpf-evict bench overhead --work fault --state far,near --pairs 20",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.ready(log); err != nil {
				return err
			}
			o := bench.OverheadOptions{Pairs: pairs, Version: version}
			for _, w := range works {
				o.Works = append(o.Works, bench.Work(w))
			}
			for _, s := range states {
				o.States = append(o.States, bench.State(s))
			}
			if !output.quiet {
				o.Progress = func(w bench.Work, s bench.State, done int) {
					if done%5 == 0 {
						fmt.Fprintf(errOut, "%s, %s: %d of %d pairs\n", w, s, done, pairs)
					}
				}
			}
			result, err := bench.MeasureOverhead(cmd.Context(), o)
			if err != nil {
				return err
			}
			return output.print(out, result, result.WriteTable)
		},
	}
	output.add(cmd)
	cmd.Flags().StringSliceVar(&works, "work", []string{string(bench.WorkFault)}, fmt.Sprintf("what the worker does: %v", bench.Works))
	cmd.Flags().StringSliceVar(&states, "state", []string{string(bench.Far), string(bench.Near)}, "far: the allocation hook is detached; near: attached")
	cmd.Flags().IntVar(&pairs, "pairs", 20, "pairs of each work and state")
	return cmd
}
