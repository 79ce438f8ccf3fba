package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

func newRunCmd(errOut io.Writer, logTo func(io.Writer) (zerolog.Logger, error)) *cobra.Command {
	var file, mode, btf, tier string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: "Watches the node and evicts the first-ranked unit when a threshold is crossed.\n" +
			"In shadow mode, the default, it decides and records and never kills. SIGHUP reads the\n" +
			"configuration again; a bad one changes nothing. A drill is held at start and once an hour\n" +
			"(key drill); where the first one fails, enforce ends with exit code 3. Where BPF can't be\n" +
			"used, cgroup events or a clock watch instead, which is said in log, journal and state; with\n" +
			"the key leastTier enforce ends with exit code 3 then.",
		Example: "  ebpf-evict run --config /etc/ebpf-evict/config.yaml --mode enforce",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := runAgent(cmd.Context(), errOut, logTo, tier, func(log zerolog.Logger) (*config.Config, error) {
				return loadForRun(file, mode, btf, log)
			})
			if errors.Is(err, agent.ErrRenew) {
				return startAnew()
			}
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML); none: the kubelet's defaults, shadow mode")
	cmd.Flags().StringVar(&mode, "mode", "", "enforce or shadow; outranks the file")
	cmd.Flags().StringVar(&btf, "btf", "", btfUsage)
	cmd.Flags().StringVar(&tier, "tier", "", "how wires are watched, for tests: "+strings.Join(agent.Tiers, ", ")+"; none: the best that this kernel has")
	return cmd
}

// runAgent returns when the agent has ended, and everything with it.
func runAgent(ctx context.Context, errOut io.Writer, logTo func(io.Writer) (zerolog.Logger, error), tier string,
	loadWith func(zerolog.Logger) (*config.Config, error),
) error {
	w := newLogWriter(errOut)
	defer w.flush()
	log, err := logTo(w)
	if err != nil {
		return err
	}
	if err := checkTier(tier); err != nil {
		return err
	}
	joinHostCgroups(log)
	load := func() (*config.Config, error) { return loadWith(log) }
	c, err := load()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return loader.ErrPrivilege
	}
	keeper := startKeeper(c) // before this process is a hot one, which starts no child
	defer keeper.stop()
	systemd := newManager(log)
	go systemd.keepAwake(ctx)
	err = agent.Run(ctx, agent.Options{
		Config: c, PinDir: loader.DefaultPinDir, Tier: tier, Log: log, Reload: onHangup(ctx, load, log),
		Drills: keeper.results,
		Alive:  systemd.beat,
		Ready: func() {
			systemd.ready()
			log.Info().Str("mode", c.Mode).Strs("roots", c.Roots).Msg("watching")
			keeper.begin()
		},
		Renew: func() bool { // with a bad file it would end
			_, err := load()
			return err == nil
		},
	})
	if errors.Is(err, agent.ErrDrill) {
		return fmt.Errorf("%w: %w (key drill: {atStart: false} starts without one)", errUnprotected, err)
	}
	return err
}

// startAnew executes this program from a thread that is not the agent's hot one, whose priority
// the next one would keep.
func startAnew() error {
	failed := make(chan error)
	go func() { failed <- unix.Exec("/proc/self/exe", os.Args, os.Environ()) }()
	return fmt.Errorf("execute this program anew: %w", <-failed)
}

// checkTier takes the name of a tier, or none.
func checkTier(tier string) error {
	if tier != "" && !slices.Contains(agent.Tiers, tier) {
		return usageError{fmt.Errorf("--tier %q: want one of %s", tier, strings.Join(agent.Tiers, ", "))}
	}
	return nil
}

// loadForRun is the file with the flags on top, and says what of it has no effect.
func loadForRun(file, mode, btf string, log zerolog.Logger) (*config.Config, error) {
	c, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	if err := setMode(c, mode); err != nil {
		return nil, err
	}
	c.BTF = cmp.Or(btf, c.BTF)
	for _, w := range c.Warnings() {
		log.Warn().Msg(w)
	}
	return c, nil
}

// btfUsage is what the flag --btf is for.
const btfUsage = "file with this kernel's types, where /sys/kernel/btf is hidden; outranks the file's key btf"

// onHangup loads the configuration at each SIGHUP until ctx is done. A bad one is reported
// and goes no further.
func onHangup(ctx context.Context, load func() (*config.Config, error), log zerolog.Logger) <-chan *config.Config {
	hangups, configs := make(chan os.Signal, 1), make(chan *config.Config)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangups)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			c, err := load()
			if err != nil {
				log.Error().Err(err).Msg("configuration not taken over, the former one stays")
				continue
			}
			select {
			case <-ctx.Done():
				return
			case configs <- c:
			}
		}
	}()
	return configs
}

func loadConfig(file string) (*config.Config, error) {
	return loadConfigBy(config.Load, file)
}

// loadPaths is for commands without privileges: the kubelet's file may be not theirs to read.
func loadPaths(file string) (*config.Config, error) {
	return loadConfigBy(config.LoadOwn, file)
}

func loadConfigBy(load func(path string) (*config.Config, error), file string) (*config.Config, error) {
	if file == "" {
		return config.Default(), nil
	}
	c, err := load(file)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

func setMode(c *config.Config, mode string) error {
	switch mode {
	case "":
	case config.ModeEnforce, config.ModeShadow:
		c.Mode = mode
	default:
		return usageError{fmt.Errorf("--mode %q: want enforce or shadow", mode)}
	}
	return nil
}

func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}

// errUnprotected means that the node can't be protected as asked.
var errUnprotected = errors.New("this node can't be protected as asked")
