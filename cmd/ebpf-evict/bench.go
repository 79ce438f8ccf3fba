package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

func newBenchCmd(out, errOut io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the agent, side by side with others",
		Long: "Measures from outside, on cgroup roots and loads of its own with limits; touches nothing\n" +
			"else. Only one agent runs on a node: stop yours first.",
		Example: "  ebpf-evict bench latency --rounds 50\n  ebpf-evict bench report latency.json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchLatencyCmd(out, errOut, log), newBenchOverheadCmd(out, errOut, log), newBenchScaleCmd(out, errOut, log), newBenchReportCmd(out))
	return cmd
}

// benchOutput is what the measuring subcommands have in common.
type benchOutput struct {
	format string
	quiet  bool
}

func (o *benchOutput) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "table or json")
	cmd.Flags().BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
}

// ready refuses what can't be measured before anything is started.
func (o *benchOutput) ready(log func() (zerolog.Logger, error)) error {
	if _, err := log(); err != nil { // a bad --log-level
		return err
	}
	if o.format != "table" && o.format != "json" {
		return usageError{errors.New("-o: want table or json")}
	}
	if os.Geteuid() != 0 {
		return loader.ErrPrivilege
	}
	return nil
}

// print writes a result as JSON or by its table.
func (o *benchOutput) print(out io.Writer, result any, table func(io.Writer) error) error {
	if o.format == "table" {
		return table(out)
	}
	e := json.NewEncoder(out)
	if err := e.Encode(result); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
