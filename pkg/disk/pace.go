package disk

import (
	"cmp"
	"slices"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// restEvery is between two visits of what nothing seems to change. A figure is then at
	// most as old as in the kubelet's best case, by half.
	restEvery = 30 * time.Second
	// growEvery is between two visits of what changed at the last one, in a unit that
	// grows; stillEvery of its other parts. A volume that passes its limit at 50 MB/s is
	// 25 MB above it when we see it. A pod that is gone is waited for.
	growEvery, stillEvery = 500 * time.Millisecond, time.Second
	// nearEvery is the shortest for units that don't grow.
	nearEvery = 2 * time.Second
	// Visits of a tree take at most this share of one CPU, its own cost given: far from
	// every mark, and near one.
	farVisits, nearVisits = 0.01, 0.1
	// logEvery is between two visits of logs while somebody on the node writes fast, near a mark and of
	// units with limits: it may be the runtime, which writes them for the containers, and whom no
	// unit's counters know.
	logEvery = 2 * time.Second
	// While the agent waits, every part is visited whose visit takes cheapVisit, 1,000 of some 40 µs each
	// are the rule, and of the others the cheapest, for cheapVisits in all. One of slowVisit takes
	// longer than it waits.
	cheapVisit, cheapVisits, slowVisit = 500 * time.Microsecond, settleWithin / 4, settleWithin / 5
	// urgentLimit is from which share of its limit on a volume goes before others.
	urgentLimit = 0.5
)

// view is what the pace goes by at a moment.
type view struct {
	nowNs   uint64
	horizon time.Duration
	// freshNs: the agent waits, or waited, for figures of after it; firstNs is that of the first
	// of requests that come one after the other.
	freshNs, firstNs uint64
	// cheapNs is what a visit may cost of a part that hardly differs, for the agent to wait for it.
	cheapNs uint64
	// isWriting: somebody on the node writes fast.
	isWriting bool
}

// cheapNs is up to which cost all parts can be visited within cheapVisits.
func cheapNs(units map[string]*unit) uint64 {
	var costs []uint64
	for _, u := range units {
		for _, p := range u.parts {
			costs = append(costs, p.costNs)
		}
	}
	slices.Sort(costs)
	sum, cheap := uint64(0), uint64(cheapVisit)
	for _, cost := range costs {
		if sum += cost; sum > uint64(cheapVisits) {
			break
		}
		cheap = max(cheap, cost)
	}
	return cheap
}

func (v view) isNear() bool { return v.horizon < nearWithin }

// every is how long a part may rest between two visits.
func (u *unit) every(p *part, v view) time.Duration {
	every, share := restEvery, farVisits
	if v.isNear() {
		every, share = min(max(v.horizon/4, nearEvery), restEvery), nearVisits
	}
	if v.isWriting && p.isOfLogs() && (v.isNear() || u.isLimited()) {
		every = min(every, logEvery)
	}
	switch {
	case u.goneNs != 0:
		every = stillEvery
	case !u.growth.grows(v.nowNs):
	case p.changed || u.isNearLimit(p):
		every = growEvery
	default:
		every = stillEvery
	}
	return max(every, time.Duration(float64(p.costNs)/share))
}

// isLimited: its logs count for a limit.
func (u *unit) isLimited() bool {
	return u.read.EphemeralStorageLimitBytes != nil ||
		slices.ContainsFunc(u.read.Containers, func(c workload.Container) bool { return c.EphemeralStorageLimitBytes > 0 })
}

// isNearLimit reports whether a volume has a limit and used much of it.
func (u *unit) isNearLimit(p *part) bool {
	limit := u.limits[p.name]
	return p.kind == emptyDir && limit > 0 && p.figure != nil && float64(p.figure.Bytes) > urgentLimit*float64(limit)
}

// isAsItWas: no file without a name was found, and hardly any was written since then. 200 pods at
// rest cost nothing so.
func (u *unit) isAsItWas(p *part) bool {
	return p.kind == unlinked && (p.figure == nil || p.figure.Tally == Tally{}) && u.growth.filledNs <= p.triedNs
}

// urgency is 1 when a visit is due, and rises with the delay; a volume near its limit goes
// first. What has no figure yet is due, and overdue a little later.
func (u *unit) urgency(p *part, v view) float64 {
	if !v.isNear() && u.isAsItWas(p) {
		return 0
	}
	every := u.every(p, v)
	if p.triedNs == 0 {
		return 1 + float64(v.nowNs-p.foundNs)/float64(every)
	}
	urgency := float64(v.nowNs-min(p.triedNs, v.nowNs)) / float64(every)
	if urgency >= 1 && u.isNearLimit(p) && u.growth.grows(v.nowNs) {
		urgency *= 10
	}
	return urgency
}

// wanted is above all urgencies.
const wanted = 1e6

// rank is added to the urgency of what the agent waits for: what is done in no time goes first, and who
// grows or was never seen before others, whose visit may take long where it has to read from the disk.
func (u *unit) rank(p *part, v view) float64 {
	rank := wanted
	if p.triedNs == 0 || u.growth.grows(v.nowNs) {
		rank += wanted
	}
	if max(p.costNs, p.spentNs) <= uint64(cheapVisit) {
		rank += 2 * wanted
	}
	return rank
}

// maxWalks is how many walks may be under way at a time: 8 times 32 open directories.
const maxWalks = 8

// isAwaited: figures are to be of after freshNs, and this one may be another by then. Who grows is
// known by counters, but for what the runtime writes for it and what is reserved and not written:
// so all is looked at that takes little time. A visit that takes longer than the agent waits
// has to be of after its first request, or none would ever be young enough. It asks again before
// restEvery is over, or does not wait any more.
func (u *unit) isAwaited(p *part, v view) bool {
	since := v.freshNs
	if p.costNs > uint64(slowVisit) {
		since = v.firstNs
	}
	mayDiffer := p.triedNs == 0 || u.growth.grows(v.nowNs) || p.costNs <= v.cheapNs
	return p.triedNs < since && v.nowNs < v.freshNs+uint64(restEvery) && mayDiffer && !u.isAsItWas(p)
}

// due lists the parts to visit now, the most urgent first, before all others those that are
// awaited; of equals that on which less was spent, lest many wait for a large one. No new walk
// begins while too many are under way.
func due(units map[string]*unit, v view) []*part {
	type candidate struct {
		*part
		urgency float64
	}
	var all []candidate
	walks := 0
	for _, u := range units {
		for _, p := range u.parts {
			if p.isUnderWay() {
				walks++
			}
			urgency := u.urgency(p, v)
			p.isAwaited = u.isAwaited(p, v)
			if p.isAwaited {
				urgency += u.rank(p, v)
			}
			if p.isUnderWay() || urgency >= 1 {
				all = append(all, candidate{p, urgency})
			}
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.urgency, a.urgency), cmp.Compare(a.spentNs, b.spentNs), cmp.Compare(a.base, b.base), cmp.Compare(a.rel, b.rel))
	})
	parts := make([]*part, 0, len(all))
	for _, c := range all {
		if !c.isUnderWay() && walks >= maxWalks {
			continue
		}
		parts = append(parts, c.part)
	}
	return parts
}
