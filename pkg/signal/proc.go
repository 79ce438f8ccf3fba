package signal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Proc reads the node's counters from procfs: the second source, for a reading of BPF
// that is not believed. It is plain text and costs tens of microseconds. Goroutines may
// share it.
type Proc struct {
	root string
	// ignoreHugepages leaves sample.Node.HugepagesBytes zero.
	ignoreHugepages bool
}

// NewProc reads below root, "/proc" on a live node.
func NewProc(root string) Proc { return Proc{root: root} }

// IgnoreHugepages returns a reader that takes the hugetlb pools for available memory, as
// the kubelet did before 1.37.
func (p Proc) IgnoreHugepages() Proc {
	p.ignoreHugepages = true
	return p
}

// Node reads memory and tasks, dated before the first file is read. A part that can't be
// read is left zero, which MemoryAvailableOf and PIDAvailableOf refuse, and named in the
// error, which wraps ErrNoData; the other part holds all the same.
func (p Proc) Node() (sample.Node, error) {
	n := sample.Node{Ns: sample.Now()}
	return n, errors.Join(p.memory(&n), p.tasks(&n))
}

func (p Proc) memory(n *sample.Node) error {
	m, err := readFile(p.root, "meminfo", parseMeminfo)
	if err != nil {
		return err
	}
	n.MemTotalBytes, n.AnonBytes, n.InactiveFileBytes = m.total, m.anon, m.inactiveFile
	// fs/proc/meminfo.c: Cached = NR_FILE_PAGES - SwapCached - Buffers.
	n.FileBytes = m.cached + m.buffers + m.swapCached
	if !p.ignoreHugepages {
		n.HugepagesBytes = m.hugetlb
	}
	return nil
}

func (p Proc) tasks(n *sample.Node) error {
	count, err := readFile(p.root, "loadavg", parseLoadavg)
	if err != nil {
		return err
	}
	limit, err := p.tasksMax()
	if err != nil {
		return err
	}
	n.Tasks, n.TasksMax = count, limit
	return nil
}

// tasksMax is the smaller of the two limits, or the one that exists. Since 6.14 pid_max
// belongs to a pid namespace; this file still holds that of the initial one when read
// from there.
func (p Proc) tasksMax() (int64, error) {
	pidMax, err := readFile(p.root, "sys/kernel/pid_max", parseCount)
	threadsMax, err2 := readFile(p.root, "sys/kernel/threads-max", parseCount)
	switch {
	case errors.Is(err, fs.ErrNotExist) && err2 == nil:
		return threadsMax, nil
	case errors.Is(err2, fs.ErrNotExist) && err == nil:
		return pidMax, nil
	case err != nil || err2 != nil:
		return 0, errors.Join(err, err2)
	}
	return min(pidMax, threadsMax), nil
}

func readFile[T any](root, name string, parse func([]byte) (T, error)) (T, error) {
	var none T
	path := filepath.Join(root, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return none, fmt.Errorf("%w: %w", err, ErrNoData) // err names the path
	}
	v, err := parse(data)
	if err != nil {
		return none, fmt.Errorf("parse %s: %w", path, err)
	}
	return v, nil
}

// meminfo is what memory.available needs of /proc/meminfo, in bytes.
type meminfo struct {
	total, buffers, cached, swapCached, anon, inactiveFile, hugetlb int64
}

// parseMeminfo reads six lines, which every kernel has had since 2.6.28, and one that is
// absent where the machine has no huge pages: the pools of all sizes, free pages included
// (mm/hugetlb.c:hugetlb_report_meminfo, since 4.16).
//
//	MemTotal:       24684096 kB
//	Buffers:            1192 kB
//	Cached:            52596 kB
//	SwapCached:            0 kB
//	Inactive(file):    18140 kB
//	AnonPages:          6700 kB
//	Hugetlb:         2097152 kB
func parseMeminfo(data []byte) (meminfo, error) {
	var m meminfo
	missing := map[string]*int64{
		"MemTotal": &m.total, "Buffers": &m.buffers, "Cached": &m.cached,
		"SwapCached": &m.swapCached, "Inactive(file)": &m.inactiveFile, "AnonPages": &m.anon,
		"Hugetlb": &m.hugetlb,
	}
	for line := range bytes.Lines(data) {
		key, rest, _ := bytes.Cut(line, []byte(":"))
		field := missing[string(key)]
		if field == nil {
			continue
		}
		value, ok := bytes.CutSuffix(bytes.TrimSpace(rest), []byte(" kB"))
		kib, err := parseCount(value)
		if !ok || err != nil || kib > maxKiB {
			return meminfo{}, fmt.Errorf("line %q: %w", line, ErrNoData)
		}
		*field = kib << 10
		delete(missing, string(key))
	}
	delete(missing, "Hugetlb")
	for key := range missing {
		return meminfo{}, fmt.Errorf("no %s: %w", key, ErrNoData)
	}
	return m, nil
}

// maxKiB is 2^60 bytes: more than any machine has, and three of them add up without
// overflow.
const maxKiB = 1 << 50

// parseLoadavg returns the tasks that exist, zombies included, from the part of the
// fourth field after the slash:
//
//	0.00 0.08 0.07 1/88 7298
func parseLoadavg(data []byte) (int64, error) {
	fields := bytes.Fields(data)
	if len(fields) != 5 {
		return 0, fmt.Errorf("%q: %w", data, ErrNoData)
	}
	_, tasks, _ := bytes.Cut(fields[3], []byte("/"))
	return parseCount(tasks)
}

// parseCount reads one number that is not negative, as in kernel/pid_max:
//
//	32768
func parseCount(data []byte) (int64, error) {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", data, ErrNoData)
	}
	return int64(n), nil
}
