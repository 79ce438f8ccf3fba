package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// diskBed is a bed with a small filesystem that is all the node's disk, and what a disk process
// would write about it.
type diskBed struct {
	*bed
	dir   string
	watch *figuresWatch
	// units are the figures that are written; bytes are of local volumes.
	units map[string]map[string]any
	// answer is what a disk process would do about a request; nil: nothing.
	answer func(*workload.ReclaimRequest) map[string]any
	// asked are the requests that were seen.
	asked []workload.ReclaimRequest
	// silent: the disk process writes nothing; measuring: it has not measured all units.
	silent, measuring bool
	last              map[string]any
}

// lowDisk is a threshold that is met while the bed's disk holds its image.
var lowDisk = map[string]string{"nodefs.available": "32Mi"}

func newDiskBed(t *testing.T) *diskBed {
	t.Helper()
	b := &diskBed{bed: newBed(t), dir: t.TempDir(), units: map[string]map[string]any{}}
	must(t, unix.Mount("tmpfs", b.dir, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { must(t, unix.Unmount(b.dir, unix.MNT_DETACH)) })
	files := t.TempDir()
	b.conf.Nodefs, b.conf.NodefsGiven, b.conf.Imagefs, b.conf.ImagefsGiven = b.dir, true, b.dir, true
	b.conf.Disk, b.conf.Reclaim = filepath.Join(files, "disk.json"), filepath.Join(files, "reclaim.json")
	b.conf.Workloads = filepath.Join(files, "workloads.json")
	b.conf.LocalStorageCapacityIsolation = true
	b.watch = watchFigures(b.conf.Disk)
	return b
}

// image is a file that takes most of the disk.
func (b *diskBed) image() string { return filepath.Join(b.dir, "image") }

func (b *diskBed) fill() {
	b.t.Helper()
	must(b.t, os.WriteFile(b.image(), make([]byte, 40<<20), 0o600))
}

// holds says that a unit holds so much of the disk.
func (b *diskBed) holds(unit string, bytes int64) {
	readNs := sample.Now()
	b.units[unit] = map[string]any{
		"uid":              path.Join(b.root, unit),
		"ephemeralStorage": map[string]any{"readNs": readNs, "rootfsBytes": 0, "logsBytes": 0, "localVolumesBytes": bytes},
		"inodes":           map[string]any{"readNs": readNs, "rootfs": 0, "logs": 0, "localVolumes": 1},
		"volumes":          []any{map[string]any{"readNs": readNs, "name": "cache", "medium": "", "usedBytes": bytes}},
	}
}

// write writes the figures as of a moment.
func (b *diskBed) write(writtenNs uint64) {
	b.t.Helper()
	units := []any{}
	for _, u := range b.units {
		units = append(units, u)
	}
	table := map[string]any{"schema": workload.DiskSchema, "node": "n", "writtenNs": writtenNs, "measuring": b.measuring, "workloads": units}
	if b.last != nil {
		table["reclaim"] = b.last
	}
	b.put(b.conf.Disk, table)
}

func (b *diskBed) put(file string, content any) {
	b.t.Helper()
	data, err := json.Marshal(content)
	must(b.t, err)
	must(b.t, os.WriteFile(file+".new", data, 0o600))
	must(b.t, os.Rename(file+".new", file))
}

// limits says that units have an emptyDir of so much at most.
func (b *diskBed) limits(bytes int64, units ...string) {
	b.t.Helper()
	entries := []any{}
	for _, unit := range units {
		entries = append(entries, map[string]any{
			"uid": path.Join(b.root, unit), "name": unit,
			"volumes": []any{map[string]any{"name": "cache", "medium": "", "sizeLimitBytes": bytes}},
		})
	}
	b.put(b.conf.Workloads, map[string]any{"schema": workload.TableSchema, "node": "n", "generation": 1, "workloads": entries})
}

// work is what a disk process does in a moment: it answers a request once, and writes.
func (b *diskBed) work() {
	b.t.Helper()
	if b.silent {
		return
	}
	request, err := workload.LoadReclaim(b.conf.Reclaim, uint32(os.Geteuid()))
	if err == nil && (len(b.asked) == 0 || b.asked[len(b.asked)-1].ID != request.ID) {
		b.asked = append(b.asked, *request)
		if b.answer != nil {
			b.last = b.answer(request)
			b.last["id"], b.last["signal"], b.last["doneNs"] = request.ID, request.Signal, sample.Now()
		}
	}
	b.write(sample.Now())
}

// round is a moment of everybody: the disk process, the scout, a pass.
func (b *diskBed) round(a *Agent) {
	b.t.Helper()
	b.work()
	a.scout.lookForFigures(b.watch)
	must(b.t, a.scout.round(false))
	must(b.t, a.turn(sample.Now()))
}

func (b *diskBed) rounds(a *Agent, what string, ok func() bool) {
	b.t.Helper()
	b.await(what, func() bool { b.round(a); return ok() })
}

// struckNs is when the first victim was signalled, for ever if nobody was.
func (b *diskBed) struckNs() uint64 {
	for _, l := range b.lines(record.KindKill) {
		return l.Timeline.Signalled
	}
	return math.MaxUint64
}

// quiet makes rounds for a time in which nothing is to happen.
func (b *diskBed) quiet(a *Agent, d time.Duration) {
	b.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		b.round(a)
	}
	b.written(a)
}

// refusals are the reasons of the lines that say that nobody is killed for a signal.
func (b *diskBed) refusals(signal string) (found []string) {
	for _, l := range b.lines(record.KindEviction) {
		if l.Outcome == record.OutcomeRefused && l.Signal == signal {
			found = append(found, l.Reason)
		}
	}
	return found
}

func (b *diskBed) alarms(text string) (n int) {
	for _, l := range b.lines(record.KindDegraded) {
		if strings.Contains(l.Reason, text) {
			n++
		}
	}
	return n
}

// memoryIsProtected evicts somebody for memory while a disk waits.
func (b *diskBed) memoryIsProtected(a *Agent) {
	b.t.Helper()
	hog := b.sleeper("hog", 200<<20)
	must(b.t, a.scout.round(true))
	b.rounds(a, "the hog to die for memory", func() bool { return !hog.Alive() })
	b.rounds(a, "the hog's line", func() bool { return len(b.outcomes("hog")) == 1 })
	if l := b.line(record.KindEviction, "hog"); l.Signal != "allocatableMemory.available" || l.Outcome != record.OutcomeKilled {
		b.t.Errorf("the hog: %s for %s", l.Outcome, l.Signal)
	}
}

// withMemory are thresholds with one of memory that 200 MiB are enough for.
func withMemory(disk map[string]string) map[string]string {
	both := map[string]string{"allocatableMemory.available": "400Mi"}
	for s, v := range disk {
		both[s] = v
	}
	return both
}

func TestImagesGoAndNobodyDies(t *testing.T) {
	b := newDiskBed(t)
	unit := b.sleeper("unit", 1<<20)
	b.fill()
	b.holds("unit", 30<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any {
		must(t, os.Remove(b.image()))
		return map[string]any{"freedBytes": 40 << 20, "freedInodes": 1, "images": 1}
	}
	a := b.open(lowDisk, nil)
	b.rounds(a, "the line of the reclaim", func() bool { return len(b.lines(record.KindReclaim)) == 1 })
	b.quiet(a, 300*time.Millisecond)
	if !unit.Alive() || len(b.lines(record.KindKill)) != 0 || len(b.refusals("nodefs.available")) != 0 {
		t.Errorf("the unit lives: %v\n%s", unit.Alive(), b.journal())
	}
	l := b.lines(record.KindReclaim)
	if len(l) != 1 || l[0].Reclaim.Images != 1 || *l[0].Reclaim.FreedBytes != 40<<20 || *l[0].FreedBytes != 40<<20 || l[0].Outcome != record.OutcomeRecovered {
		t.Errorf("lines %+v", l)
	}
	if r := b.asked; len(r) != 1 || r[0].Signal != "nodefs.available" || !r[0].Containers || !r[0].Images || r[0].AvailableWanted != 32<<20 || r[0].ID != l[0].ID.String() {
		t.Errorf("asked for %+v", r)
	} else if left := time.Duration(r[0].DeadlineNs - l[0].Reclaim.TookNs); left <= 0 {
		t.Errorf("deadline %d", r[0].DeadlineNs)
	}
	if s := a.view().Disk; s == nil || s.Error != "" || s.Workloads != 1 || s.Reclaim == nil || s.Reclaim.Images != 1 || s.Reclaiming {
		t.Errorf("state %+v", s)
	}
}

func TestWhoHoldsMostDiesWhenReclaimIsNotEnough(t *testing.T) {
	for name, what := range map[string]map[string]any{
		"nothing was left to remove":  {"containers": 0, "freedBytes": 0},
		"the runtime does not answer": {"error": "containerd: deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newDiskBed(t)
			small, big := b.sleeper("small", 64<<20), b.sleeper("big", 1<<20)
			b.fill()
			b.holds("small", 1<<20)
			b.holds("big", 30<<20)
			var first map[string]any
			b.answer = func(*workload.ReclaimRequest) map[string]any {
				answer := maps.Clone(what)
				if first == nil {
					first = answer
				}
				return answer
			}
			a := b.open(lowDisk, nil)
			b.rounds(a, "the big one to die", func() bool { return !big.Alive() })
			b.quiet(a, 300*time.Millisecond)
			l := b.line(record.KindKill, "big")
			if !small.Alive() || len(b.lines(record.KindKill)) != 1 {
				t.Errorf("the small one lives: %v\n%s", small.Alive(), b.journal())
			}
			if l.Reclaim == nil || l.Reclaim.Error != fmt.Sprint(orEmpty(what["error"])) || l.Reclaim.ID.String() != b.asked[0].ID {
				t.Errorf("reclaim %+v", l.Reclaim)
			}
			if want := min(1, len(l.Reclaim.Error)); b.alarms("node-level reclaim failed") != want {
				t.Errorf("%d alarms, want %d", b.alarms("node-level reclaim failed"), want)
			}
			if done := first["doneNs"].(uint64); l.Timeline.Decided < done {
				t.Errorf("decided at %d, the reclaim was done at %d", l.Timeline.Decided, done)
			}
			if n := len(b.lines(record.KindReclaim)); n != 0 {
				t.Errorf("%d lines of a reclaim that was enough", n)
			}
		})
	}
}

// A victim may hold all that is missing, whatever was known of it, until it is measured
// anew. Its containers are dead and can be removed: reclaim goes on, and precedes the next
// eviction.
func TestNobodyFollowsAVictimBeforeItIsMeasuredAnew(t *testing.T) {
	b := newDiskBed(t)
	first, second := b.sleeper("first", 1<<20), b.sleeper("second", 1<<20)
	b.fill()
	b.holds("first", 3<<20)
	b.holds("second", 2<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{"containers": len(b.asked) - 1} }
	a := b.open(lowDisk, nil)
	b.rounds(a, "the first to die", func() bool { return !first.Alive() })
	b.quiet(a, 500*time.Millisecond)
	if !second.Alive() || len(b.asked) < 2 {
		t.Errorf("the second lives: %v; asked %d times", second.Alive(), len(b.asked))
	}
	b.holds("first", 3<<20) // less than is missing
	b.rounds(a, "the second to die", func() bool { return !second.Alive() })
	b.written(a)
	one, two := b.line(record.KindKill, "first"), b.line(record.KindKill, "second")
	if one.Reclaim.ID.String() != b.asked[0].ID || two.Reclaim.ID == one.Reclaim.ID || two.Reclaim.Containers < 1 {
		t.Errorf("asked %d times, reclaims %+v and %+v", len(b.asked), one.Reclaim, two.Reclaim)
	}
}

// The journal has a victim's death with the disk's recovery, the state file has it at once.
func TestStateHasTheDeathOfAnOpenEviction(t *testing.T) {
	b := newDiskBed(t)
	unit := b.sleeper("unit", 1<<20)
	b.fill()
	b.holds("unit", 30<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.rounds(a, "the death in the state", func() bool {
		s := a.view().Evictions
		return len(s) == 1 && s[0].Timeline.Dead > s[0].Timeline.Signalled
	})
	b.written(a)
	if s, id := a.view().Evictions[0], b.line(record.KindKill, "unit").ID; unit.Alive() || s.ID != id || s.Timeline.Recovered != 0 || len(b.outcomes("unit")) != 0 {
		t.Errorf("%+v of %s, it lives: %v\n%s", s, id, unit.Alive(), b.journal())
	}
	must(t, os.Remove(b.image()))
	b.rounds(a, "the line", func() bool { return len(b.outcomes("unit")) == 1 })
	if s := a.view().Evictions; len(s) != 0 {
		t.Errorf("%+v is closed", s)
	}
}

// Where the journal lies on the disk that is full, and nothing was kept for it, one is evicted
// for the other all the same, and all lines come when there is space again.
func TestEvictionsGoOnWithoutSpaceForTheJournal(t *testing.T) {
	b := newDiskBed(t)
	b.conf.Journal, b.conf.State = filepath.Join(b.dir, "journal"), filepath.Join(b.dir, "state.json")
	first, second := b.sleeper("first", 1<<20), b.sleeper("second", 1<<20)
	b.fill()
	rest := filepath.Join(b.dir, "rest")
	if err := os.WriteFile(rest, make([]byte, 64<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling up: %v, want ENOSPC", err)
	}
	b.holds("first", 3<<20)
	b.holds("second", 2<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.rounds(a, "the first to die", func() bool { return !first.Alive() })
	b.rounds(a, "the second to die", func() bool { b.holds("first", 0); return !second.Alive() })
	if n := len(b.lines("")); n != 0 {
		t.Fatalf("%d lines, though there is no space", n)
	}
	must(t, errors.Join(os.Remove(rest), os.Remove(b.image())))
	b.rounds(a, "their lines", func() bool { return len(b.outcomes("first"))+len(b.outcomes("second")) == 2 })
	for _, unit := range []string{"first", "second"} {
		if l := b.line(record.KindKill, unit); l.Timeline.Signalled == 0 || b.outcomes(unit)[0] != record.OutcomeKilled {
			t.Errorf("%s: %+v\n%s", unit, l.Timeline, b.journal())
		}
	}
}

// Who fills a disk is seen by the first reading below the threshold, and dies by the first one
// after the answer to what is asked for then: at most one poll late.
func TestNoReadingIsWaitedForInVain(t *testing.T) {
	t.Run("the agent sees the answer at once", func(t *testing.T) { killByFirstReading(t, false) })
	t.Run("a reading comes before it sees the answer", func(t *testing.T) { killByFirstReading(t, true) })
}

func killByFirstReading(t *testing.T, isLate bool) {
	b := newDiskBed(t)
	unit := b.sleeper("unit", 1<<20)
	b.holds("unit", 30<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.quiet(a, 100*time.Millisecond)
	b.fill()
	read := func() (ns uint64, isBelow bool) {
		for _, o := range a.input.Observations {
			if o.Signal == signal.NodeFsAvailable {
				return o.Ns, o.Available < 32<<20
			}
		}
		return 0, false
	}
	var first uint64
	b.rounds(a, "a reading below the threshold", func() (isBelow bool) { first, isBelow = read(); return isBelow })
	seen := sample.Now()
	if a.reclaim.phase != reclaimAsked {
		t.Errorf("phase %d after that, want that reclaim is asked for", a.reclaim.phase)
	}
	b.await("the answer", func() bool { b.work(); return b.last != nil })
	answered := b.last["doneNs"].(uint64)
	if isLate {
		b.await("a reading after the answer", func() bool {
			o, err := a.disks.Observe(signal.NodeFsAvailable, sample.Now())
			return err == nil && o.Ns > answered
		})
	}
	inVain := 0
	b.rounds(a, "the death", func() bool {
		if ns, _ := read(); ns > answered && !a.open[0].used {
			inVain++
		}
		return !unit.Alive()
	})
	b.written(a)
	if l := b.line(record.KindKill, "unit"); inVain != 0 || l.Timeline.Crossed < first || l.Timeline.Crossed > seen {
		t.Errorf("%d passes with a reading after the answer in vain; crossed at %d, first read at %d, by the pass that ended at %d", inVain, l.Timeline.Crossed, first, seen)
	}
}

// The runtime removes what was struck and stops the sandbox, whose cgroup stays for a moment:
// nothing shows any more what it was. It is no container that was started since.
func TestTheEmptySandboxOfAVictimIsNoNewContainer(t *testing.T) {
	b := newDiskBed(t)
	struck, second := b.sleeper(podA+"/struck", 1<<20), b.sleeper("second", 1<<20)
	b.fill()
	b.holds("second", 2<<20)
	podHolds := func() {
		b.holds(podA, 30<<20)
		b.units[podA]["uid"] = strings.TrimPrefix(path.Base(podA), "pod")
	}
	podHolds()
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.rounds(a, "the pod to die", func() bool { return !struck.Alive() && a.open[0].timeline.Dead != 0 })
	b.create(podA + "/sandbox")
	must(t, b.fs.Remove(path.Join(b.root, podA, "struck")))
	must(t, a.scout.round(true))
	for end := time.Now().Add(time.Second); time.Now().Before(end) && second.Alive(); time.Sleep(time.Millisecond) {
		podHolds() // its files lie there
		b.round(a)
	}
	if !second.Alive() {
		t.Errorf("another died in its place\n%s", b.journal())
	}
}

func orEmpty(v any) any {
	if v == nil {
		return ""
	}
	return v
}

// Who wanted to know would wait for an answer; memory, and be it soft, does not.
func TestMemoryDoesNotWaitForReclaim(t *testing.T) {
	b := newDiskBed(t)
	unit := b.sleeper("unit", 1<<20)
	b.fill()
	b.holds("unit", 30<<20)
	b.soft("400Mi", time.Millisecond, 1)
	a := b.open(lowDisk, nil)
	b.rounds(a, "the request", func() bool { return len(b.asked) == 1 })
	hog := b.sleeper("hog", 200<<20)
	must(t, a.scout.round(true))
	b.rounds(a, "the hog to be asked to end", func() bool { return !hog.Alive() })
	if !unit.Alive() || !a.reclaim.isUnderWay() {
		t.Errorf("the unit lives: %v, reclaim is under way: %v\n%s", unit.Alive(), a.reclaim.isUnderWay(), b.journal())
	}
	if s := a.view().Disk; s == nil || !s.Reclaiming {
		t.Errorf("state %+v", s)
	}
}

// A disk process that goes on writing and does not answer in time has freed nothing.
func TestAnAnswerThatDoesNotCome(t *testing.T) {
	b := newDiskBed(t)
	b.conf.ReclaimDeadline = time.Second
	unit := b.sleeper("unit", 1<<20)
	b.fill()
	b.holds("unit", 30<<20)
	a := b.open(lowDisk, nil)
	b.rounds(a, "the unit to die", func() bool { return !unit.Alive() })
	b.written(a)
	if l := b.line(record.KindKill, "unit"); l.Reclaim == nil || l.Reclaim.Error != "not done within 1s" || l.Reclaim.TookNs < uint64(time.Second) {
		t.Errorf("reclaim %+v", l.Reclaim)
	}
}

// One that does nothing at all any more is not to be relied on: an alarm, and nobody dies for
// the disk. Memory is protected all the same.
func TestAHungDiskProcessKillsNobody(t *testing.T) {
	b := newDiskBed(t)
	b.conf.ReclaimDeadline = time.Second
	unit := b.sleeper("unit", 1<<20)
	b.fill()
	b.holds("unit", 30<<20)
	a := b.open(withMemory(lowDisk), nil)
	b.work()
	b.silent = true
	b.rounds(a, "the refusal", func() bool { return len(b.refusals("nodefs.available")) == 1 })
	b.memoryIsProtected(a)
	b.quiet(a, 200*time.Millisecond)
	if r := b.refusals("nodefs.available"); !unit.Alive() || len(r) != 1 || r[0] != string(reasonHung) || b.alarms("does not answer") != 1 {
		t.Errorf("the unit lives: %v, refused %q, %d alarms", unit.Alive(), r, b.alarms("does not answer"))
	}
	if s := a.view().Disk; s == nil || s.Error != string(reasonHung) {
		t.Errorf("state %+v", s)
	}
	// It is back, too late, with what it knew before; asked again it measures.
	writer := b.sleeper("writer", 1<<20)
	must(t, a.scout.round(true))
	b.silent, b.answer = false, func(*workload.ReclaimRequest) map[string]any {
		if len(b.asked) == 1 {
			return map[string]any{"error": "the deadline is over"}
		}
		b.holds("writer", 36<<20)
		return map[string]any{}
	}
	b.rounds(a, "the one to die that has filled the disk meanwhile", func() bool { return !writer.Alive() || !unit.Alive() })
	if !unit.Alive() {
		t.Errorf("the other died\n%s", b.journal())
	}
}

// A disk process that begins anew knows some units before others, and nobody dies for being known.
func TestNobodyDiesBeforeAllAreMeasured(t *testing.T) {
	b := newDiskBed(t)
	known := b.sleeper("known", 1<<20)
	b.fill()
	b.holds("known", 1<<20)
	b.measuring = true
	a := b.open(lowDisk, nil)
	b.rounds(a, "the refusal", func() bool { return len(b.refusals("nodefs.available")) == 1 })
	if r := b.refusals("nodefs.available"); !known.Alive() || r[0] != string(reasonMeasuring) {
		t.Errorf("it lives: %v, refused %q", known.Alive(), r)
	}
	b.measuring = false
	b.rounds(a, "somebody to die", func() bool { return !known.Alive() })
}

// A pod that the disk process knows nothing of, or nothing whole, may be the one that fills the
// disk: it is named, and nobody dies in its place, unless it has shown that it can't be it.
func TestNobodyDiesInThePlaceOfAPodThatIsNotMeasured(t *testing.T) {
	const wrote = "wroteBytes"
	for name, tc := range map[string]struct {
		// entry is what is said of the pod; nil: nothing. later makes a victim of the other.
		entry, later map[string]any
		compat       string
	}{
		"it is not known yet":     {nil, map[string]any{wrote: 0}, ""},
		"it has no counters":      {map[string]any{}, map[string]any{wrote: 1 << 20}, ""},
		"it wrote more":           {map[string]any{wrote: 40 << 20}, map[string]any{wrote: 40 << 20, "ephemeralStorage": map[string]any{"readNs": 1, "rootfsBytes": 1, "logsBytes": 0, "localVolumesBytes": 0}}, ""},
		"strictly as the kubelet": {map[string]any{wrote: 40 << 20}, nil, config.CompatKubelet},
	} {
		t.Run(name, func(t *testing.T) {
			b := newDiskBed(t)
			b.conf.Compat = tc.compat
			known, unknown := b.sleeper("known", 1<<20), b.sleeper(podA+"/c", 1<<20)
			uid := strings.TrimPrefix(path.Base(podA), "pod")
			b.put(b.conf.Workloads, map[string]any{"schema": workload.TableSchema, "node": "n", "generation": 1, "workloads": []any{
				map[string]any{"uid": uid, "namespace": "shop", "name": "web-0"},
			}})
			says := func(entry map[string]any) {
				delete(b.units, podA)
				if entry != nil {
					b.units[podA] = maps.Clone(entry)
					b.units[podA]["uid"] = uid
					if s, ok := entry["ephemeralStorage"].(map[string]any); ok {
						s["readNs"] = sample.Now()
					}
				}
			}
			b.fill()
			b.holds("known", 30<<20)
			says(tc.entry)
			b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
			a := b.open(withMemory(lowDisk), nil)
			if tc.compat != "" {
				b.rounds(a, "somebody to die", func() bool { return !known.Alive() || !unknown.Alive() })
				return
			}
			b.rounds(a, "the refusal", func() bool { return len(b.refusals("nodefs.available")) == 1 })
			b.memoryIsProtected(a)
			b.quiet(a, 300*time.Millisecond)
			r := b.refusals("nodefs.available")
			if !known.Alive() || !unknown.Alive() || len(r) != 1 || !strings.HasPrefix(r[0], string(decide.ReasonUnmeasured)+": shop/web-0, ") || !strings.Contains(r[0], podA) {
				t.Errorf("they live: %v, %v; refused %q", known.Alive(), unknown.Alive(), r)
			}
			if s := a.view().Disk; s == nil || s.Error != r[0] {
				t.Errorf("state %+v", s)
			}
			b.holds("known", 30<<20)
			says(tc.later)
			b.rounds(a, "the known one to die", func() bool { return !known.Alive() })
			if s := a.view().Disk; !unknown.Alive() || s == nil || s.Error != "" {
				t.Errorf("the other lives: %v; state %+v", unknown.Alive(), s)
			}
		})
	}
}

// A unit that is no pod has no figures where no directory is configured for it, and keeps nobody
// from being evicted.
func TestAUnitWithoutDirectoriesKeepsNobodyAlive(t *testing.T) {
	b := newDiskBed(t)
	known, other := b.sleeper("known", 1<<20), b.sleeper("other", 1<<20)
	b.fill()
	b.holds("known", 30<<20)
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	a := b.open(lowDisk, nil)
	b.rounds(a, "the known one to die", func() bool { return !known.Alive() })
	if !other.Alive() || len(b.refusals("nodefs.available")) != 0 {
		t.Errorf("the other lives: %v; refused %q", other.Alive(), b.refusals("nodefs.available"))
	}
}

func TestWithoutADiskProcessNobodyDiesForADisk(t *testing.T) {
	for name, leave := range map[string]func(*diskBed){
		"it does not run":                func(*diskBed) {},
		"it has not written for a while": func(b *diskBed) { b.write(sample.Now() - uint64(FiguresFileAge) - uint64(time.Second)) },
		"somebody left a fifo":           func(b *diskBed) { must(b.t, unix.Mkfifo(b.conf.Disk, 0o600)) },
	} {
		for _, compat := range []string{"", config.CompatKubelet} {
			t.Run(name+compat, func(t *testing.T) {
				b := newDiskBed(t)
				b.conf.Compat, b.silent = compat, true
				unit := b.sleeper("unit", 1<<20)
				b.fill()
				b.holds("unit", 30<<20)
				leave(b)
				a := b.open(withMemory(lowDisk), nil)
				b.rounds(a, "the refusal", func() bool { return len(b.refusals("nodefs.available")) == 1 })
				b.memoryIsProtected(a)
				b.rounds(a, "the alarm", func() bool { return b.alarms("no disk figures") == 1 })
				if r := b.refusals("nodefs.available"); !unit.Alive() || len(r) != 1 || r[0] != string(reasonNoFigures) {
					t.Errorf("the unit lives: %v, refused %q", unit.Alive(), r)
				}
				if _, err := os.Stat(b.conf.Reclaim); err == nil {
					t.Error("reclaim was asked of nobody")
				}
				if s := a.view().Disk; s == nil || !strings.HasPrefix(s.Error, string(reasonNoFigures)) || s.AgeSeconds != nil {
					t.Errorf("state %+v", s)
				}
				b.silent = false
				b.rounds(a, "the word that all is well", func() bool { return b.alarms("there are disk figures again") == 1 })
			})
		}
	}
}

// Without reclaim an idle unit that is known to hold most does not die in the place of one that has
// filled the disk since, and nobody by the figures of a disk process that is stopped.
func TestWithoutReclaimNobodyDiesByFiguresOfBefore(t *testing.T) {
	b := newDiskBed(t)
	b.conf.ReclaimDeadline = 0
	idle := b.sleeper("idle", 1<<20)
	b.fill()
	b.holds("idle", 10<<20)
	a := b.open(lowDisk, nil)
	if want := config.Default().ReclaimDeadline; a.reclaim.deadline != want {
		t.Errorf("an answer is waited for %s, want %s", a.reclaim.deadline, want)
	}
	a.reclaim.deadline = time.Second
	b.work()
	b.silent = true
	b.rounds(a, "the refusal or a death", func() bool { return len(b.refusals("nodefs.available")) == 1 || !idle.Alive() })
	b.quiet(a, 200*time.Millisecond)
	if r := b.refusals("nodefs.available"); !idle.Alive() || len(r) != 1 || r[0] != string(reasonHung) || b.alarms("does not answer") != 1 {
		t.Errorf("the idle one lives: %v, refused %q, %d alarms", idle.Alive(), r, b.alarms("does not answer"))
	}
}

// Who may free nothing, an agent that only looks on or by its configuration, or has nothing to free, for nodefs without
// images on it, has who grows measured anew all the same.
func TestFiguresAreMadeAnewWhereNothingIsFreed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*diskBed)
		want   record.Outcome
	}{
		"in shadow mode":                      {func(b *diskBed) { b.conf.Mode = config.ModeShadow }, record.OutcomeShadow},
		"without reclaim":                     {func(b *diskBed) { b.conf.ReclaimDeadline = 0 }, record.OutcomeKilled},
		"images on a filesystem of their own": {func(b *diskBed) { b.conf.Imagefs = b.t.TempDir() }, record.OutcomeKilled},
	} {
		t.Run(name, func(t *testing.T) {
			b := newDiskBed(t)
			tc.change(b)
			idle := b.sleeper("idle", 1<<20)
			b.sleeper("writer", 1<<20)
			b.fill()
			b.holds("idle", 10<<20)
			b.holds("writer", 1<<20)
			b.answer = func(*workload.ReclaimRequest) map[string]any { b.holds("writer", 36<<20); return map[string]any{} }
			a := b.open(lowDisk, nil)
			b.rounds(a, "the line", func() bool {
				if len(b.lines(record.KindKill)) > 0 {
					_ = os.Remove(b.image())
				}
				return len(b.lines(record.KindEviction)) > 0
			})
			b.quiet(a, 300*time.Millisecond)
			l := b.lines(record.KindEviction)
			if len(l) != 1 || l[0].Victim == nil || l[0].Victim.Name != "writer" || l[0].Outcome != tc.want || l[0].Reclaim != nil || !idle.Alive() {
				t.Errorf("the idle one lives: %v\n%s", idle.Alive(), b.journal())
			}
			for i, r := range b.asked {
				// Another look is for the next victim: until the file is seen to be gone.
				if r.Containers || r.Images || i > 0 && r.DeadlineNs-uint64(a.reclaim.deadline) < b.struckNs() {
					t.Errorf("asked for %+v, want a look at figures, one before the death", b.asked)
				}
			}
			if len(b.asked) == 0 {
				t.Error("no figures were asked for")
			}
			if s := a.view().Disk; s == nil || s.Reclaim != nil || s.Reclaiming || len(b.lines(record.KindReclaim)) != 0 {
				t.Errorf("state %+v, though nothing was to be freed", s)
			}
		})
	}
}

func TestWhoIsAboveItsLimitIsEvicted(t *testing.T) {
	b := newDiskBed(t)
	b.limits(10<<20, "one", "two", "kept")
	one, two := b.sleeper("one", 1<<20), b.sleeper("two", 1<<20)
	kept, free := b.sleeper("kept", 1<<20), b.sleeper("free", 1<<20)
	a := b.open(map[string]string{"nodefs.available": "1Mi"}, nil)
	must(t, a.scout.round(true))
	b.holds("one", 11<<20)
	b.holds("two", 20<<20)
	b.holds("kept", 10<<20)
	b.holds("free", 60<<20)
	b.rounds(a, "both to die", func() bool { return !one.Alive() && !two.Alive() })
	b.rounds(a, "their lines", func() bool { return len(b.outcomes("one")) == 1 && len(b.outcomes("two")) == 1 })
	b.quiet(a, 300*time.Millisecond)
	if !kept.Alive() || !free.Alive() || len(b.lines(record.KindKill)) != 2 {
		t.Errorf("alive: %v at its limit, %v without one\n%s", kept.Alive(), free.Alive(), b.journal())
	}
	for _, kind := range []record.Kind{record.KindKill, record.KindEviction} {
		l := b.line(kind, "one")
		if l.Signal != "emptydirfs.limit" || l.Message != `Usage of EmptyDir volume "cache" exceeds the limit "10Mi". ` || l.Threshold != nil || len(l.Annotations) != 0 {
			t.Errorf("%s line of %s, %q, threshold %+v", kind, l.Signal, l.Message, l.Threshold)
		}
		if *l.Observed != (record.Observed{Available: -1 << 20, Capacity: 10 << 20}) || *l.Victim.UsageBytes != 11<<20 {
			t.Errorf("observed %+v, usage %d", l.Observed, *l.Victim.UsageBytes)
		}
	}
	if l := b.line(record.KindEviction, "one"); l.Outcome != record.OutcomeKilled || l.Timeline.Crossed == 0 || l.Timeline.Signalled < l.Timeline.Crossed || l.Timeline.Dead == 0 {
		t.Errorf("%s, %+v", l.Outcome, l.Timeline)
	}
}

// What was read of a unit before it was killed says nothing of who runs in it since.
func TestAFigureKillsOnce(t *testing.T) {
	b := newDiskBed(t)
	b.limits(10<<20, "unit")
	first := b.sleeper("unit", 1<<20)
	a := b.open(map[string]string{"nodefs.available": "1Mi"}, nil)
	must(t, a.scout.round(true))
	b.holds("unit", 20<<20)
	b.rounds(a, "the first to die", func() bool { return !first.Alive() && len(b.outcomes("unit")) == 1 })
	second := b.sleeperIn("unit", 1<<20)
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		b.round(a)
	}
	if !second.Alive() {
		t.Fatal("killed by what was read of the former one")
	}
	b.holds("unit", 20<<20)
	b.rounds(a, "the second to die by a new figure", func() bool { return !second.Alive() })
}

func TestLimitsThatAreNotEnforced(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*diskBed)
		want   record.Outcome // "" is no line
		reason string
	}{
		"in shadow mode":           {func(b *diskBed) { b.conf.Mode = config.ModeShadow }, record.OutcomeShadow, "would have been killed"},
		"with the budget spent":    {func(b *diskBed) { b.conf.Budget = config.Budget{} }, record.OutcomeRefused, "kill budget spent"},
		"without the isolation":    {func(b *diskBed) { b.conf.LocalStorageCapacityIsolation = false }, "", ""},
		"of a unit that is spared": {func(b *diskBed) { b.conf.Protect = []string{b.root + "/*"} }, "", ""},
		"by a figure that is old":  {func(b *diskBed) { b.silent = true }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newDiskBed(t)
			b.limits(10<<20, "unit")
			tc.change(b)
			unit := b.sleeper("unit", 1<<20)
			b.holds("unit", 20<<20)
			b.write(sample.Now())
			a := b.open(map[string]string{"nodefs.available": "1Mi"}, nil)
			must(t, a.scout.round(true))
			if !b.silent {
				b.holds("unit", 20<<20)
			}
			if tc.want != "" {
				b.rounds(a, "the line", func() bool { return len(b.outcomes("unit")) > 0 })
			}
			b.quiet(a, 1500*time.Millisecond)
			if got := b.outcomes("unit"); !unit.Alive() || len(b.lines(record.KindKill)) != 0 || (tc.want == "") != (len(got) == 0) || len(got) > 1 {
				t.Fatalf("it lives: %v, outcomes %v", unit.Alive(), got)
			}
			if tc.want == "" {
				return
			}
			if l := b.line(record.KindEviction, "unit"); l.Outcome != tc.want || l.Reason != tc.reason || l.Signal != "emptydirfs.limit" || l.Message == "" {
				t.Errorf("%s: %s, %s %q", l.Outcome, l.Reason, l.Signal, l.Message)
			}
		})
	}
}

// A limit is a limit though no threshold is about a disk; more are above it than may be under
// way at once, and memory has a place all the same.
func TestManyAboveTheirLimits(t *testing.T) {
	b := newDiskBed(t)
	var units []string
	var loads []*load.Load
	for i := range maxOpen + 2 {
		units = append(units, fmt.Sprint("unit-", i))
		loads = append(loads, b.sleeper(units[i], 1<<20))
	}
	b.limits(10<<20, units...)
	a := b.open(map[string]string{"allocatableMemory.available": "1Mi"}, nil)
	must(t, a.scout.round(true))
	for _, u := range units {
		b.holds(u, 20<<20)
	}
	most := 0
	b.rounds(a, "all to die", func() bool {
		most = max(most, a.limitsUnderWay())
		for _, l := range loads {
			if l.Alive() {
				return false
			}
		}
		return true
	})
	if most > maxSoft {
		t.Errorf("%d under way at once", most)
	}
}

func TestDirectoriesOfImagesAndLayers(t *testing.T) {
	images, layers := t.TempDir(), t.TempDir()
	runtime := workload.DiskLayout{ImageDir: images, ContainerDir: layers}
	for name, tc := range map[string]struct {
		change     func(*config.Config)
		runtime    workload.DiskLayout
		image, ctr string
	}{
		"the runtime names them":             {func(*config.Config) {}, runtime, images, layers},
		"layers are with the images":         {func(*config.Config) {}, workload.DiskLayout{ImageDir: images}, images, ""},
		"what it names is not there":         {func(*config.Config) {}, workload.DiskLayout{ImageDir: "/no/such", ContainerDir: layers}, "", ""},
		"layers that it names are not there": {func(*config.Config) {}, workload.DiskLayout{ImageDir: images, ContainerDir: "/no/such"}, images, ""},
		"the file names images":              {func(c *config.Config) { c.Imagefs, c.ImagefsGiven = layers, true }, runtime, layers, ""},
		"the file names the place of layers": {func(c *config.Config) { c.Containerfs = "/ctr" }, runtime, "", "/ctr"},
		"nobody names any":                   {func(*config.Config) {}, workload.DiskLayout{}, "", ""},
	} {
		c := config.Default()
		c.Nodefs, c.NodefsGiven = "/", true
		tc.change(c)
		got := DiskPaths(c, tc.runtime)
		if want := DiskPaths(config.Default(), workload.DiskLayout{}).ImageFs; tc.image == "" {
			tc.image = want // the default, where this machine has it
		}
		if got.NodeFs != "/" || got.ImageFs != tc.image || got.ContainerFs != tc.ctr {
			t.Errorf("%s: %+v, want images at %q, layers at %q", name, got, tc.image, tc.ctr)
		}
	}
}

// The agent looks at the directories that the runtime names when that is known at last.
func TestLayoutThatIsKnownLater(t *testing.T) {
	b := newDiskBed(t)
	b.conf.Imagefs, b.conf.ImagefsGiven = config.Default().Imagefs, false
	a := b.open(lowDisk, nil)
	p, err := a.plan(t.Context(), b.conf)
	must(t, err)
	p.disks = a.disks
	b.work()
	if a.scout.lookForFigures(b.watch); a.layoutMoved(p) {
		t.Error("moved, though the figures name nothing")
	}
	images := t.TempDir()
	b.put(b.conf.Disk, map[string]any{"schema": workload.DiskSchema, "writtenNs": sample.Now(), "layout": map[string]any{"dedicatedImageFs": true, "imageDir": images}})
	if a.scout.lookForFigures(b.watch); !a.layoutMoved(p) {
		t.Fatal("not moved, though the runtime names the directory of the images")
	}
	if p, err = a.plan(t.Context(), b.conf); err != nil || p.paths.ImageFs != images || !p.settings.Layout.DedicatedImageFs {
		t.Errorf("%v, paths %+v, layout %+v", err, p.paths, p.settings.Layout)
	}
	p.disks = a.disks
	if a.layoutMoved(p) {
		t.Error("moved again")
	}
}

// Figures that are there at the start serve at the first pass.
func TestFiguresServeFromTheStart(t *testing.T) {
	b := newDiskBed(t)
	unit := b.sleeper("unit", 1<<20)
	b.fill()
	b.holds("unit", 30<<20)
	b.work()
	a := b.open(lowDisk, nil)
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		must(t, a.turn(sample.Now()))
	}
	b.written(a)
	if r := b.refusals("nodefs.available"); len(r) != 0 || !a.reclaim.isUnderWay() {
		t.Errorf("refused %q; reclaim is under way: %v", r, a.reclaim.isUnderWay())
	}
	b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
	b.rounds(a, "the unit to die", func() bool { return !unit.Alive() })
}

// Logs on another filesystem free nothing on nodefs: who holds some of it dies. The kubelet counts
// them.
func TestLogsElsewhereDieForTheirLimitAlone(t *testing.T) {
	for _, compat := range []string{"", config.CompatKubelet} {
		t.Run("compat "+compat, func(t *testing.T) {
			b := newDiskBed(t)
			b.conf.Compat = compat
			logger, filler := b.sleeper("logger", 1<<20), b.sleeper("filler", 1<<20)
			b.fill()
			b.holds("filler", 20<<20)
			measured := func() {
				b.holds("logger", 1<<20)
				b.units["logger"]["ephemeralStorage"].(map[string]any)["logsElsewhereBytes"] = 200 << 20
			}
			measured()
			b.answer = func(*workload.ReclaimRequest) map[string]any { return map[string]any{} }
			a := b.open(lowDisk, nil)
			var log bytes.Buffer
			a.scout.log = zerolog.New(&log)
			b.rounds(a, "one to die", func() bool { return !logger.Alive() || !filler.Alive() })
			b.quiet(a, 200*time.Millisecond)
			if want := compat == ""; logger.Alive() != want || filler.Alive() == want {
				t.Errorf("the logger lives: %v, the filler: %v\n%s", logger.Alive(), filler.Alive(), b.journal())
			}
			if said, want := strings.Count(log.String(), "logs lie on another filesystem than nodefs"), map[string]int{"": 1}[compat]; said != want {
				t.Errorf("said %d times, want %d:\n%s", said, want, log.String())
			}
			if compat != "" { // what it leaves on nodefs is the rest
				measured()
				b.rounds(a, "the filler to follow", func() bool { return !filler.Alive() })
			}
		})
	}
}
