package decide

import "github.com/ebpf-evict/ebpf-evict/pkg/workload"

// MaxTop is how many places Top looks for at most.
const MaxTop = 64

// Top appends the indices of the first places of Rank's order, at most as many as most, in one
// scan: sorting thousands for twenty of them would take milliseconds and their memory.
func Top(s *Settings, b *Bound, ws []workload.Workload, most int, dst []int) []int {
	return s.top(b, ws, most, dst, func(*workload.Workload) bool { return true })
}

// Candidates is Top of those that are not spared, whatever they use.
func Candidates(s *Settings, b *Bound, ws []workload.Workload, most int, dst []int) []int {
	return s.top(b, ws, most, dst, func(w *workload.Workload) bool { return spared(w) == "" })
}

func (s *Settings) top(b *Bound, ws []workload.Workload, most int, dst []int, counts func(*workload.Workload) bool) []int {
	var (
		places [MaxTop]place
		top    = dst[len(dst):]
	)
	most = min(most, MaxTop)
	for i := range ws {
		if !b.covers(ws[i].Cgroup) || !counts(&ws[i]) {
			continue
		}
		p, at := s.place(b, &ws[i]), len(top) // equal places stay in the order of the input
		for at > 0 && p.compare(&places[at-1]) < 0 {
			at--
		}
		if at >= most {
			continue
		}
		if len(top) < most {
			top = append(top, 0)
		}
		copy(top[at+1:], top[at:])
		copy(places[at+1:len(top)], places[at:])
		top[at], places[at] = i, p
	}
	return append(dst, top...)
}

// RankTop is the beginning of Rank, at most as many places as most.
func RankTop(s *Settings, b *Bound, ws []workload.Workload, most int) []Ranked {
	top := Top(s, b, ws, most, nil)
	ranked := make([]Ranked, len(top))
	for i, index := range top {
		ranked[i] = s.ranked(b, ws, index)
	}
	return ranked
}
