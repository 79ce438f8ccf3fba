package preflight

import "encoding/json"

// Schema names the format of a Report (docs/check.md).
const Schema = "ebpf-evict/check/v1"

// Report is what was found. Where something has Error, it holds the words of who refused.
type Report struct {
	Schema        string        `json:"schema"`
	Kernel        string        `json:"kernel"` // uname -r
	Arch          string        `json:"arch"`   // GOARCH
	BTF           BTF           `json:"btf"`
	Capabilities  []Capability  `json:"capabilities"`
	Lockdown      Lockdown      `json:"lockdown"`
	Cgroup        Cgroup        `json:"cgroup"`
	Hooks         []Hook        `json:"hooks"`
	Programs      Programs      `json:"programs"`
	Fallback      Fallback      `json:"fallback"`
	Scheduling    Scheduling    `json:"scheduling"`
	MemoryLocking MemoryLocking `json:"memoryLocking"`
	Backstop      Backstop      `json:"backstop"`
	Drill         Drill         `json:"drill"`
	DiskFigures   DiskFigures   `json:"diskFigures"`
	WorkloadTable WorkloadTable `json:"workloadTable"`
	Tiers         []Tier        `json:"tiers"`
	// Protects: with this configuration `run --mode enforce` starts and watches every
	// threshold.
	Protects bool      `json:"protects"`
	Missing  []Missing `json:"missing"`
}

// BTF is where the kernel's types are.
type BTF struct {
	OK   bool   `json:"ok"`
	File string `json:"file"`
	// Error is what is wrong with it.
	Error string `json:"error,omitempty"`
}

// Capability is one right of this process in the initial user namespace.
type Capability struct {
	Name string `json:"name"`
	Held bool   `json:"held"`
	// Use is what it is for.
	Use string `json:"use"`
}

// Lockdown is the mode of the kernel's lockdown: none, integrity, confidentiality, or
// unknown.
type Lockdown struct {
	Mode string `json:"mode"`
	// Effect is what of ours it forbids.
	Effect string `json:"effect,omitempty"`
}

// Cgroup is the host's cgroups.
type Cgroup struct {
	// Version is that of the memory controller, v1 or v2.
	Version     string   `json:"version,omitempty"`
	Controllers []string `json:"controllers"`
	Memory      bool     `json:"memory"`
	Pids        bool     `json:"pids"`
	// Kill: the kernel has cgroup.kill (v2, 5.14); else units die by pidfds.
	Kill bool `json:"kill"`
	// Namespace is host, or own: the process is in a cgroup namespace of its own.
	Namespace string `json:"namespace,omitempty"`
	// Delegated: what is mounted begins below the top of a hierarchy.
	Delegated bool `json:"delegated,omitempty"`
	// Effect is what these two take from the agent.
	Effect string `json:"effect,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Hook is one program of bpf/.
type Hook struct {
	Program string `json:"program"`
	// Section is the hook, such as tp_btf/mm_page_alloc; raw_tp and syscall have none.
	Section string `json:"section"`
	OK      bool   `json:"ok"`
	// Unused: on this kernel another one does its work.
	Unused bool   `json:"unused,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Programs is whether they run together, as `run` needs them.
type Programs struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Cgroups is how many memory cgroups the table has.
	Cgroups int `json:"cgroups"`
}

// Fallback is what memory and tasks would be watched with without BPF: event or poll, and
// if poll, why.
type Fallback struct {
	Memory    string `json:"memory"`
	MemoryWhy string `json:"memoryWhy,omitempty"`
	Tasks     string `json:"tasks"`
	TasksWhy  string `json:"tasksWhy,omitempty"`
}

// Scheduling is the class that the hot thread gets.
type Scheduling struct {
	OK    bool   `json:"ok"` // SCHED_FIFO
	Class string `json:"class"`
	Error string `json:"error,omitempty"`
}

// MemoryLocking is whether mlockall is permitted.
type MemoryLocking struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// Backstop is whom the kernel reaches in the place of an agent that stalls: all, self (who
// allocates or forks) or none.
type Backstop struct {
	Reach string `json:"reach"`
}

// Drill is whether canaries can get their cgroups.
type Drill struct {
	Possible bool   `json:"possible"`
	Error    string `json:"error,omitempty"`
}

// DiskFigures is whether a disk process tells who uses the disks. Without it the thresholds
// and limits of disks kill nobody.
type DiskFigures struct {
	// Wanted: the configuration has a threshold or enforces limits of a disk.
	Wanted bool `json:"wanted"`
	OK     bool `json:"ok"`
	// AgeSeconds is since they were written, OldestSeconds since the oldest figure was read.
	AgeSeconds    float64 `json:"ageSeconds,omitempty"`
	OldestSeconds float64 `json:"oldestSeconds,omitempty"`
	// Workloads is of how many units there are figures.
	Workloads int `json:"workloads"`
	// MissingDirectories are those of diskDirectories that are not there: the units that they
	// are for have no figures.
	MissingDirectories []string `json:"missingDirectories,omitempty"`
	Error              string   `json:"error,omitempty"`
}

// WorkloadTable is whether somebody tells what the pods are.
type WorkloadTable struct {
	// Wanted: the units below the roots are pods, or would be.
	Wanted bool `json:"wanted"`
	OK     bool `json:"ok"`
	// AgeSeconds is since it was written, which it is when pods change.
	AgeSeconds float64 `json:"ageSeconds,omitempty"`
	Workloads  int     `json:"workloads"`
	Generation uint64  `json:"generation,omitempty"`
	Error      string  `json:"error,omitempty"`
	// Effect is what follows where it is wanted and there is none.
	Effect string `json:"effect,omitempty"`
}

// Tier is what a signal is watched with: bpf-charge, bpf-alloc, bpf-task, event, poll or none.
type Tier struct {
	Signal string `json:"signal"`
	Tier   string `json:"tier"`
	// ExpectedLatencyNs is from a crossing to SIGKILL on a quiet machine: the median of
	// memory and tasks, the most that was measured of disks. docs/check.md has the sources.
	ExpectedLatencyNs int64 `json:"expectedLatencyNs,omitempty"`
	// Why it is this tier and no better one.
	Why string `json:"why,omitempty"`
}

// TierNone: the signal is not watched.
const TierNone = "none"

// Missing is something without which the node is not protected, and how to get it.
type Missing struct {
	What string `json:"what"`
	Get  string `json:"get"`
}

// Encode is the report as `check -o json` prints it.
func (r *Report) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}
