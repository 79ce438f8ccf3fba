package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// seed makes the generators repeat themselves; another seed gives other cases.
const seed = 1342

// scene describes a kind of case. Fields of 0 to 1 are probabilities.
type scene struct {
	name  string
	count int

	// signals are those that get thresholds, between the two numbers of thresholds.
	signals    []string
	thresholds [2]int
	// soft and both: a threshold is soft alone, or hard and soft.
	soft, both       float64
	percent, reclaim float64
	// config is added to the configuration, thresholds or not.
	config string
	// defaults: no evictionHard in the configuration.
	defaults bool

	// lateContainerFs allows containerfs thresholds that upstream replaces at a time
	// that depends on the spare capacity of a slice (README.md).
	lateContainerFs bool

	layouts   []Layout
	snapshots [2]int
	// cross is how often a signal with a threshold is past it; edge how often it is at a
	// boundary of it, one side or the other.
	cross, edge float64
	// quietOthers keeps signals without a threshold out of the snapshots.
	quietOthers float64

	stale, noStamp, noSignal float64
	workloads                [2]int
	noStats, noFigure        float64
	critical, allCritical    float64
	limits, podLevel, twins  float64
	afterReclaim             float64
}

var (
	singleFs   = Layout{}
	imageFs    = Layout{DedicatedImageFs: true}
	splitFs    = Layout{DedicatedImageFs: true, SplitImageFs: true}
	allLayouts = []Layout{singleFs, imageFs, splitFs}

	memorySignals = signalOrder[:2]
	pidSignal     = signalOrder[2:3]
	byteSignals   = signalOrder[3:6]
	inodeSignals  = signalOrder[6:9]
	fsSignals     = signalOrder[3:9]
)

// ordinary is what a scene starts from.
func ordinary(name string, count int, signals []string, change func(*scene)) scene {
	s := scene{
		name: name, count: count, signals: signals, thresholds: [2]int{1, 2},
		soft: 0.1, both: 0.1, percent: 0.35, reclaim: 0.3,
		layouts: allLayouts, snapshots: [2]int{1, 4}, cross: 0.65, edge: 0.2, quietOthers: 0.7,
		stale: 0.05, noStamp: 0.05, noSignal: 0.02, workloads: [2]int{2, 6},
		noStats: 0.05, noFigure: 0.05, critical: 0.2, limits: 0.01, podLevel: 0.1, twins: 0.1,
		afterReclaim: 0.2,
	}
	if change != nil {
		change(&s)
	}
	return s
}

var replayScenes = []scene{
	ordinary("memory", 160, memorySignals, nil),
	ordinary("pid", 90, pidSignal, nil),
	ordinary("bytes", 160, byteSignals, nil),
	ordinary("inodes", 110, inodeSignals, nil),
	ordinary("mixed", 140, signalOrder, func(s *scene) {
		s.thresholds, s.cross, s.snapshots = [2]int{2, 6}, 0.5, [2]int{1, 3}
	}),
	ordinary("soft", 110, signalOrder, func(s *scene) {
		s.soft, s.both, s.snapshots, s.cross, s.edge, s.stale = 0.9, 0.15, [2]int{3, 8}, 0.85, 0.05, 0.02
	}),
	ordinary("held", 90, signalOrder, func(s *scene) {
		s.reclaim, s.snapshots, s.cross, s.edge = 1, [2]int{2, 7}, 0.4, 0.5
	}),
	ordinary("transition", 60, signalOrder, func(s *scene) {
		s.snapshots, s.cross, s.edge, s.workloads = [2]int{3, 8}, 0.3, 0.2, [2]int{1, 3}
	}),
	ordinary("stale", 70, signalOrder, func(s *scene) {
		s.stale, s.noStamp, s.snapshots, s.cross, s.workloads = 0.4, 0.15, [2]int{2, 6}, 0.8, [2]int{1, 4}
	}),
	ordinary("missing", 80, signalOrder, func(s *scene) {
		s.noSignal, s.noStats, s.noFigure, s.snapshots = 0.25, 0.3, 0.4, [2]int{1, 5}
	}),
	ordinary("reclaim", 90, fsSignals, func(s *scene) {
		s.afterReclaim, s.cross, s.reclaim, s.thresholds = 0.9, 0.8, 0.5, [2]int{1, 3}
	}),
	ordinary("limits", 110, signalOrder, func(s *scene) {
		s.limits, s.cross, s.snapshots = 0.6, 0.5, [2]int{1, 3}
	}),
	ordinary("critical", 60, signalOrder, func(s *scene) {
		s.critical, s.allCritical, s.snapshots, s.cross, s.limits = 0.6, 0.3, [2]int{1, 3}, 0.9, 0.1
	}),
	ordinary("nobody", 20, signalOrder, func(s *scene) {
		s.workloads, s.cross, s.thresholds = [2]int{0, 0}, 0.9, [2]int{1, 3}
	}),
	ordinary("pod-level", 40, memorySignals, func(s *scene) {
		s.signals = slices.Concat(memorySignals, byteSignals)
		s.podLevel, s.cross = 0.7, 0.9
	}),
	ordinary("many", 25, signalOrder, func(s *scene) {
		s.workloads, s.twins, s.snapshots, s.cross, s.noStats = [2]int{13, 24}, 0, [2]int{1, 1}, 0.9, 0.02
		s.limits = 0
	}),
	ordinary("defaults", 40, nil, func(s *scene) {
		s.defaults, s.thresholds, s.quietOthers, s.cross = true, [2]int{0, 0}, 0, 0.6
	}),
	ordinary("merged", 30, signalOrder, func(s *scene) {
		s.config, s.quietOthers = "mergeDefaultEvictionSettings: true\n", 0
	}),
	ordinary("not-enforced", 25, memorySignals, func(s *scene) {
		s.config = "enforceNodeAllocatable: [none]\n"
	}),
	ordinary("no-isolation", 20, signalOrder, func(s *scene) {
		s.config, s.limits = "localStorageCapacityIsolation: false\n", 0.6
	}),
	ordinary("late-containerfs", 40, byteSignals, func(s *scene) {
		s.signals = append([]string{"memory.available"}, fsSignals...)
		s.lateContainerFs, s.thresholds, s.cross, s.snapshots = true, [2]int{3, 6}, 0.8, [2]int{1, 3}
	}),
	ordinary("nothing-set", 10, nil, func(s *scene) {
		s.thresholds, s.limits = [2]int{0, 0}, 0.4
	}),
}

// capacities of the node of a case, in the unit of the signal.
type capacities map[string]int64

// generator makes the cases of one scene.
type generator struct {
	*rand.Rand
	scene
}

func newGenerator(s scene) *generator {
	// A stream of its own, so that another scene's size changes nothing here.
	var stream uint64
	for _, b := range []byte(s.name) {
		stream = stream*131 + uint64(b)
	}
	return &generator{Rand: rand.New(rand.NewPCG(seed, stream)), scene: s}
}

func (g *generator) chance(p float64) bool { return g.Float64() < p }

// between includes both ends.
func (g *generator) between(ends [2]int) int { return ends[0] + g.IntN(ends[1]-ends[0]+1) }

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func ptr[T any](v T) *T { return &v }

func replayCases() []*ReplayCase {
	var cases []*ReplayCase
	for _, s := range replayScenes {
		g := newGenerator(s)
		for i := range s.count {
			c := g.replayCase()
			c.Name = fmt.Sprintf("%s/%d", s.name, i)
			cases = append(cases, c)
		}
	}
	return append(cases, grammarCases()...)
}

// rankPerSignal makes about 500 rank cases of nine signals.
const rankPerSignal = 56

func rankCases() []*RankCase {
	var cases []*RankCase
	for _, signal := range signalOrder {
		s := ordinary("rank/"+signal, rankPerSignal, nil, func(s *scene) {
			s.workloads, s.noStats, s.noFigure, s.podLevel = [2]int{2, 12}, 0.08, 0.1, 0.15
		})
		g := newGenerator(s)
		for i := range s.count {
			if i%14 == 13 {
				g.workloads, g.twins = [2]int{13, 30}, 0
			} else {
				g.workloads, g.twins = s.workloads, s.twins
			}
			c := &RankCase{Name: fmt.Sprintf("%s/%d", s.name, i), Config: "compat: kubelet\n", Signal: signal}
			c.Snapshot = Snapshot{TimeText: start.Format(timeFormat), Layout: ptr(pick(g, g.layouts...)), Signals: Signals{}}
			c.Snapshot.Workloads = g.use(g.specs())
			cases = append(cases, c)
		}
	}
	return cases
}

// start is the time of the first snapshot.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (g *generator) replayCase() *ReplayCase {
	node := g.node()
	layout := pick(g, g.layouts...)
	config := g.configuration(node)
	c := &ReplayCase{Config: config.text()}

	specs, now, last := g.specs(), start.Add(time.Duration(g.IntN(1e9))), Signals{}
	for i := range g.between(g.snapshots) {
		if i > 0 {
			now = now.Add(pick(g, config.intervals()...))
			specs = g.comeAndGo(specs)
		}
		s := Snapshot{TimeText: now.Format(timeFormat), Layout: ptr(layout)}
		if layout == singleFs && g.chance(0.2) {
			s.Layout = nil
		}
		s.Signals = g.signalsAt(now, node, config, last)
		s.Workloads = g.use(specs)
		if g.chance(g.afterReclaim) {
			s.AfterReclaim = &AfterReclaim{Signals: g.afterReclaimAt(now, node, config, s.Signals)}
		}
		c.Snapshots = append(c.Snapshots, s)
		last = s.Signals
	}
	return c
}

// node draws capacities; filesystems that are one are mostly alike.
func (g *generator) node() capacities {
	memory := pick(g, int64(2<<30), 8342118400, 16<<30, 33567322112, 67108864*1000)
	disk := pick(g, int64(20<<30), 107374182400, 105089261568, 500<<30)
	inodes := pick(g, int64(6553600), 1310720, 32768000, 12345678)
	c := capacities{
		"memory.available": memory, "allocatableMemory.available": memory * 4 / 5,
		"pid.available": pick(g, int64(32768), 4194304, 126453, 62000),
	}
	for _, fs := range []string{"nodefs", "imagefs", "containerfs"} {
		c[fs+".available"], c[fs+".inodesFree"] = disk, inodes
		if g.chance(0.5) {
			disk, inodes = disk*3/4, inodes/2
		}
	}
	return c
}

// comeAndGo lets workloads leave, as a victim would, and new ones come.
func (g *generator) comeAndGo(specs []spec) []spec {
	left := slices.DeleteFunc(slices.Clone(specs), func(spec) bool { return g.chance(0.15) })
	if g.workloads[1] > 0 && (len(left) == 0 || g.chance(0.2)) {
		left = append(left, g.spec(len(specs)+g.IntN(100)))
	}
	return left
}

// threshold is one entry of the configuration.
type threshold struct {
	signal  string
	text    string
	percent float64 // of the capacity; 0: amount
	amount  int64
}

func (t threshold) of(capacity int64) int64 {
	if t.percent > 0 {
		return int64(float64(capacity) * t.percent / 100)
	}
	return t.amount
}

type configuration struct {
	hard, soft, reclaim []threshold
	grace               map[string]time.Duration
	maxPodGrace         *int
	transition          time.Duration
	noHard              bool
	more                string
}

func (g *generator) configuration(node capacities) *configuration {
	c := &configuration{grace: map[string]time.Duration{}, more: g.config, noHard: g.defaults}
	signals := slices.Clone(g.signals)
	g.Shuffle(len(signals), func(i, j int) { signals[i], signals[j] = signals[j], signals[i] })
	for _, signal := range signals[:min(len(signals), g.between(g.thresholds))] {
		soft, both := g.chance(g.soft), g.chance(g.both)
		switch {
		case signal == "allocatableMemory.available" && g.chance(0.85):
			// Mostly not beside the copy of memory.available: it would be random
			// which of the two is acted on.
			soft, both = true, false
		case g.lateContainerFs:
		case signal == "containerfs.inodesFree":
			continue
		case signal == "containerfs.available":
			soft = false // both or hard
		}
		if soft || both {
			t := g.threshold(signal, node[signal], 0.05, 0.4)
			c.soft = append(c.soft, t)
			c.grace[signal] = pick(g, 10*time.Second, 30*time.Second, 90*time.Second, time.Minute, 1500*time.Millisecond)
			if !both && g.chance(0.08) {
				c.grace[signal] = 0
			}
		}
		if both || !soft {
			c.hard = append(c.hard, g.threshold(signal, node[signal], 0.01, 0.2))
		}
		if g.chance(g.scene.reclaim) {
			c.reclaim = append(c.reclaim, g.threshold(signal, node[signal], 0.01, 0.15))
		}
	}
	if g.chance(0.05) { // for a signal that may have no threshold
		signal := pick(g, signalOrder...)
		if !slices.ContainsFunc(c.reclaim, func(t threshold) bool { return t.signal == signal }) {
			c.reclaim = append(c.reclaim, g.threshold(signal, node[signal], 0.01, 0.1))
		}
	}
	if g.chance(0.6) {
		c.maxPodGrace = ptr(pick(g, 0, 5, 30, 45, 600, -1))
	}
	if g.chance(0.5) {
		c.transition = pick(g, 30*time.Second, time.Minute, 10*time.Second, 20*time.Minute)
	}
	return c
}

// threshold draws a value between two shares of the capacity, in one of the forms that a
// quantity may take.
func (g *generator) threshold(signal string, capacity int64, low, high float64) threshold {
	t := threshold{signal: signal}
	if g.chance(g.percent) {
		t.percent = pick(g, 5.0, 10, 15, 7.5, 29, 33.3, 12, 1, 0.5, 57, 20)
		for t.percent > high*100 {
			t.percent /= 2
		}
		t.text = fmt.Sprint(t.percent) + "%"
		return t
	}
	want := float64(capacity) * (low + g.Float64()*(high-low))
	forms := []struct {
		unit float64
		text string
	}{{1, "%d"}, {1e3, "%dk"}, {1 << 10, "%dKi"}, {1e6, "%dM"}, {1 << 20, "%dMi"}, {1e9, "%dG"}, {1 << 30, "%dGi"}, {1e6, "%de6"},
		{1 << 29, "%d.5Gi"}, {1e8, "0.%dG"}}
	forms = slices.DeleteFunc(forms, func(f struct {
		unit float64
		text string
	}) bool {
		return want < f.unit*2 || (f.text == "0.%dG" && want >= 1e9)
	})
	f := pick(g, forms...)
	n := int64(want / f.unit)
	switch f.text {
	case "%d.5Gi":
		n /= 2
		t.text, t.amount = fmt.Sprintf(f.text, n), n<<30+1<<29
	default:
		t.text, t.amount = fmt.Sprintf(f.text, n), n*int64(f.unit)
	}
	return t
}

// intervals are steps between snapshots, among them those that end a grace or transition
// period and those that just don't.
func (c *configuration) intervals() []time.Duration {
	steps := []time.Duration{10 * time.Second, 10 * time.Second, time.Second, 4321 * time.Millisecond, 0}
	for _, signal := range signalOrder {
		if grace, ok := c.grace[signal]; ok && grace > 0 {
			steps = append(steps, grace, grace, grace-1, grace/2, grace+time.Second)
		}
	}
	transition := c.transition
	if transition == 0 {
		transition = 5 * time.Minute
	}
	return append(steps, transition, transition-1, transition/2)
}

// text is the configuration file.
func (c *configuration) text() string {
	var b strings.Builder
	b.WriteString("compat: kubelet\n")
	section := func(key string, ts []threshold) {
		fmt.Fprintf(&b, "%s:", key)
		if len(ts) == 0 {
			b.WriteString(" {}")
		}
		b.WriteString("\n")
		for _, t := range ts {
			fmt.Fprintf(&b, "  %s: %q\n", t.signal, t.text)
		}
	}
	if !c.noHard {
		section("evictionHard", c.hard)
	}
	if len(c.soft) > 0 {
		section("evictionSoft", c.soft)
		b.WriteString("evictionSoftGracePeriod:\n")
		for _, t := range c.soft {
			fmt.Fprintf(&b, "  %s: %q\n", t.signal, c.grace[t.signal])
		}
	}
	if len(c.reclaim) > 0 {
		section("evictionMinimumReclaim", c.reclaim)
	}
	if c.maxPodGrace != nil {
		fmt.Fprintf(&b, "evictionMaxPodGracePeriod: %d\n", *c.maxPodGrace)
	}
	if c.transition != 0 {
		fmt.Fprintf(&b, "evictionPressureTransitionPeriod: %s\n", c.transition)
	}
	return b.String() + c.more
}

// builtin are the kubelet's defaults, for the drawing of figures near them.
var builtin = []threshold{
	{signal: "memory.available", amount: 100 << 20},
	{signal: "nodefs.available", percent: 10}, {signal: "nodefs.inodesFree", percent: 5},
	{signal: "imagefs.available", percent: 15}, {signal: "imagefs.inodesFree", percent: 5},
}

// boundaries are the values of a signal at which something changes, and the largest of them.
func (c *configuration) boundaries(signal string, capacity int64) (all []int64, highest int64) {
	var reclaim int64
	for _, t := range c.reclaim {
		if t.signal == parent(signal) {
			reclaim = t.of(capacity)
		}
	}
	thresholds := slices.Concat(c.hard, c.soft)
	if c.noHard || strings.Contains(c.more, "merge") {
		thresholds = append(thresholds, builtin...)
	}
	for _, t := range thresholds {
		if t.signal == signal || t.signal == parent(signal) {
			q := t.of(capacity)
			all = append(all, q, q+reclaim)
			highest = max(highest, q+reclaim)
		}
	}
	return all, highest
}

// parent is the signal whose thresholds a signal mostly gets a copy of.
func parent(signal string) string {
	if signal == "allocatableMemory.available" {
		return "memory.available"
	}
	if rest, ok := strings.CutPrefix(signal, "containerfs."); ok {
		return "nodefs." + rest
	}
	return signal
}

// signalsAt observes the node.
func (g *generator) signalsAt(now time.Time, node capacities, c *configuration, last Signals) Signals {
	out := Signals{}
	for _, signal := range signalOrder {
		boundaries, highest := c.boundaries(signal, node[signal])
		if (len(boundaries) == 0 && g.chance(g.quietOthers)) || g.chance(g.noSignal) {
			continue
		}
		o := observe(signal, g.available(boundaries, highest, node[signal]), node[signal])
		if g.chance(g.noSignal / 5) {
			o.Capacity, o.CapacityBytes = nil, nil
		}
		out[signal] = o
	}
	g.stampAll(now, out, last)
	return out
}

// available draws a figure: past a boundary, at one, or clear of all.
func (g *generator) available(boundaries []int64, highest, capacity int64) int64 {
	if len(boundaries) > 0 {
		b := pick(g, boundaries...)
		switch roll := g.Float64(); {
		case roll < g.cross*0.05:
			return pick(g, int64(0), 0, -1, -b)
		case roll < g.cross:
			return round(g, int64(float64(b)*g.Float64()))
		case roll < g.cross+g.edge:
			return b + pick(g, int64(-1), 0, 1)
		}
	}
	return highest + round(g, int64(float64(capacity-highest)*g.Float64()))
}

// round makes most figures multiples of a page, as the real ones are. Small ones stay.
func round(g *generator, n int64) int64 {
	if n > 1<<20 && g.chance(0.8) {
		return n &^ 4095
	}
	return n
}

func observe(signal string, available, capacity int64) Observation {
	if strings.HasSuffix(signal, ".available") && signal != "pid.available" {
		return Observation{AvailableBytes: &available, CapacityBytes: &capacity}
	}
	return Observation{Available: &available, Capacity: &capacity}
}

// stampAll gives each source of figures its stamp: newer than the last, or as old, or older,
// or none.
func (g *generator) stampAll(now time.Time, signals, last Signals) {
	for _, source := range []string{"memory.", "allocatableMemory.", "pid.", "nodefs.", "imagefs.", "containerfs."} {
		at := ptr(now.Add(-time.Duration(g.IntN(900)) * time.Millisecond))
		before := stampOf(last, source)
		switch {
		case g.chance(g.noStamp):
			at = nil
		case before != nil && g.chance(g.stale):
			at = ptr(before.Add(pick(g, 0, 0, 0, -time.Second, 1)))
		case before != nil && !at.After(*before):
			at = ptr(before.Add(time.Millisecond))
		}
		for _, signal := range signalOrder {
			if o, ok := signals[signal]; ok && strings.HasPrefix(signal, source) {
				o.Time = at
				signals[signal] = o
			}
		}
	}
}

func stampOf(signals Signals, source string) *time.Time {
	for _, signal := range signalOrder {
		if o, ok := signals[signal]; ok && strings.HasPrefix(signal, source) {
			return o.Time
		}
	}
	return nil
}

// afterReclaimAt are the same signals after a clean-up that helped, all or some of them.
func (g *generator) afterReclaimAt(now time.Time, node capacities, c *configuration, before Signals) Signals {
	after := Signals{}
	all := g.chance(0.55)
	for _, signal := range signalOrder {
		o, ok := before[signal]
		if !ok {
			continue
		}
		boundaries, highest := c.boundaries(signal, node[signal])
		switch {
		case all:
			o = observe(signal, highest+int64(float64(node[signal]-highest)*g.Float64()*0.5), node[signal])
			if len(boundaries) > 0 && g.chance(0.2) {
				o = observe(signal, highest, node[signal])
			}
		case g.chance(0.6):
			o = observe(signal, g.available(boundaries, highest, node[signal]), node[signal])
		}
		o.Time = ptr(now)
		after[signal] = o
	}
	return after
}

// logUniform draws as many small figures as large ones.
func (g *generator) logUniform(low, high float64) int64 {
	return int64(math.Exp(math.Log(low) + g.Float64()*(math.Log(high)-math.Log(low))))
}
