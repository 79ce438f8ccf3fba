package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/metrics"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func newHealthCmd(out io.Writer) *cobra.Command {
	var file string
	var ofDisk bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say whether the agent is well, for probes",
		Long: "Ends with 0 when the agent has written its state in the last five seconds, with 1 when it\n" +
			"has not. With --disk it looks at the figures that the disk process writes instead. It reads\n" +
			"one file and asks nobody.",
		Example: "  ebpf-evict health --config /etc/ebpf-evict/config.yaml && echo well",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := loadPaths(file)
			if err != nil {
				return err
			}
			if ofDisk {
				return diskHealth(c, out)
			}
			return agentHealth(c, out)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the agent's configuration file, for the paths of state and disk")
	cmd.Flags().BoolVar(&ofDisk, "disk", false, "the disk process in the place of the agent")
	return cmd
}

func agentHealth(c *config.Config, out io.Writer) error {
	s, age, err := metrics.ReadState(c.State)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "the agent (PID %d, %s mode) is well: its state was written %s ago\n", s.PID, s.Mode, record.FormatNs(age.Nanoseconds()))
	return err
}

func diskHealth(c *config.Config, out io.Writer) error {
	t, err := readFigures(c)
	if err != nil {
		return err
	}
	age := workload.Reading{ReadNs: t.WrittenNs}.Age(sample.Now())
	_, err = fmt.Fprintf(out, "the disk process is well: its figures were written %s ago\n", record.FormatNs(age.Nanoseconds()))
	return err
}

// readFigures reads the disk figures as the agent would.
func readFigures(c *config.Config) (*workload.DiskTable, error) {
	return workload.NewDiskReader(c.Disk, uint32(os.Geteuid()), agent.FiguresFileAge).Read(sample.Now())
}
