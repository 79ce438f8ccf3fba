package preflight

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rights are the capabilities that the agent makes use of, and what for. Each was taken from
// it once to see what is lost. None is about reading other processes: cgroup files and
// /proc/PID/{stat,statm,cgroup} are open to all.
var rights = []struct {
	bit  int
	name string
	use  string
}{
	{unix.CAP_BPF, "CAP_BPF", "load BPF programs and maps (before 5.8, or instead: CAP_SYS_ADMIN)"},
	{unix.CAP_PERFMON, "CAP_PERFMON", "have them trace, and read kernel memory (before 5.8, or instead: CAP_SYS_ADMIN)"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "give the canary of a drill a PID namespace of its own; mount a bpffs at /sys/fs/bpf where there is none"},
	{unix.CAP_KILL, "CAP_KILL", "kill units of other users"},
	{unix.CAP_SYS_NICE, "CAP_SYS_NICE", "SCHED_FIFO for the hot thread"},
	{unix.CAP_IPC_LOCK, "CAP_IPC_LOCK", "lock the agent's memory"},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", "lower oom_score_adj; raise the memlock limit that counts for BPF before 5.11"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "make cgroups at the top, where drills have theirs; write to cgroups that were delegated to users"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "find a cgroup that is new at a crossing by its id"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "hear of forks by the proc connector, where task:task_newtask is not to be had"},
}

// userNamespace is /proc/self/ns/user of the initial one (include/linux/proc_ns.h,
// PROC_USER_INIT_INO). In another one capabilities count for nothing here.
const userNamespace = "user:[4026531837]"

func capabilities(root string) []Capability {
	effective, err := effectiveOf(filepath.Join(root, "/proc/self/status"))
	if ns, nsErr := os.Readlink(filepath.Join(root, "/proc/self/ns/user")); err != nil || nsErr == nil && ns != userNamespace {
		effective = 0
	}
	caps := make([]Capability, len(rights))
	for i, r := range rights {
		caps[i] = Capability{Name: r.name, Held: effective&(1<<r.bit) != 0, Use: r.use}
	}
	return caps
}

// effectiveOf reads the capabilities that count.
//
//	CapEff:	000001ffffffffff
func effectiveOf(status string) (uint64, error) {
	text, err := os.ReadFile(status)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, fmt.Errorf("%s has no CapEff", status)
}

func held(caps []Capability, name string) bool {
	for _, c := range caps {
		if c.Name == name {
			return c.Held
		}
	}
	return false
}
