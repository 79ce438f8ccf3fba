package fallback

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestPaceSeesEveryCrossingInTime fills by simulated clocks: however the fill goes, as long
// as it is not faster than the machine, a crossing is seen within min and the lateness of
// the wake-up.
func TestPaceSeesEveryCrossingInTime(t *testing.T) {
	for name, p := range map[string]pace{
		"bytes, polled":           newPace(22_000_000_000, 0),
		"bytes, watched":          newPace(22_000_000_000, 0).watched(),
		"tasks, polled":           newPace(40_000, 0),
		"tasks, a slow machine":   newPace(7, 0),
		"bytes, a machine's most": newPace(math.MaxInt64/4, 0),
	} {
		t.Run(name, func(t *testing.T) {
			for range 300 {
				simulate(t, p)
			}
		})
	}
}

func simulate(t *testing.T, p pace) {
	t.Helper()
	perNs := float64(p.perSecond) / float64(time.Second)
	distance := rand.Float64() * perNs * float64(3*time.Second)
	for readings := 0; ; readings++ {
		pause := p.next(int64(distance))
		if pause < p.min || pause > p.max {
			t.Fatalf("%v at a distance of %.0f, want %v to %v", pause, distance, p.min, p.max)
		}
		slept := float64(pause) + rand.Float64()*float64(lateness)
		// The worst fill a second from the end, then a burst at any time, then a pause.
		rate := []float64{0, 0.1, 1, 1, 1}[rand.IntN(5)] * perNs
		if crossed := distance / rate; distance-rate*slept < 0 {
			if late := slept - crossed; late > float64(p.min+lateness)+1 {
				t.Fatalf("seen %v after the crossing, which %v was to find", time.Duration(late), pause)
			}
			return
		}
		distance -= rate * slept
		if readings > 100_000 {
			return // it hardly fills
		}
	}
}

func TestPaceAtItsEnds(t *testing.T) {
	p := newPace(22_000_000_000, 0)
	for _, tc := range []struct {
		name     string
		distance int64
		want     time.Duration
	}{
		{"crossed", -1, time.Millisecond},
		{"at the wire", 0, time.Millisecond},
		{"what a late wake-up may miss", 22_000_000, time.Millisecond},
		{"a tenth of a second away", 2_222_000_000, 100 * time.Millisecond},
		{"a terabyte away", 1 << 40, time.Second},
		{"as far as can be", math.MaxInt64, time.Second},
	} {
		if got := p.next(tc.distance); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
