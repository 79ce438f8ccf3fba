package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/preflight"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

func newCheckCmd(out io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var file, btf, format string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what this node allows, which tier each signal gets, and what is missing",
		Long: "Tries what run needs, one by one: kernel, rights, each BPF program by itself, scheduling,\n" +
			"and says what each signal would be watched with. Hooks are attached for a moment, nothing is\n" +
			"left. Exit code 3: run --mode enforce would not protect this node, and what to do.\n" +
			"--log-level debug has the verifier's whole log.",
		Example: "  ebpf-evict check --config /etc/ebpf-evict/config.yaml\n  ebpf-evict check -o json | jq .missing",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			log, err := log()
			if err != nil {
				return err
			}
			if format != "table" && format != "json" {
				return usageError{errors.New("-o: want table or json")}
			}
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			c.BTF = cmp.Or(btf, c.BTF)
			r := preflight.Check(preflight.Options{Config: c, Given: file != "", Log: log})
			if err := printReport(out, format, &r); err != nil {
				return err
			}
			return unprotected(&r)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML) that enforce is asked with; none: the kubelet's defaults")
	cmd.Flags().StringVar(&btf, "btf", "", btfUsage)
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

// unprotected names what is missing.
func unprotected(r *preflight.Report) error {
	if r.Protects {
		return nil
	}
	var names []string
	for _, m := range r.Missing {
		names = append(names, m.What)
	}
	return fmt.Errorf("%w: %s; %s: %s", errUnprotected, strings.Join(names, ", "), r.Missing[0].What, r.Missing[0].Get)
}

func printReport(out io.Writer, format string, r *preflight.Report) error {
	if format == "json" {
		b, err := r.Encode()
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	}
	_, err := io.WriteString(out, reportTable(r))
	return err
}

// table is lines in groups: a mark, a name, a word on it.
type table struct{ strings.Builder }

func (t *table) group(name string) {
	if t.Len() > 0 {
		t.WriteByte('\n')
	}
	t.WriteString(name + "\n")
}

func (t *table) line(ok bool, what, detail string) {
	mark := "ok"
	if !ok {
		mark = "no"
	}
	fmt.Fprintln(t, strings.TrimRight(fmt.Sprintf("  %-4s%-30s%s", mark, what, detail), " "))
}

func reportTable(r *preflight.Report) string {
	t := &table{}
	t.group("kernel " + r.Kernel + " (" + r.Arch + ")")
	t.line(r.BTF.OK, "BTF", cmp.Or(r.BTF.Error, r.BTF.File))
	t.line(r.Lockdown.Mode != "confidentiality", "lockdown", r.Lockdown.Mode+after(": ", r.Lockdown.Effect))
	t.line(r.Cgroup.Error == "", "cgroup", cgroupLine(&r.Cgroup))
	if r.Cgroup.Effect != "" {
		t.line(!r.Cgroup.Delegated, "cgroups seen", viewLine(&r.Cgroup))
	}
	t.group("capabilities, and what for")
	for _, c := range r.Capabilities {
		t.line(c.Held, c.Name, c.Use)
	}
	t.group("BPF programs, each by itself")
	for _, h := range r.Hooks {
		if h.Unused {
			t.line(true, h.Program, h.Section+", not used on this kernel")
			continue
		}
		t.line(h.OK, h.Program, h.Section+after(": ", h.Error))
	}
	t.line(r.Programs.OK, "all together", cmp.Or(r.Programs.Error, fmt.Sprintf("run, and see %d memory cgroups", r.Programs.Cgroups)))
	t.group("the agent's process")
	t.line(r.Scheduling.OK, "scheduling", schedulingLine(&r.Scheduling))
	t.line(r.MemoryLocking.OK, "memory locking", lockingLine(&r.MemoryLocking))
	t.line(r.Backstop.Reach != "none", "backstop", backstopLines[r.Backstop.Reach])
	t.line(r.Drill.Possible, "drill", cmp.Or(after("not possible: ", r.Drill.Error), "possible"))
	if d := &r.DiskFigures; d.Wanted {
		t.line(d.OK, "disk figures", figuresLine(d))
		for _, dir := range d.MissingDirectories {
			t.line(false, "diskDirectories", dir+" is not there: its units have no figure, and are not evicted for a disk")
		}
	}
	if w := &r.WorkloadTable; w.Wanted || w.OK {
		t.line(w.OK, "workload table", tableLine(w))
	}
	t.group("signals: tier, crossing to SIGKILL" + latencyCaveat(&r.Scheduling) + ", why")
	for _, s := range sameTiers(r.Tiers) {
		t.line(s.Tier != preflight.TierNone, s.Signal, fmt.Sprintf("%-11s%-14s%s", s.Tier, latencyOf(s), s.Why))
	}
	t.verdict(r)
	return t.String()
}

func (t *table) verdict(r *preflight.Report) {
	if r.Protects {
		t.group("run --mode enforce protects this node")
		return
	}
	t.group("run --mode enforce does not protect this node; missing:")
	for _, m := range r.Missing {
		t.line(false, m.What, m.Get)
	}
}

// after is the text with what leads to it, or nothing.
func after(lead, text string) string {
	if text == "" {
		return ""
	}
	return lead + text
}

func cgroupLine(c *preflight.Cgroup) string {
	if c.Error != "" {
		return c.Error
	}
	kill := "SIGKILL by pidfd"
	if c.Kill {
		kill = "cgroup.kill"
	}
	return fmt.Sprintf("%s, %s; %s", c.Version, kill, strings.Join(c.Controllers, " "))
}

func viewLine(c *preflight.Cgroup) string {
	mount := "all"
	if c.Delegated {
		mount = "those of a delegated mount"
	}
	return fmt.Sprintf("%s, namespace %s: %s", mount, c.Namespace, c.Effect)
}

func schedulingLine(s *preflight.Scheduling) string {
	if s.OK {
		return s.Class
	}
	return fmt.Sprintf("%s (%s): kills may take milliseconds under load, and the backstop's grace is 0; add CAP_SYS_NICE, and on v1 cpu.rt_runtime_us", s.Class, s.Error)
}

func lockingLine(l *preflight.MemoryLocking) string {
	if l.OK {
		return "mlockall"
	}
	return fmt.Sprintf("mlockall: %s: the agent may wait for its own pages; add CAP_IPC_LOCK", l.Error)
}

func figuresLine(d *preflight.DiskFigures) string {
	if !d.OK {
		return d.Error + "; thresholds and limits of disks would kill nobody"
	}
	return fmt.Sprintf("of %d units, written %.0f s ago, the oldest read %.0f s ago", d.Workloads, d.AgeSeconds, d.OldestSeconds)
}

func tableLine(w *preflight.WorkloadTable) string {
	if !w.OK {
		return w.Error + after("; ", w.Effect)
	}
	return fmt.Sprintf("of %d units, written %.0f s ago", w.Workloads, w.AgeSeconds)
}

// backstopLines say what the kernel can do in the place of an agent that stalls.
var backstopLines = map[string]string{
	"all":  "reaches any process, also while the allocation hook is off; off in shadow mode",
	"self": "reaches who runs, allocates or forks; who sleeps, too, from Linux 6.13 on (bpf_send_signal_task); off in shadow mode",
	"none": "nobody kills for an agent that stalls; needs the programs, and Linux 5.15 (bpf_timer)",
}

// sameTiers joins the disk signals, which share a line.
func sameTiers(tiers []preflight.Tier) []preflight.Tier {
	var lines []preflight.Tier
	for _, t := range tiers {
		if !signal.Signal(t.Signal).Disk() {
			lines = append(lines, t)
			continue
		}
		if last := len(lines) - 1; lines[last].Signal == allDisks {
			continue
		}
		t.Signal = allDisks
		lines = append(lines, t)
	}
	return lines
}

const allDisks = "nodefs, imagefs, containerfs"

// latencyCaveat is for figures that hold for a real-time thread on a quiet machine.
func latencyCaveat(s *preflight.Scheduling) string {
	if s.OK {
		return " on a quiet machine"
	}
	return fmt.Sprintf(" on a quiet machine (under load, with %s scheduling, milliseconds)", s.Class)
}

func latencyOf(t preflight.Tier) string {
	if t.ExpectedLatencyNs == 0 {
		return ""
	}
	return "~" + time.Duration(t.ExpectedLatencyNs).String()
}
