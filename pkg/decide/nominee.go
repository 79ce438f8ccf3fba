package decide

import (
	"cmp"
	"math"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Nominee is whom Decide would evict if a bound were crossed now, and for how long that
// stays true while usages move.
type Nominee struct {
	// Victim is the index in Input.Workloads, -1: nobody, or whoever it is can't be told.
	Victim int
	// Use is what it holds of the bound's resource. With less than Least it would rank
	// otherwise.
	Use, Least int64
	// Rivals are the units that need to grow least to be the victim instead.
	Rivals []Rival
	// Others is by how much any unit that is no rival, known or made meanwhile, may grow
	// and the nominee shrink, together, before it could be the victim.
	Others int64
}

// Rival is a unit that would be the victim if it grew by more than Growth; Relative: by
// more than that and what the nominee has grown by.
type Rival struct {
	Index    int
	Use      int64
	Growth   int64
	Relative bool
}

// Nominate fills in whom Decide would evict for a hard bound that is not met yet. It uses
// the room that n.Rivals has, and allocates nothing.
func Nominate(s *Settings, m *Memory, in *Input, bound int, n *Nominee) {
	b := &s.Bounds[bound]
	*n = Nominee{Victim: -1, Rivals: n.Rivals[:0]}
	r := s.resourceOf(b.Signal)
	if !b.Hard() || m.spent(s, in.NowNs) || r == tasks && s.Compat {
		return // the kernel counts no processes, by which the kubelet ranks
	}
	var d Decision
	d.Victim = -1
	d.pick(s, in, b)
	if d.Verdict != Evict || d.Victim < 0 {
		return
	}
	victim := &in.Workloads[d.Victim]
	if n.Use = s.use(r, victim); n.Use <= 0 {
		return // not known, or there is nothing to gain
	}
	n.Victim, n.Least = d.Victim, 1
	first := s.place(b, victim)
	if r == memory && first.amount > 0 {
		n.Least = s.request(r, victim) + 1
	}
	var young workload.Workload
	p := s.place(b, &young)
	if s.Compat && p.compare(&first) < 0 {
		*n = Nominee{Victim: -1, Rivals: n.Rivals[:0]}
		return // a unit that is made meanwhile would be evicted though it holds nothing
	}
	n.Others = p.ahead(r, &first).Growth
	for i := range in.Workloads {
		w := &in.Workloads[i]
		if i == d.Victim || !b.covers(w.Cgroup) || spared(w) != "" {
			continue
		}
		use := s.use(r, w)
		if use == workload.NoData {
			continue
		}
		p := s.place(b, w)
		rival := p.ahead(r, &first)
		rival.Index, rival.Use = i, use
		n.add(rival)
	}
}

// ahead says by how much whoever holds p may grow and still not stand before first. What
// stands there already, and was passed over, holds nothing yet or is dying.
func (p *place) ahead(r resource, first *place) Rival {
	rival := Rival{Growth: never}
	even := max(0, sub(first.amount, p.amount)-1) // at the same amount the names decide
	switch p.outranks(p.class, first) {
	case 1:
		rival.Growth = 0
		return rival
	case 0:
		rival.Growth, rival.Relative = even, true
	}
	if p.amount > 0 || r != memory {
		return rival
	}
	// Above its request it ranks before those that are below theirs.
	toRequest := sub(0, p.amount)
	switch p.outranks(p.class-1, first) {
	case 1:
		rival.Growth, rival.Relative = min(rival.Growth, toRequest), false
	case 0:
		rival.Growth, rival.Relative = max(even, toRequest), true
	}
	return rival
}

// outranks is 1 when p, if it were of that class, would stand before q whatever both hold,
// -1 when behind it, 0 when that depends.
func (p *place) outranks(class int8, q *place) int {
	return cmp.Or(cmp.Compare(q.class, class), cmp.Compare(q.priority, p.priority))
}

// never is more than anything grows by.
const never = math.MaxInt64

// add keeps the rivals that need to grow least, in that order; of the others, the least.
func (n *Nominee) add(r Rival) {
	if r.Growth == never {
		return
	}
	if last := len(n.Rivals) - 1; len(n.Rivals) == cap(n.Rivals) {
		if last < 0 || r.Growth >= n.Rivals[last].Growth {
			n.Others = min(n.Others, r.Growth)
			return
		}
		n.Others = min(n.Others, n.Rivals[last].Growth)
		n.Rivals = n.Rivals[:last]
	}
	n.Rivals = append(n.Rivals, r)
	for i := len(n.Rivals) - 1; i > 0 && n.Rivals[i-1].Growth > r.Growth; i-- {
		n.Rivals[i-1], n.Rivals[i] = r, n.Rivals[i-1]
	}
}
