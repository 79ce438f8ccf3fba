// Command ebpf-evict evicts pods and cgroups within a millisecond of a node running out of
// memory or pids.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// Exit codes, a contract.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnprotected = 3
)

// usageError is bad usage or configuration: exit code 2, nothing on standard output.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	if len(os.Args) > 1 && os.Args[1] == load.Command {
		os.Exit(load.Main(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == bench.WorkCommand {
		os.Exit(bench.Worker(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == bench.CageCommand {
		os.Exit(bench.Cage(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == keeperCommand {
		os.Exit(keepDrills(os.Args[2:]))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRootCmd(out, errOut)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(errOut, "ebpf-evict: %v\n", err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var (
		usage usageError
		bad   *config.Error
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), errors.As(err, &bad), errors.Is(err, agent.ErrNoRoot), errors.Is(err, bench.ErrOptions):
		return exitUsage
	case errors.Is(err, loader.ErrNoBTF), errors.Is(err, loader.ErrNotBTF), errors.Is(err, loader.ErrForeignBTF),
		errors.Is(err, loader.ErrPrivilege), errors.Is(err, loader.ErrLockdown), errors.Is(err, errUnprotected),
		errors.Is(err, agent.ErrTier), errors.Is(err, agent.ErrForced), errors.Is(err, errNoDrill):
		return exitUnprotected
	}
	return exitFailed
}

func newRootCmd(out, errOut io.Writer) *cobra.Command {
	var level, format string
	root := &cobra.Command{
		Use:           "ebpf-evict",
		Short:         "Evicts pods and cgroups within a millisecond of memory or pids running out",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs, // an unknown command is bad usage
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	root.PersistentFlags().StringVar(&format, "log-format", "console", "console or json")
	log := func() (zerolog.Logger, error) { return newLogger(errOut, level, format) }
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		_, err := log() // the flags are checked also where nothing is logged
		return err
	}
	patient := func(w io.Writer) (zerolog.Logger, error) { return newLogger(w, level, format) }
	root.AddCommand(
		newRunCmd(errOut, patient), newDemoCmd(out, log), newCheckCmd(out, log), newDrillCmd(out, log),
		newRankCmd(out, errOut), newReplayCmd(out, errOut),
		newHistoryCmd(out), newExplainCmd(out), newExportCmd(log), newHealthCmd(out), newDiskCmd(out, log), newKubeCmd(log), newBenchCmd(out, errOut, log), newVersionCmd(out),
	)
	return root
}

func newLogger(w io.Writer, level, format string) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil || l == zerolog.NoLevel {
		return zerolog.Nop(), usageError{fmt.Errorf("--log-level %q: want trace, debug, info, warn or error", level)}
	}
	switch format {
	case "json":
	case "console":
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != "" || !isTerminal(w)}
	default:
		return zerolog.Nop(), usageError{fmt.Errorf("--log-format %q: want console or json", format)}
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
