package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func TestWhatCountersSayThatAUnitCanHaveFilled(t *testing.T) {
	const noData, mib = workload.NoData, int64(1 << 20)
	type reading struct {
		writes
		at time.Duration
	}
	whole := func(bytes, inodeMemory int64) writes { return writes{bytes, inodeMemory, true} }
	alive := func(bytes, inodeMemory int64) writes { return writes{bytes, inodeMemory, false} }
	for name, tc := range map[string]struct {
		isOld    bool // it was there before we came
		readings []reading
		want     Tally
	}{
		"no reading":                             {want: Tally{noData, noData}},
		"young":                                  {readings: []reading{{whole(0, 1), 8 * time.Second}}, want: Tally{noData, noData}},
		"it writes nothing":                      {readings: []reading{{whole(0, 1000), 0}, {whole(0, 1000), 9 * time.Second}}, want: Tally{0, 2}},
		"all that it ever wrote":                 {isOld: true, readings: []reading{{whole(500*mib, 1), 0}}, want: Tally{500 * mib, noData}},
		"what was written may be gone unwritten": {readings: []reading{{whole(500*mib, 1), 0}, {whole(0, 1), time.Second}}, want: Tally{500 * mib, 0}},
		"who lives wrote little":                 {isOld: true, readings: []reading{{alive(1000, 1), 0}, {alive(2000, 1), time.Second}}, want: Tally{2000, noData}},
		"who lives wrote much, and who ended?":   {readings: []reading{{alive(2*mib, 1), 0}}, want: Tally{noData, 0}},
		"what who ended wrote is not forgotten":  {readings: []reading{{alive(900_000, 1), 0}, {alive(0, 1), 1}, {alive(900_000, 1), 2}}, want: Tally{noData, 0}},
		"inodes that were made and let go":       {readings: []reading{{whole(0, 0), 0}, {whole(0, mib-1), 1}, {whole(0, 1000), 2}, {whole(0, 2000), 3}}, want: Tally{0, noData}},
		"the kernel counts no memory of its own": {readings: []reading{{whole(0, 0), 0}, {whole(0, 0), 1}}, want: Tally{0, noData}},
	} {
		t.Run(name, func(t *testing.T) {
			var g growth
			const born = 100 * second
			if !tc.isOld {
				g.atNs = born
			}
			for _, r := range tc.readings {
				g.seen(r.writes, born+1+uint64(r.at))
			}
			if got := g.atMost(born + 10*second); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

// A pod without its layer is told of with what it can have written; where its logs are missing,
// which the runtime writes, its own counters say nothing.
func TestWhatAPodWithoutFiguresCanHold(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/elsewhere/fs")
	w := newWorker(n.Options)
	w.find()
	u := w.units[podUID]
	w.visitAll(u)
	at := monotonicNs()
	u.growth.seen(writes{70_000, 1, true}, at)
	entry := func() *workload.DiskEntry {
		t.Helper()
		list := entries(w.units, func(string) ([]cri.Container, bool) { return nil, false }, at+4*second, time.Now())
		for i := range list {
			if list[i].UID == podUID {
				return &list[i]
			}
		}
		t.Fatal("the pod is not told of")
		return nil
	}
	if e := entry(); e.EphemeralStorage.RootfsBytes != nil || e.WroteBytes == nil || *e.WroteBytes != 70_000 {
		t.Errorf("%+v can hold %v, want 70000", e.EphemeralStorage, show(e.WroteBytes))
	}
	u.parts = append(u.parts, &part{kind: containerLogs, name: "young"})
	if e := entry(); e.WroteBytes != nil || e.MadeInodes != nil {
		t.Errorf("it can hold %v, want anything: there is a log without a figure", show(e.WroteBytes))
	}
	u.parts, u.hasLogs, u.hasVolumes = nil, false, false
	if e := entry(); e.EphemeralStorage != nil || e.WroteBytes != nil {
		t.Errorf("%+v, %v of a pod of which nothing is known", e.EphemeralStorage, show(e.WroteBytes))
	}
}

// The process that sets a container up has the host's root at first. It is looked at again, the
// sooner where somebody waits for figures.
func TestALayerIsLookedForAgain(t *testing.T) {
	n := newNode(t)
	n.process(t, id2, "4712", n.base+"/store/layer1/fs")
	put(t, filepath.Join(n.base, "cgroup/kubepods/pod"+podUID, id1, "cgroup.procs"), "4711\n")
	put(t, filepath.Join(n.base, "proc/4711/mountinfo"), "1 0 8:1 / / rw - ext4 /dev/vda rw\n")
	w := newWorker(n.Options)
	w.freshNs.Store(monotonicNs() + 3600*second) // somebody waits for as long as it takes
	look := func() uint64 {
		w.foundNs.Store(monotonicNs())
		w.find()
		w.unitsNs.Store(monotonicNs())
		w.countedNs.Store(monotonicNs())
		for _, u := range w.units {
			w.visitAll(u)
		}
		return w.foundNs.Load()
	}
	since := look()
	if w.hasMeasured(since) {
		t.Fatal("measured, though nobody knows a container's layer")
	}
	for end := time.Now().Add(soon); !w.refind.Load(); time.Sleep(time.Millisecond) {
		if w.hasMeasured(since) || time.Now().After(end) {
			t.Fatal("nobody looks for it again")
		}
	}
	n.process(t, id1, "4711", n.base+"/store/layer2/fs")
	if look(); !w.hasMeasured(since) || w.units[podUID].layer(id1) == nil {
		t.Error("the layer is there, and was not found")
	}

	if err := os.RemoveAll(filepath.Join(n.base, "proc/4712")); err != nil {
		t.Fatal(err)
	}
	if look(); w.units[podUID].layer(id2) == nil {
		t.Error("a layer that was known is forgotten")
	}
}

// Who has written nothing is not waited for.
func TestALayerOfWhoWroteNothingIsNotWaitedFor(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/elsewhere/fs")
	w := newWorker(n.Options)
	w.foundNs.Store(monotonicNs())
	w.find()
	for _, u := range w.units {
		u.growth.seen(writes{0, 1, true}, 1)
		w.visitAll(u)
	}
	w.countedNs.Store(monotonicNs())
	if !w.hasMeasured(w.foundNs.Load()) {
		t.Error("it is waited for")
	}
	for _, u := range w.units {
		u.growth.seen(writes{1, 1, true}, 2)
	}
	if w.hasMeasured(w.foundNs.Load()) {
		t.Error("who wrote something is not waited for")
	}
}

// Without CONFIG_TASK_IO_ACCOUNTING processes tell nothing, and not that they wrote nothing.
func TestProcessesThatTellNothing(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", "/")
	g := newGauges(n.FS, n.Procfs)
	defer g.keep(nil)
	group := "/kubepods/pod" + podUID + "/" + id1
	if w, err := g.read(group, 100*second); !errors.Is(err, errNoAccount) {
		t.Fatalf("%+v, %v", w, err)
	}
	put(t, filepath.Join(n.base, "proc/4711/io"), "rchar: 0\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n")
	if w, err := g.read(group, 200*second); err != nil || w.bytes != 4096 || w.whole {
		t.Errorf("%+v, %v", w, err)
	}
	put(t, filepath.Join(n.base, "cgroup", group, "io.stat"), "8:0 rbytes=0 wbytes=8192\n")
	put(t, filepath.Join(n.base, "cgroup", group, "memory.stat"), "file_dirty 0\n")
	for _, unattributed := range []bool{false, true} {
		fs, err := cgroupfs.New(filepath.Join(n.base, "cgroup"))
		if err != nil {
			t.Fatal(err)
		}
		g := newGauges(fs, n.Procfs)
		g.unattributed = unattributed
		if w, err := g.read(group, 300*second); err != nil || w.whole == unattributed || (w.bytes == 8192) == unattributed {
			t.Errorf("%+v, %v where whose page is written back is not told: %t", w, err, unattributed)
		}
		g.keep(nil)
	}
}

// A tree that takes longer than the agent waits, and whose unit has written much since the last
// visit: by the old figure another would be evicted.
func TestFigureOfBeforeAUnitGrewIsNone(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	n.process(t, id2, "4712", n.base+"/store/layer2/fs")
	w := newWorker(n.Options)
	w.find()
	u := w.units[podUID]
	visit := func() {
		for _, p := range u.parts {
			for !w.step(p) {
			}
			p.costNs = 2 * second
		}
	}
	visit()
	used := func() *int64 {
		if s := u.entry(nil, true, monotonicNs(), time.Now()).EphemeralStorage; s != nil {
			return s.UsedBytes
		}
		return nil
	}
	ask := func() {
		since := monotonicNs()
		w.freshNs.Store(since)
		w.firstFreshNs.Store(since)
		w.outdate()
	}
	if ask(); used() == nil {
		t.Error("who does not grow holds what it held")
	}
	u.growth.grewNs = monotonicNs()
	if ask(); used() != nil {
		t.Errorf("%d bytes, want none: of before it grew", *used())
	}
	if visit(); used() == nil {
		t.Error("not after another visit")
	}
	w.freshNs.Store(monotonicNs())
	if w.outdate(); used() == nil {
		t.Error("of after the first request: a younger one can't be had")
	}
}

// A budget that large trees have used up keeps nobody from what the agent waits for.
func TestWhatTheAgentWaitsForIsVisitedWithoutARest(t *testing.T) {
	for _, waits := range []bool{false, true} {
		n := newNode(t)
		w := newWorker(n.Options)
		w.find()
		w.horizon.Store(0)
		if waits {
			w.freshNs.Store(monotonicNs())
		}
		spent := budget{left: -mostDebt, at: monotonic(), spent: cpuTime(), isOpen: true}
		w.turn(t.Context(), &spent)
		for _, p := range w.units[podUID].parts {
			if p.kind != unlinked && (p.triedNs != 0) != waits {
				t.Errorf("the agent waits: %t, %s was visited: %t", waits, p, p.triedNs != 0)
			}
		}
	}
}
