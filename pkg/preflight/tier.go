package preflight

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/fallback"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// expected is the time from a crossing to SIGKILL on a quiet machine, with SCHED_FIFO
// (docs/check.md has the sources).
var expected = map[string]time.Duration{
	record.TierCharge: 140 * time.Microsecond,
	record.TierAlloc:  140 * time.Microsecond,
	record.TierTask:   130 * time.Microsecond,
	record.TierEvent:  330 * time.Microsecond,
	record.TierPoll:   740 * time.Microsecond,
}

// diskLatency is the shortest pause between two readings of a filesystem (signal.Pace), 50 ms, and
// the most that was measured from the first one below the threshold (docs/bench/disk.md).
const diskLatency = (50 + 205) * time.Millisecond

const diskWhy = "statfs, then new figures: seconds where large trees grow or images are to be freed"

// backends is what was found to watch memory and tasks with.
type backends struct {
	memory, tasks       string
	memoryWhy, tasksWhy string
}

// tryPrograms loads all programs as `run` does.
func (r *Report) tryPrograms(o loader.Options) (b backends) {
	r.Backstop.Reach = "none"
	l, err := loader.Open(o)
	if err != nil {
		r.Programs.Error = words(err)
		if errors.Is(err, loader.ErrForeignBTF) {
			r.BTF.OK, r.BTF.Error = false, r.Programs.Error
		}
		return backends{memory: TierNone, tasks: TierNone, memoryWhy: r.Programs.Error, tasksWhy: r.Programs.Error}
	}
	defer func() { _ = l.Close() }()
	r.Programs.OK = true
	r.Backstop.Reach = reaches[l.Reach()]
	if r.Programs.Cgroups, err = l.Walk(); err != nil {
		r.Programs.OK, r.Programs.Error = false, fmt.Sprintf("walk the cgroups: %s", words(err))
	}
	b = backends{memory: l.MemoryTier(), tasks: record.TierTask, tasksWhy: "task:task_newtask"}
	b.memoryWhy = "page_counter_try_charge, always attached; kmem:mm_page_alloc for what nobody is charged for"
	if refused := l.ChargeRefused(); refused != nil {
		b.memoryWhy = "kmem:mm_page_alloc, attached while a wire is near; not bpf-charge: " + words(refused)
	}
	if err := l.Arm(); err != nil {
		r.Programs.OK, r.Programs.Error = false, words(err)
		b.memory, b.memoryWhy = TierNone, words(err)
	}
	return b
}

// reaches are the names of whom the backstop reaches.
var reaches = map[loader.Reach]string{loader.ReachNone: "none", loader.ReachSelf: "self", loader.ReachAll: "all"}

// words are an error's on one line, without cilium/ebpf's hint at a limit that counts before
// 5.11 alone.
func words(err error) string {
	text := strings.ReplaceAll(err.Error(), " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", "")
	return strings.ReplaceAll(text, "\n", "; ")
}

func tryFallback(fs *cgroupfs.FS, fsErr error, log zerolog.Logger) Fallback {
	if fsErr != nil {
		return Fallback{Memory: TierNone, Tasks: TierNone, MemoryWhy: fsErr.Error(), TasksWhy: fsErr.Error()}
	}
	w, err := fallback.Open(fallback.Options{FS: fs, Log: log})
	if err != nil {
		return Fallback{Memory: TierNone, Tasks: TierNone, MemoryWhy: err.Error(), TasksWhy: err.Error()}
	}
	defer func() { _ = w.Close() }()
	var f Fallback
	of := func(scope sample.Scope) (string, string) {
		tier, why := w.Tier(scope)
		if why != nil {
			return string(tier), words(why)
		}
		return string(tier), ""
	}
	f.Memory, f.MemoryWhy = of(sample.ScopeNodeMemory)
	f.Tasks, f.TasksWhy = of(sample.ScopeNodeTasks)
	return f
}

// instead puts the tiers without BPF where there is no better one.
func (b backends) instead(f Fallback) backends {
	if b.memory == TierNone {
		b.memory, b.memoryWhy = f.Memory, noBPF(f.MemoryWhy)
	}
	if b.tasks == TierNone {
		b.tasks, b.tasksWhy = f.Tasks, noBPF(f.TasksWhy)
	}
	return b
}

// noBPF is why a tier without BPF is none better. Why there is no BPF is said elsewhere.
func noBPF(why string) string { return strings.TrimSuffix("no BPF; "+why, "; ") }

func tiers(b backends) []Tier {
	all := make([]Tier, 0, len(signal.Names()))
	for _, s := range signal.Names() {
		t := Tier{Signal: string(s)}
		switch {
		case s.Disk():
			t.Tier, t.Why, t.ExpectedLatencyNs = record.TierPoll, diskWhy, diskLatency.Nanoseconds()
		case s.Memory():
			t.Tier, t.Why, t.ExpectedLatencyNs = b.memory, b.memoryWhy, expected[b.memory].Nanoseconds()
		default:
			t.Tier, t.Why, t.ExpectedLatencyNs = b.tasks, b.tasksWhy, expected[b.tasks].Nanoseconds()
		}
		all = append(all, t)
	}
	return all
}
