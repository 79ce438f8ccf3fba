package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/metrics"
)

// defaultListen is seen from this node alone: who scrapes from elsewhere says so.
const defaultListen = "127.0.0.1:9436"

func newExportCmd(log func() (zerolog.Logger, error)) *cobra.Command {
	var file, listen string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Serve Prometheus metrics",
		Long: "Serves at /metrics what journal and state file of the agent tell (docs/metrics.md), and at\n" +
			"/healthz that it serves. A process of its own, without privileges: it reads files that\n" +
			"anybody may read. Counters begin with the oldest line of the journal. ebpf_evict_up is 0\n" +
			"while the agent has not written its state for five seconds.",
		Example: "  ebpf-evict export --config /etc/ebpf-evict/config.yaml\n  ebpf-evict export --listen :9436   # to be scraped from other hosts",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := log()
			if err != nil {
				return err
			}
			if _, _, err := net.SplitHostPort(listen); err != nil {
				return usageError{fmt.Errorf("--listen %q: want host:port", listen)}
			}
			c, err := loadPaths(file)
			if err != nil {
				return err
			}
			h, err := metrics.Handler(metrics.New(metrics.Options{Journal: c.Journal, State: c.State, Workloads: c.Workloads, Version: version}))
			if err != nil {
				return err
			}
			return serve(cmd.Context(), listen, h, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the agent's configuration file, for the paths of journal, state and workloads")
	cmd.Flags().StringVar(&listen, "listen", defaultListen, "address to serve at")
	return cmd
}

// farewell is how long requests under way may take when the server ends.
const farewell = 2 * time.Second

// serve serves until ctx is done.
func serve(ctx context.Context, address string, h http.Handler, log zerolog.Logger) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	log.Info().Str("address", l.Addr().String()).Msg("serving metrics")
	server := &http.Server{
		Handler: h, MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
