package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/kube"
	"github.com/ebpf-evict/ebpf-evict/pkg/metrics"
)

// kubeFlags are those of the command kube.
type kubeFlags struct {
	config, kubeconfig, node, cursor, health string
	prepare                                  bool
	report                                   map[string]string
}

func newKubeCmd(log func() (zerolog.Logger, error)) *cobra.Command {
	var f kubeFlags
	cmd := &cobra.Command{
		Use:   "kube",
		Short: "Bring evictions to the cluster, and the cluster's knowledge to the agent",
		Long: "The companion of an agent on a Kubernetes node, one a node. It writes the workload table\n" +
			"(key workloads) from the node's pods, follows the journal, and reports each kill of an\n" +
			"enforcing agent as the kubelet reports its own evictions: taint and condition of the node\n" +
			"(its own, not the kubelet's), pod Failed/Evicted with DisruptionTarget, an event. It needs no\n" +
			"privilege on the node but to read the journal and to write the table; its RBAC rules are in\n" +
			"docs/kube.md. Of the configuration it reads journal, state, workloads and\n" +
			"evictionPressureTransitionPeriod, at the start alone.",
		Example: "  ebpf-evict kube --config /etc/ebpf-evict/config.yaml --health :9808\n  ebpf-evict kube --kubeconfig ~/.kube/config --node worker-1 --report ReplicaSet=delete",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := log()
			if err != nil {
				return err
			}
			if f.prepare {
				return prepareKube(f.config, log)
			}
			return runKube(cmd.Context(), &f, log)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "the agent's configuration file (YAML); none: the defaults")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "how to reach the API server; none: as a pod of the cluster")
	flags.StringVar(&f.node, "node", os.Getenv("NODE_NAME"), "the node's name in the cluster; default $NODE_NAME, else the host's name")
	flags.StringVar(&f.cursor, "cursor", "", "file that keeps how far the journal is reported; default cursor.json beside the workload table")
	flags.StringVar(&f.health, "health", "", "address for the probes /healthz and /readyz and for /metrics, such as :9808; none: no listener")
	flags.BoolVar(&f.prepare, "prepare", false, "as root: make the table's directory the property of the key tableOwner, and end")
	flags.StringToStringVar(&f.report, "report", nil, "status (default: the failed pod stays, as the kubelet leaves it) or delete, by the kind of a pod's controller")
	return cmd
}

// prepareKube is for an init container: the companion is not root, and the directory is made
// by who is.
func prepareKube(file string, log zerolog.Logger) error {
	c, err := loadPaths(file)
	if err != nil {
		return err
	}
	dir := filepath.Dir(c.Workloads)
	if err := kube.GiveTable(dir, c.TableOwner); err != nil {
		return fmt.Errorf("--prepare: %w", err)
	}
	log.Info().Str("dir", dir).Uint32("uid", c.TableOwner).Msg("the table's directory is the companion's")
	return nil
}

func runKube(ctx context.Context, f *kubeFlags, log zerolog.Logger) error {
	c, err := loadConfig(f.config)
	if err != nil {
		return err
	}
	if err := checkReport(f.report); err != nil {
		return err
	}
	node, err := nodeName(f.node)
	if err != nil {
		return err
	}
	how, err := restConfig(f.kubeconfig)
	if err != nil {
		return usageError{err}
	}
	klog.SetLogger(klog.Logger{}) // client-go's own; what matters of it is told by us
	companion, err := kube.New(kubeOptions(c, f, node, how, log))
	if err != nil {
		return err
	}
	if err := serveKube(ctx, f.health, companion, log); err != nil {
		return err
	}
	log.Info().Str("node", node).Str("api_server", how.Host).Str("journal", c.Journal).Msg("following")
	return companion.Run(ctx)
}

func kubeOptions(c *config.Config, f *kubeFlags, node string, how *rest.Config, log zerolog.Logger) kube.Options {
	return kube.Options{
		Rest: how, Node: node,
		Journal: c.Journal, State: c.State, Table: c.Workloads,
		Cursor:           cmp.Or(f.cursor, filepath.Join(filepath.Dir(c.Workloads), "cursor.json")),
		TransitionPeriod: c.EvictionPressureTransitionPeriod, Report: f.report, Log: log,
	}
}

// controllers are the kinds that --report takes: those of Kubernetes that make pods. A misspelt
// one would change nothing, without a word.
var controllers = []string{"DaemonSet", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"}

func checkReport(report map[string]string) error {
	for kind, how := range report {
		if !slices.Contains(controllers, kind) {
			return usageError{fmt.Errorf("--report %s=%s: no kind of controller, want one of %s", kind, how, strings.Join(controllers, ", "))}
		}
		if how != kube.ReportStatus && how != kube.ReportDelete {
			return usageError{fmt.Errorf("--report %s=%s: want status or delete", kind, how)}
		}
	}
	return nil
}

func nodeName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	return os.Hostname()
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("--kubeconfig: want a file, where this is no pod of a cluster")
		}
		return c, err
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// serveKube listens for probes and scrapes until ctx is done.
func serveKube(ctx context.Context, address string, c *kube.Companion, log zerolog.Logger) error {
	if address == "" {
		return nil
	}
	answers, err := kubeHandler(c)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--health: %w", err)
	}
	server := &http.Server{Handler: answers, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error().Err(err).Msg("no probes any more")
		}
	}()
	return nil
}

func kubeHandler(c *kube.Companion) (http.Handler, error) {
	scrapes, err := metrics.Handler(c.Metrics())
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", scrapes)
	mux.HandleFunc("GET /healthz", answer(c.Healthy))
	mux.HandleFunc("GET /readyz", answer(c.Ready))
	return mux, nil
}

func answer(ask func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := ask(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
