package decide

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Ranked is one place in a ranking.
type Ranked struct {
	// Index is the workload's index in the slice that was ranked.
	Index     int
	Evictable bool
	// Reason says why an evictable unit stands where it does ("120Mi above its request,
	// priority 0"), and of another why it is not evictable.
	Reason string
}

// Rank orders the workloads in the scope of a bound, first victim first, those included
// that are never evicted. The order is total and the same as Decide's: its victim is the
// first evictable one that is not dying already.
//
// Memory ranks as in the kubelet: working set above request first, then lower priority,
// then larger excess. Tasks rank by lower priority, then more tasks (the kubelet counts
// processes, so its thread bombs rank low). Ours on top: a unit marked "first" precedes
// those that are not; one whose usage is unknown ranks last and is not evictable, and
// neither is one that holds nothing: its death would free nothing.
func Rank(_ *Settings, b *Bound, ws []workload.Workload) []Ranked {
	ranked := make([]Ranked, 0, len(ws))
	for i := range ws {
		if !b.covers(ws[i].Cgroup) {
			continue
		}
		r := Ranked{Index: i, Reason: b.unfit(&ws[i])}
		if r.Evictable = r.Reason == ""; r.Evictable {
			r.Reason = b.why(&ws[i])
		}
		ranked = append(ranked, r)
	}
	slices.SortFunc(ranked, func(x, y Ranked) int {
		return cmp.Or(b.compare(&ws[x.Index], &ws[y.Index]), cmp.Compare(x.Index, y.Index))
	})
	return ranked
}

// compare is negative when x is to be evicted before y.
func (b *Bound) compare(x, y *workload.Workload) int {
	if c := b.compareUse(x, y); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(x.UID, y.UID), strings.Compare(x.Cgroup, y.Cgroup))
}

func (b *Bound) compareUse(x, y *workload.Workload) int {
	use, other := b.use(x), b.use(y)
	if c := cmp.Or(
		trueFirst(use != workload.NoData, other != workload.NoData),
		trueFirst(x.Evict == "first", y.Evict == "first"),
	); c != 0 {
		return c
	}
	if resourceOf(b.Signal) == memory {
		return cmp.Or(
			trueFirst(excess(x) > 0, excess(y) > 0),
			cmp.Compare(x.Priority, y.Priority),
			cmp.Compare(excess(y), excess(x)),
		)
	}
	return cmp.Or(
		cmp.Compare(x.Priority, y.Priority),
		cmp.Compare(other, use),
	)
}

func trueFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

// use is what the unit holds of the bound's resource: bytes of working set or tasks.
func (b *Bound) use(w *workload.Workload) int64 {
	switch resourceOf(b.Signal) {
	case memory:
		return w.Usage.WorkingSetBytes
	case tasks:
		return w.Usage.Tasks
	}
	return workload.NoData
}

// excess is the working set above the request, in bytes; negative below it.
func excess(w *workload.Workload) int64 {
	return sub(w.Usage.WorkingSetBytes, w.MemoryRequestBytes)
}

// spared says why a unit is never evicted, whatever it uses.
func spared(w *workload.Workload) string {
	switch {
	case w.Protected != "":
		return w.Protected
	case w.Critical():
		return "critical"
	case w.Evict == "never":
		return `marked "never"`
	}
	return ""
}

// unfit says why a unit can't be evicted for this bound.
func (b *Bound) unfit(w *workload.Workload) string {
	if reason := spared(w); reason != "" {
		return reason
	}
	switch use := b.use(w); {
	case use == workload.NoData:
		return "no usage known"
	case use <= 0:
		return "holds nothing"
	}
	return ""
}

// why says in words what compare looked at.
func (b *Bound) why(w *workload.Workload) string {
	what := fmt.Sprintf("%d tasks", w.Usage.Tasks)
	if resourceOf(b.Signal) == memory {
		what = distance(excess(w)) + " its request"
	}
	what += fmt.Sprintf(", priority %d", w.Priority)
	if w.Evict == "first" {
		what = `marked "first", ` + what
	}
	return what
}

func distance(excess int64) string {
	switch {
	case excess > 0:
		return bytesText(excess) + " above"
	case excess < 0:
		return bytesText(sub(0, excess)) + " below"
	}
	return "at"
}

// bytesText prints bytes for people, to a tenth of the largest binary unit: "1.5Gi".
func bytesText(n int64) string {
	value, unit := float64(n), 0
	units := [...]string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0") + units[unit]
}
