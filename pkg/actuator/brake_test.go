package actuator

import (
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

func TestBrakeStopsForksAndGivesTheLimitBack(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before int64
		// meanwhile somebody else may write the limit; 0: nobody does.
		meanwhile, want int64
	}{
		{"a limit", 50, 0, 50},
		{"no limit", cgroupfs.Unlimited, 0, cgroupfs.Unlimited},
		{"a limit that was changed since", 50, 70, 70},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t)
			unit, _ := b.unit("unit", "")
			c, err := b.fs.Open(unit.Cgroup)
			must(t, err)
			defer c.Close()
			must(t, c.SetPidsMax(tc.before))
			h, err := Open(b.fs, &unit)
			must(t, err)
			defer h.Close()

			kept := int64(-1)
			must(t, h.Brake(func(before int64) {
				kept = before
				if v, err := c.PidsMax(); v != tc.before || err != nil {
					t.Errorf("overwritten before it was kept: %d, %v", v, err)
				}
			}))
			if b.fs.Version() == cgroupfs.V2 && h.kernelKills() {
				if v, err := c.PidsMax(); kept != -1 || v != tc.before || err != nil {
					t.Errorf("limit %d, %v where the kernel kills, want %d", v, err, tc.before)
				}
				return
			}
			if v, err := c.PidsMax(); kept != tc.before || v != 0 || err != nil {
				t.Fatalf("kept %d, limit now %d, %v", kept, v, err)
			}
			must(t, h.Brake(func(int64) { t.Error("braked twice") }))
			if tc.meanwhile != 0 {
				must(t, c.SetPidsMax(tc.meanwhile))
			}
			released := 0
			for range 2 { // the finisher's and, at the agent's end, the hot thread's
				must(t, h.Release(func() { released++ }))
			}
			if v, err := c.PidsMax(); v != tc.want || err != nil || released != 1 {
				t.Errorf("limit %d, %v after %d releases, want %d after one", v, err, released, tc.want)
			}
		})
	}
}

func TestReleaseOfARemovedUnit(t *testing.T) {
	b := newBed(t)
	unit, _ := b.unit("unit", "")
	h, err := Open(b.fs, &unit)
	must(t, err)
	defer h.Close()
	must(t, h.Brake(func(int64) {}))
	must(t, b.fs.Remove(unit.Cgroup))
	if err := h.Release(func() {}); err != nil {
		t.Errorf("release: %v", err)
	}
}
