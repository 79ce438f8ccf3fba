package agent

import (
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// Whoever crossed is read together with the root, and is the victim most often: another look
// would be 10 µs on the way to SIGKILL.
func TestWhoCrossedIsReadWithTheRoot(t *testing.T) {
	for name, tc := range map[string]struct {
		crossed string
		looks   int
	}{
		"the victim crossed":  {"victim", 1},
		"a bystander crossed": {"bystander", 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			pids := map[string]int{"bystander": b.sleeper("bystander", 8<<20).PID(), "victim": b.sleeper("victim", 64<<20).PID()}
			struck := 0
			var counted lookCounter
			a := b.open(map[string]string{"allocatableMemory.available": "470Mi"}, func(s stage) {
				if s == stageStruck {
					struck = counted.looks
				}
			})
			must(t, a.scout.round(true))
			counted.kernel, a.kernel = a.kernel, &counted
			a.pass(crossings{b.crossing(a, tc.crossed, pids[tc.crossed])}, sample.Now())
			if e := &a.open[0]; !e.used || e.victim.Name != "victim" || struck != tc.looks {
				t.Errorf("%q was struck after %d looks, want the victim after %d", e.victim.Name, struck, tc.looks)
			}
		})
	}
}

type lookCounter struct {
	kernel
	looks int
}

func (c *lookCounter) Refresh(at, beside loader.At) (memory, pids bool) {
	c.looks++
	return c.kernel.Refresh(at, beside)
}
