package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// visitAll visits each part of a unit once.
func (w *worker) visitAll(u *unit) {
	for _, p := range u.parts {
		for !w.step(p) {
		}
	}
}

// patience for what must come some time, on a machine with other work.
const soon = 30 * time.Second

// start runs the worker until the test ends, which it must survive.
func (n *node) start(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, n.Options) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(soon):
			t.Error("the worker does not end")
		}
		time.Sleep(2 * turn) // its goroutines log to the test
	})
}

// await waits for a table that is as wanted.
func (n *node) await(t *testing.T, what string, want func(*workload.DiskTable) bool) *workload.DiskTable {
	t.Helper()
	var last *workload.DiskTable
	var err error
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if last, err = workload.LoadDisk(n.Table, uint32(os.Geteuid())); err == nil && want(last) {
			return last
		}
	}
	t.Fatalf("%s: not within %s; last %+v, %v", what, soon, last, err)
	return nil
}

func hasPod(table *workload.DiskTable) bool {
	e := table.Entry(podUID)
	return e != nil && len(e.Volumes) == 2 && e.EphemeralStorage != nil && e.EphemeralStorage.LocalVolumesBytes != nil
}

// Until all that was there at the start has been visited, who has a figure is not who holds most.
func TestTableSaysThatItIsMeasuring(t *testing.T) {
	w := newWorker(newNode(t).Options)
	isMeasuring := func() bool {
		t.Helper()
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
		table, err := workload.LoadDisk(w.o.Table, uint32(os.Geteuid()))
		if err != nil {
			t.Fatal(err)
		}
		return table.Measuring
	}
	if !isMeasuring() {
		t.Error("not before it knows any unit")
	}
	w.find()
	var parts []*part
	for _, u := range w.units {
		parts = append(parts, u.parts...)
	}
	w.units[podUID].growth.filledNs = 1 // so it may hold files without a name; the others wrote nothing
	w.countedNs.Store(monotonicNs())
	for _, p := range parts {
		if p.kind == unlinked && p.base != w.units[podUID].cgroup {
			continue
		}
		if !isMeasuring() {
			t.Errorf("not before %s was visited", p)
		}
		for !w.step(p) {
		}
	}
	if len(parts) < 2 || isMeasuring() {
		t.Errorf("still measuring when all %d parts were visited", len(parts))
	}
	if w.countedNs.Store(0); !isMeasuring() {
		t.Error("not before the counters were read, which say who wrote")
	}
}

func TestFiguresComeWhileTheRuntimeHangs(t *testing.T) {
	n := newNode(t)
	n.Runtime = hung{make(chan struct{})}
	n.start(t)
	table := n.await(t, "figures", hasPod)
	if s := table.Entry(podUID).EphemeralStorage; s.RootfsBytes != nil {
		t.Errorf("%+v: a writable layer that nobody told", s)
	}
	n.ask(t, workload.ReclaimRequest{ID: "r1", Signal: "imagefs.available", Images: true, DeadlineNs: monotonicNs() + second/5})
	table = n.await(t, "an answer", func(t *workload.DiskTable) bool { return t.Reclaim != nil })
	if r := table.Reclaim; r.ID != "r1" || !strings.Contains(r.Error, errHangs.Error()) {
		t.Errorf("got %+v, want that the runtime hangs", r)
	}
	n.ask(t, workload.ReclaimRequest{ID: "r2", Signal: "imagefs.available", Images: true, DeadlineNs: monotonicNs() + 100*second})
	n.await(t, "the next is not kept waiting", func(t *workload.DiskTable) bool { return t.Reclaim.ID == "r2" && t.Reclaim.Error != "" })
}

// hung is a runtime that heeds no deadline.
type hung struct{ ever chan struct{} }

func (h hung) Filesystems(context.Context) (cri.Filesystems, error) {
	<-h.ever
	return cri.Filesystems{}, nil
}
func (h hung) Containers(context.Context) ([]cri.Container, error) { <-h.ever; return nil, nil }
func (h hung) Reclaim(context.Context, cri.Reclaim, func() int64) (cri.Reclaimed, error) {
	<-h.ever
	return cri.Reclaimed{}, nil
}

func (n *node) ask(t *testing.T, q workload.ReclaimRequest) {
	t.Helper()
	if err := workload.WriteReclaim(n.Request, &q); err != nil {
		t.Fatal(err)
	}
}

func TestReclaimIsAnsweredOnceAnID(t *testing.T) {
	n := newNode(t)
	var calls atomic.Int64
	n.KubeletHas = func() func(string) bool { return func(uid string) bool { return uid == podUID } }
	n.Runtime = &fakeRuntime{reclaim: func(ctx context.Context, what cri.Reclaim, missing func() int64) (cri.Reclaimed, error) {
		calls.Add(1)
		if _, ok := ctx.Deadline(); !ok || !what.Containers || what.Images || !what.KubeletHas(podUID) || missing() > 0 {
			t.Errorf("asked for %+v, %d missing", what, missing())
		}
		return cri.Reclaimed{Containers: 3}, errors.New("one was busy")
	}}
	n.start(t)
	n.ask(t, workload.ReclaimRequest{ID: "r1", Signal: "nodefs.inodesFree", Containers: true, DeadlineNs: monotonicNs() + 30*second, AvailableWanted: 1})
	table := n.await(t, "an answer", func(t *workload.DiskTable) bool { return t.Reclaim != nil })
	r := table.Reclaim
	if r.ID != "r1" || r.Containers != 3 || r.Images != 0 || r.FreedInodes == nil || r.FreedBytes != nil || r.Error != "one was busy" {
		t.Errorf("got %+v", r)
	}
	n.await(t, "a later table", func(t *workload.DiskTable) bool { return t.WrittenNs > table.WrittenNs && t.Reclaim.ID == "r1" })
	if got := calls.Load(); got != 1 {
		t.Errorf("reclaimed %d times", got)
	}
	n.ask(t, workload.ReclaimRequest{ID: "r2", Signal: "nodefs.available", Containers: true, DeadlineNs: 1})
	table = n.await(t, "an answer to what is too late", func(t *workload.DiskTable) bool { return t.Reclaim.ID == "r2" })
	if calls.Load() != 1 || table.Reclaim.Error == "" {
		t.Errorf("got %+v after the deadline", table.Reclaim)
	}
}

// Who wants nothing freed wants figures: the runtime is not asked, and who grows is measured.
func TestFiguresAreMadeAnewOnDemand(t *testing.T) {
	settled, log := false, new(said)
	r := reclaimer{
		log: zerolog.New(log),
		runtime: &fakeRuntime{reclaim: func(context.Context, cri.Reclaim, func() int64) (cri.Reclaimed, error) {
			t.Error("the runtime was asked")
			return cri.Reclaimed{}, nil
		}},
		stat:   func(string) (unix.Statfs_t, error) { return unix.Statfs_t{}, nil },
		settle: func(context.Context) { settled = true },
	}
	got := r.perform(t.Context(), &workload.ReclaimRequest{ID: "r1", Signal: "nodefs.available", DeadlineNs: monotonicNs() + 30*second, AvailableWanted: 1})
	if !settled || got.Error != "" || got.FreedBytes != nil || got.Containers != 0 || got.DoneNs == 0 {
		t.Errorf("measured %t, answer %+v", settled, got)
	}
	if log.count("reclaim answered") != 1 || log.count("error") != 0 {
		t.Errorf("said %s, want no key for an error that is none", log)
	}
}

// A unit that the counters show to write is looked at again before its turn.
func TestGrowingVolumeIsSeenSoon(t *testing.T) {
	n := newNode(t)
	dir := filepath.Join(n.base, "cgroup/kubepods/pod"+podUID)
	put(t, filepath.Join(dir, "memory.stat"), "file_dirty 0\n")
	put(t, filepath.Join(dir, "io.stat"), "8:0 rbytes=0 wbytes=0\n")
	n.start(t)
	n.await(t, "figures", hasPod)
	write(t, filepath.Join(n.base, "kubelet/pods", podUID, "volumes/kubernetes.io~empty-dir/cache/more"), 4<<20)
	for at := int64(0); ; at++ { // as a writer of 50 MB/s would
		put(t, filepath.Join(dir, "memory.stat"), "file_dirty "+itoa(at*5<<20)+"\n")
		put(t, filepath.Join(n.base, "proc/vmstat"), "nr_free_pages 1\nnr_dirtied "+itoa(at*5<<20/4096)+"\n")
		table, err := workload.LoadDisk(n.Table, uint32(os.Geteuid()))
		if err == nil && *table.Entry(podUID).Volumes[0].UsedBytes > 4<<20 {
			return
		}
		if at == int64(soon/2/(100*time.Millisecond)) { // the turn of who rests comes later
			t.Fatal("not seen")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A pod whose cgroup is gone is told of until its files can be expected to be gone as well.
func TestPodThatWentIsMeasuredForAWhile(t *testing.T) {
	n := newNode(t)
	pod, volumes := "/kubepods/pod"+podUID, filepath.Join(n.base, "kubelet/pods", podUID, "volumes")
	n.start(t)
	n.await(t, "figures", hasPod)
	n.units.remove(pod)
	if err := os.RemoveAll(volumes); err != nil {
		t.Fatal(err)
	}
	n.await(t, "that nothing is left", func(t *workload.DiskTable) bool {
		e := t.Entry(podUID)
		return e != nil && e.EphemeralStorage != nil && e.EphemeralStorage.LocalVolumesBytes != nil && *e.EphemeralStorage.LocalVolumesBytes == 0
	})

	w := newWorker(n.Options)
	w.units = map[string]*unit{podUID: {uid: podUID, isPod: true}, "/machine/one": {uid: "/machine/one"}}
	for _, step := range []struct {
		at   time.Duration
		left int
	}{{0, 1}, {goneFor - 1, 1}, {goneFor, 0}} {
		units := map[string]*unit{}
		if w.keepGone(w.units, units, second+uint64(step.at)); len(units) != step.left {
			t.Errorf("%d units after %s, want %d", len(units), step.at, step.left)
		}
	}
}

// Nobody is known who removes the files of what is no pod: it is measured for as long as it holds
// something, and until that it holds nothing was told for a while; unless another has its directories.
func TestWhatIsNoPodIsMeasuredWhileItHoldsSomething(t *testing.T) {
	n := newNode(t)
	w := newWorker(n.Options)
	const one, again = "/machine/one", "/machine/again"
	visit := func() {
		for _, u := range w.units {
			w.visitAll(u)
		}
	}
	held := func() int64 {
		t.Helper()
		for _, e := range entries(w.units, func(string) ([]cri.Container, bool) { return nil, false }, monotonicNs(), time.Now()) {
			if e.UID == one {
				return *e.EphemeralStorage.LocalVolumesBytes
			}
		}
		return -1
	}
	former := n.units.units[one]
	w.find()
	visit()
	n.units.remove(one)
	n.units.remove("/machine.slice/two")
	w.find()
	if w.units["/machine.slice/two"] != nil {
		t.Error("what has no directory is kept")
	}
	if visit(); held() < 300<<10 {
		t.Fatalf("gone, it holds %d", held())
	}
	was := w.units[one]
	keep := func(at uint64) int {
		units := map[string]*unit{}
		w.keepGone(map[string]*unit{one: was}, units, at)
		return len(units)
	}
	hour := monotonicNs() + uint64(time.Hour)
	if keep(hour) != 1 {
		t.Error("its files are there, and it is not kept")
	}
	n.units.units[one] = former
	w.find()
	if u := w.units[one]; u == nil || u == was || u.leftNs != 0 || held() < 300<<10 {
		t.Errorf("it came back: %+v", u)
	}
	n.units.remove(one)
	n.units.units[again] = workload.Unit{Workload: workload.Workload{UID: again, Cgroup: again}}
	if w.find(); w.units[one] != nil || w.units[again] == nil {
		t.Error("measured though another has its directory")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Remove(filepath.Join(n.base, "machines/one/disk.img")))
	w.units = map[string]*unit{one: was}
	if visit(); held() > 4<<10 {
		t.Errorf("empty, it holds %d", held())
	}
	for at, want := range map[time.Duration]int{0: 1, goneFor - 1: 1, goneFor: 0} {
		if got := keep(hour + uint64(at)); got != want {
			t.Errorf("%d units %s after it was empty, want %d", got, at, want)
		}
	}
}

// Of more than can be measured the oldest are let go of.
func TestDeadUnitsAreBounded(t *testing.T) {
	w, former := newWorker(newNode(t).Options), map[string]*unit{}
	for i := range mostLeft + 1 {
		uid := "/machine/" + strconv.Itoa(i)
		former[uid] = &unit{uid: uid, bornNs: uint64(i), parts: []*part{{place: place{uid, "."}, kind: directory}}}
	}
	units := map[string]*unit{}
	if w.keepGone(former, units, second); len(units) != mostLeft || units["/machine/0"] != nil {
		t.Errorf("%d units, of the oldest %v", len(units), units["/machine/0"])
	}
}

func TestHumbleIsNoRealTimeProcess(t *testing.T) {
	if err := Humble(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("/proc/thread-self/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest) // from the state on, the third field of proc(5)
	if nice, policy := fields[19-3], fields[41-3]; nice != itoa(niceness) || policy != "0" {
		t.Errorf("nice %s, policy %s, want %d and SCHED_OTHER", nice, policy, niceness)
	}
}

func itoa(v int64) string { return strconv.FormatInt(v, 10) }

// Where the request should be there is a fifo: the figures go on, and a request that takes its
// place is answered.
func TestAFifoForARequestHoldsUpNothing(t *testing.T) {
	n := newNode(t)
	n.Runtime = &fakeRuntime{reclaim: func(context.Context, cri.Reclaim, func() int64) (cri.Reclaimed, error) { return cri.Reclaimed{}, nil }}
	if err := errors.Join(unix.Mkfifo(n.Request, 0o600), unix.Mkfifo(n.Table, 0o600), unix.Mkfifo(n.Table+".tmp", 0o600)); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	first := n.await(t, "figures", hasPod)
	n.await(t, "later ones", func(t *workload.DiskTable) bool { return t.WrittenNs > first.WrittenNs })
	n.ask(t, workload.ReclaimRequest{ID: "r1", Signal: "nodefs.available", Containers: true, DeadlineNs: monotonicNs() + 30*second, AvailableWanted: 1})
	n.await(t, "an answer", func(t *workload.DiskTable) bool { return t.Reclaim != nil && t.Reclaim.ID == "r1" })
}

// said is a log.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *said) count(text string) int { return strings.Count(s.String(), text) }

// A container that is started again at once leaves as many cgroups as there were.
func TestUnitIsReadAgainWhenAContainerCame(t *testing.T) {
	since := func(age time.Duration, running bool) map[string][]cri.Container {
		return map[string][]cri.Container{podUID: {{ID: id1, Running: running, Created: time.Now().Add(-age)}}}
	}
	for name, tc := range map[string]struct {
		containers map[string][]cri.Container
		age        time.Duration
		again      bool
		unlayered  bool
	}{
		"nobody told lately":             {nil, 20 * time.Second, false, false},
		"nobody told for long":           {nil, 40 * time.Second, true, false},
		"the runtime tells of nobody":    {since(time.Hour, true), 40 * time.Second, false, false},
		"for long":                       {since(time.Hour, true), 3 * time.Minute, true, false},
		"the runtime tells of a new one": {since(10*time.Second, true), 20 * time.Second, true, false},
		"a layer was not found":          {since(time.Hour, true), 40 * time.Second, true, true},
		"of one that has ended":          {since(10*time.Second, false), 20 * time.Second, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.process(t, id1, "4711", n.base+"/store/layer1/fs")
			n.process(t, id2, "4712", n.base+"/store/layer2/fs")
			if tc.unlayered {
				put(t, filepath.Join(n.base, "proc/4712/mountinfo"), "1 0 8:1 / / rw - ext4 /dev/vda rw\n")
			}
			w := newWorker(n.Options)
			w.find()
			now := monotonicNs() + uint64(time.Hour)
			w.asked.containers, w.asked.atNs = tc.containers, now
			u := w.units[podUID]
			u.readNs = now - uint64(tc.age)
			if again := w.known(u.cgroup, now) != u; again != tc.again {
				t.Errorf("read again: %t, want %t", again, tc.again)
			}
		})
	}
}
