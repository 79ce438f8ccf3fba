package signal

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const gb = 1_000_000_000

func TestPace(t *testing.T) {
	slow := Pace{Min: time.Second, Max: 4 * time.Second, BytesPerSecond: gb, InodesPerSecond: 10}
	tests := map[string]struct {
		got, want time.Duration
	}{
		"far away":                        {Pace{}.Bytes(1000*gb, 0), 10 * time.Second},
		"as far as there is":              {Pace{}.Bytes(math.MaxInt64, 0), 10 * time.Second},
		"two seconds away":                {Pace{}.Bytes(4*gb, 0), 2 * time.Second},
		"near":                            {Pace{}.Bytes(gb/1000, 0), 50 * time.Millisecond},
		"at the threshold":                {Pace{}.Bytes(0, 0), 50 * time.Millisecond},
		"crossed":                         {Pace{}.Bytes(-1000*gb, 0), 50 * time.Millisecond},
		"filled slowly":                   {Pace{}.Bytes(4*gb, gb/2), 2 * time.Second},
		"filled faster than assumed":      {Pace{}.Bytes(40*gb, 10*gb), 2 * time.Second},
		"filled as fast as there is":      {Pace{}.Bytes(math.MaxInt64, math.MaxInt64), 500 * time.Millisecond},
		"inodes":                          {Pace{}.Inodes(1_000_000, 0), 2 * time.Second},
		"inodes used faster than assumed": {Pace{}.Inodes(1_000_000, 500_000), time.Second},
		"other bounds, far away":          {slow.Bytes(5*gb, 0), 4 * time.Second},
		"other bounds, near":              {slow.Bytes(1, 0), time.Second},
		"other rates":                     {slow.Inodes(20, 0), 2 * time.Second},
		"a longest below the shortest":    {Pace{Max: time.Millisecond}.Bytes(1000*gb, 0), 50 * time.Millisecond},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.got != tc.want {
				t.Errorf("got %s, want %s", tc.got, tc.want)
			}
		})
	}
}

func TestFillRate(t *testing.T) {
	var f fill
	const second = uint64(time.Second)
	for _, step := range []struct {
		what      string
		ns        uint64
		available int64
		want      int64
	}{
		{"the first reading tells no rate", 1 * second, 1000, 0},
		{"a fill", 2 * second, 600, 400},
		{"faster", 2*second + second/2, 300, 600},
		{"a pause", 3 * second, 300, 300},
		{"something was removed", 4 * second, 5000, 150},
		{"slower than half of before", 5 * second, 4990, 75},
		{"the same time again", 5 * second, 0, 75},
		{"as fast as there is", 5*second + 1, math.MinInt64, 1 << 62},
	} {
		if got := f.add(step.available, step.ns); got != step.want {
			t.Errorf("%s: %d a second, want %d", step.what, got, step.want)
		}
	}
}

// burst is a stretch of a fill.
type burst struct {
	lasts time.Duration
	rate  int64 // bytes a second
}

// crossing returns when the fill has taken more than distance, and how much it has taken
// at a given time.
func crossing(bursts []burst, distance float64) (at time.Duration, taken func(time.Duration) float64) {
	taken = func(when time.Duration) float64 {
		var sum float64
		for _, b := range bursts {
			part := min(when, b.lasts)
			sum += part.Seconds() * float64(b.rate)
			if when -= part; when <= 0 {
				break
			}
		}
		return sum
	}
	var before float64
	for _, b := range bursts {
		amount := b.lasts.Seconds() * float64(b.rate)
		if before+amount > distance {
			return at + time.Duration((distance-before)/float64(b.rate)*float64(time.Second)), taken
		}
		before += amount
		at += b.lasts
	}
	return at, taken
}

// watch reads until the fill has crossed, and returns when it saw that and how many
// readings it took.
func watch(t interface{ Fatalf(string, ...any) }, pace Pace, distance int64, taken func(time.Duration) float64) (seen time.Duration, readings int) {
	pace = pace.withDefaults()
	var f fill
	for {
		left := distance - int64(taken(seen))
		readings++
		if left < 0 {
			return seen, readings
		}
		next := pace.Bytes(left, f.add(left, uint64(seen)+1))
		if next < pace.Min || next > pace.Max {
			t.Fatalf("next reading in %s, want %s to %s", next, pace.Min, pace.Max)
		}
		seen += next
	}
}

// A disk that is filled at up to 2 GB/s, in bursts, from a percent of its size above the
// threshold or further: the crossing is seen by the one reading that follows it, and that
// is at most the shortest interval later.
func TestPaceIsAtMostOneReadingLate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1*gb, 20_000*gb).Draw(t, "size")
		distance := rapid.Int64Range(size/100, size/4).Draw(t, "distance")
		bursts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) burst {
			return burst{
				lasts: time.Duration(rapid.Int64Range(1, int64(20*time.Second)).Draw(t, "lasts")),
				rate:  rapid.OneOf(rapid.Just(int64(0)), rapid.Just(int64(2*gb)), rapid.Int64Range(0, 2*gb)).Draw(t, "rate"),
			}
		}), 0, 20).Draw(t, "bursts")
		bursts = append(bursts, burst{3 * time.Hour, 2 * gb}) // it does get full
		crossed, taken := crossing(bursts, float64(distance))
		seen, _ := watch(t, Pace{}, distance, taken)
		if late := seen - crossed; late > 50*time.Millisecond+time.Microsecond {
			t.Fatalf("seen %s late", late)
		}
	})
}

// A fill that is faster than assumed and steady is known after the second reading.
func TestPaceFollowsAFasterDisk(t *testing.T) {
	for _, rate := range []int64{5 * gb, 10 * gb, 24 * gb} {
		const distance = 500 * gb
		crossed, taken := crossing([]burst{{time.Hour, rate}}, distance)
		seen, readings := watch(t, Pace{}, distance, taken)
		if late := seen - crossed; late > 50*time.Millisecond {
			t.Errorf("%d bytes a second: seen %s late", rate, late)
		}
		if readings > 100 {
			t.Errorf("%d bytes a second: %d readings", rate, readings)
		}
	}
}
