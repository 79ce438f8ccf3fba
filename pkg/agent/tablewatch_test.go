package agent

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

func TestTroublesOfATableAreSaidOnceAndNotWithoutEnd(t *testing.T) {
	var w tableWatch
	start := time.Now()
	says := func(step, trouble string, after time.Duration, want bool) {
		t.Helper()
		if got := w.turns(trouble, start.Add(after)); got != want {
			t.Errorf("%s: said %v, want %v", step, got, want)
		}
	}
	says("good from the start", "", 0, false)
	says("missing", "missing", 0, true)
	says("still missing", "missing", time.Hour, false)
	says("good", "", time.Hour, true)
	for i := range tableSays {
		says("another one each time", strconv.Itoa(i), 2*time.Hour, true)
	}
	says("one too many", "more", 2*time.Hour+tableAgain-1, false)
	says("its end", "", 2*time.Hour+tableAgain-1, true)
	says("another one too many", "more", 2*time.Hour+tableAgain-1, false)
	says("that one, a while later", "more", 2*time.Hour+tableAgain, true)
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
		"enforce, another node's":              {config.ModeEnforce, false, `{"schema":"ebpf-evict/workloads/v1","node":"node-2"}`, `refused, and there was none before: of node "node-2"`, "good again"},
		"enforce, none, and units are no pods": {config.ModeEnforce, true, "", "", ""},
		"shadow, none":                         {config.ModeShadow, false, "", "", ""},
		"shadow, refused":                      {config.ModeShadow, false, "[{}", "refused, and there was none before", "good again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NODE_NAME", "node-1")
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

// Whoever writes a table of pods sets its time of change anew while it hears of them.
func TestATableThatIsVouchedForNoMoreIsSaidToBe(t *testing.T) {
	for name, tc := range map[string]struct {
		mode   string
		noPods bool
		age    time.Duration
		want   bool
	}{
		"set anew two minutes ago":       {config.ModeEnforce, false, 2 * time.Minute, false},
		"set anew four minutes ago":      {config.ModeEnforce, false, 4 * time.Minute, true},
		"units are no pods":              {config.ModeEnforce, true, 4 * time.Minute, false},
		"shadow":                         {config.ModeShadow, false, 4 * time.Minute, false},
		"the clock was set back an hour": {config.ModeEnforce, false, -time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPods(t)
			p.conf.Mode = tc.mode
			if tc.noPods {
				p.conf.Roots = []string{p.root}
				must(t, p.fs.Remove(p.root+"/"+podA))
				must(t, p.fs.Remove(p.root+"/kubepods"))
			}
			set := func(age time.Duration) {
				t.Helper()
				at := time.Now().Add(-age)
				must(t, os.Chtimes(p.conf.Workloads, at, at))
			}
			p.list(uidPodA)
			set(tc.age)
			p.a = p.open(map[string]string{"allocatableMemory.available": "1Mi"}, nil)
			reasons := func() (all []string) {
				for range 2 {
					p.look(p.a)
					p.a.confess()
				}
				p.written(p.a)
				for _, l := range p.lines(record.KindDegraded) {
					if strings.Contains(l.Reason, "workload table") {
						all = append(all, l.Reason)
					}
				}
				return all
			}
			got := reasons()
			if isSaid := len(got) == 1 && strings.Contains(got[0], "not set anew since"); isSaid != tc.want || !tc.want && len(got) > 0 {
				t.Fatalf("said %q", got)
			}
			if !tc.want {
				return
			}
			set(0)
			if got = reasons(); len(got) != 2 || !strings.Contains(got[1], "good again") {
				t.Errorf("said %q when it was set anew", got)
			}
			must(t, os.Remove(p.conf.Workloads))
			if got = reasons(); len(got) != 2 {
				t.Errorf("said %q when it was gone for a moment", got)
			}
		})
	}
}
