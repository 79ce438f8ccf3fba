package agent

import (
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// scene is everything the hot thread knows about the cgroups: the units of the scout's last
// roster and guests behind them, which the scout does not know yet. It stays where it is in
// memory, and takes from a new roster what has changed. It belongs to the hot thread.
type scene struct {
	room // units, and what belongs to the unit of the same index
	from *roster
	// guests were found by the hot thread and are in no roster so far.
	guests []guest
	// hollow are the indices of the units that are marked noProcess.
	hollow []int
	// owners says of each css id which unit's strike kills it: index plus one, 0 for none's.
	owners [2][]int32
	// disk: some threshold is about a disk.
	disk bool
}

type guest struct {
	*unit
	sinceNs uint64
}

// guestTime is how long the hot thread's word counts against the scout's.
const guestTime = uint64(2e9)

func newScene(cssIDs int) *scene {
	return &scene{
		from:   &roster{},
		guests: make([]guest, 0, maxGuests), hollow: make([]int, 0, 1024),
		owners: [2][]int32{make([]int32, cssIDs), make([]int32, cssIDs)},
	}
}

// take goes over to a roster.
func (s *scene) take(r *roster) {
	if s.from == r {
		return
	}
	s.moveTo(r.room)
	for _, i := range s.hollow { // it is looked at anew
		s.empty[i], s.workloads[i].Protected = false, s.units[i].Protected
	}
	s.hollow, s.from = s.hollow[:0], r
	for i, u := range r.units {
		if i == len(s.units) {
			s.grow()
		}
		if s.units[i] != u {
			s.set(i, u)
		}
	}
	for len(s.units) > len(r.units) {
		s.drop()
	}
	s.keepGuests()
}

func (s *scene) moveTo(r *room) {
	if cap(r.units) == cap(s.units) {
		return
	}
	s.room = room{
		append(r.units[:0], s.units...), append(r.workloads[:0], s.workloads...),
		append(r.rows[:0], s.rows...), append(r.empty[:0], s.empty...),
	}
}

func (s *scene) grow() {
	n := len(s.units) + 1
	s.units, s.workloads, s.rows, s.empty = s.units[:n], s.workloads[:n], s.rows[:n], s.empty[:n]
	s.units[n-1] = nil
}

func (s *scene) drop() {
	n := len(s.units) - 1
	s.own(s.units[n], n+1, 0)
	s.units[n] = nil
	s.units, s.workloads, s.rows, s.empty = s.units[:n], s.workloads[:n], s.rows[:n], s.empty[:n]
}

// set makes u the unit at index i.
func (s *scene) set(i int, u *unit) {
	s.own(s.units[i], i+1, 0)
	s.units[i], s.workloads[i], s.rows[i], s.empty[i] = u, u.Workload, u.rows, false
	s.own(u, 0, i+1)
}

// own writes to as the owner of the unit's cgroups, over from alone where that is given: a
// unit that has moved has its new place already.
func (s *scene) own(u *unit, from, to int) {
	if u == nil {
		return
	}
	for t := range u.targets {
		for c, css := range [2]uint32{u.targets[t].memoryCSS, u.targets[t].pidsCSS} {
			if css != 0 && int(css) < len(s.owners[c]) && (from == 0 || s.owners[c][css] == int32(from)) {
				s.owners[c][css] = int32(to)
			}
		}
	}
}

// owner returns the index of the unit whose strike kills a cgroup, -1 when that is none's.
func (s *scene) owner(c loader.Controller, css uint32, id uint64) int {
	if int(css) >= len(s.owners[c]) {
		return -1
	}
	i := int(s.owners[c][css]) - 1
	if i < 0 || i >= len(s.units) {
		return -1
	}
	for t := range s.units[i].targets {
		of := &s.units[i].targets[t]
		if c == loader.Memory && of.memoryCSS == css && of.id.MemoryID == id || c == loader.Pids && of.pidsCSS == css && of.id.PidsID == id {
			return i
		}
	}
	return -1
}

// welcome makes room for a guest: in the place of the unit as it was known before, or behind
// the others. False when there is none.
func (s *scene) welcome(u *unit, nowNs uint64) bool {
	if len(s.guests) == maxGuests || !s.seat(u) {
		return false
	}
	s.guests = append(s.guests, guest{u, nowNs})
	return true
}

func (s *scene) seat(u *unit) bool {
	for i := range s.units {
		if s.workloads[i].Cgroup == u.Cgroup {
			s.set(i, u)
			return true
		}
	}
	if len(s.units) == cap(s.units) {
		return false
	}
	s.grow()
	s.set(len(s.units)-1, u)
	return true
}

// keepGuests seats those again that the roster does not have.
func (s *scene) keepGuests() {
	if len(s.guests) == 0 {
		return
	}
	nowNs := sample.Now()
	s.guests = slices.DeleteFunc(s.guests, func(g guest) bool {
		if nowNs-g.sinceNs > guestTime {
			return true
		}
		i := s.unit(g.ID)
		return i >= 0 && s.units[i].grip == g.grip || !s.seat(g.unit)
	})
}

// unit returns the index of the workload with that identity, -1 when it is gone.
func (s *scene) unit(id workload.Identity) int {
	for i := range s.rows {
		if s.rows[i].id == id {
			return i
		}
	}
	return -1
}

// at returns the index of the unit of a cgroup's path, -1 when there is none.
func (s *scene) at(cgroup string) int {
	for i := range s.workloads {
		if s.workloads[i].Cgroup == cgroup {
			return i
		}
	}
	return -1
}

// newcomerAge is how long after it was read first a unit may be without rows: the scout
// walks for it within 50 ms.
const newcomerAge = time.Second

// hasNewcomer reports whether a unit has no row yet, and so no usage of what a signal is
// about, whatever it holds.
func (s *scene) hasNewcomer(of signal.Signal) bool {
	if of.Disk() {
		return false
	}
	for i := range s.rows {
		r := &s.rows[i]
		isPlaced := r.pidsCSS != 0 || r.id.PidsID == 0
		if of.Memory() {
			isPlaced = r.memoryCSS != 0 || r.id.MemoryID == 0
		}
		if !isPlaced && time.Since(s.units[i].bornAt) < newcomerAge {
			return true
		}
	}
	return false
}

// fill reads every unit's usage from the tables: loads from memory, no system call but for
// units that were found empty.
func (s *scene) fill(k kernel) {
	for i := range s.rows {
		if s.empty[i] {
			s.look(k, i)
			continue
		}
		s.use(k, i)
	}
	for _, i := range s.from.held {
		s.mark(i)
	}
	if s.disk {
		for i, u := range s.units {
			u.addDisk(&s.workloads[i].Usage)
		}
	}
}

// look reads one unit's counters from the kernel: what it holds now, and whether anybody
// is in it. A row of tasks alone can be a second old, and a process that joins counts no fork.
func (s *scene) look(k kernel, i int) {
	k.Refresh(s.rows[i].at(), loader.At{})
	s.looked(k, i)
}

// looked takes over what was just read of a unit.
func (s *scene) looked(k kernel, i int) {
	s.use(k, i)
	s.empty[i] = s.workloads[i].Usage.Tasks == 0
	s.mark(i)
}

// unreaped appends the units of which only zombies are left, whoever killed them: their
// tasks come back without a victim, when somebody reaps them.
func (s *scene) unreaped(dst []decide.Dying) []decide.Dying {
	for _, i := range s.hollow {
		w := &s.workloads[i]
		if w.Usage.Tasks <= 0 || len(dst) == cap(dst) {
			continue
		}
		dst = append(dst, decide.Dying{UID: w.UID, Cgroup: w.Cgroup, Signal: signal.PIDAvailable, HeldTasks: w.Usage.Tasks})
	}
	return dst
}

// use takes memory and tasks from the tables. Processes and disk are the scout's.
func (s *scene) use(k kernel, i int) {
	s.rows[i].usage(k, &s.workloads[i].Usage)
}

// noProcess marks a unit of which only page cache, tmpfs or zombies are left: it has usage,
// and killing it would free nothing.
const noProcess = "has no process"

func (s *scene) mark(i int) {
	w := &s.workloads[i]
	empty := s.empty[i] || s.units[i].isHollow()
	switch {
	case empty && w.Protected == "":
		w.Protected = noProcess
		s.hollow = append(s.hollow, i)
	case !empty && w.Protected == noProcess:
		w.Protected = ""
		s.hollow = slices.DeleteFunc(s.hollow, func(j int) bool { return j == i })
	}
}

// usage takes what the tables say.
func (r *rows) usage(k kernel, u *workload.Usage) {
	u.MemoryBytes, u.WorkingSetBytes, u.Tasks = workload.NoData, workload.NoData, workload.NoData
	if usage, inactive, ok := k.Usage(loader.Memory, r.memoryCSS, r.id.MemoryID); ok {
		u.MemoryBytes, u.WorkingSetBytes = usage, signal.WorkingSetBytes(usage, inactive)
	}
	if usage, _, ok := k.Usage(loader.Pids, r.pidsCSS, r.id.PidsID); ok {
		u.Tasks = usage
	}
}

// held is what the cgroup still holds, read now; nothing when it is gone.
func (r *rows) held(k kernel) (held workload.Usage) {
	var u workload.Usage
	memory, pids := k.Refresh(r.at(), loader.At{})
	r.usage(k, &u)
	if memory {
		held.MemoryBytes = max(0, u.WorkingSetBytes)
	}
	if pids {
		held.Tasks = max(0, u.Tasks)
	}
	return held
}
