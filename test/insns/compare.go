package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
)

const (
	// tolerance is by what share a change may exceed the table: of a work with the programs,
	// and of what the programs add to it.
	tolerance = 0.05
	// chargeMost is how many instructions bpf-charge, which is always attached, may add to a
	// page fault, whatever the table says.
	chargeMost = 60
	// loud is by what share of a work two passes may differ for the count to mean anything.
	loud = 0.02
)

// noise is by what share of a work a figure may differ when nothing of ours has changed but
// where things lie: seen were 0.02 % of faults (5.10: 0.1 %), and of forks 0.2 % on 6.1 and
// 6.18, 0.9 % on 6.12 and 7.3.
var noise = map[string]float64{count.Fault: 0.001, count.Fork: 0.01}

// comparison is of what was counted with what the table says.
type comparison struct {
	now, table count.Kernel
	complaints []string
}

func compare(table, now count.Kernel) comparison {
	c := comparison{now: now, table: table}
	for _, w := range count.Works {
		if now.Apart[w] > loud {
			c.complain("%s: two passes differ by %.1f %%: the guest was not quiet", w, 100*now.Apart[w])
		}
		for _, state := range count.States() {
			c.judge(w, state)
		}
	}
	charge := count.Tiers[0].State(count.Far)
	if extra := now.Extra(count.Fault, charge); extra > chargeMost && hasBatchesOf64(now.Release) {
		c.complain("%s %s: the programs add %+.1f instructions, at most %d are allowed", count.Fault, charge, extra, chargeMost)
	}
	return c
}

// hasBatchesOf64: 32 pages were charged at once before (MEMCG_CHARGE_BATCH, 6.1).
func hasBatchesOf64(release string) bool { return !strings.HasPrefix(release, "5.") }

func (c *comparison) complain(format string, args ...any) {
	c.complaints = append(c.complaints, fmt.Sprintf(format, args...))
}

func (c *comparison) judge(work, state string) {
	now, counted := c.now.Counts[work][state]
	former, known := c.table.Counts[work][state]
	if !counted || !known {
		c.complain("%s %s: counted %t, in the table %t", work, state, counted, known)
		return
	}
	if state == count.Off {
		return // the kernel's, not ours
	}
	// Of another build of the kernel the work itself differs.
	if c.now.Release == c.table.Release && now > former*(1+tolerance) {
		c.complain("%s %s: %.0f instructions, %.0f in the table", work, state, now, former)
		return
	}
	extra, formerExtra := c.now.Extra(work, state), c.table.Extra(work, state)
	if extra > formerExtra+max(tolerance*formerExtra, noise[work]*c.now.Counts[work][count.Off]) {
		c.complain("%s %s: the programs add %+.1f instructions, %+.1f in the table", work, state, extra, formerExtra)
	}
}

// String is a table for people.
func (c comparison) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "per\tstate\tinstructions\ttable\tchange\tadded\ttable\tchange\t")
	for _, work := range count.Works {
		for _, state := range count.States() {
			now, former := c.now.Counts[work][state], c.table.Counts[work][state]
			extra, formerExtra := c.now.Extra(work, state), c.table.Extra(work, state)
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%+.2f %%\t%+.1f\t%+.1f\t%+.1f\t\n",
				work, state, now, former, percent(now, former), extra, formerExtra, extra-formerExtra)
		}
	}
	w.Flush() //nolint:errcheck // into memory
	for _, work := range count.Works {
		fmt.Fprintf(&text, "two passes of %s lie %.3f %% apart\n", work, 100*c.now.Apart[work])
	}
	if c.table.Release != "" && c.table.Release != c.now.Release {
		fmt.Fprintf(&text, "the table was counted on %s: only what the programs add is compared\n", c.table.Release)
	}
	return strings.TrimRight(text.String(), "\n")
}

func percent(now, former float64) float64 {
	if former == 0 {
		return 0 // not in the table
	}
	return 100 * (now/former - 1)
}
