package preflight

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Options say for what the node is looked at.
type Options struct {
	Config *config.Config
	// Given: the configuration is the user's, and its roots and directories must exist.
	Given bool
	// Root is where /sys/kernel/security and /proc/self are looked for; tests have their
	// own. Default "/".
	Root string
	Log  zerolog.Logger
}

// Check tries everything. It takes a second or two, hooks are attached for moments of it,
// and nothing is left.
func Check(o Options) Report {
	c := o.Config
	fs, fsErr := cgroupfs.New("/sys/fs/cgroup")
	r := Report{
		Schema: Schema, Kernel: kernelRelease(), Arch: runtime.GOARCH, BTF: kernelBTF(c.BTF),
		Capabilities: capabilities(o.Root), Lockdown: lockdown(o.Root), Cgroup: cgroups(fs, fsErr),
		Hooks: []Hook{}, Fallback: tryFallback(fs, fsErr, zerolog.Nop()),
		Scheduling: scheduling(), MemoryLocking: memoryLocking(), Drill: drillable(fs, fsErr),
		DiskFigures:   diskFigures(o.Config, os.Geteuid(), sample.Now()),
		WorkloadTable: workloadTable(c, holdPods(c, fs), time.Now()), Missing: []Missing{},
	}
	load := loader.Options{BTF: c.BTF, Log: o.Log}
	r.probe(load)
	r.Tiers = tiers(r.tryPrograms(load).instead(r.Fallback))
	r.judge(o, os.Geteuid(), fs)
	return r
}

func (r *Report) probe(o loader.Options) {
	hooks, err := loader.Probe(o)
	if err != nil && r.BTF.OK { // the file is there, and no types are in it
		r.BTF.OK, r.BTF.Error = false, err.Error()
	}
	for _, h := range hooks {
		hook := Hook{Program: h.Program, Section: h.Section, OK: h.Err == nil, Unused: h.Unused}
		if h.Err != nil {
			hook.Error = r.refusal(h.Err)
		}
		r.Hooks = append(r.Hooks, hook)
	}
}

// refusal is why a program does not load. Without the rights to none does, wherever the kernel
// noticed; with them it is the kernel that refuses this one.
func (r *Report) refusal(err error) string {
	if errors.Is(err, unix.EPERM) && !r.mayLoad() {
		return "operation not permitted: needs CAP_BPF and CAP_PERFMON"
	}
	return words(err)
}

// mayLoad reports whether this process has the rights to load programs that trace.
func (r *Report) mayLoad() bool {
	return held(r.Capabilities, "CAP_SYS_ADMIN") || held(r.Capabilities, "CAP_BPF") && held(r.Capabilities, "CAP_PERFMON")
}

// judge says what is missing for this configuration in enforce mode.
func (r *Report) judge(o Options, euid int, fs *cgroupfs.FS) {
	c := o.Config
	need := func(what, get string) { r.Missing = append(r.Missing, Missing{what, get}) }
	if euid != 0 {
		need("root", "run ends where it is not root")
	}
	if r.Cgroup.Error != "" {
		need("cgroups", r.Cgroup.Error)
	}
	if !held(r.Capabilities, "CAP_KILL") {
		need("CAP_KILL", "run as root of the host, or add it: no unit of another user can be killed")
	}
	if len(r.below(c)) > 0 && !r.Programs.OK {
		r.needPrograms(need)
	}
	for _, t := range r.below(c) {
		need(t.Signal, fmt.Sprintf("tier %s, and leastTier is %s: %s", t.Tier, c.LeastTier, t.Why))
	}
	if !r.Cgroup.Pids && r.Cgroup.Memory && watches(c, signal.AllocatablePIDAvailable) {
		need(string(signal.AllocatablePIDAvailable), "enable the pids controller")
	}
	if o.Given && fs != nil {
		needPaths(c, fs, need)
	}
	if c.Drill.AtStart && !r.Drill.Possible {
		need("drill", r.Drill.Error+"; enforce holds one at start, unless the configuration says drill: {atStart: false}")
	}
	r.Protects = len(r.Missing) == 0
}

// needPrograms names the reasons that are known, or has the kernel's words.
func (r *Report) needPrograms(need func(what, get string)) {
	known := len(r.Missing)
	if !r.mayLoad() {
		for _, name := range []string{"CAP_BPF", "CAP_PERFMON"} {
			if !held(r.Capabilities, name) {
				need(name, "run as root of the host, or add it: BPF programs can't be loaded")
			}
		}
	}
	if !r.BTF.OK {
		need("BTF", r.BTF.Error)
	}
	if r.Lockdown.Mode == loader.Confidentiality {
		need("lockdown", r.Lockdown.Effect)
	}
	if len(r.Missing) == known {
		need("BPF programs", r.Programs.Error)
	}
}

// below are the tiers of signals that nobody watches well enough: a soft threshold is well
// with any, a hard one of memory or tasks with leastTier (agent.ErrTier).
func (r *Report) below(c *config.Config) (found []Tier) {
	for _, t := range r.Tiers {
		s := signal.Signal(t.Signal)
		hard := slices.ContainsFunc(thresholds(c), func(h signal.Threshold) bool { return h.Signal == s && h.Hard() })
		if watches(c, s) && t.Tier == TierNone || hard && !s.Disk() && rank(t.Tier) < rank(c.LeastTier) {
			found = append(found, t)
		}
	}
	return found
}

// rank is how good a tier is, as the key leastTier has them: any hook is bpf.
func rank(tier string) int {
	switch tier {
	case TierNone:
		return 0
	case config.LeastTierPoll:
		return 1
	case config.LeastTierEvent:
		return 2
	}
	return 3
}

func watches(c *config.Config, s signal.Signal) bool {
	return slices.ContainsFunc(thresholds(c), func(t signal.Threshold) bool { return t.Signal == s })
}

// thresholds are those of a configuration that has been read: there is no error any more.
func thresholds(c *config.Config) []signal.Threshold {
	ts, _ := c.Thresholds()
	return ts
}

// needPaths: what the configuration names is there.
func needPaths(c *config.Config, fs *cgroupfs.FS, need func(what, get string)) {
	if _, err := agent.Roots(fs, c); err != nil {
		need("roots", err.Error())
	}
	dirs := agent.DiskPaths(c, agent.RuntimeLayout(c))
	for _, d := range []struct{ key, path string }{{"nodefs", dirs.NodeFs}, {"imagefs", dirs.ImageFs}, {"containerfs", dirs.ContainerFs}} {
		if d.path == "" {
			continue
		}
		if _, err := os.Stat(d.path); errors.Is(err, os.ErrNotExist) {
			need(d.key, fmt.Sprintf("%s does not exist: its signals would have no data", d.path))
		}
	}
}
