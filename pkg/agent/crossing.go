package agent

import (
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// crossings are the records that woke us, oldest first; none when the clock did.
type crossings []sample.Sample

// of returns the crossing of a wire's sequence, nil when that is none of them.
func (c crossings) of(wire int, seq uint64) *sample.Sample {
	for i := range c {
		if c[i].Wire == wire && c[i].Seq == seq {
			return &c[i]
		}
	}
	return nil
}

// meetStrangers looks at the cgroups that crossed and that no strike of ours would kill.
func (a *Agent) meetStrangers(woke crossings) {
	for i := range woke {
		if a.isStranger(&woke[i]) && !a.meet(&woke[i]) {
			a.refresh()
			return
		}
	}
}

// isStranger reports whether a crossing comes from a cgroup below a root that no handle of
// the scene would kill: a unit, or a container of a known pod, that is younger than the
// scene; or from a victim's that is dead, which so has somebody else in it.
func (a *Agent) isStranger(s *sample.Sample) bool {
	if s.CSSID == 0 || s.By == sample.ObserverTimer {
		return false
	}
	controller := controllerOf(s)
	stranger := false
	climb(a.kernel, controller, s.CSSID, func(css uint32, id uint64) bool {
		if a.scene.owner(controller, css, id) >= 0 {
			stranger = a.isDead(controller, id)
			return false
		}
		stranger = a.isRoot(id)
		return !stranger
	})
	return stranger && s.CgroupID != 0 && !a.isRoot(s.CgroupID)
}

// maxDepth bounds a climb, should the rows of cgroups that were removed form a circle.
const maxDepth = 32

// climb visits a cgroup and its ancestors, as far as their rows are known, until visit returns
// false.
func climb(k kernel, c loader.Controller, css uint32, visit func(css uint32, id uint64) bool) {
	for range maxDepth {
		id, parent, ok := k.Above(c, css)
		if !ok || !visit(css, id) {
			return
		}
		css = parent
	}
}

// suspect is the unit of the scene that crossed a wire, -1: nobody knows. It is the victim
// mostly, and then no second look is needed, 10 µs.
func (a *Agent) suspect(woke crossings) int {
	unit := -1
	for i := range woke {
		c := controllerOf(&woke[i])
		climb(a.kernel, c, woke[i].CSSID, func(css uint32, id uint64) bool {
			unit = a.scene.owner(c, css, id)
			return unit < 0
		})
		if unit >= 0 {
			break
		}
	}
	return unit
}

func controllerOf(s *sample.Sample) loader.Controller {
	if s.By == sample.ObserverTask {
		return loader.Pids
	}
	return loader.Memory
}

func (a *Agent) isDead(c loader.Controller, id uint64) bool {
	for i := range a.open {
		e := &a.open[i]
		for t := range e.targets {
			of := e.targets[t].id
			if e.used && e.timeline.Dead != 0 && (c == loader.Memory && of.MemoryID == id || c == loader.Pids && of.PidsID == id) {
				return !e.revived
			}
		}
	}
	return false
}

func (a *Agent) isRoot(id uint64) bool {
	for i := range a.scene.from.roots {
		if r := &a.scene.from.roots[i]; id == r.id.MemoryID || id == r.id.PidsID {
			return true
		}
	}
	return false
}

// placeKnown finds the rows of a unit that the scout has read and not walked to yet. False:
// the crossing comes from none of these.
func (a *Agent) placeKnown(s *sample.Sample) bool {
	for i, u := range a.scene.units {
		if u.isPlaced() || !a.crossedIn(s, u.targets) {
			continue
		}
		placed := u.copied()
		a.placeBy(s, placed)
		a.scene.set(i, placed)
		return true
	}
	return false
}

// meet reads the one unit that a crossing came from, and whoever else there may be not at
// all: some 50 µs, and no wait for a scan of thousands. False where that can't be told.
func (a *Agent) meet(s *sample.Sample) bool {
	if a.placeKnown(s) {
		return true // no text: a bomb has hundreds of processes to read of
	}
	path, err := a.fs.PathOfMemoryID(s.CgroupID)
	if s.By == sample.ObserverTask {
		path, err = a.fs.PathOfPidsID(s.CgroupID)
	}
	if err != nil {
		return vanished(err)
	}
	dir := a.reader.UnitOf(path)
	return dir == "" || a.read(dir, func(u *unit) { a.placeBy(s, u) })
}

// read makes the scene know a unit as it is now.
func (a *Agent) read(dir string, place func(*unit)) bool {
	read, err := a.reader.Unit(dir)
	if err != nil {
		return vanished(err)
	}
	if i := a.scene.unit(read.ID); i >= 0 && a.scene.units[i].Same(&read) {
		a.scene.units[i].look()
		return true
	}
	u := newUnit(read)
	place(u)
	return a.scene.welcome(u, sample.Now()) && a.scout.tell(u)
}

// placeBy finds the unit's rows: those of the crossing's controller on the way up from
// where it came, the other's by a search.
func (a *Agent) placeBy(s *sample.Sample, u *unit) {
	climb(a.kernel, controllerOf(s), s.CSSID, func(css uint32, id uint64) bool {
		u.eachRows(func(r *rows) {
			switch {
			case s.By == sample.ObserverTask && id == r.id.PidsID:
				r.pidsCSS = css
			case s.By != sample.ObserverTask && id == r.id.MemoryID:
				r.memoryCSS = css
			}
		})
		return !a.isRoot(id)
	})
	a.search(u)
}

// search finds the rows that are missing among all that were ever filled.
func (a *Agent) search(u *unit) {
	find := findRows(a.kernel.Find)
	u.eachRows(func(r *rows) { find(r) })
}

// refresh has the scout look at everything, and waits for it.
func (a *Agent) refresh() { a.scene.take(a.scout.refreshNow()) }
