// Command kernels writes docs/kernels.md from what `check -o json` said on each kernel: one
// file each, in the order of the table's rows.
//
//	go run ./test/kernels bin/kernels/{5.10,6.1}.json >docs/kernels.md
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/pkg/preflight"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(files []string, out io.Writer) error {
	var reports []preflight.Report
	for _, file := range files {
		r, err := read(file)
		if err != nil {
			return err
		}
		reports = append(reports, r)
	}
	_, err := io.WriteString(out, page(reports))
	return err
}

func read(file string) (r preflight.Report, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", file, err)
	}
	if r.Schema != preflight.Schema {
		return r, fmt.Errorf("read %s: schema %q, want %q", file, r.Schema, preflight.Schema)
	}
	return r, nil
}

const head = `# Kernels

What ` + "`ebpf-evict check`" + ` found on each kernel: measured, not looked up. The cloud kernels are Debian's, in
VMs with pure cgroup v2 and all rights ([test/vm](../test/vm)); the other one is the machine that made this
page. ` + "`make kernels`" + ` makes it anew. What the words mean: [check.md](check.md).
`

func page(reports []preflight.Report) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("\n| kernel | cgroup | memory | tasks | without BPF: memory, tasks | backstop | a unit dies by | scheduling | enforce |\n|" + strings.Repeat("---|", 9) + "\n")
	for i := range reports {
		b.WriteString(row(&reports[i]))
	}
	programs := programsOf(reports)
	b.WriteString("\n## Programs\n\nEach by itself; `run` needs them together. Why one is refused stands below.\n\n| program | hook |")
	for _, r := range reports {
		b.WriteString(" " + short(r.Kernel) + " |")
	}
	b.WriteString("\n|" + strings.Repeat("---|", 2+len(reports)) + "\n")
	for _, p := range programs {
		fmt.Fprintf(&b, "| %s | `%s` |", p.Program, p.Section)
		for i := range reports {
			b.WriteString(" " + verdict(&reports[i], p.Program) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString(words(reports))
	return b.String()
}

func row(r *preflight.Report) string {
	kill := "pidfds"
	if r.Cgroup.Kill {
		kill = "cgroup.kill"
	}
	enforce := "protects"
	if !r.Protects {
		var names []string
		for _, m := range r.Missing {
			names = append(names, m.What)
		}
		enforce = "lacks " + strings.Join(names, ", ")
	}
	cells := []string{
		r.Kernel, r.Cgroup.Version, tier(r, "memory.available"), tier(r, "pid.available"),
		r.Fallback.Memory + ", " + r.Fallback.Tasks, r.Backstop.Reach, kill, r.Scheduling.Class, enforce,
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

func tier(r *preflight.Report, signal string) string {
	for _, t := range r.Tiers {
		if t.Signal == signal {
			return t.Tier
		}
	}
	return "none"
}

// short is the version's numbers: "6.18.44" of 6.18.44-fc.
func short(release string) string {
	end := strings.IndexFunc(release, func(c rune) bool { return c != '.' && (c < '0' || c > '9') })
	if end < 0 {
		return release
	}
	return release[:end]
}

// programsOf are those of any report, hooks before what user space runs.
func programsOf(reports []preflight.Report) []preflight.Hook {
	var all []preflight.Hook
	for _, r := range reports {
		for _, h := range r.Hooks {
			if !slices.ContainsFunc(all, func(o preflight.Hook) bool { return o.Program == h.Program }) {
				all = append(all, h)
			}
		}
	}
	slices.SortFunc(all, func(a, b preflight.Hook) int {
		return cmp.Or(cmp.Compare(attached(b), attached(a)), strings.Compare(a.Program, b.Program))
	})
	return all
}

// attached is 1 for a program that has a hook.
func attached(h preflight.Hook) int {
	if strings.Contains(h.Section, "/") {
		return 1
	}
	return 0
}

func verdict(r *preflight.Report, program string) string {
	for _, h := range r.Hooks {
		switch {
		case h.Program != program:
		case h.Unused:
			return "unused"
		case h.OK:
			return "yes"
		default:
			return "no"
		}
	}
	return "–"
}

// words are those of the kernels on what they refuse: programs of one kernel with the same
// ones together.
func words(reports []preflight.Report) string {
	var b strings.Builder
	for _, r := range reports {
		of := map[string][]string{}
		var order []string
		for _, h := range r.Hooks {
			if h.OK || h.Unused {
				continue
			}
			if of[h.Error] == nil {
				order = append(order, h.Error)
			}
			of[h.Error] = append(of[h.Error], h.Program)
		}
		for _, text := range order {
			fmt.Fprintf(&b, "- %s, %s: `%s`\n", short(r.Kernel), strings.Join(of[text], ", "), strings.ReplaceAll(text, "`", "'"))
		}
		if !r.Programs.OK && r.Programs.Error != "" {
			fmt.Fprintf(&b, "- %s, all together: `%s`\n", short(r.Kernel), strings.ReplaceAll(r.Programs.Error, "`", "'"))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n## In the kernels' words\n\n" + b.String()
}
