package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/disk"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// stores are where container runtimes keep writable layers, dockerContainers where docker
// keeps containers and their logs.
var stores = []string{"/var/lib/containerd", "/var/lib/containers/storage", "/var/lib/docker"}

const dockerContainers = "/var/lib/docker/containers"

func newDiskCmd(out io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var file string
	var once bool
	cmd := &cobra.Command{
		Use:   "disk",
		Short: "Find out who fills the disks, for the agent",
		Long: "Measures what each unit holds on disk (writable layers, logs, emptyDirs and other local\n" +
			"volumes; directories of the key diskDirectories), writes it with its age to the file of\n" +
			"the key disk, and has dead containers and unused images removed when the agent asks. It\n" +
			"runs beside the agent, needs root and the host's PIDs and directories, and takes under\n" +
			"2 % of a CPU far from every threshold. Without it no unit is evicted for a disk. SIGHUP\n" +
			"reads the configuration again, and all figures with it; a bad one changes nothing.",
		Example: "  ebpf-evict disk --config /etc/ebpf-evict/config.yaml\n  ebpf-evict disk --once | jq '.workloads[] | {uid, used: .ephemeralStorage.usedBytes}'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := log()
			if err != nil {
				return err
			}
			load := func() (*config.Config, error) { return loadConfig(file) }
			c, err := load()
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("reading other users' directories needs root")
			}
			if err := disk.Humble(); err != nil {
				log.Warn().Err(err).Msg("degraded: scheduling priority stays as it was")
			}
			if once {
				return measureOnce(cmd.Context(), c, out, log)
			}
			return measure(cmd.Context(), c, onHangup(cmd.Context(), load, log), log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the agent's configuration file (YAML); none: the defaults")
	cmd.Flags().BoolVar(&once, "once", false, "print the figures of now as JSON instead, at full speed, and write no file")
	return cmd
}

func measureOnce(ctx context.Context, c *config.Config, out io.Writer, log zerolog.Logger) error {
	m, err := newMeasurement(c, nil, log)
	if err != nil {
		return err
	}
	defer func() { _ = m.client.Close() }()
	table, err := disk.Once(ctx, m.options)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(table)
}

// measure runs the disk process until ctx is done, by one configuration after the other. One
// that can't be used changes nothing.
func measure(ctx context.Context, c *config.Config, reloads <-chan *config.Config, log zerolog.Logger) error {
	lock, err := workload.Lock(c.Disk + ".lock")
	if errors.Is(err, workload.ErrLocked) {
		return fmt.Errorf("another ebpf-evict disk writes %s: %w", c.Disk, err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	m, err := newMeasurement(c, nil, log)
	if err != nil {
		return err
	}
	log.Info().Str("disk", c.Disk).Msg("measuring")
	m.start(ctx)
	for {
		select {
		case err := <-m.ended:
			return errors.Join(err, m.client.Close())
		case c := <-reloads:
			changed := m.config.Diff(c)
			c.KeepUntilRestart(m.config) // as the agent does
			next, err := newMeasurement(c, m, log)
			if err != nil {
				log.Error().Err(err).Msg("configuration not taken over, the former one stays")
				continue
			}
			m.stop()
			if err := <-m.ended; err != nil {
				return err
			}
			if next.client != m.client {
				_ = m.client.Close()
			}
			log.Info().Strs("changed", changed).Msg("configuration read again, figures begin anew")
			m = next
			m.start(ctx)
		}
	}
}

// measurement is the disk process with one configuration.
type measurement struct {
	config  *config.Config
	options disk.Options
	// client may be the next one's too: it knows how old the images are.
	client *cri.Client
	stop   context.CancelFunc
	ended  chan error
}

func newMeasurement(c *config.Config, former *measurement, log zerolog.Logger) (*measurement, error) {
	o, err := diskOptions(c, log)
	if err != nil {
		return nil, err
	}
	m := &measurement{config: c, options: o, ended: make(chan error, 1)}
	if former != nil && former.config.ContainerRuntimeEndpoint == c.ContainerRuntimeEndpoint {
		m.client = former.client
	} else if m.client, err = cri.Dial(c.ContainerRuntimeEndpoint); err != nil {
		return nil, err
	}
	m.options.Runtime = m.client
	return m, nil
}

func (m *measurement) start(ctx context.Context) {
	ctx, m.stop = context.WithCancel(ctx)
	go func() {
		defer m.stop()
		m.ended <- disk.Run(ctx, m.options)
	}()
}

func diskOptions(c *config.Config, log zerolog.Logger) (disk.Options, error) {
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		return disk.Options{}, err
	}
	roots, err := agent.Roots(fs, c)
	if err != nil {
		return disk.Options{}, err
	}
	marks, err := diskMarks(c)
	if err != nil {
		return disk.Options{}, err
	}
	hostname, _ := os.Hostname()
	node := cmp.Or(os.Getenv("NODE_NAME"), hostname) // a name for people
	paths := agent.DiskPaths(c, workload.DiskLayout{})
	scanner := func() *workload.Scanner {
		return workload.NewScanner(workload.Options{
			FS: fs, Roots: roots, TablePath: c.Workloads, TableUID: c.TableOwner, NodeName: os.Getenv("NODE_NAME"), Procfs: "/proc",
		})
	}
	return disk.Options{
		FS:    fs,
		Units: scanner(), KubeletHas: kubeletHas(scanner()), ImageAge: c.ImageMinimumGCAge,
		NodeFs: paths.NodeFs, ImageFs: paths.ImageFs, ContainerFs: paths.ContainerFs,
		Logs: c.PodLogsDir, Stores: diskStores(c), DockerLogs: dockerContainers, Directories: c.DiskDirectories,
		Marks: marks, Table: c.Disk, Request: c.Reclaim, RequestOwner: uint32(os.Geteuid()),
		Node: node, Procfs: "/proc", Log: log,
	}, nil
}

// kubeletHas finds a pod's cgroup by its name; in doubt the pod is there. The systemd driver
// writes a uid with underscores. nil without cgroupsPerQOS, and with roots that leave pods out.
func kubeletHas(s *workload.Scanner) func() func(uid string) bool {
	has := func(uid string) bool {
		cgroups, err := s.List()
		return err != nil || slices.ContainsFunc(cgroups, func(cgroup string) bool {
			return strings.Contains(strings.ReplaceAll(path.Base(cgroup), "_", "-"), uid)
		})
	}
	return func() func(uid string) bool {
		if _, err := s.List(); err == nil && !slices.ContainsFunc(s.Levels(), workload.HoldsAllPods) {
			return nil
		}
		return has
	}
}

// diskMarks are the thresholds of disk signals.
func diskMarks(c *config.Config) ([]disk.Mark, error) {
	thresholds, err := c.Thresholds()
	if err != nil {
		return nil, err
	}
	var marks []disk.Mark
	for _, t := range thresholds {
		if t.Signal.Disk() {
			marks = append(marks, disk.Mark{Signal: string(t.Signal), Value: t.Value.Of})
		}
	}
	return marks, nil
}

// diskStores adds the configured directories, and what links among them lead to: the kernel
// names layers by where they are.
func diskStores(c *config.Config) []string {
	var all []string
	for _, dir := range append([]string{c.Imagefs, c.Containerfs}, stores...) {
		if dir == "" || dir == "/" {
			continue
		}
		all = append(all, dir)
		if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir && real != "/" {
			all = append(all, real)
		}
	}
	return all
}
