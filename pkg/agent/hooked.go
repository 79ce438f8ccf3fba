package agent

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// hooked is BPF, and a reader that stands in for a hook that was lost: somebody has detached it,
// or the ring buffer ran over. The other half of the wires, all rows and what is done for a
// kill stay BPF's. The hook is attached again after a while.
type hooked struct {
	*loader.Loader
	// open makes a reader; enter puts it into the hot thread's epoll.
	open  func() (*reader, error)
	enter func(fd int) error

	// lost says of each half why its hook is, and standIn who has its wires then. Without one
	// they stay BPF's, whose timer looks on.
	lost    [halves]atomic.Pointer[error]
	standIn atomic.Pointer[reader]
	// lostCharge is why memory is watched by the allocation hook and no more by the charge hook.
	lostCharge atomic.Pointer[error]
	// nextMu is the hot thread's while it reads, and whoever takes the stand-in away waits for
	// that.
	nextMu sync.Mutex

	// The rest is the scout's, which alone moves wires from one to the other, under wires.mu.
	scopes  []sample.Scope // of the wires, as they were added
	rests   [halves]rest
	charge  rest
	lostNum uint64 // records that found no room, as of the last check
}

var _ kernel = (*hooked)(nil)

// rest is how long a lost hook is left alone.
type rest struct {
	pause time.Duration
	until time.Time
}

const (
	leastRest = 5 * time.Second
	mostRest  = 10 * time.Minute
)

// begin makes the rest twice as long where the last one is not long over.
func (r *rest) begin(now time.Time) {
	if r.pause == 0 || now.Sub(r.until) > mostRest {
		r.pause = leastRest
	} else {
		r.pause = min(2*r.pause, mostRest)
	}
	r.until = now.Add(r.pause)
}

func openHooked(o Options, fs *cgroupfs.FS) (*hooked, error) {
	l, err := loader.Open(loaderOptions(o))
	if err != nil {
		return nil, err
	}
	o.Tier = "" // the best for a stand-in
	k := &hooked{Loader: l}
	k.open = func() (*reader, error) {
		r, err := openReader(o, fs)
		if err != nil {
			return nil, err
		}
		if err := k.enter(r.CrossingsFD()); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	}
	return k, nil
}

func loaderOptions(o Options) loader.Options {
	c := o.Config
	return loader.Options{
		PinDir: o.PinDir, BTF: c.BTF, FillBytesPerSecond: c.MaxFillBytesPerSecond, MarginBytes: c.MarginBytes,
		MemoryTier: memoryTierOf(o.Tier), RaiseTicker: func() { raise(zerolog.Nop(), tickerPriority) }, Log: o.Log,
	}
}

// memoryTierOf is what a tier that was asked for means to the loader: "" its best.
func memoryTierOf(tier string) string {
	if tier == record.TierCharge || tier == record.TierAlloc {
		return tier
	}
	return ""
}

func (k *hooked) Close() error {
	err := k.Loader.Close()
	if s := k.standIn.Load(); s != nil {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Tier is the hook's while it is there.
func (k *hooked) Tier(s sample.Scope) (string, error) {
	h := halfOf(s)
	why := k.lost[h].Load()
	if why == nil && h == tasksHalf {
		return record.TierTask, nil
	}
	if why == nil {
		if lost := k.lostCharge.Load(); lost != nil {
			return record.TierAlloc, *lost
		}
		return k.MemoryTier(), nil
	}
	standIn := k.standIn.Load()
	if standIn == nil {
		return record.TierPoll, *why // BPF's timer
	}
	tier, lesserWhy := standIn.Tier(s)
	if lesserWhy != nil {
		return string(tier), fmt.Errorf("%w; %w", *why, lesserWhy)
	}
	return string(tier), *why
}

// with is who has the wires of a half.
func (k *hooked) with(h half) watcher {
	if k.lost[h].Load() != nil {
		if s := k.standIn.Load(); s != nil {
			return s
		}
	}
	return k.Loader
}

func (k *hooked) of(wire int) watcher { return k.with(half(wire / loader.WiresOfHalf)) }

func (k *hooked) SetWire(i int, w loader.Wire)      { k.of(i).SetWire(i, w) }
func (k *hooked) ArmWire(i int) uint64              { return k.of(i).ArmWire(i) }
func (k *hooked) DisarmWire(i int)                  { k.of(i).DisarmWire(i) }
func (k *hooked) WireSeq(i int) (seq, fired uint64) { return k.of(i).WireSeq(i) }
func (k *hooked) Claim(wire int, seq uint64) bool   { return k.of(wire).Claim(wire, seq) }
func (k *hooked) Release(wire int, seq uint64)      { k.of(wire).Release(wire, seq) }

// AddDrillWire is the half's.
func (k *hooked) AddDrillWire(w loader.Wire) (wire int, seq uint64, err error) {
	return k.with(halfOf(w.Scope)).AddDrillWire(w)
}

// RemoveDrillWire takes it away wherever it was placed.
func (k *hooked) RemoveDrillWire() error {
	err := k.Loader.RemoveDrillWire()
	if s := k.standIn.Load(); s != nil {
		err = errors.Join(err, s.RemoveDrillWire())
	}
	return err
}

// AddWire reserves the same number with both.
func (k *hooked) AddWire(s sample.Scope) (int, error) {
	wire, err := k.Loader.AddWire(s)
	if err != nil {
		return wire, err
	}
	k.scopes = append(k.scopes, s)
	if standIn := k.standIn.Load(); standIn != nil {
		_, err = standIn.AddWire(s)
	}
	return wire, err
}

// ClearWires clears both.
func (k *hooked) ClearWires() error {
	k.scopes = k.scopes[:0]
	err := k.Loader.ClearWires()
	if s := k.standIn.Load(); s != nil {
		err = errors.Join(err, s.ClearWires())
	}
	return err
}

// SetLimits tells both.
func (k *hooked) SetLimits(memTotalBytes, tasksMax int64) error {
	if s := k.standIn.Load(); s != nil {
		_ = s.SetLimits(memTotalBytes, tasksMax)
	}
	return k.Loader.SetLimits(memTotalBytes, tasksMax)
}

// Tick has both look.
func (k *hooked) Tick() error {
	if s := k.standIn.Load(); s != nil {
		_ = s.Tick()
	}
	return k.Loader.Tick()
}

// Next is the loader's, without what is left of wires that it has no more, then the stand-in's.
func (k *hooked) Next(s *sample.Sample) (bool, error) {
	for {
		ok, err := k.Loader.Next(s)
		if err != nil {
			return false, err
		}
		if !ok {
			break
		}
		if k.of(s.Wire) == watcher(k.Loader) {
			return true, nil
		}
	}
	if !k.nextMu.TryLock() {
		return false, nil // it is taken away
	}
	defer k.nextMu.Unlock()
	standIn := k.standIn.Load()
	if standIn == nil {
		return false, nil
	}
	return standIn.Next(s)
}

// Arm attaches nothing while the hook rests.
func (k *hooked) Arm() error {
	if k.lost[memoryHalf].Load() != nil {
		return nil
	}
	return k.Loader.Arm()
}

// errOverflow: what was crossed meanwhile the clock has found.
var errOverflow = errors.New("the ring buffer ran over")

// check finds out which hooks are lost, and tries those again whose rest is over. For the scout.
func (k *hooked) check(w *wires) {
	var found [halves]error
	found[memoryHalf], found[tasksHalf] = k.CheckHooks()
	if k.MemoryTier() == record.TierCharge {
		found[memoryHalf] = nil // it only helps the charge hook, and is attached when that needs it
	}
	if n := k.Node().LostCrossings; n != k.lostNum {
		k.lostNum = n
		for h := range halves {
			found[h] = errors.Join(found[h], errOverflow)
		}
	}
	now := time.Now()
	k.checkCharge(now)
	for h := range halves {
		isLost := k.lost[h].Load() != nil
		switch {
		case !isLost && found[h] != nil:
			k.lose(w, h, fmt.Errorf("%w; no backstop for its wires meanwhile", found[h]))
			k.rests[h].begin(now)
		case isLost && now.After(k.rests[h].until):
			if err := k.regain(w, h); err != nil {
				k.lost[h].Store(&err)
				k.rests[h].begin(now)
			}
		}
	}
}

// checkCharge goes on with the allocation hook where the charge hook is lost.
func (k *hooked) checkCharge(now time.Time) {
	err := k.CheckCharge()
	if err == nil && k.lostCharge.Load() != nil && now.After(k.charge.until) {
		if err = k.AttachCharge(); err == nil {
			k.lostCharge.Store(nil)
		}
	}
	if err != nil {
		k.lostCharge.Store(&err)
		k.charge.begin(now)
	}
}

// lose gives the wires of a half to the stand-in.
func (k *hooked) lose(w *wires, h half, why error) {
	standIn := k.standIn.Load()
	if standIn == nil {
		var err error
		if standIn, err = k.open(); err != nil {
			why = errors.Join(why, err)
			k.lost[h].Store(&why)
			return
		}
	}
	n := k.Node()
	_ = standIn.SetLimits(n.MemTotalBytes, n.TasksMax)
	w.move(func(wires []int) {
		if k.standIn.Load() == nil {
			for _, s := range k.scopes {
				_, _ = standIn.AddWire(s) // the same numbers, as it had none
			}
			k.standIn.Store(standIn)
		}
		disarm(k.Loader, h, wires)
		k.lost[h].Store(&why)
	})
}

// regain attaches the hook of a half again, and gives it its wires back.
func (k *hooked) regain(w *wires, h half) error {
	if h == tasksHalf {
		if err := k.AttachTasks(); err != nil {
			return err
		}
	}
	// The other one is attached when it is needed.
	standIn := k.standIn.Load()
	w.move(func(wires []int) {
		if standIn != nil {
			disarm(standIn, h, wires)
		}
		k.lost[h].Store(nil)
	})
	if standIn == nil || k.lost[memoryHalf].Load() != nil || k.lost[tasksHalf].Load() != nil {
		return nil
	}
	k.standIn.Store(nil)
	k.nextMu.Lock() // until the hot thread has read what it reads
	defer k.nextMu.Unlock()
	return standIn.Close()
}

func disarm(w watcher, h half, wires []int) {
	for _, i := range wires {
		if i != noWire && half(i/loader.WiresOfHalf) == h {
			w.DisarmWire(i)
		}
	}
}
