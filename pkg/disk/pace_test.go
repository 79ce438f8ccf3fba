package disk

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const second = uint64(time.Second)

func TestWhoGrowsIsVisitedFirst(t *testing.T) {
	const now = 1000 * second
	at := func(age time.Duration, bytes int64) *part {
		p := &part{kind: emptyDir, name: "v", figure: &figure{Tally: Tally{Bytes: bytes}, readNs: now - uint64(age)}, triedNs: now - uint64(age)}
		return p
	}
	grows := growth{grewNs: now - second}
	grown := growth{grewNs: now - 6*second}
	limit := int64(1 << 30)
	limitedPod := workload.Unit{Workload: workload.Workload{EphemeralStorageLimitBytes: &limit}}
	limitedContainer := workload.Unit{Workload: workload.Workload{Containers: []workload.Container{{EphemeralStorageLimitBytes: limit}}}}
	for name, tc := range map[string]struct {
		first, second struct {
			unit
			*part
		}
		horizon   time.Duration
		freshNs   uint64
		isWriting bool
		want      int // how many are due
	}{
		"a grower after a second, an idle one after half a minute": {
			first:  pair(unit{growth: grows}, at(2*time.Second, 1)),
			second: pair(unit{}, at(31*time.Second, 1)), horizon: never, want: 2,
		},
		"what grew a while ago rests": {
			first:  pair(unit{}, at(31*time.Second, 1)),
			second: pair(unit{growth: grown}, at(10*time.Second, 1)), horizon: never, want: 1,
		},
		"near a mark the others have their turn soon, after the growers": {
			first:  pair(unit{growth: grows}, at(2*time.Second, 1)),
			second: pair(unit{}, at(3*time.Second, 1)), horizon: 4 * time.Second, want: 2,
		},
		"a grower near its limit goes before one that waits longer": {
			first:  pair(unit{growth: grows, limits: map[string]int64{"v": 100}}, at(600*time.Millisecond, 80)),
			second: pair(unit{growth: grows}, at(3*time.Second, 80)), horizon: never, want: 2,
		},
		"a limit far away is no reason": {
			first:  pair(unit{growth: grows}, at(3*time.Second, 80)),
			second: pair(unit{growth: grows, limits: map[string]int64{"v": 1000}}, at(2*time.Second, 80)), horizon: never, want: 2,
		},
		"a tree that takes seconds rests longer": {
			first:  pair(unit{growth: grows}, at(2*time.Second, 1)),
			second: pair(unit{growth: grows}, &part{kind: emptyDir, triedNs: now - 20*second, costNs: second}), horizon: never, want: 1,
		},
		"but not as long near a mark": {
			first:  pair(unit{growth: grows}, at(4*time.Second, 1)),
			second: pair(unit{growth: grows}, &part{kind: emptyDir, triedNs: now - 11*second, costNs: second}), horizon: time.Second, want: 2,
		},
		"what was never visited is due": {
			first:  pair(unit{}, &part{foundNs: now}),
			second: pair(unit{}, at(20*time.Second, 1)), horizon: never, want: 1,
		},
		"what was never visited is awaited, though it has no counters to grow by yet": {
			first:  pair(unit{}, &part{foundNs: now - second}),
			second: pair(unit{}, at(300*time.Second, 1)), horizon: time.Second, freshNs: now, want: 2,
		},
		"logs near a mark, while somebody writes fast: it may be the runtime": {
			first:  pair(unit{}, &part{kind: containerLogs, triedNs: now - 3*second}),
			second: pair(unit{}, at(5*time.Second, 1)), horizon: 50 * time.Second, isWriting: true, want: 1,
		},
		"logs that a pod's limit counts": {
			first:  pair(unit{read: limitedPod}, &part{kind: containerLogs, triedNs: now - 3*second}),
			second: pair(unit{}, &part{kind: containerLogs, triedNs: now - 3*second}), horizon: never, isWriting: true, want: 1,
		},
		"logs that a container's limit counts": {
			first:  pair(unit{read: limitedContainer}, &part{kind: podLogs, triedNs: now - 3*second}),
			second: pair(unit{}, at(20*time.Second, 1)), horizon: never, isWriting: true, want: 1,
		},
		"who grows is awaited first": {
			first:  pair(unit{growth: grows}, at(300*time.Millisecond, 1)),
			second: pair(unit{}, at(300*time.Second, 1)), horizon: time.Second, freshNs: now, want: 2,
		},
		"a large tree that grows is awaited before one that may have to be read from the disk": {
			first:  pair(unit{growth: grows}, &part{triedNs: now - 9*second, costNs: second / 10}),
			second: pair(unit{}, &part{triedNs: now - 300*second, costNs: second / 50}), horizon: time.Second, freshNs: now, want: 2,
		},
		"what is done in no time is awaited before a large tree that grows": {
			first:  pair(unit{}, &part{triedNs: now - 9*second, costNs: second / 25_000}),
			second: pair(unit{growth: grows}, &part{triedNs: now - 300*second, costNs: second / 10}), horizon: time.Second, freshNs: now, want: 2,
		},
		"so it is before one that was never seen, once that turned out to be large": {
			first:  pair(unit{growth: grows}, &part{triedNs: now - 9*second, costNs: second / 25_000}),
			second: pair(unit{}, &part{foundNs: now - 300*second, spentNs: second}), horizon: time.Second, freshNs: now, want: 2,
		},
		"a large tree lets others have their first visit": {
			first:  pair(unit{}, &part{place: place{base: "/b"}, foundNs: now - second}),
			second: pair(unit{}, &part{place: place{base: "/a"}, foundNs: now - second, spentNs: second}), horizon: never, want: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tc.first, tc.second
			a.unit.parts, b.unit.parts = []*part{a.part}, []*part{b.part}
			got := due(map[string]*unit{"a": &a.unit, "b": &b.unit}, view{nowNs: now, horizon: tc.horizon, freshNs: tc.freshNs, isWriting: tc.isWriting, cheapNs: 25_000_000})
			if len(got) != tc.want || got[0] != a.part {
				t.Errorf("%d due, the expected one first: %t; want %d and true", len(got), len(got) > 0 && got[0] == a.part, tc.want)
			}
		})
	}
}

// The agent waits for what may be another figure by now.
func TestWhatIsAwaited(t *testing.T) {
	const first, fresh, now = 900 * second, 1000 * second, 1000*second + 1
	grows := growth{grewNs: now - 1}
	for name, tc := range map[string]struct {
		growth growth
		part   part
		want   bool
	}{
		"who grows":                            {grows, part{triedNs: fresh - 1, costNs: second / 10}, true},
		"who grows, and was measured since":    {grows, part{triedNs: fresh, costNs: second / 10}, false},
		"who does not":                         {growth{}, part{triedNs: fresh - 1, costNs: second / 10}, false},
		"what costs nothing: a log, a reserve": {growth{}, part{triedNs: fresh - 1, costNs: 40_000}, true},
		"long after the last request":          {grows, part{triedNs: fresh - 1}, false},
		"a large tree that grows":              {grows, part{triedNs: first - 1, costNs: 2 * second}, true},
		"of after the first of many requests":  {grows, part{triedNs: first, costNs: 2 * second}, false},
	} {
		u := &unit{growth: tc.growth}
		now := now
		if name == "long after the last request" {
			now += uint64(restEvery)
			u.growth.grewNs = now
		}
		if got := u.isAwaited(&tc.part, view{nowNs: now, freshNs: fresh, firstNs: first, cheapNs: 25_000_000}); got != tc.want {
			t.Errorf("%s: awaited %t, want %t", name, got, tc.want)
		}
	}
}

func pair(u unit, p *part) struct {
	unit
	*part
} {
	return struct {
		unit
		*part
	}{u, p}
}

// Whoever reserves space has no counter for it, whatever lies beside: all is looked at that can be
// while the agent waits.
func TestWhatCanBeVisitedWhileTheAgentWaits(t *testing.T) {
	const ms = uint64(time.Millisecond)
	for name, tc := range map[string]struct {
		costs []uint64
		want  uint64
	}{
		"nothing was visited":          {[]uint64{0, 0}, uint64(cheapVisit)},
		"small ones":                   {[]uint64{ms / 25, ms / 25}, uint64(cheapVisit)},
		"one of 20,000 files":          {[]uint64{ms / 25, 25 * ms}, 25 * ms},
		"as many as fit":               {[]uint64{100 * ms, 90 * ms, 25 * ms, 2 * ms, 60 * ms}, 90 * ms},
		"one that takes all the time":  {[]uint64{ms, 900 * ms}, ms},
		"so many that few fit":         {slices.Repeat([]uint64{2 * ms}, 1000), 2 * ms},
		"not even the smallest fit in": {slices.Repeat([]uint64{ms / 4}, 5000), uint64(cheapVisit)},
	} {
		u := &unit{}
		for _, cost := range tc.costs {
			u.parts = append(u.parts, &part{costNs: cost})
		}
		if got := cheapNs(map[string]*unit{"u": u}); got != tc.want {
			t.Errorf("%s: %s, want %s", name, time.Duration(got), time.Duration(tc.want))
		}
	}
}

func TestFewWalksAreUnderWayAtATime(t *testing.T) {
	u := &unit{}
	for i := range 3 * maxWalks {
		p := &part{}
		if i < maxWalks {
			p.walk, p.triedNs = &walk{}, 5*second
		}
		u.parts = append(u.parts, p)
	}
	got := due(map[string]*unit{"u": u}, view{nowNs: 6 * second, horizon: never})
	for _, p := range got {
		if p.walk == nil {
			t.Error("another walk begins")
		}
	}
	if len(got) != maxWalks {
		t.Errorf("%d go on, want %d", len(got), maxWalks)
	}
}

func TestBudget(t *testing.T) {
	var now, cpu time.Duration
	b := newBudget()
	work := func(d time.Duration) { now, cpu = now+d, cpu+d }
	if b.settle(now, cpu, false) != 0 {
		t.Error("no work at the start")
	}
	work(savedTime / 2)
	work(100 * time.Millisecond)
	pause := b.settle(now, cpu, false)
	if pause < 2*time.Second || pause > 10*time.Second {
		t.Errorf("far and spent: pause %s", pause)
	}
	if b.settle(now, cpu, true) != 0 {
		t.Error("the savings are not for when a mark is near")
	}
	work(savedTime)
	if pause := b.settle(now, cpu, true); pause == 0 {
		t.Error("near and spent: no pause")
	}
	work(time.Minute) // for what the agent waited for
	if pause := b.settle(now, cpu, true); pause > 6*time.Second {
		t.Errorf("after a minute without a rest: pause %s", pause)
	}
	// In the long run work takes the share.
	begin := now
	used := cpu
	for now-begin < time.Hour {
		if pause := b.settle(now, cpu, false); pause > 0 {
			now += pause
			continue
		}
		work(time.Millisecond)
	}
	if share := float64(cpu-used) / float64(now-begin); share > 0.02 || share < 0.01 {
		t.Errorf("%.3f of a CPU, want %g", share, farShare)
	}
}

func TestHorizon(t *testing.T) {
	const gib = 1 << 30
	var free uint64
	var err error
	d := distances{
		marks: []Mark{{Signal: "nodefs.available", Value: func(capacity int64) int64 { return capacity / 10 }}},
		stat: func(string) (unix.Statfs_t, error) {
			return unix.Statfs_t{Frsize: 4096, Blocks: 100 * gib / 4096, Bavail: free / 4096}, err
		},
	}
	ns := second
	for _, tc := range []struct {
		name        string
		free        uint64
		least, most time.Duration
		fell        bool
	}{
		{"the first reading", 60 * gib, time.Hour, quietFill, false},
		{"200 MiB in a second", 60*gib - 200<<20, 250 * time.Second, 260 * time.Second, true},
		{"1 GiB in a second", 59*gib - 200<<20, 48 * time.Second, 50 * time.Second, true},
		{"a moment's rest", 59*gib - 200<<20, 48 * time.Second, 50 * time.Second, false},
		{"across the mark", 9 * gib, 0, 0, true},
	} {
		free = tc.free
		got, fell := d.horizon(ns)
		if got < tc.least || got > tc.most || fell != tc.fell {
			t.Errorf("%s: %s, %t, want %s to %s, %t", tc.name, got, fell, tc.least, tc.most, tc.fell)
		}
		ns += second
	}
	ns += 2 * uint64(nearWithin)
	if got, _ := d.horizon(ns); got < nearWithin {
		t.Errorf("long across and quiet: %s, want not near", got)
	}
	err = unix.EIO
	if got, _ := d.horizon(ns + second); got != never {
		t.Errorf("unreadable: %s", got)
	}
}

func TestGrowthOfCounters(t *testing.T) {
	var g growth
	g.seen(writes{bytes: 100 << 20, inodeMemory: 0}, 10*second)
	if g.grows(10 * second) {
		t.Error("grows at the first reading: what was written before is no growth")
	}
	g.seen(writes{bytes: 150 << 20, inodeMemory: 0}, 11*second)
	if !g.grows(11*second) || int(g.perSecond) != 50<<20 {
		t.Errorf("50 MiB in a second: %f", g.perSecond)
	}
	g.seen(writes{bytes: 10 << 20, inodeMemory: 0}, 12*second) // a process ended
	if !g.grows(16*second) || g.grows(17*second) {
		t.Error("want growing for five seconds after the last fast write")
	}
	g.seen(writes{bytes: 10 << 20, inodeMemory: 3 << 20}, 20*second)
	g.seen(writes{bytes: 10 << 20, inodeMemory: 9 << 20}, 22*second)
	if !g.grows(22 * second) {
		t.Error("thousands of empty files are no growth")
	}
}

func TestProcessWritten(t *testing.T) {
	const io = "rchar: 1686299\nwchar: 41944749\nsyscr: 674\nsyscw: 70\nread_bytes: 4096\nwrite_bytes: 41951232\ncancelled_write_bytes: 1232\n"
	if got := processWritten([]byte(io)); got != 41950000 {
		t.Errorf("got %d", got)
	}
	if got := processWritten(nil); got != 0 {
		t.Errorf("got %d of nothing", got)
	}
}
