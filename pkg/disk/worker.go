package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Options say what is read and where the figures go.
type Options struct {
	// FS is the cgroup tree, Units reads the units in it; for one goroutine.
	FS    *cgroupfs.FS
	Units Units
	// NodeFs is the kubelet's root directory. ImageFs and ContainerFs are where the runtime
	// keeps images and writable layers, until it says so itself: "" is with NodeFs and with
	// the images.
	NodeFs, ImageFs, ContainerFs string
	// Logs is the kubelet's directory of the pods' logs.
	Logs string
	// Stores are the runtimes' directories, in which writable layers are believed to lie.
	Stores []string
	// DockerLogs is docker's directory of containers, with their logs.
	DockerLogs string
	// Directories are those of units that are no pods, by globs of their cgroups.
	Directories map[string][]string
	// Marks are the thresholds: near one the figures must be young.
	Marks []Mark
	// Runtime is nil where there is none. KubeletHas is asked at each reclaim how to tell
	// whether the kubelet has a pod, nil: it can't be told, as in cri.Reclaim. It, and its
	// answer, are called from other goroutines than Units. May be nil itself.
	Runtime    Runtime
	KubeletHas func() func(uid string) bool
	// ImageAge is as in cri.Reclaim.
	ImageAge time.Duration
	// Table is the file that is written, Request the agent's, of RequestOwner.
	Table, Request string
	RequestOwner   uint32
	// Node is the node's name, Procfs is "/proc".
	Node, Procfs string
	Log          zerolog.Logger
}

// Units are the units of the node: a workload.Scanner.
type Units interface {
	// LoadTable takes a newer workload table over, List names the units' cgroups, Levels those
	// that it found them in, Unit reads one, and Judge makes anew what the table says of it.
	LoadTable()
	List() ([]string, error)
	Levels() []string
	Unit(cgroup string) (workload.Unit, error)
	Judge(u *workload.Unit)
}

const (
	// The table is written at most once every leastWrite when figures of a growing unit or
	// near a mark changed, else every quietWrite; the agent calls it stale after 30 s.
	leastWrite, quietWrite = time.Second, 5 * time.Second
	// findEvery is between two looks for units and their directories.
	findEvery = 5 * time.Second
	// findSoon is the same where cgroups have come or gone.
	findSoon = time.Second
	// findAgain is the same while a container is waited for whose layer is not known.
	findAgain = 100 * time.Millisecond
	// turn is for how long parts are visited in one order.
	turn = 250 * time.Millisecond
	// calmRest is between two turns while nothing but age makes a visit due.
	calmRest = time.Second
	// sampleEvery is between two looks at filesystems and at what the node writes;
	// countersEvery between two readings of each unit's counters when these tell nothing.
	sampleEvery, countersEvery = 500 * time.Millisecond, 10 * time.Second
	// sampleShare is how much of one CPU the counters may take.
	sampleShare = 0.005
	// pageSize is that of nr_dirtied, as a rule.
	pageSize = 4096
	// A unit is read again every readEvery, and at each look while it is young or grows: its
	// containers and their layers come one after the other. Where the runtime tells who came since,
	// every readSeldom.
	readEvery, readSeldom, youngFor = 30 * time.Second, 2 * time.Minute, time.Minute
	// goneFor is how long a pod is measured whose cgroup is gone: the agent waits so long for the
	// files of one that it evicted, and is told when they are gone.
	goneFor = 30 * time.Second
)

// worker is the disk process. Its goroutines share what mu guards; none holds it while it
// waits for a filesystem or the runtime.
type worker struct {
	o       Options
	finder  finder
	visitor *visitor
	table   *workload.DiskWriter
	asked   asked
	// byCgroup is the visiting goroutine's own, and worked the CPU time of its steps.
	byCgroup map[string]*unit
	worked   time.Duration
	horizon  atomic.Int64
	layout   atomic.Pointer[workload.DiskLayout]

	// freshNs is when figures of growing units were wanted anew. foundNs is when the last look
	// for units began, unitsNs when it was over, countedNs when that at counters began.
	freshNs, foundNs, unitsNs, countedNs atomic.Uint64
	// firstFreshNs is freshNs of the first of requests in a row, cheapNs is view's, of the last one,
	// wroteNs when the node last wrote fast.
	firstFreshNs, cheapNs, wroteNs atomic.Uint64
	// families are those of the last look for units; never changed.
	families atomic.Pointer[[]family]
	// refind: what was missing at the last look may be there now.
	refind atomic.Bool
	// startNs is when this began, firstNs when units were first looked for, listedNs when that was over.
	startNs, firstNs, listedNs uint64
	// countNow, visitNow and askNow end a sleep.
	countNow, visitNow, askNow chan struct{}

	// missing are the directories of the configuration, and the uids of units without layers, that
	// were said not to be there.
	missing map[string]bool

	mu      sync.Mutex
	units   map[string]*unit
	reclaim *workload.Reclaim
	// news: the table is to be written soon; answered: at once.
	news, answered chan struct{}
}

// monotonicNs is CLOCK_MONOTONIC.
func monotonicNs() uint64 { return uint64(monotonic()) }

// newWorker prepares; nothing is read yet.
func newWorker(o Options) *worker {
	w := &worker{o: o, visitor: newVisitor(monotonicNs), table: workload.NewDiskWriter(o.Table), units: map[string]*unit{}, missing: map[string]bool{}, news: make(chan struct{}, 1), answered: make(chan struct{}, 1), countNow: make(chan struct{}, 1), visitNow: make(chan struct{}, 1), askNow: make(chan struct{}, 1)}
	w.finder = finder{
		kubelet:     kubelet{root: o.NodeFs, logs: o.Logs},
		layers:      layers{procfs: o.Procfs, stores: o.Stores, docker: o.DockerLogs},
		directories: o.Directories,
		pids:        w.pids,
	}
	w.visitor.open, w.visitor.procfs, w.visitor.nodefs = o.FS.OpenToRead, o.Procfs, o.NodeFs
	w.horizon.Store(math.MaxInt64)
	w.startNs = monotonicNs()
	return w
}

// Run writes the table and answers the agent's requests until ctx is done. What a filesystem
// or the runtime holds up is left behind then. The error means that the table can't be
// written at all.
func Run(ctx context.Context, o Options) error {
	w := newWorker(o)
	if err := w.write(); err != nil {
		return err
	}
	go w.visits(ctx)
	go w.samples(ctx)
	if o.Runtime != nil {
		go w.asked.ask(ctx, o.Runtime, w.askNow, func() { hasten(w.news) }, o.Log)
	}
	r := reclaimer{path: o.Request, owner: o.RequestOwner, runtime: o.Runtime, kubeletHas: o.KubeletHas, imageAge: o.ImageAge, stat: w.stat, settle: w.measureGrowers, answer: w.answer, log: o.Log}
	go r.run(ctx)
	w.writes(ctx)
	return w.table.Close()
}

// writes keeps the table up to date until ctx is done.
func (w *worker) writes(ctx context.Context) {
	said := ""
	for {
		if !rest(ctx, w.answered, leastWrite) {
			w.restForNews(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		text := ""
		if err := w.write(); err != nil {
			text = err.Error()
		}
		if text != said {
			if said = text; text != "" {
				w.o.Log.Error().Str("error", text).Msg("the disk figures can't be written")
			} else {
				w.o.Log.Info().Msg("the disk figures can be written again")
			}
		}
	}
}

// restForNews is the rest after leastWrite.
func (w *worker) restForNews(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-w.answered:
	case <-w.news:
	case <-time.After(quietWrite - leastWrite):
	}
}

func (w *worker) write() error {
	w.mu.Lock()
	now := monotonicNs()
	t := workload.DiskTable{
		Node: w.o.Node, WrittenNs: now, Measuring: w.isMeasuring(now), Layout: w.layout.Load(), Reclaim: w.reclaim,
		Workloads: entries(w.units, func(uid string) ([]cri.Container, bool) { return w.asked.of(uid, now) }, now, time.Now()),
	}
	w.mu.Unlock()
	return w.table.Write(&t)
}

// firstWithin is how long the agent may be kept waiting for the first figures of all units: a
// million files take one to two minutes beside others.
const firstWithin = 5 * time.Minute

// isMeasuring reports whether a part that was there at the start has not been visited yet. The
// caller holds the lock.
func (w *worker) isMeasuring(now uint64) bool {
	if now-w.startNs > uint64(firstWithin) {
		return false
	}
	if w.firstNs == 0 || w.countedNs.Load() < w.listedNs {
		return true
	}
	for _, u := range w.units {
		for _, p := range u.parts {
			if p.triedNs == 0 && p.foundNs == w.firstNs && !u.isAsItWas(p) {
				return true
			}
		}
	}
	return false
}

// lay finds out how the filesystems lie, once they answer.
func (w *worker) lay() {
	images, containers := w.o.ImageFs, w.o.ContainerFs
	if fs := w.asked.dirs(); fs != nil {
		images, containers = fs.ImageDir, fs.ContainerDir
	}
	if l, err := layoutOf(w.o.NodeFs, images, containers); err == nil {
		w.layout.Store(l)
	}
}

// dirOf is a directory on a signal's filesystem.
func (w *worker) dirOf(signal string) string {
	images, containers := w.o.ImageFs, w.o.ContainerFs
	if fs := w.asked.dirs(); fs != nil {
		images, containers = fs.ImageDir, fs.ContainerDir
	}
	if images == "" {
		images = w.o.NodeFs
	}
	switch name, _, _ := strings.Cut(signal, "."); {
	case name == "imagefs", name == "containerfs" && containers == "":
		return images
	case name == "containerfs":
		return containers
	}
	return w.o.NodeFs
}

func (w *worker) stat(signal string) (unix.Statfs_t, error) { return statfs(w.dirOf(signal)) }

func (w *worker) answer(r workload.Reclaim) {
	w.mu.Lock()
	w.reclaim = &r
	w.mu.Unlock()
	hasten(w.answered)
}

// visits walks until ctx is done. It keeps its thread, whose priorities it sets.
func (w *worker) visits(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	budget := newBudget()
	rank := ioNone
	for ctx.Err() == nil {
		if at, found := monotonicNs(), w.foundNs.Load(); found == 0 || at-found >= uint64(findEvery) || w.isFindWanted(found) || w.refind.Swap(false) {
			w.find()
			w.foundNs.Store(at)
			w.unitsNs.Store(monotonicNs())
			hasten(w.countNow)
		}
		rank = rank.set(w.isNear())
		if w.turn(ctx, &budget) {
			continue
		}
		pause := calmRest
		if w.isRestless() {
			pause = turn / 2
		}
		rest(ctx, w.visitNow, pause)
	}
}

// isRestless: a unit grows or has ended, or a mark is near.
func (w *worker) isRestless() bool {
	v := w.view()
	if v.isNear() {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.units {
		if u.goneNs != 0 || u.growth.grows(v.nowNs) {
			return true
		}
	}
	return false
}

func (w *worker) view() view {
	now := monotonicNs()
	return view{nowNs: now, horizon: time.Duration(w.horizon.Load()), freshNs: w.freshNs.Load(), firstNs: w.firstFreshNs.Load(), cheapNs: w.cheapNs.Load(),
		isWriting: w.wroteNs.Load()+uint64(growsFor) > now}
}

// isNear is view's, without a look at the clock: it is asked at each step.
func (w *worker) isNear() bool { return view{horizon: time.Duration(w.horizon.Load())}.isNear() }

// turn visits what is due, and reports whether anything was.
func (w *worker) turn(ctx context.Context, budget *budget) bool {
	v := w.view()
	w.mu.Lock()
	parts := due(w.units, v)
	w.mu.Unlock()
	end := monotonic() + turn
	settled := w.worked - crumb
	for _, p := range parts {
		for {
			if w.worked-settled >= crumb && !p.isAwaited {
				settled = w.worked
				if pause := budget.settle(monotonic(), cpuTime(), w.isNear()); pause > 0 {
					rest(ctx, w.visitNow, min(pause, turn))
				}
			}
			if ctx.Err() != nil || monotonic() > end || w.freshNs.Load() != v.freshNs {
				return true
			}
			if w.step(p) {
				break
			}
		}
	}
	return len(parts) > 0
}

// step works for a part, and reports whether the visit has ended.
func (w *worker) step(p *part) bool {
	began := clock(threadClock)
	out := w.visitor.visit(p)
	took := clock(threadClock) - began
	w.worked += took
	p.spentNs += uint64(took)
	if out == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.costNs, p.triedNs, p.medium = p.spentNs, p.beganNs, out.medium
	isFirst := p.figure == nil
	p.changed = out.figure != nil && (p.figure == nil || p.figure.Tally != out.figure.Tally)
	if out.figure != nil {
		p.figure, p.isPast = out.figure, false
	}
	w.complain(p, out.err)
	if p.changed {
		w.tell(p, isFirst)
	}
	return true
}

// complain says once what keeps a part from having a figure.
func (w *worker) complain(p *part, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == p.said {
		return
	}
	p.said = text
	switch {
	case errors.Is(err, errNeverThere), errors.Is(err, errElsewhere):
		if !w.missing[p.base+text] { // else it was said of another unit
			w.missing[p.base+text] = true
			w.o.Log.Warn().Str("directory", p.base).Str("error", text).Msg("degraded: a directory of diskDirectories is not measured")
		}
	case text != "":
		w.o.Log.Warn().Str("directory", p.String()).Str("error", text).Msg("degraded: figure stays as it was")
	}
}

// tell has the table written soon where the figure matters soon.
func (w *worker) tell(p *part, isFirst bool) {
	v := w.view()
	if isFirst || v.isNear() {
		hasten(w.news)
		return
	}
	for _, u := range w.units {
		if slices.Contains(u.parts, p) && (u.growth.grows(v.nowNs) || v.isWriting && p.isOfLogs() && u.isLimited()) {
			hasten(w.news)
		}
	}
}

// find brings units and parts up to date.
func (w *worker) find() {
	w.o.Units.LoadTable()
	before := w.levels()
	cgroups, err := w.o.Units.List()
	if err != nil {
		w.o.Log.Error().Err(err).Msg("degraded: units can't be listed; the figures are of those that were known")
		return
	}
	families := w.levelsSince(before)
	now := monotonicNs()
	former := w.units // nobody else replaces it
	w.finder.logs, w.finder.layers.mounted = nil, nil
	w.lookInStores()
	units := make(map[string]*unit, len(cgroups))
	for _, cgroup := range cgroups {
		if u := w.known(cgroup, now); u != nil {
			units[u.uid] = u
			if u.isPod {
				families = append(families, family{u.cgroup, u.links, false, now > u.bornNs+uint64(youngFor)})
			}
		}
	}
	w.families.Store(&families)
	w.keepGone(former, units, now)
	w.replace(former, units, now)
}

// lookInStores has units read again whose layers may lie where the runtime has since said so.
func (w *worker) lookInStores() {
	stores := w.stores()
	if slices.Equal(stores, w.finder.layers.stores) {
		return
	}
	w.finder.layers.stores = stores
	for _, u := range w.byCgroup {
		if u.isUnlayered() {
			u.readNs = 0
		}
	}
}

// stores are the directories in which layers are believed to lie: the configured ones, and what the
// runtime names.
func (w *worker) stores() []string {
	all := slices.Clone(w.o.Stores)
	if fs := w.asked.dirs(); fs != nil {
		for _, dir := range []string{fs.ImageDir, fs.ContainerDir} {
			if dir != "" && dir != "/" && !slices.Contains(all, dir) {
				all = append(all, dir)
			}
		}
	}
	return all
}

// family is how many cgroups a cgroup had when units were looked for: a pod, or a level that units
// are listed from. isOld: a pod in which containers seldom come.
type family struct {
	cgroup         string
	links          uint64
	isLevel, isOld bool
}

// oldShares is in how many turns all old pods are compared: 10 µs each on v1, 0.2 % of a core for
// 200 a second.
const oldShares = 3

// levels are those of the last look with their links of now, of before the next: what comes
// meanwhile is seen later.
func (w *worker) levels() map[string]uint64 {
	links := map[string]uint64{}
	for _, f := range w.lastFamilies() {
		if f.isLevel {
			links[f.cgroup] = w.o.FS.Links(f.cgroup)
		}
	}
	return links
}

func (w *worker) levelsSince(before map[string]uint64) []family {
	var all []family
	for _, level := range w.o.Units.Levels() {
		n, known := before[level]
		if !known {
			n = w.o.FS.Links(level)
		}
		all = append(all, family{level, n, true, false})
	}
	return all
}

func (w *worker) lastFamilies() []family {
	if all := w.families.Load(); all != nil {
		return *all
	}
	return nil
}

// hasMoved reports whether a pod or a container has come or gone since units were looked for. Of
// old pods each turn looks at a share.
func (w *worker) hasMoved(turn int) bool {
	for i, f := range w.lastFamilies() {
		if (!f.isOld || i%oldShares == turn%oldShares) && w.o.FS.Links(f.cgroup) != f.links {
			return true
		}
	}
	return false
}

// mostLeft is how many dead units are measured that are no pods, the newest.
const mostLeft = 1000

// keepGone keeps the pods that went not long ago, and what is no pod for as long as it holds
// something: nobody is known who removes that.
func (w *worker) keepGone(former, units map[string]*unit, now uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []*unit
	for uid, u := range former {
		if units[uid] != nil {
			continue
		}
		if !u.isPod {
			left = append(left, u)
			continue
		}
		if u.goneNs == 0 {
			u.goneNs = now
		}
		if now-u.goneNs < uint64(goneFor) {
			units[uid] = u
		}
	}
	keepLeft(left, units, now)
}

// keepLeft keeps those that alone have some directory, and hold something, or did until goneFor
// ago: the agent is to be told that it is empty. One that comes back is read anew.
func keepLeft(left []*unit, units map[string]*unit, now uint64) {
	taken := map[place]bool{}
	take := func(u *unit) {
		for _, p := range u.parts {
			taken[p.place] = true
		}
	}
	for _, u := range units {
		take(u)
	}
	for _, u := range left {
		if u.leftNs == 0 || slices.ContainsFunc(u.parts, (*part).isLeft) {
			u.leftNs = now
		}
	}
	slices.SortFunc(left, func(a, b *unit) int {
		return cmp.Or(cmp.Compare(b.leftNs, a.leftNs), cmp.Compare(b.bornNs, a.bornNs), cmp.Compare(a.uid, b.uid))
	})
	kept := 0
	for _, u := range left {
		isAlone := slices.ContainsFunc(u.parts, func(p *part) bool { return p.outlives() && !taken[p.place] })
		if kept < mostLeft && isAlone && now-u.leftNs < uint64(goneFor) {
			kept++
			u.readNs = 0
			units[u.uid] = u
			take(u)
		}
	}
}

// outlives: it is there though its unit is gone.
func (p *part) outlives() bool { return p.kind == directory || p.kind == layer }

// isLeft: it holds more than its own directory, or that is not known yet.
func (p *part) isLeft() bool {
	f := p.figure
	return p.outlives() && (f == nil && p.triedNs == 0 || f != nil && f.Tally != Tally{} && f.Inodes != 1)
}

// known is a unit as it was read not long ago, or is now; nil when it can't be read.
func (w *worker) known(cgroup string, now uint64) *unit {
	was, links := w.byCgroup[cgroup], w.o.FS.Links(cgroup)
	if was != nil && was.links == links && w.isAsRead(was, now) {
		w.mu.Lock()
		defer w.mu.Unlock()
		was.limit(w.o.Units)
		return was
	}
	read, err := w.o.Units.Unit(cgroup)
	if err != nil {
		return nil // gone, as a rule
	}
	u := w.finder.find(&read, was)
	u.readNs, u.links = now, links
	if slices.ContainsFunc(u.containers, func(id string) bool { return was == nil || !slices.Contains(was.containers, id) }) {
		hasten(w.askNow)
	}
	switch {
	case was != nil:
		u.bornNs = was.bornNs
	case w.byCgroup != nil: // else it was there before us
		u.bornNs = now
		u.growth.atNs = now // it has written nothing before
	}
	if now > max(u.bornNs, w.startNs)+uint64(youngFor) && w.lacksLayer(u, now) && !w.missing[u.uid] {
		w.missing[u.uid] = true
		w.o.Log.Warn().Str("uid", u.uid).Str("cgroup", u.cgroup).Msg("degraded: a container's writable layer is nowhere to be found")
	}
	return u
}

// isAsRead reports whether nothing tells that a unit is another than when it was read. As many cgroups
// as then may be others, of a container that was started again at once.
func (w *worker) isAsRead(u *unit, now uint64) bool {
	age, every := time.Duration(now-u.readNs), readEvery
	list, _ := w.asked.of(u.uid, now)
	if len(list) > 0 && !u.isUnlayered() {
		every = readSeldom
	}
	cameSince := func(c cri.Container) bool { return c.Running && time.Since(c.Created) < age }
	return age < every && now-u.bornNs > uint64(youngFor) && !w.grows(u, now) &&
		!slices.ContainsFunc(list, cameSince) && !(w.isWaitedFor() && w.lacksLayer(u, now))
}

func (w *worker) grows(u *unit, now uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return u.growth.grows(now)
}

// lacksLayer reports whether nobody tells what a container of a unit has written into its layer,
// not even the runtime. For the visiting goroutine, or under the lock.
func (w *worker) lacksLayer(u *unit, now uint64) bool {
	if !u.isUnlayered() {
		return false
	}
	list, listed := w.asked.of(u.uid, now)
	all, _, _ := u.rootfs(list, listed, now, time.Now())
	return all.missing
}

// replace makes these the units, and ends what the others have under way.
func (w *worker) replace(former, units map[string]*unit, now uint64) {
	kept := map[*part]bool{}
	w.byCgroup = make(map[string]*unit, len(units))
	for _, u := range units {
		w.byCgroup[u.cgroup] = u
		for _, p := range u.parts {
			kept[p] = true
			if p.foundNs == 0 {
				p.foundNs = now
			}
		}
	}
	for _, u := range former {
		for _, p := range u.parts {
			if !kept[p] {
				w.visitor.forget(p)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid, u := range units {
		if was := former[uid]; was != nil && was != u {
			u.growth = was.growth
		}
	}
	w.units = units
	if w.firstNs == 0 {
		w.firstNs, w.listedNs = now, monotonicNs()
		hasten(w.news)
	}
}

// samples watches filesystems and writers until ctx is done.
func (w *worker) samples(ctx context.Context) {
	runtime.LockOSThread() // its clock tells what the counters cost
	defer runtime.UnlockOSThread()
	g := newGauges(w.o.FS, w.o.Procfs)
	defer g.close()
	d := distances{marks: w.o.Marks, stat: w.stat}
	var readAt, comparedAt time.Time
	compared := 0
	var took time.Duration
	dirtied, _ := g.nodeDirtied()
	for ctx.Err() == nil {
		if time.Since(comparedAt) >= findSoon {
			comparedAt = time.Now()
			w.lay()
			g.unattributed = !isAttributing(w.dirOf("nodefs")) || !isAttributing(w.dirOf("containerfs"))
			compared++
			if w.hasMoved(compared) {
				w.refind.Store(true)
				hasten(w.visitNow)
			}
		}
		horizon, fell := d.horizon(monotonicNs())
		w.horizon.Store(int64(horizon))
		now, err := g.nodeDirtied()
		written := err != nil || float64(now-dirtied)*pageSize > fastWrites*sampleEvery.Seconds()
		dirtied = now
		if written {
			w.wroteNs.Store(monotonicNs())
		}
		since, wanted := time.Since(readAt), w.isCountWanted()
		if wanted || since >= countersEvery || (written || fell) && since >= time.Duration(float64(took)/sampleShare) {
			readAt = time.Now()
			at, began := monotonicNs(), clock(threadClock)
			w.count(g)
			took = clock(threadClock) - began
			w.countedNs.Store(at)
			if w.isWaitedFor() || w.isRestless() {
				hasten(w.visitNow)
			}
		}
		rest(ctx, w.countNow, sampleEvery)
	}
}

// settleWithin is how long figures of growing units are waited for: whoever fills a disk at
// 200 MB/s fills as many MB meanwhile.
const settleWithin = time.Second

// measureGrowers has units looked for, and those that grow measured, once more: one that
// filled its disk within a second was seen last before it began. So is what was never measured:
// a container of a second ago has no counters yet to grow by. A layer that is not known is looked
// for again and again. It returns when that is done, or after settleWithin: what grew and could not
// be measured until then has no figure until it is.
func (w *worker) measureGrowers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	since := monotonicNs()
	if since-w.freshNs.Load() > uint64(restEvery) {
		w.firstFreshNs.Store(since)
	}
	w.mu.Lock()
	w.cheapNs.Store(cheapNs(w.units))
	w.mu.Unlock()
	w.freshNs.Store(since)
	hasten(w.countNow)
	for !w.hasMeasured(since) && ctx.Err() == nil {
		sleep(ctx, 5*time.Millisecond)
	}
	w.outdate()
}

// outdate takes the figures away that are of before the request, of units that grew since.
func (w *worker) outdate() {
	v := w.view()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.units {
		for _, p := range u.parts {
			p.isPast = p.isPast || u.growth.grows(v.nowNs) && u.isAwaited(p, v)
		}
	}
}

// isWaitedFor: somebody may be in measureGrowers.
func (w *worker) isWaitedFor() bool {
	return monotonicNs() < w.freshNs.Load()+uint64(settleWithin)
}

// isCountWanted: the counters of the first units were not read yet, or not since somebody waits.
func (w *worker) isCountWanted() bool {
	w.mu.Lock()
	listed := w.listedNs
	w.mu.Unlock()
	counted := w.countedNs.Load()
	return counted < max(w.freshNs.Load(), listed) || w.isWaitedFor() && counted < w.unitsNs.Load()
}

// isFindWanted: it is known who grows, and units were looked for before that.
func (w *worker) isFindWanted(foundNs uint64) bool {
	fresh := w.freshNs.Load()
	return foundNs < fresh && w.countedNs.Load() >= fresh
}

func (w *worker) hasMeasured(since uint64) bool {
	if w.foundNs.Load() < since || w.countedNs.Load() < w.unitsNs.Load() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.view()
	v.freshNs = since
	now := v.nowNs
	for _, u := range w.units {
		for _, p := range u.parts {
			if u.isAwaited(p, v) {
				return false
			}
		}
		if u.goneNs == 0 && w.lacksLayer(u, now) && u.growth.atMost(now).Bytes != 0 {
			if now > w.foundNs.Load()+uint64(findAgain) {
				w.refind.Store(true)
				hasten(w.visitNow)
			}
			return false
		}
	}
	return true
}

// count reads each unit's counters.
func (w *worker) count(g *gauges) {
	w.mu.Lock()
	cgroups := make(map[string]bool, len(w.units))
	units := make([]*unit, 0, len(w.units))
	for _, u := range w.units {
		units = append(units, u)
		cgroups[u.cgroup] = true
	}
	w.mu.Unlock()
	g.keep(cgroups)
	for _, u := range units {
		at := monotonicNs()
		now, err := g.read(u.cgroup, at)
		if err != nil {
			continue // it has ended
		}
		w.mu.Lock()
		if known := w.units[u.uid]; known != nil {
			known.growth.seen(now, at)
		}
		w.mu.Unlock()
	}
}

// pids lists a few processes of a cgroup.
func (w *worker) pids(cgroup string) []int {
	c, err := w.o.FS.OpenToRead(cgroup)
	if err != nil {
		return nil
	}
	defer func() { _ = c.Close() }()
	pids, _ := c.Procs(nil)
	const few = 4
	return pids[:min(len(pids), few)]
}

func sleep(ctx context.Context, d time.Duration) { _ = rest(ctx, nil, d) }

// rest sleeps until somebody hastens it, and reports whether somebody did.
func rest(ctx context.Context, now <-chan struct{}, d time.Duration) (hastened bool) {
	select {
	case <-ctx.Done():
	case <-now:
		return true
	case <-time.After(d):
	}
	return false
}

func hasten(now chan<- struct{}) {
	select {
	case now <- struct{}{}:
	default: // it comes anyway
	}
}

// Once finds all figures at once and returns the table, for people. It stops with ctx.
func Once(ctx context.Context, o Options) (*workload.DiskTable, error) {
	w := newWorker(o)
	if o.Runtime != nil {
		if err := w.asked.once(ctx, o.Runtime); err != nil {
			o.Log.Warn().Err(err).Msg("no answer from the container runtime; figures are without what only it knows")
		}
	}
	w.find()
	for _, u := range w.units {
		for _, p := range u.parts {
			for !w.step(p) {
				if err := ctx.Err(); err != nil {
					return nil, fmt.Errorf("walk: %w", err)
				}
			}
		}
	}
	w.lay()
	now := monotonicNs()
	return &workload.DiskTable{
		Schema: workload.DiskSchema, Node: o.Node, WrittenNs: now, Layout: w.layout.Load(),
		Workloads: entries(w.units, func(uid string) ([]cri.Container, bool) { return w.asked.of(uid, now) }, now, time.Now()),
	}, nil
}
