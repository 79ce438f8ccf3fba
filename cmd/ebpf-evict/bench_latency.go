package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

func newBenchLatencyCmd(out, errOut io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var (
		output       benchOutput
		rounds       int
		tools, rates []string
		tiers        []string
		scenario     string
		fill, sig    string
	)
	cmd := &cobra.Command{
		Use:   "latency",
		Short: "Time from the crossing of a wire to SIGKILL, to death and to memory back",
		Long: "Lets a hog (or a fork bomb) cross a wire, round after round, with the agent or a peer to\n" +
			"end it. Of the agent the figures are the journal's; beside them stand, for every tool, those\n" +
			"of one yardstick outside: the hog's own marks, the kernel's trace of signals, its death.",
		Example: "  ebpf-evict bench latency --scenario spinners\n" +
			"  ebpf-evict bench latency --tool ebpf-evict,earlyoom --rate 256Mi,max -o json > latency.json\n" +
			"  ebpf-evict bench latency --tier bpf-alloc,event,poll",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.ready(log); err != nil {
				return err
			}
			o := bench.LatencyOptions{
				Rounds: rounds, Scenario: bench.Scenario(scenario), Fill: load.Fill(fill),
				Signal: signal.Signal(sig), Tiers: tiers, Version: version,
			}
			if len(tiers) == 0 {
				o.Tiers = []string{""}
			}
			for _, tier := range tiers {
				if err := checkTier(tier); err != nil {
					return err
				}
			}
			for _, t := range tools {
				o.Tools = append(o.Tools, bench.Tool(t))
			}
			for _, r := range rates {
				bytes, err := rate(r)
				if err != nil {
					return usageError{err}
				}
				o.RatesBytes = append(o.RatesBytes, bytes)
			}
			if !output.quiet {
				o.Progress = latencyProgress(errOut)
			}
			result, err := bench.MeasureLatency(cmd.Context(), o)
			if err != nil {
				return err
			}
			return output.print(out, result, result.WriteTable)
		},
	}
	output.add(cmd)
	cmd.Flags().IntVar(&rounds, "rounds", 300, "rounds of each tool")
	cmd.Flags().StringSliceVar(&tools, "tool", []string{string(bench.ToolAgent)}, fmt.Sprintf("who ends the hog, in turn: %v", bench.Tools))
	cmd.Flags().StringVar(&scenario, "scenario", string(bench.Idle), fmt.Sprintf("what else goes on: %v", bench.Scenarios))
	cmd.Flags().StringVar(&fill, "fill", string(load.FillPages), fmt.Sprintf("how the hog takes memory: %v", load.Fills))
	cmd.Flags().StringSliceVar(&rates, "rate", []string{"max"}, "how fast, a second: quantities such as 256Mi, or max")
	cmd.Flags().StringSliceVar(&tiers, "tier", nil, "what the agent is forced to watch by, in turn: "+strings.Join(agent.Tiers, ", "))
	cmd.Flags().StringVar(&sig, "signal", "", "what the agent watches (default allocatableMemory.available, forkbomb: allocatablePID.available)")
	return cmd
}

// rate is bytes a second; 0 is as fast as it goes.
func rate(text string) (int64, error) {
	if text == "max" {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Value() <= 0 {
		return 0, fmt.Errorf("--rate %q: want a quantity such as 256Mi, or max", text)
	}
	return q.Value(), nil
}

// latencyProgress shows each tenth round, and each that did not go as it should.
func latencyProgress(w io.Writer) func(bench.Tool, int, int, bench.Round) {
	return func(t bench.Tool, done, of int, r bench.Round) {
		switch {
		case r.Missed:
			fmt.Fprintf(w, "%s: round %d missed\n", t, done)
		case r.WrongVictim:
			fmt.Fprintf(w, "%s: round %d killed another\n", t, done)
		case r.Disturbed:
			fmt.Fprintf(w, "%s: round %d disturbed, once more\n", t, done)
		case done%10 == 0:
			fmt.Fprintf(w, "%s: %d of %d\n", t, done, of)
		}
	}
}
