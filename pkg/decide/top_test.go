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
	})
}
