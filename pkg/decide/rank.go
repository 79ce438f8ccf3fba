package decide

import (
	"cmp"
	"math"
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
// Memory and disk bytes rank as in the kubelet: usage above request first, then lower
// priority, then larger excess. Inodes have no request: those that hold any first, then
// lower priority, then more inodes (the kubelet takes off the request in bytes). Tasks
// rank by lower priority, then more tasks (the kubelet counts processes, so its thread
// bombs rank low). Ours on top: a unit marked "first" precedes those that are not; one
// whose usage is unknown ranks last and is not evictable (the kubelet evicts it first), and
// neither is one that holds nothing: its death would free nothing. Settings.Compat takes
// all of ours away but the marks "never" and the protected.
func Rank(s *Settings, b *Bound, ws []workload.Workload) []Ranked {
	type placed struct {
		place
		index int
	}
	places := make([]placed, 0, len(ws))
	for i := range ws {
		if b.covers(ws[i].Cgroup) {
			places = append(places, placed{s.place(b, &ws[i]), i})
		}
	}
	slices.SortFunc(places, func(x, y placed) int {
		return cmp.Or(x.compare(&y.place), cmp.Compare(x.index, y.index))
	})
	ranked := make([]Ranked, len(places))
	for i := range places {
		ranked[i] = s.ranked(b, ws, places[i].index)
	}
	return ranked
}

func (s *Settings) ranked(b *Bound, ws []workload.Workload, index int) Ranked {
	w := &ws[index]
	r := Ranked{Index: index, Reason: s.unfit(b, w)}
	if r.Evictable = r.Reason == ""; r.Evictable {
		r.Reason = s.why(b, w)
	}
	return r
}

// place is where a unit stands in a ranking, field by field.
type place struct {
	// class is what outranks the priority, lower first.
	class    int8
	priority int32
	// amount is what outranks the identity, larger first.
	amount      int64
	uid, cgroup string
}

// compare is negative when p is to be evicted before q.
func (p *place) compare(q *place) int {
	switch {
	case p.class != q.class:
		return cmp.Compare(p.class, q.class)
	case p.priority != q.priority:
		return cmp.Compare(p.priority, q.priority)
	case p.amount != q.amount:
		return cmp.Compare(q.amount, p.amount)
	case p.uid != q.uid:
		return strings.Compare(p.uid, q.uid)
	}
	return strings.Compare(p.cgroup, q.cgroup)
}

func (s *Settings) place(b *Bound, w *workload.Workload) place {
	r := s.resourceOf(b.Signal)
	return s.placeOf(r, w, s.use(r, w))
}

// placeOf is where a unit would stand that uses so much of a resource.
func (s *Settings) placeOf(r resource, w *workload.Workload, use int64) place {
	p := place{priority: w.Priority, uid: w.UID, cgroup: w.Cgroup}
	if use == workload.NoData {
		p.amount = math.MaxInt64
		if !s.Compat {
			p.class = unknown
		}
		return p
	}
	p.amount = sub(use, s.request(r, w))
	over := p.amount > 0
	if r.inodes() {
		over = use > 0 // the kubelet's request for inodes is zero, whatever it takes off above
	}
	p.class = s.class(r, w, over)
	return p
}

// unknown is the class of units whose usage is not known: behind all others.
const unknown = 4

func (s *Settings) class(r resource, w *workload.Workload, over bool) (class int8) {
	switch {
	case s.Compat && r == tasks:
		return 0
	case s.Compat && over:
		return 1 // behind those without statistics
	case s.Compat:
		return 2
	}
	if w.Evict != "first" {
		class += 2
	}
	if !over && r != tasks {
		class++
	}
	return class
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

const noUsage = "no usage known"

// unfit says why a unit can't be evicted for this bound.
func (s *Settings) unfit(b *Bound, w *workload.Workload) string {
	if reason := spared(w); reason != "" || s.Compat {
		return reason
	}
	switch use := s.Use(b, w); {
	case use == workload.NoData:
		return noUsage
	case use <= 0:
		return "holds nothing"
	}
	return ""
}

// why says in words what the ranking looked at.
func (s *Settings) why(b *Bound, w *workload.Workload) string {
	r := s.resourceOf(b.Signal)
	text := make([]byte, 0, 64)
	if w.Evict == "first" && !s.Compat {
		text = append(text, `marked "first", `...)
	}
	switch use := s.use(r, w); {
	case use == workload.NoData:
		text = append(text, noUsage...)
	case r == tasks && s.Compat:
		text = append(strconv.AppendInt(text, use, 10), " processes"...)
	case r == tasks:
		text = append(strconv.AppendInt(text, use, 10), " tasks"...)
	case r.inodes():
		text = append(strconv.AppendInt(text, use, 10), " inodes"...)
	default:
		text = append(appendDistance(text, sub(use, s.request(r, w))), " its request"...)
	}
	text = append(text, ", priority "...)
	return string(strconv.AppendInt(text, int64(w.Priority), 10))
}

func appendDistance(text []byte, excess int64) []byte {
	switch {
	case excess > 0:
		return append(appendBytes(text, excess), " above"...)
	case excess < 0:
		return append(appendBytes(text, sub(0, excess)), " below"...)
	}
	return append(text, "at"...)
}

// appendBytes prints bytes for people, to a tenth of the largest binary unit: "1.5Gi".
func appendBytes(text []byte, n int64) []byte {
	value, unit := float64(n), 0
	units := [...]string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	start := len(text)
	text = strconv.AppendFloat(text, value, 'f', 1, 64)
	if end, ok := strings.CutSuffix(string(text[start:]), ".0"); ok {
		text = text[:start+len(end)]
	}
	return append(text, units[unit]...)
}
