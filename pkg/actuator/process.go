package actuator

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Process is a process by its number, which may be another's later, and by its start, which
// can't: field 22 of /proc/PID/stat, 1/100 s since the boot.
type Process struct {
	PID        int
	StartTicks uint64
	rssPages   int64
}

// maxLooked is how many of a unit's processes Largest looks at: 20 µs each.
const maxLooked = 64

// Largest returns the unit's processes that hold most memory, up to most of them, of the
// first maxLooked. What ends meanwhile is left out. Reads text, off the hot path.
func (h *Handle) Largest(most int) ([]Process, error) {
	var (
		found []Process
		pids  []int
		err   error
	)
	for _, t := range h.targets {
		if pids, err = t.Procs(pids[:0]); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			return nil, err
		}
		for _, pid := range pids[:min(len(pids), maxLooked-len(found))] {
			if p, err := readProcess(pid); err == nil {
				found = append(found, p)
			}
		}
	}
	slices.SortStableFunc(found, func(x, y Process) int { return cmp.Compare(y.rssPages, x.rssPages) })
	return found[:min(len(found), most)], nil
}

func readProcess(pid int) (Process, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, err
	}
	return parseStat(pid, stat)
}

// parseStat reads /proc/PID/stat. The name in parentheses may hold anything.
//
//	4242 (a (b) c) S 1 4242 4242 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 5124563 2334720 193 18446744073709551615 ...
func parseStat(pid int, stat []byte) (p Process, err error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from the third on
	const start, rss = 22 - 3, 24 - 3
	if len(fields) <= rss {
		return p, fmt.Errorf("parse /proc/%d/stat: %d fields", pid, len(fields))
	}
	p.PID = pid
	if p.StartTicks, err = strconv.ParseUint(string(fields[start]), 10, 64); err != nil {
		return p, fmt.Errorf("parse /proc/%d/stat: %w", pid, err)
	}
	if p.rssPages, err = strconv.ParseInt(string(fields[rss]), 10, 64); err != nil {
		return p, fmt.Errorf("parse /proc/%d/stat: %w", pid, err)
	}
	return p, nil
}
