package loader

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

func open(t *testing.T, o Options) *Loader {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: loads BPF programs; `make test` has it")
	}
	o.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	l, err := Open(o)
	if err != nil {
		t.Fatalf("open: %+v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := l.SetLimits(meminfo(t)["MemTotal"], 32768); err != nil {
		t.Fatal(err)
	}
	return l
}

// meminfo returns /proc/meminfo in bytes.
func meminfo(t *testing.T) map[string]int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		key, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 {
			kb, _ := strconv.ParseInt(f[0], 10, 64)
			m[key] = kb << 10
		}
	}
	return m
}

// TestMain also is the processes that tests start.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "hold":
		hold(false)
	case "hold what is free to take":
		hold(true)
	case "read":
		readFile()
	case "fork":
		keepForking()
	case "run":
		keepRunning()
	case "fill":
		fill(os.Args[1:])
	default:
		os.Exit(m.Run())
	}
}

// touch maps and touches anonymous memory, a page at a time.
func touch(t *testing.T, bytes int) (release func()) {
	t.Helper()
	_, release, err := use(bytes)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

// use takes so much memory.
func use(bytes int) (mem []byte, release func(), err error) {
	mem, err = unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, err
	}
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 1
	}
	return mem, func() { _ = unix.Munmap(mem) }, nil
}

func TestNodeMemoryLiesBetweenTwoReadsOfProc(t *testing.T) {
	l := open(t, Options{})
	release := touch(t, 64<<20)
	defer release()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // something moves while we look
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				touch(t, 8<<20)()
			}
		}
	}()
	for range 200 {
		before := meminfo(t)
		node, err := l.Look()
		if err != nil {
			t.Fatal(err)
		}
		after := meminfo(t)
		for _, f := range []struct {
			name string
			got  int64
			of   func(map[string]int64) int64
		}{
			{"anon", node.AnonBytes, func(m map[string]int64) int64 { return m["AnonPages"] }},
			{"file", node.FileBytes, func(m map[string]int64) int64 { return m["Cached"] + m["Buffers"] + m["SwapCached"] }},
			{"inactive file", node.InactiveFileBytes, func(m map[string]int64) int64 { return m["Inactive(file)"] }},
		} {
			// Something that went up and down in between may lie outside both: at most the 8 MiB above.
			lo, hi := min(f.of(before), f.of(after))-(9<<20), max(f.of(before), f.of(after))+(9<<20)
			if f.got < lo || f.got > hi {
				t.Errorf("%s: BPF read %d, /proc around it %d to %d", f.name, f.got, f.of(before), f.of(after))
			}
		}
	}
	close(stop)
	<-done
}

func TestWalkFindsEveryCgroupWithItsUsage(t *testing.T) {
	l := open(t, Options{})
	dir := newCgroup(t)
	if _, err := l.Walk(); err != nil {
		t.Fatal(err)
	}
	for c, parent := range map[Controller]string{Memory: dir.memory, Pids: dir.pids} {
		id := inode(t, parent)
		var found *sample.Cgroup
		for _, row := range l.Index(c, nil) {
			if row.CgroupID == id {
				found = &row
			}
		}
		if found == nil {
			t.Fatalf("controller %d: no row for cgroup %d", c, id)
		}
		if _, ok := l.Row(c, found.CSSID, id); !ok {
			t.Errorf("controller %d: row %d is not readable by its id", c, found.CSSID)
		}
		if _, ok := l.Row(c, found.CSSID, id+1); ok {
			t.Errorf("controller %d: row %d answered for another cgroup", c, found.CSSID)
		}
		at := At{MemoryID: id, MemoryCSS: found.CSSID}
		other := At{MemoryID: id + 1, MemoryCSS: found.CSSID}
		if c == Pids {
			at, other = At{PidsID: id, PidsCSS: found.CSSID}, At{PidsID: id + 1, PidsCSS: found.CSSID}
		}
		former := l.Node().Ns
		if memory, pids := l.Refresh(at, At{}); memory != (c == Memory) || pids != (c == Pids) {
			t.Errorf("controller %d: refreshed memory %t, pids %t", c, memory, pids)
		}
		if memory, pids := l.Refresh(other, At{}); memory || pids {
			t.Errorf("controller %d: refreshed another cgroup: memory %t, pids %t", c, memory, pids)
		}
		if l.Node().Ns <= former {
			t.Error("the node's counters were not read with it")
		}
		first, _ := l.Row(c, found.CSSID, id)
		if memory, pids := l.Refresh(At{}, at); memory || pids {
			t.Errorf("controller %d: nobody refreshed: memory %t, pids %t", c, memory, pids)
		}
		if second, _ := l.Row(c, found.CSSID, id); second.Ns <= first.Ns {
			t.Errorf("controller %d: the one beside it was not read", c)
		}
	}
}

func TestUsageEqualsTheUsageFile(t *testing.T) {
	l := open(t, Options{})
	dir := newCgroup(t)
	sleeper := startIn(t, dir)
	_ = sleeper
	if _, err := l.Walk(); err != nil {
		t.Fatal(err)
	}
	id := inode(t, dir.memory)
	for _, row := range l.Index(Memory, nil) {
		if row.CgroupID != id {
			continue
		}
		got, want := row.Usage, readInt(t, filepath.Join(dir.memory, dir.usageFile))
		if got != want || got == 0 {
			t.Errorf("usage: table %d, file %d", got, want)
		}
	}
	id = inode(t, dir.pids)
	for _, row := range l.Index(Pids, nil) {
		if row.CgroupID != id {
			continue
		}
		got, want := row.Usage, readInt(t, filepath.Join(dir.pids, "pids.current"))
		if got != want || got == 0 {
			t.Errorf("tasks: table %d, file %d", got, want)
		}
	}
}

func TestInactiveFileEqualsMemoryStat(t *testing.T) {
	const slack = 2 << 20 // each CPU holds back some pages, of those that go and those that come
	l := open(t, Options{})
	dir := newCgroup(t)
	startRole(t, dir, "hold what is free to take")
	key := "inactive_file"
	if dir.memory != dir.pids { // v1
		key = "total_inactive_file"
	}
	id := inode(t, dir.memory)
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		want := readKey(t, filepath.Join(dir.memory, "memory.stat"), key) // what it reads is flushed
		if _, err := l.Walk(); err != nil {
			t.Fatal(err)
		}
		row, ok := l.Row(Memory, l.Find(Memory, id), id)
		off := row.InactiveFileBytes - want
		if ok && want > held/2 && off > -slack && off < slack {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("inactive file: table %d (%v), memory.stat %d", row.InactiveFileBytes, ok, want)
		}
	}
}

// readKey reads a figure of a file with a key and a figure in each line.
func readKey(t *testing.T, path, key string) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s tells no %s", path, key)
	return 0
}

func TestCrossingIsReportedOncePerSequence(t *testing.T) {
	l := open(t, Options{})
	node, err := l.Look()
	if err != nil {
		t.Fatal(err)
	}
	available := node.MemTotalBytes - node.AnonBytes - node.FileBytes + node.InactiveFileBytes
	index, err := l.AddWire(sample.ScopeNodeMemory)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Arm(); err != nil {
		t.Fatal(err)
	}
	// Above what is there: crossed by the next allocation that looks.
	l.SetWire(index, Wire{Scope: sample.ScopeNodeMemory, Limit: available + (1 << 30)})
	for round := range 3 {
		before := ktime(t)
		seq := l.ArmWire(index) // somebody else's allocation may cross it at once
		touch(t, 16<<20)()
		time.Sleep(20 * time.Millisecond)
		crossings := drain(t, l)
		if len(crossings) < 1 || len(crossings) > runtime.NumCPU() {
			t.Fatalf("round %d: %d crossings, want one (at most one a CPU)", round, len(crossings))
		}
		s := crossings[0]
		if s.Seq != seq || s.Wire != index || s.Available >= s.LimitValue || s.Ns < before {
			t.Errorf("round %d: crossing %+v, armed with sequence %d at %d", round, s, seq, before)
		}
	}
	l.DisarmWire(index)
	touch(t, 16<<20)()
	if got := drain(t, l); len(got) != 0 {
		t.Errorf("a disarmed wire reported %d crossings", len(got))
	}
}

func TestTimerAsksForTheHookWhenAWireIsNear(t *testing.T) {
	eachTimer(t, askForTheHookWhenAWireIsNear)
}

func askForTheHookWhenAWireIsNear(t *testing.T, o Options) {
	l := open(t, o)
	node, _ := l.Look()
	available := node.MemTotalBytes - node.AnonBytes - node.FileBytes + node.InactiveFileBytes
	index, err := l.AddWire(sample.ScopeNodeMemory)
	if err != nil {
		t.Fatal(err)
	}
	l.SetWire(index, Wire{Scope: sample.ScopeNodeMemory, Limit: available - DefaultMarginBytes/2})
	l.ArmWire(index)
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		var s sample.Sample
		ok, err := l.Next(&s)
		if err != nil {
			t.Fatal(err)
		}
		if ok && s.Kind == sample.KindArm {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the timer never asked for the allocation hook")
}

// A wire is crossed below its limit. At the limit, where a batch of charges often ends, the
// timer that stands in for the hook looks as often as a page before: the next batch crosses.
func TestTimerKeepsLookingAtTheLimit(t *testing.T) {
	l := open(t, Options{MemoryTier: TierAlloc})
	const capacity = 1 << 30
	css, id := cssOf(t, l, newCgroup(t).memory) // holds nothing
	index, err := l.AddWire(sample.ScopeCgroupMemory)
	if err != nil {
		t.Fatal(err)
	}
	looksAt := func(limit int64) (n uint64) {
		l.SetWire(index, Wire{Scope: sample.ScopeCgroupMemory, Limit: limit, Capacity: capacity, CgroupID: id, CSSID: css})
		l.ArmWire(index)
		if err := l.Tick(); err != nil { // it may be asleep for a second more
			t.Fatal(err)
		}
		before := l.node.at(0).Ticks
		time.Sleep(50 * time.Millisecond)
		n = l.node.at(0).Ticks - before
		l.DisarmWire(index)
		for _, s := range drain(t, l) {
			if s.Kind == sample.KindCrossing {
				t.Error("reported as crossed")
			}
		}
		return n
	}
	var before, at uint64
	for range 12 { // in turn: other work on the machine holds up both
		before, at = before+looksAt(capacity-4096), at+looksAt(capacity)
	}
	if at < before/2 {
		t.Errorf("%d looks a page before the limit, %d at it", before, at)
	}
}

// Drills come and go beside the wires of the thresholds, and a reload takes only those away.
func TestDrillWireStandsBesideTheOthers(t *testing.T) {
	l := open(t, Options{})
	for _, scope := range []sample.Scope{sample.ScopeCgroupMemory, sample.ScopeCgroupTasks} {
		wire, seq, err := l.AddDrillWire(Wire{Scope: scope, CgroupID: 1 << 60, CSSID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if armed, _ := l.WireSeq(wire); armed != seq || seq == 0 || !IsDrillWire(wire) {
			t.Errorf("wire %d is armed with %d, want a drill's with %d", wire, armed, seq)
		}
		for n := 0; ; n++ {
			other, err := l.AddWire(scope)
			if errors.Is(err, ErrTooManyWires) && n == 15 {
				break
			}
			if err != nil || IsDrillWire(other) {
				t.Fatalf("wire %d after %d others: %v, want 15 others beside the drill's", other, n, err)
			}
			l.ArmWire(other)
		}
		if err := l.ClearWires(); err != nil {
			t.Fatal(err)
		}
		if armed, _ := l.WireSeq(wire); armed != seq {
			t.Errorf("armed with %d after the others were taken away, want %d", armed, seq)
		}
		if err := l.RemoveDrillWire(); err != nil {
			t.Fatal(err)
		}
		if armed, _ := l.WireSeq(wire); armed != 0 {
			t.Errorf("armed with %d after the drill", armed)
		}
	}
}

// A drill asks whether the hooks see a crossing: the clock leaves it to them for a while.
func TestTheTimerLeavesACanaryToTheHooks(t *testing.T) { eachTimer(t, theTimerLeavesACanaryToTheHooks) }

func theTimerLeavesACanaryToTheHooks(t *testing.T, o Options) {
	const patience = 2 * time.Second
	o.MemoryTier = TierAlloc // which is not attached: nobody looks but the timer
	l := open(t, o)
	css, id := cssOf(t, l, newCgroup(t).memory)
	crossed := Wire{Scope: sample.ScopeCgroupMemory, Limit: 1 << 30, Capacity: 1 << 20, CgroupID: id, CSSID: css}
	number, err := l.AddWire(crossed.Scope)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one is not taken for the first, which was waited for
		l.SetWire(number, crossed)
		l.ArmWire(number)
		drills, seq, err := l.AddDrillWire(crossed)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[int]uint64{}
		for deadline := time.Now().Add(time.Minute); len(seen) < 2 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if err := l.Tick(); err != nil {
				t.Fatal(err)
			}
			for _, s := range drain(t, l) {
				if s.Kind != sample.KindCrossing {
					continue
				}
				if s.By != sample.ObserverTimer || s.Wire == drills && s.Seq != seq {
					t.Errorf("%+v, want the drill's %d, by the timer", s, seq)
				}
				seen[s.Wire] = s.Ns
			}
		}
		if len(seen) < 2 || time.Duration(seen[drills]-seen[number]) < patience {
			t.Errorf("wire %d and the drill's %d seen at %v, want the drill's %v later", number, drills, seen, patience)
		}
		if err := l.RemoveDrillWire(); err != nil {
			t.Fatal(err)
		}
		l.DisarmWire(number)
	}
}

// So it is with tasks, where any fork on the machine may be what shows it.
func TestTheTimerLeavesABombsCanaryToTheHook(t *testing.T) {
	const patience = uint64(2 * time.Second)
	l := open(t, Options{})
	id := inode(t, newCgroup(t).pids)
	if _, err := l.Walk(); err != nil {
		t.Fatal(err)
	}
	css := l.Find(Pids, id)
	if css == 0 {
		t.Fatal("no row of the cgroup")
	}
	before := ktime(t)
	drills, seq, err := l.AddDrillWire(Wire{Scope: sample.ScopeCgroupTasks, Limit: 2, Capacity: 1, CgroupID: id, CSSID: css})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err := l.Tick(); err != nil {
			t.Fatal(err)
		}
		for _, s := range drain(t, l) {
			if s.Wire != drills || s.Seq != seq {
				continue
			}
			if s.By == sample.ObserverTimer && s.Ns < before+patience {
				t.Errorf("%+v: by the timer, %v after it was armed at %d", s, time.Duration(s.Ns-before), before)
			}
			return
		}
	}
	t.Error("the wire is crossed, and nobody said so")
}

// What a CPU may still fork was reckoned from wires farther away.
func TestCreditIsForgottenWhenADrillBegins(t *testing.T) {
	l := open(t, Options{})
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	credits := make([]gen.EvictCredit, cpus)
	for i := range credits {
		credits[i] = gen.EvictCredit{Pages: 1 << 40, Forks: 1 << 40}
	}
	if err := l.objs.Credits.Put(uint32(0), credits); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.AddDrillWire(Wire{Scope: sample.ScopeCgroupTasks, CgroupID: 1 << 60, CSSID: 1}); err != nil {
		t.Fatal(err)
	}
	if err := l.objs.Credits.Lookup(uint32(0), &credits); err != nil {
		t.Fatal(err)
	}
	for cpu, c := range credits {
		if c.Pages > 1<<20 || c.Forks > 1<<20 {
			t.Errorf("CPU %d may go on for %d pages and %d forks", cpu, c.Pages, c.Forks)
		}
	}
}

func TestClaimBelongsToOne(t *testing.T) {
	l := open(t, Options{})
	index, err := l.AddWire(sample.ScopeNodeTasks)
	if err != nil {
		t.Fatal(err)
	}
	seq := l.ArmWire(index)
	if !l.Claim(index, seq) {
		t.Error("the first claim was refused")
	}
	if l.Claim(index, seq) {
		t.Error("a sequence was claimed twice")
	}
	l.Release(index, seq)
	if !l.Claim(index, seq) {
		t.Error("a released claim was refused")
	}
	l.DisarmWire(index) // its root went away, and comes back: the kernel has fired nothing
	again := l.ArmWire(index)
	if !l.Claim(index, again) {
		t.Error("a wire that was switched off and on can't be claimed")
	}
	if l.Claim(index, seq) {
		t.Error("a late record of an earlier sequence was claimed")
	}
}

func TestRootIsNeverCondemned(t *testing.T) {
	l := open(t, Options{})
	if slot := l.Condemn(rootID, 1<<62); slot >= 0 {
		l.Pardon(slot)
		t.Error("the memory hierarchy's root was condemned")
	}
	if slot := l.Condemn(1<<62, rootID); slot >= 0 {
		l.Pardon(slot)
		t.Error("the pids hierarchy's root was condemned")
	}
	slot := l.Condemn(1<<62, 1<<62)
	if slot < 0 {
		t.Fatal("no word is free")
	}
	l.Pardon(slot)
}

func TestDecodeRefusesWhatNoProgramSends(t *testing.T) {
	good := make([]byte, 64)
	good[8] = 1                                                               // seq
	good[24] = 1                                                              // limit above available
	good[60], good[61] = byte(sample.KindCrossing), byte(sample.ObserverTask) // kind, observer
	var s sample.Sample
	if !decode(good, 4096, &s) {
		t.Fatal("a good record was refused")
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"short":                       func(b []byte) []byte { return b[:63] },
		"long":                        func(b []byte) []byte { return append(b, 0) },
		"empty":                       func([]byte) []byte { return nil },
		"unknown kind":                func(b []byte) []byte { b[60] = 9; return b },
		"unknown observer":            func(b []byte) []byte { b[61] = 0; return b },
		"observer of a later version": func(b []byte) []byte { b[61] = byte(sample.ObserverCharge) + 1; return b },
		"wire out of range":           func(b []byte) []byte { b[62] = 32; return b },
		"crossing without sequence":   func(b []byte) []byte { b[8] = 0; return b },
		"crossing that crosses none":  func(b []byte) []byte { b[16] = 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			if decode(spoil(append([]byte(nil), good...)), 4096, &s) {
				t.Error("accepted")
			}
		})
	}
}

func TestIntentSurvivesTheAgent(t *testing.T) {
	pin := filepath.Join(bpffs, "ebpf-evict-test-"+strconv.Itoa(os.Getpid()))
	former := open(t, Options{PinDir: pin})
	want := Intent{ID: [16]byte{1, 2}, Ns: 7, Signal: "memory.available", UID: "u", Cgroup: "/a/b", Signalled: true, Slot: 1}
	freed := former.StoreIntent(&Intent{ID: [16]byte{9}})
	slot := former.StoreIntent(&want)
	former.IntentSignalled(slot)
	former.FreeIntent(freed)
	// Each start that dies before it could write the lines leaves them to the next.
	for range 2 {
		next := open(t, Options{PinDir: pin})
		got := next.StaleIntents()
		if len(got) != 1 || got[0] != want {
			t.Fatalf("found %+v, want %+v", got, want)
		}
		if slot := next.StoreIntent(&Intent{ID: [16]byte{3}}); slot == want.Slot {
			t.Error("a new intent took the slot of a stale one")
		} else {
			next.FreeIntent(slot)
		}
	}
	last := open(t, Options{PinDir: pin})
	last.FreeIntent(want.Slot)
	if got := open(t, Options{PinDir: pin}).StaleIntents(); len(got) != 0 {
		t.Errorf("a freed intent is still there: %+v", got)
	}
}

func TestCloseLeavesOpenIntentsToTheNextStart(t *testing.T) {
	pin := filepath.Join(bpffs, "ebpf-evict-test-"+strconv.Itoa(os.Getpid()))
	former := open(t, Options{PinDir: pin})
	former.StoreIntent(&Intent{ID: [16]byte{1}})
	if err := former.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(pin)
	if err != nil || len(entries) != 1 || entries[0].Name() != "intents" {
		t.Errorf("left %v, %v, want the intents alone", entries, err)
	}
	next := open(t, Options{PinDir: pin})
	if got := next.StaleIntents(); len(got) != 1 {
		t.Fatalf("found %+v", got)
	}
	next.FreeIntent(0)
}

func TestPinsOfAnotherVersionGo(t *testing.T) {
	pin := filepath.Join(bpffs, "ebpf-evict-test-"+strconv.Itoa(os.Getpid()))
	l := open(t, Options{PinDir: pin})
	if err := os.Rename(filepath.Join(pin, "node"), filepath.Join(pin, "former")); err != nil {
		t.Fatal(err)
	}
	open(t, Options{PinDir: pin})
	entries, err := os.ReadDir(pin)
	if err != nil || len(entries) != len(l.pins.names) {
		t.Errorf("%v, %v, want the %d maps of this version", entries, err, len(l.pins.names))
	}
}

func drain(t *testing.T, l *Loader) (crossings []sample.Sample) {
	t.Helper()
	for {
		var s sample.Sample
		ok, err := l.Next(&s)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return crossings
		}
		if s.Kind == sample.KindCrossing {
			crossings = append(crossings, s)
		}
	}
}

func ktime(t *testing.T) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

type cgroupDirs struct{ memory, pids, usageFile string }

// newCgroup makes a cgroup of our own, on v1 in both hierarchies.
func newCgroup(t *testing.T) cgroupDirs {
	t.Helper()
	name := "ebpf-evict-loader-test-" + strconv.Itoa(os.Getpid())
	d := cgroupDirs{"/sys/fs/cgroup/memory/" + name, "/sys/fs/cgroup/pids/" + name, "memory.usage_in_bytes"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		d = cgroupDirs{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/" + name, "memory.current"}
	}
	for _, dir := range []string{d.memory, d.pids} {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
	}
	return d
}

// child starts a process of TestMain's that reads from stdin and ends with the test. gone is
// closed when it is reaped.
func child(t *testing.T, role string) (p *os.Process, stdin *os.File, gone chan struct{}) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err = os.StartProcess("/proc/self/exe", []string{role}, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{r, os.Stderr, os.Stderr},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	gone = make(chan struct{})
	go func() {
		_, _ = p.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		_ = w.Close()
		_ = p.Kill()
		<-gone
		time.Sleep(50 * time.Millisecond) // the directory is busy until the kernel let go
	})
	return p, w, gone
}

// startIn runs a process that holds still in the cgroup until the test ends.
func startIn(t *testing.T, d cgroupDirs) *os.Process {
	t.Helper()
	return startRole(t, d, "hold")
}

func startRole(t *testing.T, d cgroupDirs, role string) *os.Process {
	t.Helper()
	p, w, _ := child(t, role)
	for _, dir := range []string{d.memory, d.pids} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.WriteString("x"); err != nil { // go and use some memory there
		t.Fatal(err)
	}
	for range 1000 {
		if readInt(t, filepath.Join(d.memory, d.usageFile)) > 8<<20 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	return p
}

// held is what the processes of startIn use.
const held = 16 << 20

// hold is the process of startIn. Pages that are free to take lie among the inactive file pages,
// though no file has them (mm/swap.c).
func hold(free bool) {
	one := make([]byte, 1)
	_, _ = os.Stdin.Read(one)
	mem, _, err := use(held)
	if err == nil && free {
		err = unix.Madvise(mem, unix.MADV_FREE)
	}
	if err != nil {
		return // the test waits for its usage in vain
	}
	_, _ = os.Stdin.Read(one) // until the other end is closed
}

func inode(t *testing.T, dir string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func readInt(t *testing.T, path string) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTimerPlan(t *testing.T) {
	const rate = 1000 << 20 // bytes a second
	l := open(t, Options{FillBytesPerSecond: rate, MarginBytes: 100 << 20})
	const ms = time.Millisecond
	for _, tc := range []struct {
		name     string
		distance int64
		view     FarView
		asked    time.Duration
		next     time.Duration
		ask      bool
	}{
		{"very far", 1 << 40, 0, time.Hour, time.Second, false},
		{"half a second beyond the margin", 600 << 20, 0, time.Hour, 500 * ms, false},
		{"hardly beyond the margin", 101 << 20, 0, time.Hour, 10 * ms, false},
		{"at the margin", 100 << 20, 0, time.Hour, 10 * ms, false},
		{"near, without the hook", 99 << 20, 0, time.Hour, ms, true},
		{"near, asked just now", 99 << 20, 0, 100 * ms, ms, false},
		{"near, with the hook", 99 << 20, HookSeen, time.Hour, 50 * ms, false},
		{"crossed, without the hook", 0, 0, 101 * ms, ms, true},
		{"charges, far", 600 << 20, ChargeHook, time.Hour, 500 * ms, false},
		{"charges, near", 99 << 20, ChargeHook, time.Hour, 50 * ms, true},
		{"charges, nearer", 20 << 20, ChargeHook, time.Hour, 20 * ms, true},
		{"charges, near, user space knows", 99 << 20, ChargeHook, time.Second, 50 * ms, false},
		{"charges, near, uncharged memory grows", 20 << 20, ChargeHook | UnchargedGrows, 101 * ms, 20 * ms, true},
		{"charges, near, uncharged memory grows, the hook is there", 20 << 20, ChargeHook | UnchargedGrows | HookSeen, 101 * ms, 20 * ms, true},
		{"charges, crossed", 0, ChargeHook, time.Second, ms, false},
	} {
		next, ask, err := l.PlanTick(tc.distance, tc.view, tc.asked)
		if next != tc.next || ask != tc.ask || err != nil {
			t.Errorf("%s: next %v, asks %v, %v, want %v, %v", tc.name, next, ask, err, tc.next, tc.ask)
		}
	}
}

// Balloons, hotplug and sysctls move the limits: nobody allocates or forks, and the timer finds it.
func TestTimerSeesALimitThatFell(t *testing.T) {
	eachTimer(t, seeALimitThatFell)
}

func seeALimitThatFell(t *testing.T, o Options) {
	l := open(t, o)
	node, err := l.Look()
	if err != nil {
		t.Fatal(err)
	}
	available := node.MemTotalBytes - node.AnonBytes - node.FileBytes + node.InactiveFileBytes
	tasksMax := node.Tasks + 20000
	wires := map[int]string{}
	for scope, w := range map[sample.Scope]struct {
		name  string
		limit int64
	}{
		sample.ScopeNodeMemory: {"memory.available", available - (2 << 30)},
		sample.ScopeNodeTasks:  {"pid.available", 10000},
	} {
		index, err := l.AddWire(scope)
		if err != nil {
			t.Fatal(err)
		}
		wires[index] = w.name
		l.SetWire(index, Wire{Scope: scope, Limit: w.limit})
		l.ArmWire(index)
	}
	if err := l.SetLimits(node.MemTotalBytes, tasksMax); err != nil {
		t.Fatal(err)
	}
	if err := l.Tick(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if early := drain(t, l); len(early) > 0 {
		t.Fatalf("crossed before the limits fell: %+v", early)
	}
	if err := l.SetLimits(node.MemTotalBytes-(4<<30), tasksMax-15000); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); len(wires) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, s := range drain(t, l) {
			delete(wires, s.Wire)
		}
	}
	if len(wires) > 0 {
		t.Errorf("not seen: %v", wires)
	}
}
