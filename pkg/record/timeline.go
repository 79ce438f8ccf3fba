package record

import (
	"fmt"
	"slices"
	"strings"
)

// RenderTimeline tells an eviction or kill line as a block of aligned rows for people:
// what crossed, each stage since the crossing and since the stage before, the overshoot,
// the victim and why it ranked first. It ends with a newline.
func RenderTimeline(l *Line) string {
	var p page
	p.head("%s", crossing(l))
	p.stages(l)
	if l.OvershootBytes != nil {
		p.row("overshoot", "%10s below the threshold at the worst", FormatBytes(*l.OvershootBytes))
	}
	if r := l.Reclaim; r != nil {
		p.row("reclaim", "%s", r)
	}
	if v := l.Victim; v != nil {
		p.row("victim", "%s", victim(v))
		if len(l.Ranked) == 0 && l.Message != "" { // for a limit of its own
			p.row("why", "%s", strings.TrimSpace(l.Message))
			return p.String()
		}
		p.row("why first", "%s", WhyFirst(l))
	}
	return p.String()
}

// page is rows of a label and a text, one line each.
type page struct{ strings.Builder }

func (p *page) head(format string, args ...any) {
	fmt.Fprintln(p, Printable(fmt.Sprintf(format, args...)))
}

func (p *page) row(label, format string, args ...any) {
	fmt.Fprintf(p, "  %-14s %s\n", label, Printable(fmt.Sprintf(format, args...)))
}

const (
	labelAsked   = "SIGTERM"
	labelWoke    = "woke"
	labelDecided = "decided"
)

func (p *page) stages(l *Line) {
	if l.Timeline == nil {
		return
	}
	t := l.Timeline
	missing := "not reached"
	if l.Kind == KindKill {
		missing = "not yet"
	}
	var first, last uint64
	for _, s := range []struct {
		label string
		ns    uint64
	}{
		{"crossed", t.Crossed}, {labelWoke, t.Woke}, {labelDecided, t.Decided}, {labelAsked, t.Asked}, {"SIGKILL", t.Signalled},
		{"all signalled", t.SignalledAll}, {"dead", t.Dead}, {back(l.Signal), t.Recovered},
	} {
		switch {
		case s.ns == 0 && s.label == labelAsked: // of soft evictions alone
			continue
		case s.label == back(l.Signal) && isLimit(l.Signal): // nothing of the node was short
			continue
		case s.ns == 0 && l.By == ByBackstop && (s.label == labelWoke || s.label == labelDecided): // no stages of the kernel's
			continue
		case s.ns == 0:
			p.row(s.label, "%10s", missing)
			continue
		case first == 0:
			first = s.ns
			p.row(s.label, "%10s", FormatNs(0))
		default:
			p.row(s.label, "%10s  %11s", FormatNs(int64(s.ns-first)), plus(int64(s.ns-last)))
		}
		last = s.ns
	}
}

// String says what was freed, for people.
func (r *Reclaim) String() string {
	parts := []string{fmt.Sprintf("%d containers and %d images removed", r.Containers, r.Images)}
	if r.FreedBytes != nil {
		parts = append(parts, FormatBytes(*r.FreedBytes)+" freed")
	}
	if r.FreedInodes != nil {
		parts = append(parts, fmt.Sprintf("%d inodes freed", *r.FreedInodes))
	}
	if r.TookNs != 0 {
		parts = append(parts, "in "+FormatNs(int64(r.TookNs)))
	}
	if r.Error != "" {
		parts = append(parts, r.Error)
	}
	return strings.Join(parts, ", ")
}

func plus(ns int64) string {
	if ns < 0 {
		return FormatNs(ns)
	}
	return "+" + FormatNs(ns)
}

// isLimit reports whether a line is about a limit of the unit's own.
func isLimit(signal string) bool { return strings.HasSuffix(signal, ".limit") }

// back labels the recovery by what the signal counts.
func back(signal string) string { return counts(signal) + " back" }

func counts(signal string) string {
	switch {
	case strings.Contains(signal, "emory"):
		return "memory"
	case strings.Contains(strings.ToLower(signal), "pid"):
		return "tasks"
	case strings.HasSuffix(signal, "inodesFree"):
		return "inodes"
	}
	return "space"
}

// crossing says what was seen against which threshold.
func crossing(l *Line) string {
	s := l.Signal
	if o := l.Observed; o != nil && isLimit(s) {
		return fmt.Sprintf("%s %s exceeded by %s", s, FormatBytes(o.Capacity), FormatBytes(-o.Available))
	} else if o != nil {
		s += fmt.Sprintf(" %s of %s", l.amount(o.Available), l.amount(o.Capacity))
	}
	if t := l.Threshold; t != nil {
		kind := "soft"
		if t.Hard {
			kind = "hard"
		}
		s += fmt.Sprintf(", %s threshold %s", kind, t.Value)
		if t.ValueBytes != nil && strings.HasSuffix(t.Value, "%") {
			s += fmt.Sprintf(" (%s)", FormatBytes(*t.ValueBytes))
		}
		if t.MinReclaimBytes != nil && *t.MinReclaimBytes != 0 {
			s += fmt.Sprintf(", minimum reclaim %s", FormatBytes(*t.MinReclaimBytes))
		}
	}
	return s
}

// amount writes a value in the unit of the line's signal.
func (l *Line) amount(n int64) string {
	if unit := counts(l.Signal); unit == "tasks" || unit == "inodes" {
		return fmt.Sprintf("%d %s", n, unit)
	}
	return FormatBytes(n)
}

func victim(v *Victim) string {
	about := []string{fmt.Sprintf("priority %d", v.Priority)}
	if v.QOSClass != "" {
		about = append(about, v.QOSClass)
	}
	if v.UsageBytes != nil {
		about = append(about, "uses "+FormatBytes(*v.UsageBytes))
	}
	about = append(about, "requests "+FormatBytes(v.RequestBytes))
	if v.Tasks != nil {
		about = append(about, fmt.Sprintf("%d tasks", *v.Tasks))
	}
	return fmt.Sprintf("%s (%s)", v.FullName(), strings.Join(about, ", "))
}

// FullName is namespace/name, or the uid where there is no name.
func (v *Victim) FullName() string {
	switch {
	case v.Name == "":
		return v.UID
	case v.Namespace == "":
		return v.Name
	}
	return v.Namespace + "/" + v.Name
}

// WhyFirst says by which figures the victim ranked first, who stood before it and may not
// be evicted, and who would have been next.
func WhyFirst(l *Line) string {
	at := slices.IndexFunc(l.Ranked, func(r Ranked) bool { return r.UID == l.Victim.UID })
	if at < 0 {
		return "no ranking recorded"
	}
	s := l.merit(l.Ranked[at])
	if at > 0 {
		s += fmt.Sprintf("; %d before it may not be evicted", at)
	}
	for _, r := range l.Ranked[at+1:] {
		if r.Evictable {
			return s + fmt.Sprintf("; next %s: %s", r.FullName(), l.merit(r))
		}
	}
	return s + "; nobody else may be evicted"
}

// FullName is the name, or the uid where there is none.
func (r *Ranked) FullName() string {
	if r.Name == "" {
		return r.UID
	}
	return r.Name
}

// merit is what a unit ranks by: its reason as recorded, else the figures.
func (l *Line) merit(r Ranked) string {
	if r.Reason != "" {
		return r.Reason
	}
	s := fmt.Sprintf("priority %d", r.Priority)
	switch {
	case counts(l.Signal) == "tasks" && r.Tasks != nil:
		return s + fmt.Sprintf(", %d tasks", *r.Tasks)
	case counts(l.Signal) != "tasks" && r.UsageBytes != nil:
		if over := *r.UsageBytes - r.RequestBytes; over > 0 {
			return s + fmt.Sprintf(", %s above its request", FormatBytes(over))
		}
		return s + ", within its request"
	}
	return s + ", no usage known"
}
