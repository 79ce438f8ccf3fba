package signal

import "time"

// Pace says how soon a filesystem is read again: soon enough that a fill which is not
// faster than assumed is seen within Min of its crossing, wherever it starts. Reading one
// costs a microsecond or two. A single fallocate(2) can take any amount at once; that is
// seen at the next reading, within Max.
type Pace struct {
	// Min and Max bound the time between two readings. Default 50 ms and 10 s.
	Min, Max time.Duration
	// BytesPerSecond and InodesPerSecond are the fastest fill assumed of a filesystem that
	// is quiet now. Default 2 GB/s and 500,000 a second.
	BytesPerSecond, InodesPerSecond int64
}

func (p Pace) withDefaults() Pace {
	if p.Min <= 0 {
		p.Min = 50 * time.Millisecond
	}
	if p.Max <= 0 {
		p.Max = 10 * time.Second
	}
	p.Max = max(p.Min, p.Max)
	if p.BytesPerSecond <= 0 {
		p.BytesPerSecond = 2_000_000_000
	}
	if p.InodesPerSecond <= 0 {
		p.InodesPerSecond = 500_000
	}
	return p
}

// Bytes is the time until the next reading, distance bytes above the nearest threshold,
// for a filesystem that was filled at filling bytes a second lately.
func (p Pace) Bytes(distance, filling int64) time.Duration {
	p = p.withDefaults()
	return p.until(distance, filling, p.BytesPerSecond)
}

// Inodes is as Bytes, in inodes.
func (p Pace) Inodes(distance, filling int64) time.Duration {
	p = p.withDefaults()
	return p.until(distance, filling, p.InodesPerSecond)
}

// until takes a fill for able to double its rate.
func (p Pace) until(distance, filling, fastest int64) time.Duration {
	if distance <= 0 {
		return p.Min // crossed: how long until it is above again
	}
	rate := max(float64(fastest), 2*float64(filling))
	seconds := float64(distance) / rate
	if seconds >= p.Max.Seconds() {
		return p.Max
	}
	return max(p.Min, time.Duration(seconds*float64(time.Second)))
}

// fill is how fast something was used up lately. The zero value is ready.
type fill struct {
	available int64
	ns        uint64
	rate      float64
}

// add takes a reading and returns the rate, in units a second: the last one, or half of
// the one before where that is more, so that a pause of a burst is not taken for its end.
func (f *fill) add(available int64, ns uint64) int64 {
	if f.ns != 0 && ns > f.ns {
		taken := max(0, float64(f.available)-float64(available))
		f.rate = max(taken/time.Duration(ns-f.ns).Seconds(), f.rate/2)
	}
	f.available, f.ns = available, ns
	return int64(min(f.rate, 1<<62))
}
