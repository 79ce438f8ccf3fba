package agent

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

func TestATroubledTableIsSaidOnceInAWhile(t *testing.T) {
	start := time.Now()
	var w tableWatch
	for _, step := range []struct {
		after time.Duration
		state tableState
		said  bool
	}{
		{0, tableGood, false},
		{0, tableMissing, true},
		{0, tableMissing, false},
		{time.Second, tableRefused, true},
		{2 * time.Second, tableRefused, false},
		{3 * time.Second, tableGood, true},
		{4 * time.Second, tableRefused, false},
		{5 * time.Second, tableGood, false},
		{time.Second + tableAgain, tableRefused, true},
		{2*time.Second + tableAgain, tableGood, true},
		{3*time.Second + tableAgain, tableMissing, true},
	} {
		if got := w.turns(step.state, start.Add(step.after)); got != step.said {
			t.Errorf("state %d after %s: said %v, want %v", step.state, step.after, got, step.said)
		}
	}
}

func TestTheTableOfPodsIsSaidToBeMissingOrRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		mode       string
		noPods     bool
		file       string
		want       string // the degraded line before the table comes
		afterwards string // and after
	}{
		"enforce, none":                        {config.ModeEnforce, false, "", "no workload table: ", "good again"},
		"enforce, refused":                     {config.ModeEnforce, false, "[{}", "refused, and there was none before", "good again"},
		"enforce, none, and units are no pods": {config.ModeEnforce, true, "", "", ""},
		"shadow, none":                         {config.ModeShadow, false, "", "", ""},
		"shadow, refused":                      {config.ModeShadow, false, "[{}", "refused, and there was none before", "good again"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPods(t)
			p.conf.Mode = tc.mode
			if tc.noPods {
				p.conf.Roots = []string{p.root}
				must(t, p.fs.Remove(p.root+"/"+podA))
				must(t, p.fs.Remove(p.root+"/kubepods"))
			}
			if tc.file != "" {
				must(t, os.WriteFile(p.conf.Workloads, []byte(tc.file), 0o644))
			}
			p.a = p.open(map[string]string{"allocatableMemory.available": "1Mi"}, nil)
			said := func() (reasons []string) {
				p.look(p.a)
				p.a.confess()
				p.written(p.a)
				for _, l := range p.lines(record.KindDegraded) {
					if strings.Contains(l.Reason, "workload table") {
						reasons = append(reasons, l.Reason)
					}
				}
				return reasons
			}
			expect := func(when string, parts ...string) {
				t.Helper()
				said()
				got := said()
				isWanted := len(got) == len(parts)
				for i := 0; isWanted && i < len(parts); i++ {
					isWanted = strings.Contains(got[i], parts[i])
				}
				if !isWanted {
					t.Fatalf("%s: said %q, want %q", when, got, parts)
				}
			}
			before := []string{}
			if tc.want != "" {
				before = append(before, tc.want)
			}
			expect("before", before...)
			p.list(uidPodA)
			if tc.afterwards != "" {
				before = append(before, tc.afterwards)
			}
			expect("with a table", before...)
		})
	}
}
