package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/actuator"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// licenceTime is how long the kernel may act after a healthy pass.
	licenceTime = config.MaxGrace
	// nameEvery is between two nominations: 0.2 ms for 1000 units and wire. Passes between them
	// renew the licence alone; the kernel compares with how things were when the nominee was
	// named, however long ago.
	nameEvery = 100 * time.Millisecond
	// leadsAge is when a nominee's processes are listed again, some text each.
	leadsAge = time.Second
)

// backstop is what the hot thread knows of the kernel's part: whom it may kill when nobody
// here acts.
type backstop struct {
	config config.Backstop
	// nominees are those of each bound; namedNs is when they were named, 0: they are not.
	nominees [decide.MaxBounds]nominee
	namedNs  uint64
	// with are the leads that they were named with.
	with *leads

	found decide.Nominee
	sent  loader.Nominee
	// available is what was available of each bound's signal in the last pass, at the most.
	available [decide.MaxBounds]int64
	wanted    chan []*unit
	listed    atomic.Pointer[leads]
	askedNs   uint64
}

// nominee is whom the kernel may kill for a bound, with all that the record of it needs.
type nominee struct {
	named    bool
	id       record.ID
	decision decide.Decision
	victim   workload.Workload
	unit     *unit
}

// leads are processes of nominees, by unit.
type leads map[workload.Identity][]loader.Lead

func (b *backstop) init() {
	b.found.Rivals = make([]decide.Rival, 0, loader.MaxRivals)
	b.sent.Rivals = make([]loader.Rival, 0, loader.MaxRivals)
	b.wanted = make(chan []*unit, 1)
	b.listed.Store(&leads{})
}

// withdraw takes the kernel's licence away. False: it is killing or has killed, and the
// next turn takes note of it.
func (a *Agent) withdraw() bool {
	a.backstop.namedNs = 0
	return a.kernel.Withdraw()
}

// nominate ends a healthy pass: it names whom the kernel may kill should this agent not come
// to the next one, and renews the kernel's licence, unless somebody has to act already or
// there is a doubt.
func (a *Agent) nominate(d *decide.Decision) {
	b, nowNs := &a.backstop, sample.Now()
	if !a.mayLicense(d) {
		a.withdraw()
		return
	}
	listed := b.listed.Load()
	if b.namedNs != 0 && nowNs-b.namedNs < uint64(nameEvery) && b.with == listed &&
		a.kernel.License(nowNs+uint64(licenceTime)) {
		return
	}
	if !a.withdraw() {
		return
	}
	named := false
	a.lookBack()
	for i, wire := range a.wires.number {
		if wire != noWire && a.nominateFor(i, wire, *listed) {
			named = true
		}
	}
	if !named {
		return
	}
	b.namedNs, b.with = nowNs, listed
	a.kernel.License(nowNs + uint64(licenceTime)) // last: it makes all of the above count
	a.askForLeads(nowNs, *listed)
}

// lookBack reads the signals again, at the end of the pass. What a victim gave back while that
// went on would hide, in the sum that the kernel makes of all growth (backstop_is_due), what a
// unit takes that was made since: somebody else would be hit for it. Of both readings the higher
// one counts: less can only have been taken, and that is not to be left out either.
func (a *Agent) lookBack() {
	b := &a.backstop
	for i := range a.settings.Bounds {
		b.available[i] = a.availableOf(i)
	}
	a.observe(-1)
	for i := range a.settings.Bounds {
		b.available[i] = max(b.available[i], a.availableOf(i))
	}
}

func (a *Agent) availableOf(bound int) int64 {
	if o := a.observed(&a.settings.Bounds[bound]); o != nil {
		return o.Available
	}
	return 0
}

// mayLicense: with a threshold that is met, a victim that is not dead, a unit that can't be
// opened or no place for another eviction, whom to kill next is not for the kernel to say.
func (a *Agent) mayLicense(d *decide.Decision) bool {
	if !a.hasBackstop() || a.leaving || a.scene.from.incomplete || a.slot() == nil {
		return false
	}
	for i := range a.wires.number {
		if (d.Met[i] || d.Due[i]) && a.wires.number[i] != noWire {
			return false
		}
	}
	for i := range a.open {
		if e := &a.open[i]; e.underWay() && e.timeline.Dead == 0 && !e.recorded {
			return false
		}
	}
	return true
}

// hasBackstop: it is wanted, and this kernel has one.
func (a *Agent) hasBackstop() bool {
	return a.backstop.config.Enabled && !a.shadow && a.kernel.Reach() != loader.ReachNone
}

const noBackstop = "no backstop, nobody kills for an agent that stalls; needs bpf_timer (Linux 5.15)"

// announceBackstop says if one is wanted and there is none. Without BPF the tiers say so.
func (a *Agent) announceBackstop() {
	if _, ok := a.kernel.(*hooked); !ok || a.hasBackstop() || !a.backstop.config.Enabled || a.shadow {
		return
	}
	a.log.Warn().Msg("degraded: " + noBackstop)
	a.degraded(alarm{reason: noBackstop})
}

// nominateFor names the nominee of one bound, or nobody.
func (a *Agent) nominateFor(bound, wire int, listed leads) bool {
	b, n := &a.backstop, &a.backstop.nominees[bound]
	n.named = false
	o := a.observed(&a.settings.Bounds[bound])
	if o == nil || !o.Signal.Memory() && a.anyZombies() {
		return a.nobody(wire)
	}
	decide.Nominate(&a.settings, &a.memory, &a.input, bound, &b.found)
	if b.found.Victim < 0 || !a.placeRows(bound) {
		return a.nobody(wire)
	}
	i := b.found.Victim
	*n = nominee{
		named: true, id: a.nomineeID(&a.scene.workloads[i]),
		decision: wouldDecide(&a.settings.Bounds[bound], bound, o, i),
		victim:   a.scene.workloads[i], unit: a.scene.units[i],
	}
	kill := struckID(n.victim.ID, n.unit.targets)
	s := &b.sent
	s.MemoryID, s.PidsID = kill.MemoryID, kill.PidsID
	s.Use, s.Least, s.Available = b.found.Use, b.found.Least, b.available[bound]
	// Readings differ by that much though nothing moves; of a small nominee less is told apart.
	s.Others = max(b.found.Others, min(a.guards[bound].Slack, s.Use/8))
	s.Leads = listed[n.victim.ID]
	s.Intent = loader.Intent{
		ID: n.id, MemoryID: n.victim.ID.MemoryID, PidsID: n.victim.ID.PidsID,
		ThresholdValue: n.decision.ThresholdValue, Capacity: o.Capacity,
		Signal: string(o.Signal), UID: n.victim.UID, Cgroup: n.victim.Cgroup,
	}
	n.named = a.kernel.Nominate(wire, s)
	return n.named
}

// nomineeID is the id of the nominee's eviction, should there be one.
func (a *Agent) nomineeID(w *workload.Workload) record.ID {
	if c := a.comebackOf(w); c != nil {
		return c.eviction
	}
	return record.MakeID(uint64(time.Now().UnixMilli()), record.Entropy())
}

// wouldDecide is what the record of the nominee's eviction says that was decided.
func wouldDecide(b *decide.Bound, bound int, o *signal.Observation, victim int) decide.Decision {
	d := decide.Decision{Verdict: decide.Evict, Reason: decide.ReasonMet, Bound: bound, Observed: *o, Victim: victim}
	d.ThresholdValue = b.Value.Of(o.Capacity)
	d.TargetAvailable = d.ThresholdValue + max(0, b.MinReclaim.Of(o.Capacity))
	return d
}

func (a *Agent) nobody(wire int) bool {
	a.kernel.Nominate(wire, nil)
	return false
}

// anyZombies: what they hold comes back without a victim, so whether one is needed can't be
// said beforehand.
func (a *Agent) anyZombies() bool {
	for i := range a.input.Dying {
		if a.input.Dying[i].HeldTasks > 0 {
			return true
		}
	}
	return false
}

// placeRows says where the counters of the nominee and its rivals stand; false when one of
// them is not known.
func (a *Agent) placeRows(bound int) bool {
	b, memory := &a.backstop, a.settings.Bounds[bound].Signal.Memory()
	row := func(i int) (id uint64, css uint32) {
		r := &a.scene.rows[i]
		if memory {
			return r.id.MemoryID, r.memoryCSS
		}
		return r.id.PidsID, r.pidsCSS
	}
	s := &b.sent
	if s.UnitID, s.UnitCSS = row(b.found.Victim); s.UnitID == 0 || s.UnitCSS == 0 {
		return false
	}
	s.Rivals = s.Rivals[:0]
	for _, r := range b.found.Rivals {
		id, css := row(r.Index)
		if id == 0 || css == 0 {
			return false
		}
		s.Rivals = append(s.Rivals, loader.Rival{CgroupID: id, CSSID: css, Use: r.Use, Growth: r.Growth, Relative: r.Relative})
	}
	return true
}

// askForLeads has the nominees' processes listed where that was not done, or long ago.
func (a *Agent) askForLeads(nowNs uint64, listed leads) {
	patience := leadsAge
	for i := range a.wires.number {
		n := &a.backstop.nominees[i]
		if _, ok := listed[n.victim.ID]; n.named && !ok {
			patience = followTick
		}
	}
	if nowNs-a.backstop.askedNs < uint64(patience) {
		return
	}
	a.backstop.askedNs = nowNs
	var units []*unit
	for i := range a.wires.number {
		if n := &a.backstop.nominees[i]; n.named {
			units = append(units, n.unit)
		}
	}
	select {
	case a.backstop.wanted <- units:
	default: // the last ones are being listed
	}
}

// listLeads lists the nominees' processes, and wakes the hot thread when there are new
// nominees: until it knows their processes, the kernel can hit who allocates or forks only.
func (a *Agent) listLeads(ctx context.Context) {
	for {
		var units []*unit
		select {
		case <-ctx.Done():
			return
		case units = <-a.backstop.wanted:
		}
		former, next, fresh := *a.backstop.listed.Load(), leads{}, false
		for _, u := range units {
			if _, ok := next[u.ID]; ok {
				continue // of another wire too
			}
			found, err := a.largest(u)
			if err != nil {
				a.log.Debug().Err(err).Msg("a nominee's processes can't be listed")
			}
			next[u.ID] = []loader.Lead{}
			for _, p := range found {
				next[u.ID] = append(next[u.ID], loader.Lead{StartTicks: p.StartTicks, TGID: uint32(p.PID)})
			}
			_, known := former[u.ID]
			fresh = fresh || !known
		}
		a.backstop.listed.Store(&next)
		if fresh {
			a.wake()
		}
	}
}

// takeNote makes the kernel's kill, if there was one, an eviction of ours: it is counted,
// finished, followed and recorded as any other.
func (a *Agent) takeNote() {
	k, ok := a.kernel.TakeNote()
	if !ok {
		return
	}
	a.backstop.namedNs = 0
	bound := a.wires.boundOf(k.Wire)
	e := a.slot()
	if bound < 0 || !a.backstop.nominees[bound].named || e == nil {
		// Can't be: nobody is licensed so. The intent is there for the next start.
		a.log.Error().Int("wire", k.Wire).Msg("the backstop killed a nominee that is not known")
		return
	}
	n, nowNs := &a.backstop.nominees[bound], sample.Now()
	*e = eviction{
		used: true, id: n.id, killer: record.ByBackstop, by: k.By,
		decision: n.decision, bound: a.settings.Bounds[bound], wire: k.Wire, seq: k.Seq,
		victim: n.victim, unit: n.unit, targets: n.unit.targets, intent: k.Slot, condemned: -1,
		lowest: k.Available, wall: time.Now().Add(-time.Duration(nowNs - k.SignalledNs)),
	}
	e.decision.Observed.Available, e.decision.Observed.Ns = k.Available, k.CrossedNs
	e.timeline.Crossed, e.timeline.Signalled = k.CrossedNs, k.SignalledNs
	if a.resume(e); !e.isAgain() {
		a.memory.Killed(k.SignalledNs)
	}
	a.drills.proven.Store(true)
	a.heldAtLast(e, k.Use)
	a.weighContainers(e)
	a.explain(e) // the others by the last pass's figures, like the nomination
	a.refresh()
	if i := a.scene.unit(n.victim.ID); i >= 0 && sameRows(a.scene.units[i].targets, n.unit.targets) && a.takeHandle(e, a.scene.units[i]) {
		e.unit = a.scene.units[i]
		e.handle.Struck()
		e.condemned = a.condemn(e)
		a.opened(e, 1)
		return
	}
	// What was struck is gone; what may be in the unit by now is somebody else.
	e.finished.Store(&actuator.Outcome{DeadNs: nowNs})
	a.noted(e)
}

// heldAtLast puts what the kernel saw the victim hold before it struck in the place of what it
// held when it was named.
func (a *Agent) heldAtLast(e *eviction, use int64) {
	if e.bound.Signal.Memory() {
		e.victim.Usage.WorkingSetBytes = use
	} else {
		e.victim.Usage.Tasks = use
	}
	if i := a.scene.unit(e.victim.ID); i >= 0 {
		a.scene.workloads[i].Usage = e.victim.Usage // the ranking says the same
	}
}

func (a *Agent) takeHandle(e *eviction, u *unit) bool {
	h, err := a.hold(u)
	e.handle = h
	return err == nil
}

func (a *Agent) largest(u *unit) ([]actuator.Process, error) {
	h, err := a.hold(u)
	if err != nil {
		return nil, err
	}
	return h.Largest(loader.MaxLeads)
}

// hold opens a unit's handle where the scout has not, and lets it know. From any goroutine.
func (a *Agent) hold(u *unit) (*actuator.Handle, error) {
	if h := u.handle.Load(); h != nil {
		return h, nil
	}
	h, err := u.open(a.fs)
	a.scout.tell(u)
	return h, err
}

func sameRows(x, y []rows) bool {
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i].id != y[i].id {
			return false
		}
	}
	return true
}

// setGrace: the kernel acts first where the hot thread has no real-time priority, and may
// take tens of milliseconds.
func (a *Agent) setGrace() {
	grace := a.backstop.config.Grace
	if a.slow {
		grace = 0
	}
	a.kernel.SetGrace(grace)
}
