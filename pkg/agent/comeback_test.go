package agent

import (
	"fmt"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	uidPodA = "00000000-0000-0000-0000-00000000000a"
	uidPodB = "00000000-0000-0000-0000-00000000000b"
	podB    = "kubepods/pod" + uidPodB
)

// pods is a bed whose pods a supervisor starts again, and whose table is a companion's.
type pods struct {
	*bed
	a          *Agent
	generation uint64
}

func newPods(t *testing.T) *pods {
	p := &pods{bed: newBed(t)}
	p.create(podA)
	p.conf.Roots = []string{p.root + "/kubepods"}
	p.limit(p.root+"/kubepods", bedMemory, bedTasks)
	p.conf.Workloads = path.Join(t.TempDir(), "workloads.json")
	return p
}

// list has the table list pods by their uids, all of one name.
func (p *pods) list(uids ...string) {
	p.t.Helper()
	p.generation++
	table := workload.Table{Generation: p.generation}
	for _, uid := range uids {
		table.Workloads = append(table.Workloads, workload.Entry{UID: uid, Namespace: "default", Name: "web"})
	}
	must(p.t, workload.WriteTable(p.conf.Workloads, &table))
}

// restart has a pod run a container that holds so much, in the place of the one before it.
func (p *pods) restart(pod, container, former string, holdBytes int64) *load.Load {
	p.t.Helper()
	if former != "" {
		must(p.t, p.fs.Remove(path.Join(p.root, pod, former)))
	}
	return p.sleeper(pod+"/"+container, holdBytes)
}

// looks are rounds of the scout and passes until ok.
func (p *pods) looks(what string, ok func() bool) {
	p.t.Helper()
	p.await(what, func() bool {
		p.look(p.a)
		return ok()
	})
}

// evictions are the closing lines, in short.
func (p *pods) evictions() (found []string) {
	p.t.Helper()
	p.written(p.a)
	ids := []record.ID{}
	for _, l := range p.lines(record.KindEviction) {
		if !slices.Contains(ids, l.ID) {
			ids = append(ids, l.ID)
		}
		found = append(found, fmt.Sprintf("eviction %d of %s: %s, %d attempts, %d killed",
			slices.Index(ids, l.ID)+1, path.Base(l.Victim.Cgroup), l.Outcome, l.Attempts, l.ProcessesKilled))
	}
	return found
}

// Until the table says that an evicted pod has ended, what its supervisor starts in it is killed
// again, whether there is pressure or not: one eviction, one kill line.
func TestAPodThatComesBackIsKilledAgainAsOneEviction(t *testing.T) {
	p := newPods(t)
	p.list(uidPodA, uidPodB)
	p.restart(podA, "c1", "", 64<<20)
	p.create(podB)
	other := p.sleeper(podB+"/c", 16<<20)
	p.a = p.open(met, nil)
	p.turns(p.a, "the eviction", func() bool { return len(p.evictions()) == 1 })

	idle := p.restart(podA, "c2", "c1", 4<<20)
	p.looks("the second kill", func() bool { return !idle.Alive() && len(p.evictions()) == 2 })
	hog := p.restart(podA, "c3", "c2", 64<<20)
	p.looks("the third kill", func() bool { return !hog.Alive() && len(p.evictions()) == 3 })

	const a = "eviction 1 of pod" + uidPodA + ": killed, "
	if diff := cmp.Diff([]string{a + "1 attempts, 1 killed", a + "2 attempts, 2 killed", a + "3 attempts, 3 killed"}, p.evictions()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if kills := p.lines(record.KindKill); len(kills) != 1 {
		t.Errorf("%d kill lines, want one:\n%s", len(kills), p.journal())
	}
	if minute, _ := p.a.memory.Left(&p.a.settings, sample.Now()); minute != p.conf.Budget.KillsPerMinute-1 {
		t.Errorf("%d kills are left this minute: attempts count for the budget", minute)
	}
	if !other.Alive() {
		t.Errorf("another pod died for it:\n%s", p.journal())
	}
}

// Two pods are two evictions, though the first may come back.
func TestAnotherPodIsAnotherEviction(t *testing.T) {
	p := newPods(t)
	p.list(uidPodA, uidPodB)
	p.restart(podA, "c1", "", 64<<20)
	p.a = p.open(met, nil)
	p.turns(p.a, "the eviction", func() bool { return len(p.evictions()) == 1 })
	p.create(podB)
	p.sleeper(podB+"/c", 64<<20)
	p.looks("the other one's", func() bool { return len(p.evictions()) == 2 })
	if diff := cmp.Diff([]string{
		"eviction 1 of pod" + uidPodA + ": killed, 1 attempts, 1 killed",
		"eviction 2 of pod" + uidPodB + ": killed, 1 attempts, 1 killed",
	}, p.evictions()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if kills := p.lines(record.KindKill); len(kills) != 2 {
		t.Errorf("%d kill lines, want two:\n%s", len(kills), p.journal())
	}
}

// due has the pods that came back be killed at the next pass, if at all.
func (p *pods) due() {
	for i := range p.a.comebacks {
		p.a.comebacks[i].killedNs = 0
	}
}

// What is on record, or another pod, or nobody's to record, is left alone without pressure.
func TestAPodThatIsNotWaitedForLives(t *testing.T) {
	for name, tc := range map[string]struct {
		first, then []string // uids that the table lists
		pod         string   // that runs next
	}{
		"its record has landed":        {[]string{uidPodA, uidPodB}, []string{uidPodB}, podA},
		"another pod of the same name": {[]string{uidPodA}, []string{uidPodA, uidPodB}, podB},
		"no table":                     {nil, nil, podA},
		"a table that comes later":     {nil, []string{uidPodA}, podA},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPods(t)
			if tc.first != nil {
				p.list(tc.first...)
			}
			p.restart(podA, "c1", "", 64<<20)
			p.a = p.open(met, nil)
			p.turns(p.a, "the eviction", func() bool { return len(p.evictions()) == 1 })
			must(t, p.fs.Remove(path.Join(p.root, podA, "c1")))
			if tc.then != nil {
				p.list(tc.then...)
			}
			if tc.pod == podB {
				p.create(podB)
			}
			next := p.sleeper(tc.pod+"/c2", 4<<20)
			p.looks("the new container", func() bool {
				i := slices.IndexFunc(p.a.scene.workloads, func(w workload.Workload) bool { return w.Cgroup == path.Join(p.root, tc.pod) })
				return i >= 0 && p.a.scene.units[i].Runs
			})
			for range 20 {
				p.due()
				p.look(p.a)
			}
			if !next.Alive() || len(p.evictions()) != 1 {
				t.Errorf("the new container lives: %v:\n%s", next.Alive(), p.journal())
			}
		})
	}
}

// What replaced a pod under its cgroup's path is another one.
func TestACgroupMadeAnewIsNoComeback(t *testing.T) {
	p := newPods(t)
	p.list(uidPodA)
	p.restart(podA, "c1", "", 64<<20)
	p.a = p.open(met, nil)
	p.turns(p.a, "the eviction", func() bool { return len(p.evictions()) == 1 })
	must(t, p.fs.Remove(path.Join(p.root, podA)))
	p.create(podA)
	next := p.sleeper(podA+"/c2", 4<<20)
	p.looks("the new pod", func() bool {
		return len(p.a.scene.units) == 1 && p.a.scene.units[0].Runs && p.a.scene.units[0].ID == identity(p.bed, podA)
	})
	for range 20 {
		p.due()
		p.look(p.a)
	}
	if !next.Alive() {
		t.Errorf("the new pod died:\n%s", p.journal())
	}
}

func TestKillsAgainAreFurtherAndFurtherApart(t *testing.T) {
	for attempts, want := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 6: 32 * time.Second, 7: time.Minute, 1000: time.Minute,
	} {
		if got := (&comeback{attempts: attempts}).patience(); got != want {
			t.Errorf("after %d attempts %s, want %s", attempts, got, want)
		}
	}
}

// A kill that is not due waits.
func TestAComebackWaitsForItsTurn(t *testing.T) {
	p := newPods(t)
	p.list(uidPodA)
	p.restart(podA, "c1", "", 64<<20)
	p.a = p.open(met, nil)
	p.turns(p.a, "the eviction", func() bool { return len(p.evictions()) == 1 })
	c := &p.a.comebacks[0]
	c.killedNs = sample.Now() + uint64(time.Hour)
	next := p.restart(podA, "c2", "c1", 4<<20)
	p.looks("the new container", func() bool { return len(p.a.scene.units) == 1 && p.a.scene.units[0].Runs })
	for range 20 {
		p.look(p.a)
	}
	if !next.Alive() {
		t.Fatalf("killed before its time:\n%s", p.journal())
	}
	p.due()
	p.looks("its kill", func() bool { return !next.Alive() })
}

// One for each pod, and the oldest makes room for the next.
func TestComebacksAreBounded(t *testing.T) {
	a := &Agent{}
	for i := range a.comebacks {
		a.comebacks[i] = comeback{used: true, firstNs: uint64(100 + i), id: workload.Identity{MemoryID: uint64(1 + i)}}
	}
	a.comebacks[7].firstNs = 1
	next := workload.Identity{MemoryID: 1000}
	if c := a.roomFor(next); c != &a.comebacks[7] {
		t.Errorf("%+v makes room, want the oldest", c.id)
	}
	a.comebacks[3].used = false
	if c := a.roomFor(next); c != &a.comebacks[3] {
		t.Errorf("%+v makes room, want the free one", c.id)
	}
	if c := a.roomFor(a.comebacks[20].id); c != &a.comebacks[20] {
		t.Errorf("%+v makes room, want the pod's own", c.id)
	}
}
