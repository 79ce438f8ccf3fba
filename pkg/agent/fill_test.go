package agent

import (
	"math"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

func TestFill(t *testing.T) {
	const s = uint64(time.Second)
	type reading struct {
		ns    uint64
		level int64
	}
	for name, tc := range map[string]struct {
		readings []reading
		at       uint64
		want     float64
		known    bool
	}{
		"one reading says nothing":         {[]reading{{s, 100}}, s, 0, false},
		"two readings":                     {[]reading{{s, 100}, {2 * s, 300}}, 2 * s, 200, true},
		"a steady rate stays":              {[]reading{{s, 0}, {2 * s, 10}, {2*s + s/2, 15}, {4 * s, 30}}, 4 * s, 10, true},
		"it falls":                         {[]reading{{s, 100}, {2 * s, 50}}, 2 * s, -50, true},
		"readings out of order":            {[]reading{{s, 0}, {2 * s, 10}, {s, 500}}, 2 * s, 10, true},
		"the older weighs a third":         {[]reading{{0, 0}, {s, 100}, {2 * s, 100}}, 2 * s, 100 / math.E, true},
		"nothing recent":                   {[]reading{{s, 0}, {2 * s, 10}}, 5 * s, 0, false},
		"the reader's clock is a bit late": {[]reading{{s, 0}, {2 * s, 10}}, 2*s - 1, 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			var f fill
			for _, r := range tc.readings {
				f.add(r.ns, r.level)
			}
			got, known := f.rate(tc.at)
			if math.Abs(got-tc.want) > 1e-9 || known != tc.known {
				t.Errorf("got %v, %v, want %v, %v", got, known, tc.want, tc.known)
			}
		})
	}
}

// The movements that the hooks report reach the state file, and the ring buffer stays empty.
func TestStateFileSaysHowFastARootFills(t *testing.T) {
	b := newBed(t)
	b.sleeper("idle", 8<<20)
	b.create("hog")
	hog := b.run("hog", load.Spec{Kind: load.Hog, Bytes: 400 << 20, Rate: 200 << 20, Held: true})
	a := b.open(map[string]string{"allocatableMemory.available": "1Mi"}, nil)
	must(t, a.kernel.Arm())
	must(t, hog.Go())
	b.await("movements of the root", func() bool {
		a.scout.drain()
		f := a.scout.fills[identity(b, "").MemoryID]
		return f != nil && f.readings > 5
	})
	b.look(a)
	a.viewed = time.Time{}
	must(t, a.turn(sample.Now()))
	var state record.State
	b.await("the state file", func() bool {
		var err error
		state, err = record.ReadState(b.conf.State)
		return err == nil && len(state.Signals) == 1
	})
	got := state.Signals[0]
	if got.FillPerSecond == nil || *got.FillPerSecond <= 0 || got.SecondsToThreshold == nil || *got.SecondsToThreshold <= 0 {
		t.Errorf("fill %v, seconds to the threshold %v, want both above zero", got.FillPerSecond, got.SecondsToThreshold)
	}
	if len(state.Ranking) != 2 || state.Ranking[0].Name != "hog" || state.Workloads != 2 {
		t.Errorf("ranking %+v of %d, want the hog first of two", state.Ranking, state.Workloads)
	}
}
