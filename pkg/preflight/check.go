package preflight

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// Options say for what the node is looked at.
type Options struct {
	Config *config.Config
	// Given: the configuration is the user's, and its roots and directories must exist.
	Given bool
	// WithoutBPF: `run` goes on with event and poll where the programs don't load.
	WithoutBPF bool
	// LeastTier is the least that enforce puts up with for a hard threshold: bpf, event, or
	// poll and "".
	LeastTier string
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
		Missing: []Missing{},
	}
	load := loader.Options{BTF: c.BTF, Log: o.Log}
	r.probe(load)
	found := r.tryPrograms(load)
	if o.WithoutBPF {
		found = found.instead(r.Fallback)
	}
	r.Tiers = tiers(found)
	r.judge(o, fs)
	return r
}

func (r *Report) probe(o loader.Options) {
	hooks, err := loader.Probe(o)
	if err != nil && r.BTF.OK { // the file is there, and no types are in it
		r.BTF.OK, r.BTF.Error = false, err.Error()
	}
	for _, h := range hooks {
		hook := Hook{Program: h.Program, Section: h.Section, OK: h.Err == nil}
		if h.Err != nil {
			hook.Error = words(h.Err)
		}
		r.Hooks = append(r.Hooks, hook)
	}
}

// judge says what is missing for this configuration in enforce mode.
func (r *Report) judge(o Options, fs *cgroupfs.FS) {
	c := o.Config
	need := func(what, get string) { r.Missing = append(r.Missing, Missing{what, get}) }
	if r.Cgroup.Error != "" {
		need("cgroups", r.Cgroup.Error)
	}
	if !held(r.Capabilities, "CAP_KILL") {
		need("CAP_KILL", "run as root of the host, or add it: no unit of another user can be killed")
	}
	if !o.WithoutBPF && !r.Programs.OK {
		r.needPrograms(need)
	}
	if o.WithoutBPF || r.Programs.OK { // else it has been said
		r.needSignals(o, need)
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
	if !held(r.Capabilities, "CAP_SYS_ADMIN") {
		for _, name := range []string{"CAP_BPF", "CAP_PERFMON"} {
			if !held(r.Capabilities, name) {
				need(name, "run as root of the host, or add it: BPF programs can't be loaded")
			}
		}
	}
	if !r.BTF.OK {
		need("BTF", r.BTF.Error)
	}
	if r.Lockdown.Mode == "confidentiality" {
		need("lockdown", r.Lockdown.Effect)
	}
	if len(r.Missing) == known {
		need("BPF programs", r.Programs.Error)
	}
}

// needSignals: each threshold has somebody who watches it, and well enough.
func (r *Report) needSignals(o Options, need func(what, get string)) {
	thresholds, err := o.Config.Thresholds()
	if err != nil {
		need("configuration", err.Error()) // refused before, by who read it
		return
	}
	var told []signal.Signal
	for _, t := range thresholds {
		if slices.Contains(told, t.Signal) {
			continue
		}
		told = append(told, t.Signal)
		switch tier := r.tier(t.Signal); {
		case tier.Tier == TierNone:
			need(string(t.Signal), "nothing watches it: "+tier.Why)
		case t.Hard() && !t.Signal.Disk() && rank(tier.Tier) < rank(o.LeastTier):
			need(string(t.Signal), fmt.Sprintf("tier %s, and leastTier is %s: %s", tier.Tier, o.LeastTier, tier.Why))
		}
		if t.Signal == signal.AllocatablePIDAvailable && !r.Cgroup.Pids && r.Cgroup.Memory {
			need(string(t.Signal), "enable the pids controller")
		}
	}
}

// rank is how good a tier is, as the key leastTier has them: any hook is bpf.
func rank(tier string) int {
	switch tier {
	case "", record.TierPoll:
		return 0
	case "event":
		return 1
	}
	return 2
}

func (r *Report) tier(s signal.Signal) Tier {
	i := slices.IndexFunc(r.Tiers, func(t Tier) bool { return t.Signal == string(s) })
	return r.Tiers[i]
}

// needPaths: what the configuration names is there.
func needPaths(c *config.Config, fs *cgroupfs.FS, need func(what, get string)) {
	if _, err := agent.Roots(fs, c); err != nil {
		need("roots", err.Error())
	}
	dirs := agent.DiskPaths(c)
	for _, d := range []struct{ key, path string }{{"nodefs", dirs.NodeFs}, {"imagefs", dirs.ImageFs}, {"containerfs", dirs.ContainerFs}} {
		if d.path == "" {
			continue
		}
		if _, err := os.Stat(d.path); errors.Is(err, os.ErrNotExist) {
			need(d.key, fmt.Sprintf("%s does not exist: its signals would have no data", d.path))
		}
	}
}
