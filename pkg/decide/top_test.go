package decide_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
)

func TestTopIsTheBeginningOfRank(t *testing.T) {
	eachRanking(t, func(t *rapid.T, s *decide.Settings, b *decide.Bound) {
		ws := drawWorkloads(t)
		ws = append(ws, drawWorkloads(t)...)
		ws = append(ws, ws...) // full ties
		most := rapid.IntRange(0, len(ws)+1).Draw(t, "most")
		want := decide.Rank(s, b, ws)
		want = want[:min(most, len(want))]
		if diff := cmp.Diff(want, decide.RankTop(s, b, ws, most), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-rank +top)\n%s", diff)
		}
		got := decide.Top(s, b, ws, most, []int{-7})
		for i, r := range want {
			if got[0] != -7 || got[i+1] != r.Index {
				t.Errorf("place %d: %v, want %d", i, got, r.Index)
			}
		}
		var candidates []int
		for _, r := range decide.Rank(s, b, ws) {
			w := &ws[r.Index]
			if len(candidates) < most && w.Protected == "" && !w.Critical() && w.Evict != "never" {
				candidates = append(candidates, r.Index)
			}
		}
		if diff := cmp.Diff(candidates, decide.Candidates(s, b, ws, most, nil), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("candidates (-rank +top)\n%s", diff)
		}
	})
}
