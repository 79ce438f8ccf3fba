package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// crowd makes empty units.
func (b *bed) crowd(n int) (units []string) {
	b.t.Helper()
	for i := range n {
		units = append(units, fmt.Sprint("one-of-many-", i))
		b.create(units[i])
	}
	return units
}

// A scan of thousands is under way, and would be for long: nobody waits for its end.
func TestStrangerIsTheVictimWhileTheScoutIsBusy(t *testing.T) {
	b := newBed(t)
	b.crowd(300)
	idle := b.sleeper("idle", 8<<20)
	a := b.open(met, nil)
	young := b.sleeper("young", 64<<20)
	crossing := b.crossing(a, "young", young.PID())
	a.scout.mu.Lock()
	passed := make(chan struct{})
	go func() {
		a.pass(crossings{crossing}, sample.Now())
		close(passed)
	}()
	select {
	case <-passed:
	case <-time.After(time.Minute):
		t.Error("the pass waits for the scout")
	}
	a.scout.mu.Unlock()
	<-passed
	if !young.Wait(time.Minute) || !idle.Alive() {
		t.Errorf("alive: the young unit %v, the idle one %v", young.Alive(), idle.Alive())
	}
	b.turns(a, "the eviction's end", func() bool { return len(b.outcomes("young")) == 1 })
	must(t, a.scout.round(false))
	if u := a.scout.known.unit(b.root + "/young"); u == nil || u.handle.Load() == nil || !u.handle.Load().WasStruck() {
		t.Error("the scout does not go on with the handle that killed the young unit")
	}
}

// lively runs the scout's goroutines until the test ends.
func (b *bed) lively(a *Agent) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { a.scout.run(ctx); done <- struct{}{} }()
	go func() { a.scout.changes.listen(ctx, a.scout.kick); done <- struct{}{} }()
	b.t.Cleanup(func() { cancel(); <-done; <-done })
}

// published are the units of the last roster, by name.
func (b *bed) published(a *Agent) map[string]*unit {
	found := map[string]*unit{}
	for _, u := range a.scout.current().units {
		found[path.Base(u.Cgroup)] = u
	}
	return found
}

func (b *bed) knows(a *Agent, names []string) bool {
	found := b.published(a)
	for _, name := range names {
		if u := found[name]; u == nil || u.ID != identity(b, name) || !u.isPlaced() {
			return false
		}
	}
	return len(found) == len(names)
}

func TestUnitsComeAndGoByTheHundred(t *testing.T) {
	b := newBed(t)
	a := b.open(met, nil)
	b.lively(a)
	names := b.crowd(300)
	b.await("all units", func() bool { return b.knows(a, names) })
	for _, name := range names {
		must(t, b.fs.Remove(path.Join(b.root, name)))
	}
	b.crowd(300)
	b.await("the new units in the old ones' places", func() bool { return b.knows(a, names) })
	for _, name := range names[100:] {
		must(t, b.fs.Remove(path.Join(b.root, name)))
	}
	b.await("the end of most", func() bool { return b.knows(a, names[:100]) })
}

func TestUnitsOfWhichNoEventCame(t *testing.T) {
	overflow := make([]byte, unix.SizeofInotifyEvent)
	binary.NativeEndian.PutUint32(overflow, 0xffffffff)
	binary.NativeEndian.PutUint32(overflow[4:], unix.IN_Q_OVERFLOW)
	for name, hear := range map[string]func(*scout){
		"the kernel's queue ran over":  func(s *scout) { s.changes.note(overflow) },
		"the number of children moved": func(s *scout) { s.known.comparedAt = time.Time{} },
		"nothing told for long":        func(s *scout) { s.known.listedAt = time.Unix(1, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.create("old")
			a := b.open(met, nil) // nobody listens
			names := b.crowd(3)
			must(t, b.fs.Remove(b.root+"/old"))
			a.scout.known.comparedAt = time.Now().Add(time.Hour) // what is compared once a second would show it
			must(t, a.scout.round(false))
			if len(b.published(a)) != 1 {
				t.Fatal("the scout has heard of the new units: this test sees nothing")
			}
			for range 3 {
				hear(a.scout)
				time.Sleep(youngWalk)
				must(t, a.scout.round(false))
			}
			if !b.knows(a, names) {
				t.Errorf("known are %v, want %v", b.published(a), names)
			}
		})
	}
}

// A root that is removed and made again is another, and so is what is in it.
func TestUnitsOfARootThatIsMadeAgain(t *testing.T) {
	b := newBed(t)
	b.create("unit")
	b.limit(b.root, bedMemory, bedTasks)
	a := b.open(met, nil)
	b.lively(a)
	old := identity(b, "unit")
	must(t, b.fs.Remove(b.root))
	must(t, b.fs.Create(b.root))
	b.create("unit")
	b.create("another")
	b.limit(b.root, bedMemory, bedTasks)
	b.await("the new units", func() bool { return b.knows(a, []string{"unit", "another"}) })
	if identity(b, "unit") == old {
		t.Error("the unit is the old one: this test sees nothing")
	}
	young := "young"
	b.create(young)
	b.await("one more", func() bool { return b.knows(a, []string{"unit", "another", young}) })
}

// pretend joins the cgroups named by its other arguments under the name of the first.
func pretend(args []string) int {
	err := os.WriteFile("/proc/self/comm", []byte(args[0]), 0)
	for _, procs := range args[1:] {
		if err == nil {
			err = os.WriteFile(procs, []byte("0"), 0)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("joined")
	time.Sleep(time.Minute)
	return 0
}

func (b *bed) kubeletIn(unit string) {
	b.t.Helper()
	cmd := exec.Command("/proc/self/exe", append([]string{"pretend", "kubelet"}, b.fs.ProcsFiles(path.Join(b.root, unit))...)...)
	out, err := cmd.StdoutPipe()
	must(b.t, err)
	must(b.t, cmd.Start())
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	_, err = out.Read(make([]byte, 16))
	must(b.t, err)
}

// Nobody reads all units again each second: who leads is, and whose number of tasks moved.
func TestUnitOfAKubeletIsProtectedSoon(t *testing.T) {
	for name, ahead := range map[string]int{"of a unit that leads": 0, "of one far behind": leading + 1} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			for i := range ahead {
				b.sleeper(fmt.Sprint("ahead-", i), 16<<20)
			}
			b.sleeper("unit", 0)
			a := b.open(met, nil)
			u := a.scout.known.unit(b.root + "/unit")
			u.bornAt = time.Time{} // the young are read more often
			if isOpen := u.handle.Load() != nil; isOpen != (ahead == 0) {
				t.Fatalf("the unit leads: %v", isOpen)
			}
			b.kubeletIn("unit")
			for range 2 {
				a.scout.walks.at, a.scout.lead.at = time.Time{}, time.Time{}
				time.Sleep(scoutNear)
				must(t, a.scout.round(false))
			}
			if got := b.published(a)["unit"].Protected; got != "holds the container runtime or kubelet: kubelet" {
				t.Errorf("protected: %q", got)
			}
		})
	}
}

// A unit that nobody expected to be the next one has no open handle.
func TestVictimFromFarBehindIsHit(t *testing.T) {
	b := newBed(t)
	for i := range leading + 1 {
		b.sleeper(fmt.Sprint("ahead-", i), 16<<20)
	}
	b.create("late")
	late := b.run("late", load.Spec{Kind: load.Hog, Bytes: 64 << 20, Held: true})
	a := b.open(map[string]string{"allocatableMemory.available": "1Mi"}, nil)
	if a.scout.known.unit(b.root+"/late").handle.Load() != nil {
		t.Fatal("the handle is open: this test sees nothing")
	}
	must(t, late.Go())
	b.await("its memory", func() bool { n, err := late.Progress(); must(t, err); return n >= 64<<20 })
	for i := range a.settings.Bounds {
		a.settings.Bounds[i].Value.Value = 400 << 20
	}
	a.pass(crossings{b.crossing(a, "late", late.PID())}, sample.Now())
	if !late.Wait(time.Minute) {
		t.Errorf("the late one lives:\n%s", b.journal())
	}
	must(t, a.scout.round(false))
	if h := a.scout.known.unit(b.root + "/late").handle.Load(); h == nil || !h.WasStruck() {
		t.Error("the scout does not know the handle")
	}
}

// Whatever comes, goes and moves between two rosters: the scene is as one made of the last.
func TestSceneFollowsTheRosters(t *testing.T) {
	const cgroups = 24
	rapid.Check(t, func(t *rapid.T) {
		s := newScene(2 * cgroups)
		var units []*unit
		for range rapid.IntRange(1, 8).Draw(t, "rosters") {
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				id := uint32(rapid.IntRange(1, cgroups).Draw(t, "cgroup"))
				at := -1
				for i, u := range units {
					if u.ID.MemoryID == uint64(id) {
						at = i
					}
				}
				switch {
				case at < 0:
					units = append(units, drawUnit(id))
				case rapid.Bool().Draw(t, "goes"): // as the scout does
					units[at] = units[len(units)-1]
					units = units[:len(units)-1]
				default:
					units[at] = drawUnit(id)
				}
			}
			r := &roster{units: append([]*unit(nil), units...), room: newRoom(cgroups)}
			s.take(r)
			if rapid.Bool().Draw(t, "guest") {
				s.welcome(drawUnit(uint32(rapid.IntRange(1, cgroups).Draw(t, "guest of"))), sample.Now())
				s.guests[len(s.guests)-1].sinceNs = 0 // its time is over with the next roster
			}
		}
		s.take(&roster{units: units, room: newRoom(cgroups)})
		fresh := newScene(2 * cgroups)
		fresh.take(s.from)
		for css := range uint32(2 * cgroups) {
			for _, c := range []loader.Controller{loader.Memory, loader.Pids} {
				id := uint64(css)
				if c == loader.Pids {
					id += 1000
				}
				if got, want := s.owner(c, css, id), fresh.owner(c, css, id); got != want {
					t.Fatalf("controller %d, css %d: unit %d, want %d", c, css, got, want)
				}
			}
		}
		if len(s.units) != len(units) || len(s.guests) != 0 {
			t.Fatalf("%d units and %d guests, want %d and none", len(s.units), len(s.guests), len(units))
		}
		for i, u := range units {
			if s.units[i] != u || s.workloads[i].Cgroup != u.Cgroup || s.rows[i] != u.rows || s.unit(u.ID) != i {
				t.Fatalf("unit %d is %v", i, s.units[i])
			}
		}
	})
}

func drawUnit(id uint32) *unit {
	of := workload.Identity{MemoryID: uint64(id), PidsID: uint64(id) + 1000}
	u := newUnit(workload.Unit{Workload: workload.Workload{Cgroup: fmt.Sprint("/", id), ID: of}, TargetIDs: []workload.Identity{of}})
	u.eachRows(func(r *rows) { r.memoryCSS, r.pidsCSS = id, id })
	return u
}
