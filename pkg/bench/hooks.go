package bench

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Hook is a BPF program of the agent.
type Hook struct {
	Program  string  `json:"program"`
	NsPerRun float64 `json:"nsPerRun"`
	Runs     uint64  `json:"runs"`
}

// statsRunTime is BPF_STATS_RUN_TIME.
const statsRunTime = 0

// programs are the BPF programs that are loaded on the machine.
type programs map[ebpf.ProgramID]bool

func loadedPrograms() (programs, error) {
	all := programs{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list BPF programs: %w", err)
		}
		id, all[next] = next, true
	}
}

// attachedSince names the programs that were loaded after before and have a link: what the
// kernel says, as bpftool does.
func attachedSince(before programs) (names []string, err error) {
	links := new(link.Iterator)
	defer links.Close()
	for links.Next() {
		info, err := links.Link.Info()
		if err != nil || before[info.Program] {
			continue // gone meanwhile, or somebody else's
		}
		if name := programName(info.Program); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), links.Err()
}

// programName is empty for a program that is gone.
func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer func() { _ = p.Close() }()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// hooksSince are the programs that were loaded after before and ran, most runs first.
func hooksSince(before programs) (hooks []Hook, err error) {
	now, err := loadedPrograms()
	if err != nil {
		return nil, err
	}
	for id := range now {
		if before[id] {
			continue
		}
		if h, ok := hookOf(id); ok {
			hooks = append(hooks, h)
		}
	}
	slices.SortFunc(hooks, func(a, b Hook) int {
		return cmp.Or(cmp.Compare(b.Runs, a.Runs), cmp.Compare(a.Program, b.Program))
	})
	return hooks, nil
}

func hookOf(id ebpf.ProgramID) (Hook, bool) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return Hook{}, false
	}
	defer func() { _ = p.Close() }()
	info, infoErr := p.Info()
	stats, err := p.Stats()
	if infoErr != nil || err != nil || stats.RunCount == 0 {
		return Hook{}, false
	}
	return Hook{Program: info.Name, NsPerRun: float64(stats.Runtime) / float64(stats.RunCount), Runs: stats.RunCount}, true
}
