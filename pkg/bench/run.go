package bench

import "github.com/ebpf-evict/ebpf-evict/pkg/load"

// Latency is the result of `bench latency`.
type Latency struct {
	Machine
	Runs []Run `json:"runs"`
	// MemoryBack is there where the scenario of that name was measured.
	MemoryBack []MemoryFactor `json:"memoryBack,omitempty"`
}

// Run is one tool in one scenario. Quantiles are nil when no round has the figure; they are
// of the rounds that count: neither disturbed nor missed nor of a wrong victim.
type Run struct {
	Tool Tool `json:"tool"`
	// Tier is what our own agent was forced to watch by; empty is the best there was.
	Tier     string    `json:"tier,omitempty"`
	Scenario Scenario  `json:"scenario"`
	Fill     load.Fill `json:"fill,omitempty"`
	// RateBytes is how many bytes a second the hog fills at most; 0 is as fast as it can.
	RateBytes int64  `json:"rateBytes"`
	Signal    string `json:"signal"`
	// Rounds counts missed ones and those of a wrong victim; disturbed ones were repeated
	// and are apart.
	Rounds       int `json:"rounds"`
	Missed       int `json:"missed"`
	WrongVictims int `json:"wrongVictims"`
	Disturbed    int `json:"disturbed"`
	Summary
	// Outside are the same by the yardstick that is the same for all tools.
	Outside *Summary `json:"outside,omitempty"`
	// Note says what was done to a tool so that it can take part.
	Note string `json:"note,omitempty"`
	// Skipped says why the tool could not take part.
	Skipped string  `json:"skipped,omitempty"`
	Raw     []Round `json:"raw"`
}

// Summary are the quantiles of Figures.
type Summary struct {
	CrossedToSignalledNs *Quantiles `json:"crossedToSignalledNs,omitempty"`
	CrossedToDeadNs      *Quantiles `json:"crossedToDeadNs,omitempty"`
	CrossedToRecoveredNs *Quantiles `json:"crossedToRecoveredNs,omitempty"`
	OvershootBytes       *Quantiles `json:"overshootBytes,omitempty"`
	SignalledToBackNs    *Quantiles `json:"signalledToBackNs,omitempty"`
}

// Round is one round as it was measured. Of our own agent the figures are the journal's
// (the crossing is stamped in the kernel); of a peer they are those from outside.
type Round struct {
	Figures
	// Outside is nil where nothing filled memory, or no signal was seen.
	Outside *Figures `json:"outside,omitempty"`
	// CrossedApartNs is the crossing as seen from outside less the kernel's stamp: how
	// far the yardstick is off.
	CrossedApartNs *int64 `json:"crossedApartNs,omitempty"`
	// Tier saw the crossing, and By sent the SIGKILL, as our own agent's journal has it.
	Tier        string `json:"tier,omitempty"`
	By          string `json:"by,omitempty"`
	Missed      bool   `json:"missed,omitempty"`
	WrongVictim bool   `json:"wrongVictim,omitempty"`
	Disturbed   bool   `json:"disturbed,omitempty"`
	// Full: the hog had filled all it was to, so the overshoot is a lower bound.
	Full bool `json:"full,omitempty"`
}

// Figures are of one round. Nil is not measured.
type Figures struct {
	CrossedToSignalledNs *int64 `json:"crossedToSignalledNs,omitempty"`
	CrossedToDeadNs      *int64 `json:"crossedToDeadNs,omitempty"`
	CrossedToRecoveredNs *int64 `json:"crossedToRecoveredNs,omitempty"`
	OvershootBytes       *int64 `json:"overshootBytes,omitempty"`
	// SignalledToBackNs is until the victim's cgroup held less than a backShare of what it
	// had held at most, looked at from outside. In the scenario memoryback alone.
	SignalledToBackNs *int64 `json:"signalledToBackNs,omitempty"`
}

// summarise counts the rounds and fills in the quantiles.
func (r *Run) summarise() {
	r.Rounds, r.Missed, r.WrongVictims, r.Disturbed, r.Outside = 0, 0, 0, 0, nil
	var own, outside []Figures
	for i := range r.Raw {
		round := &r.Raw[i]
		if round.Disturbed {
			r.Disturbed++
			continue
		}
		r.Rounds++
		switch {
		case round.Missed:
			r.Missed++
		case round.WrongVictim:
			r.WrongVictims++
		default:
			own = append(own, round.Figures)
			if round.Outside != nil {
				outside = append(outside, *round.Outside)
			}
		}
	}
	r.Summary = summaryOf(own)
	if len(outside) > 0 {
		s := summaryOf(outside)
		r.Outside = &s
	}
}

func summaryOf(all []Figures) Summary {
	of := func(field func(*Figures) *int64) *Quantiles {
		var values []int64
		for i := range all {
			if v := field(&all[i]); v != nil {
				values = append(values, *v)
			}
		}
		return QuantilesOf(values)
	}
	return Summary{
		CrossedToSignalledNs: of(func(f *Figures) *int64 { return f.CrossedToSignalledNs }),
		CrossedToDeadNs:      of(func(f *Figures) *int64 { return f.CrossedToDeadNs }),
		CrossedToRecoveredNs: of(func(f *Figures) *int64 { return f.CrossedToRecoveredNs }),
		OvershootBytes:       of(func(f *Figures) *int64 { return f.OvershootBytes }),
		SignalledToBackNs:    of(func(f *Figures) *int64 { return f.SignalledToBackNs }),
	}
}

// fillCurve is what a hog tells about itself.
type fillCurve struct {
	// marks are those of load.Load.
	marks []int64
	// bytes is how much it filled, of at most most.
	bytes, most int64
}

// crossed is when the hog had filled distance bytes, between two marks by a straight line;
// false when it never had.
func (c *fillCurve) crossed(distance int64) (ns int64, ok bool) {
	k := int(distance / load.MarkBytes)
	if distance < load.MarkBytes || k >= len(c.marks) {
		return 0, false
	}
	from, to := c.marks[k-1], c.marks[k]
	return from + int64(float64(to-from)*float64(distance%load.MarkBytes)/load.MarkBytes), true
}

// crossedOrEnd takes the last mark for the crossing where the hog did not live to set the
// next one: the kernel charges ahead of what was touched.
func (c *fillCurve) crossedOrEnd(distance int64) int64 {
	if ns, ok := c.crossed(distance); ok {
		return ns
	}
	return c.last()
}

// last is the last mark, 0 for none.
func (c *fillCurve) last() int64 {
	if len(c.marks) == 0 {
		return 0
	}
	return c.marks[len(c.marks)-1]
}

// full: the hog got all that it was to fill.
func (c *fillCurve) full() bool { return c.bytes >= c.most }
