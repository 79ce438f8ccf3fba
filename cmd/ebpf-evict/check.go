package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// finding is one line of the preflight.
type finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	// Needed: without it the node is not protected.
	Needed bool   `json:"needed"`
	Detail string `json:"detail"`
}

func newCheckCmd(out io.Writer, log func() (zerolog.Logger, error)) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Say what this kernel allows, and which back-end each signal gets",
		Long:    "Loads and attaches every program for a moment and changes nothing else. Exit code 3: not protected.",
		Example: "  ebpf-evict check -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			log, err := log()
			if err != nil {
				return err
			}
			findings := preflight(log)
			if err := printFindings(out, format, findings); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Needed && !f.OK {
					return fmt.Errorf("%w: %s: %s", errUnprotected, f.What, f.Detail)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

func preflight(log zerolog.Logger) []finding {
	findings := []finding{kernelRelease(), btf(), cgroupVersion(), scheduling(), drillable()}
	l, err := loader.Open(loader.Options{Log: log})
	if err != nil {
		return append(findings, finding{"bpf programs", false, true, err.Error()})
	}
	defer func() { _ = l.Close() }()
	findings = append(findings,
		programsOf(l.Reach()),
		finding{"pid.available", true, true, "tier bpf-task: task:task_newtask"})
	if err := l.Arm(); err != nil {
		return append(findings, finding{"memory.available", false, true, err.Error()})
	}
	findings = append(findings, backstopOf(l.Reach(), l.MemoryTier()))
	detail := memoryTier(l.MemoryTier(), l.ChargeRefused())
	rows, err := l.Walk()
	findings = append(findings,
		finding{"memory.available", true, true, detail},
		finding{"allocatableMemory.available", true, true, detail})
	return append(findings, finding{"cgroup table", err == nil, true, fmt.Sprintf("%d memory cgroups", rows)})
}

// memoryTier says what sees memory run out, and why nothing better does.
func memoryTier(tier string, refused error) string {
	if tier == loader.TierCharge {
		return "tier bpf-charge: page_counter_try_charge, always attached, each batch of 64 pages; what tasks in the root cgroup take by the timer within 1 ms, 5 ms where it is little, and then by kmem:mm_page_alloc"
	}
	text := "tier bpf-alloc: kmem:mm_page_alloc, attached while a wire is near"
	if refused != nil {
		text += "; not bpf-charge: " + refused.Error()
	}
	return text
}

// programsOf says what runs. What the backstop needs, the far timer does.
func programsOf(r loader.Reach) finding {
	if r == loader.ReachNone {
		return finding{"bpf programs", true, true, "all that this kernel can load; task:task_newtask runs, and a thread in the place of the timer (bpf_timer, Linux 5.15)"}
	}
	return finding{"bpf programs", true, true, "all load; task:task_newtask and the timer (bpf_timer) run"}
}

// backstopOf says what the kernel can do in the place of an agent that stalls.
func backstopOf(r loader.Reach, tier string) finding {
	switch {
	case r == loader.ReachNone:
		return finding{"backstop", false, false, "none: nobody kills for an agent that stalls; self-signal from Linux 5.15 (bpf_timer), full from 6.13 (bpf_send_signal_task)"}
	case r == loader.ReachAll:
		return finding{"backstop", true, false, "full: reaches any process, also while the allocation hook is off; off in shadow mode"}
	case tier == loader.TierCharge:
		return finding{"backstop", true, false, "self-signal only: reaches who is charged or forks; full from Linux 6.13 (bpf_send_signal_task); off in shadow mode"}
	}
	return finding{"backstop", true, false, "self-signal only: reaches who allocates or forks, and who forks while the allocation hook is off; full from Linux 6.13 (bpf_send_signal_task); off in shadow mode"}
}

func kernelRelease() finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return finding{"kernel", false, false, err.Error()}
	}
	return finding{"kernel", true, false, unix.ByteSliceToString(u.Release[:])}
}

func btf() finding {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return finding{"btf", false, true, loader.ErrNoBTF.Error()}
	}
	return finding{"btf", true, true, "/sys/kernel/btf/vmlinux"}
}

func cgroupVersion() finding {
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		return finding{"cgroup", false, true, err.Error()}
	}
	version := "v2"
	if fs.Version() == cgroupfs.V1 {
		version = "v1 or hybrid: SIGKILL by pidfd, no cgroup.kill"
	}
	return finding{"cgroup", true, true, version + " (" + strings.Join(fs.Controllers(), " ") + ")"}
}

// scheduling tries the classes in a thread that ends with it.
func scheduling() finding {
	found := make(chan finding)
	go func() {
		runtime.LockOSThread() // never unlocked
		class, err := agent.Raise(1)
		f := finding{"scheduling", class == agent.ClassFIFO, false, string(class)}
		if err != nil {
			f.Detail += ", SCHED_FIFO refused: kills may take milliseconds under load, and so the backstop acts first (grace 0); needs CAP_SYS_NICE, and on v1 a cpu cgroup with cpu.rt_runtime_us"
		}
		found <- f
	}()
	return <-found
}

// drillable looks where canaries would get their cgroups, and makes none.
func drillable() finding {
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		return finding{"drill", false, false, "not possible: " + err.Error()}
	}
	for _, procs := range fs.ProcsFiles("/") {
		if err := unix.Access(filepath.Dir(procs), unix.W_OK); err != nil {
			return finding{"drill", false, false, fmt.Sprintf("not possible: no cgroup can be made in %s: %v; enforce needs drill: {atStart: false}", filepath.Dir(procs), err)}
		}
	}
	return finding{"drill", true, false, "possible: its canaries get cgroups below " + drill.Parent}
}

func printFindings(out io.Writer, format string, findings []finding) error {
	switch format {
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(findings)
	case "table":
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, f := range findings {
			mark := "ok"
			if !f.OK {
				mark = "MISSING"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", mark, f.What, f.Detail)
		}
		return w.Flush()
	}
	return usageError{errors.New("-o: want table or json")}
}
