package main

import (
	"context"
	"encoding/json"
	"errors"
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
			"2 % of a CPU far from every threshold. Without it no unit is evicted for a disk. The\n" +
			"configuration is read at the start alone.",
		Example: "  ebpf-evict disk --config /etc/ebpf-evict/config.yaml\n  ebpf-evict disk --once | jq '.workloads[] | {uid, used: .ephemeralStorage.usedBytes}'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := log()
			if err != nil {
				return err
			}
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("reading other users' directories needs root")
			}
			return runDisk(cmd.Context(), c, once, out, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the agent's configuration file (YAML); none: the defaults")
	cmd.Flags().BoolVar(&once, "once", false, "print the figures of now as JSON instead, at full speed, and write no file")
	return cmd
}

func runDisk(ctx context.Context, c *config.Config, once bool, out io.Writer, log zerolog.Logger) error {
	if err := disk.Humble(); err != nil {
		log.Warn().Err(err).Msg("degraded: scheduling priority stays as it was")
	}
	o, err := diskOptions(c, log)
	if err != nil {
		return err
	}
	client, err := cri.Dial(c.ContainerRuntimeEndpoint)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	o.Runtime = client
	if once {
		table, err := disk.Once(ctx, o)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(table)
	}
	if err := os.MkdirAll(filepath.Dir(c.Disk), 0o755); err != nil {
		return err
	}
	log.Info().Str("disk", c.Disk).Msg("measuring")
	return disk.Run(ctx, o)
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
	node, _ := os.Hostname() // a name for people
	paths := agent.DiskPaths(c, workload.DiskLayout{})
	scanner := func() *workload.Scanner {
		return workload.NewScanner(workload.Options{FS: fs, Roots: roots, TablePath: c.Workloads, TableUID: c.TableOwner, Procfs: "/proc"})
	}
	return disk.Options{
		FS:    fs,
		Units: scanner(), HasPod: hasPod(scanner()), ImageAge: c.ImageMinimumGCAge,
		NodeFs: paths.NodeFs, ImageFs: paths.ImageFs, ContainerFs: paths.ContainerFs,
		Logs: c.PodLogsDir, Stores: diskStores(c), DockerLogs: dockerContainers, Directories: c.DiskDirectories,
		Marks: marks, Table: c.Disk, Request: c.Reclaim, RequestOwner: uint32(os.Geteuid()),
		Node: node, Procfs: "/proc", Log: log,
	}, nil
}

// hasPod finds a pod's cgroup by its name now; in doubt the pod is there. The systemd driver
// writes a uid with underscores.
func hasPod(s *workload.Scanner) func(uid string) bool {
	return func(uid string) bool {
		cgroups, err := s.List()
		return err != nil || slices.ContainsFunc(cgroups, func(cgroup string) bool {
			return strings.Contains(strings.ReplaceAll(path.Base(cgroup), "_", "-"), uid)
		})
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
