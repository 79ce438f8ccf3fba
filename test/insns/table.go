package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
)

const (
	tablePath = "docs/insns.json"
	pagePath  = "docs/insns.md"
)

// table holds the kernels by their name in test/vm.
type table map[string]count.Kernel

func loadTable(path string) (table, error) {
	t := table{}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	return t, nil
}

func (t table) save() error {
	raw, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(tablePath, append(raw, '\n'), 0o644),
		os.WriteFile(pagePath, []byte(t.page()), 0o644))
}

// kernels are the names by the versions in them, "newest" last.
func (t table) kernels() []string {
	var names []string
	for name := range t {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return slices.Compare(version(a), version(b)) })
	return names
}

func version(name string) []int {
	var numbers []int
	for part := range strings.SplitSeq(name, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return []int{1 << 30}
		}
		numbers = append(numbers, n)
	}
	return numbers
}

const preface = "<!-- Made by `make insns` from insns.json. -->\n" + `
# What the programs cost, in instructions

Counted in a VM whose emulated CPU takes one nanosecond of its own clock for each instruction
(QEMU's ` + "`-icount shift=0,sleep=off`, one CPU" + `): the load of the machine does not come in, and the
same build counts the same. Instructions are not time: a cache miss counts as one, and so does
each step of a string instruction. For time see ` + "`make bench`" + `.

The work is done by a process in a container's cgroup four levels deep, with a wire for the
node and one for the pods' root, of memory and of tasks each. ` + "`off`" + ` is the work without any
program; the others are what the programs add to it.

- **bpf-charge**: the hook of each batch of 64 pages (5.10: 32) that is charged to a cgroup, always
  attached. **bpf-alloc**: the hook of each allocation, attached while memory is near a wire. In
  both, forks have their own hook, always attached, which looks at one fork of 16 at most.
- **far**: the node's wires are far away; what a node pays that has memory.
- **near**: memory is within the margin of the wire (512 MiB) and far enough for the whole credit.
- **crossed**: the wires are passed, and each allocation and each fork has the programs look at
  all cgroups above it and at all wires: the most that they can cost, for the time between a
  crossing and the recovery.

` + "`make insns-check KERNEL=6.1`" + ` counts again and fails when a work with the programs takes more
than 5 % over this table; when what the programs add does, and more than 0.1 % of a fault or
1 % of a fork (two builds differ by so much in where things lie); and when bpf-charge adds
more than 60 instructions to a fault, except on 5.10. ` + "`make insns`" + ` writes the table anew.
`

var titles = map[string]string{
	count.Fault: "A page fault: 4 KiB of anonymous memory, with its part of mmap and munmap",
	count.Fork:  "A fork: vfork, exit and wait",
}

// page is the table for people.
func (t table) page() string {
	var text strings.Builder
	text.WriteString(preface)
	for _, work := range count.Works {
		fmt.Fprintf(&text, "\n## %s\n\n| kernel | %s |\n|---|%s\n", titles[work],
			strings.Join(count.States(), " | "), strings.Repeat("---:|", len(count.States())))
		for _, name := range t.kernels() {
			text.WriteString(t.row(name, work))
		}
	}
	text.WriteString("\n## Counted on\n\n| kernel | release | two passes apart: fault | fork |\n|---|---|---:|---:|\n")
	for _, name := range t.kernels() {
		k := t[name]
		fmt.Fprintf(&text, "| %s | %s | %.3f %% | %.3f %% |\n", name, k.Release, 100*k.Apart[count.Fault], 100*k.Apart[count.Fork])
	}
	return text.String()
}

func (t table) row(name, work string) string {
	k := t[name]
	row := fmt.Sprintf("| %s |", name)
	for _, state := range count.States() {
		if _, ok := k.Counts[work][state]; !ok {
			row += " – |"
			continue
		}
		if state == count.Off {
			row += fmt.Sprintf(" %.0f |", k.Counts[work][state])
			continue
		}
		extra := k.Extra(work, state)
		row += fmt.Sprintf(" %+.0f (%+.1f %%) |", extra, 100*extra/k.Counts[work][count.Off])
	}
	return row + "\n"
}
