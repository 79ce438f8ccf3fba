// Package config parses the configuration file and validates it before anything
// privileged happens. It speaks the kubelet's eviction grammar, so that the eviction part
// of a KubeletConfiguration can be pasted in.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The modes of the agent.
const (
	// ModeShadow decides and records, and never kills.
	ModeShadow = "shadow"
	// ModeEnforce kills.
	ModeEnforce = "enforce"
)

// The values of leastTier, best first.
const (
	LeastTierBPF   = "bpf"
	LeastTierEvent = "event"
	LeastTierPoll  = "poll"
)

// CompatKubelet is the value of compat that asks for the kubelet's own behaviour.
const CompatKubelet = "kubelet"

// maxFileBytes is far above any sensible configuration (a full one has about 2 KiB).
const maxFileBytes = 1 << 20

// Config is a validated configuration. Each field's key in the file is its name with a
// small first letter, unless its tag says otherwise ("-": it has no key).
type Config struct {
	// KubeletConfig is the absolute path of a KubeletConfiguration whose eviction settings
	// are inherited; default none. A key given in our own file outranks the kubelet's,
	// maps as a whole. What the kubelet's flags and its drop-in directory say is not seen.
	KubeletConfig string
	// Headroom is how far above the kubelet's thresholds ours lie, so that we act first.
	// It needs KubeletConfig, and raises inherited hard and soft thresholds only; the
	// fields below hold the raised ones.
	Headroom Headroom

	// EvictionHard maps signals to quantities or percentages. nil means the kubelet's
	// defaults, an empty map none.
	EvictionHard map[string]string
	// EvictionSoft is as EvictionHard; each needs an EvictionSoftGracePeriod.
	EvictionSoft map[string]string
	// EvictionSoftGracePeriod maps signals to Go durations such as "1m30s".
	EvictionSoftGracePeriod map[string]string
	// EvictionMinimumReclaim maps signals to quantities or percentages.
	EvictionMinimumReclaim map[string]string
	// EvictionMaxPodGracePeriod is in seconds and for soft evictions only; default 0.
	EvictionMaxPodGracePeriod int32
	// EvictionPressureTransitionPeriod is how long a condition stays after its threshold
	// was last met. Default 5m, which also replaces 0.
	EvictionPressureTransitionPeriod time.Duration
	// MergeDefaultEvictionSettings adds the defaults of the signals that EvictionHard
	// does not name. It is inherited with EvictionHard, never without.
	MergeDefaultEvictionSettings bool
	// EnforceNodeAllocatable with "pods" in it, the default, copies hard
	// memory.available thresholds to allocatableMemory.available.
	EnforceNodeAllocatable []string
	// LocalStorageCapacityIsolation is about emptyDir and ephemeral-storage limits;
	// default true.
	LocalStorageCapacityIsolation bool

	// Mode is ModeShadow, the default, or ModeEnforce.
	Mode string
	// Roots are clean absolute cgroup paths below which units may be evicted.
	Roots []string
	// RootsGiven tells Roots of the file, which must exist, from the default and the
	// inherited ones, of which those that exist are used.
	RootsGiven bool `key:"-"`
	// Compat is empty or CompatKubelet.
	Compat string
	// Journal, State and Workloads are absolute paths of the files of these names.
	Journal, State, Workloads string
	// TableOwner is the uid that must own the Workloads file; default 0.
	TableOwner uint32
	// AllowEvictFirst lets the mark "evict": "first" of the Workloads file count; default
	// false. "never" always counts.
	AllowEvictFirst bool
	// Nodefs is the kubelet's root directory, whose filesystem the nodefs signals are
	// about; default /var/lib/kubelet.
	Nodefs string
	// NodefsGiven tells Nodefs of the file from the default. It is never inherited: the
	// directory is a flag of the kubelet (--root-dir), and no key of a KubeletConfiguration.
	NodefsGiven bool `key:"-"`
	// Imagefs is the directory of the container runtime's images; default what the disk
	// figures name, else /var/lib/containerd.
	Imagefs string
	// ImagefsGiven tells Imagefs of the file from the default.
	ImagefsGiven bool `key:"-"`
	// Containerfs is the directory of the writable layers where the runtime keeps them
	// apart from the images. Empty, the default, means what the disk figures name where
	// Imagefs is not given either, and else that it does not.
	Containerfs string
	// Disk is the absolute path of the disk figures that "ebpf-evict disk" writes.
	Disk string
	// DiskDirectories are the directories that units fill which are no pods, by globs
	// (path.Match) of their cgroup paths. "ebpf-evict disk" reads it at its start.
	DiskDirectories map[string][]string
	// ContainerRuntimeEndpoint is the runtime's CRI socket, which "ebpf-evict disk" asks;
	// empty, the default: the first well-known one that is there.
	ContainerRuntimeEndpoint string
	// ImageMinimumGCAge is how long an unused image stays at the least; default 2m.
	ImageMinimumGCAge time.Duration
	// PodLogsDir is the kubelet's directory of the pods' logs; default /var/log/pods.
	PodLogsDir string
	// Reclaim is the absolute path of the request for node-level reclaim that "ebpf-evict
	// disk" reads.
	Reclaim string
	// ReclaimDeadline is how long an eviction for a disk waits for dead containers and
	// unused images to go; default 10s. 0: nothing goes before units do.
	ReclaimDeadline time.Duration
	// Hugepages takes the pages reserved as huge pages from memory.available, as the
	// kubelet has done since v1.37 (kubernetes#137984); default true.
	Hugepages bool
	// Protect are globs (path.Match) of units that are never killed.
	Protect []string
	Budget  Budget
	Drill   Drill
	// Backstop is the kernel's part when the agent does not act in time.
	Backstop Backstop
	// LeastTier is the least that may watch a signal with a hard threshold in enforce mode: where
	// the start finds less, it is refused. LeastTierPoll, the default, never refuses.
	LeastTier string
	// MaxFillBytesPerSecond is the fastest rate at which memory could fill. 0, the
	// default, means that it is derived from the number of CPUs.
	MaxFillBytesPerSecond int64 `key:"fillBytesPerSecond"`
	// MarginBytes is how far from a wire the hot hook is attached at the latest. 0, the
	// default, leaves it to the agent.
	MarginBytes int64
	// BTF is the absolute path of a file with this kernel's types, for where
	// /sys/kernel/btf is hidden; default none.
	BTF string `key:"btf"`
}

// Budget limits the kills. 0 means no kill at all.
type Budget struct {
	KillsPerMinute int // default 20
	KillsPerHour   int // default 120
}

// Drill says when the agent holds a drill by itself.
type Drill struct {
	// AtStart: once it watches; default true. Where it fails an enforcing agent ends.
	AtStart bool
	// Every is between two drills, from 1s on; 0 is never. Default 1h.
	Every time.Duration
}

// Backstop lets the kernel kill the unit that the agent would evict. In shadow mode it is
// off, whatever this says.
type Backstop struct {
	// Enabled is true by default.
	Enabled bool
	// Grace is what the kernel leaves to the agent after a crossing; default 1ms, 0 for
	// none, else from MinGrace to MaxGrace.
	Grace time.Duration
}

// MinGrace is the shortest grace that is one: the kernel takes as long itself until it tries
// again (RETRY_NS of bpf/backstop.h), and an agent to wake up (47 µs). Who wants less wants 0.
const MinGrace = 50 * time.Microsecond

// MaxGrace is the longest grace of the backstop, and for how long it may act after the
// agent's last healthy pass.
const MaxGrace = 10 * time.Second

// Default returns the configuration of an empty file. Callers may change it.
func Default() *Config {
	return &Config{
		EvictionPressureTransitionPeriod: defaultTransitionPeriod,
		EnforceNodeAllocatable:           []string{"pods"},
		LocalStorageCapacityIsolation:    true,
		Mode:                             ModeShadow,
		Roots:                            podRoots("", true),
		Journal:                          "/run/ebpf-evict/agent/journal.jsonl",
		State:                            "/run/ebpf-evict/agent/state.json",
		Workloads:                        "/run/ebpf-evict/table/workloads.json",
		Nodefs:                           "/var/lib/kubelet",
		Imagefs:                          "/var/lib/containerd",
		ImageMinimumGCAge:                defaultImageAge,
		PodLogsDir:                       "/var/log/pods",
		Disk:                             "/run/ebpf-evict/disk/disk.json",
		Reclaim:                          "/run/ebpf-evict/agent/reclaim.json",
		ReclaimDeadline:                  10 * time.Second,
		Hugepages:                        true,
		Budget:                           Budget{KillsPerMinute: 20, KillsPerHour: 120},
		Drill:                            Drill{AtStart: true, Every: time.Hour},
		LeastTier:                        LeastTierPoll,
		Backstop:                         Backstop{Enabled: true, Grace: time.Millisecond},
	}
}

// The kubelet's.
const (
	defaultTransitionPeriod = 5 * time.Minute
	defaultImageAge         = 2 * time.Minute
)

// Load reads and parses a file, and the KubeletConfiguration it names. A file that can't
// be read is an error of package os; one that is not accepted is an *Error, or an error of
// the YAML parser. Two calls return values that share nothing.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// LoadOwn reads what the file itself says, for who needs its paths alone: the kubelet's file, which
// not everybody may read, is left alone. What would be inherited has its default, and thresholds are
// not validated. Errors are as in Load.
func LoadOwn(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	c, _, err := parseOwn(data)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// readFile does not hang on a fifo and does not read more than maxFileBytes.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = fmt.Errorf("larger than %d bytes", maxFileBytes)
	}
	return data, err
}

// Error says which key is wrong and what would be accepted.
type Error struct {
	Key string
	// Value is what the file says; empty when the key itself is wrong or is missing.
	Value string
	// Unknown says that the key is none ("no such key").
	Unknown string
	// Want is the accepted form.
	Want string
}

func (e *Error) Error() string {
	if e.Unknown != "" {
		return fmt.Sprintf("%s: %s, want %s", e.Key, e.Unknown, e.Want)
	}
	if e.Value == "" {
		return fmt.Sprintf("%s: want %s", e.Key, e.Want)
	}
	return fmt.Sprintf("%s: %s is not accepted, want %s", e.Key, e.Value, e.Want)
}
