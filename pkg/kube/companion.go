package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/client-go/rest"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Options are a companion's.
type Options struct {
	// Rest is how the API server is reached.
	Rest *rest.Config
	// Node is the node's name there.
	Node string
	// Journal is the agent's journal, State its state file, Table the workload table.
	Journal, State, Table string
	// Cursor is the file that says how far the journal has been reported.
	Cursor string
	// TransitionPeriod is for how long taints and conditions stay after pressure of which no
	// agent says that it is over; the agent itself counts it otherwise.
	TransitionPeriod time.Duration
	// Report is ReportStatus or ReportDelete by the kind of a pod's controller; default, and
	// always for a pod without one, is ReportStatus.
	Report map[string]string
	Log    zerolog.Logger
}

// Companion is one node's.
type Companion struct {
	o        Options
	log      zerolog.Logger
	client   *client
	store    *store
	pressure *pressure
	keeper   *keeper
	ledger   ledger
	meters   *meters
	cursor   cursor // as it was saved last
	// since is, until the end of the journal is reached without a cursor, the time before which
	// no kill is reported.
	since time.Time
	// alive is when the agent wrote its state or a line last, as far as is known: where there was no
	// state, not before our own start.
	alive time.Time
	// These are the constants of these names.
	settle, taintMost, blindAfter, vouchEvery, deadAfter time.Duration

	spacing, retry backoff      // between the statuses of one pod, and after a try that failed
	tabled         atomic.Bool  // the table was written when it had to be last
	read           atomic.Int64 // when the journal was read last, Unix nanoseconds

	mu      sync.Mutex
	reports map[string][]*ticket // under way, by uid
	results map[string]int
	running sync.WaitGroup
}

// New makes a companion; nothing is asked of the API server before Run.
func New(o Options) (*Companion, error) {
	client, err := newClient(o.Rest, o.Node)
	if err != nil {
		return nil, err
	}
	m := newMeters()
	store, err := newStore(client, m, o.Log)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(o.Table), 0o755); err != nil {
		return nil, err
	}
	cursor, err := loadCursor(o.Cursor)
	if err != nil {
		m.failed(doingCursor)
		o.Log.Error().Err(err).Str("cursor", o.Cursor).Msg("begun anew at the journal's end, kills of the last minute excepted")
	}
	var since time.Time
	if cursor.Schema == "" { // the first start, or the cursor is lost
		since = time.Now().Add(-firstMost)
	}
	alive := time.Now()
	if fi, err := os.Stat(o.State); err == nil {
		alive = fi.ModTime()
	}
	p := newPressure(o.TransitionPeriod, cursor.Pressure)
	return &Companion{
		o: o, log: o.Log, client: client, store: store, pressure: p, keeper: newKeeper(client, p, m, o.Log), meters: m,
		cursor: cursor, since: since, alive: alive, settle: settle, taintMost: taintMost, blindAfter: blindAfter, vouchEvery: vouchEvery, deadAfter: deadAfter,
		spacing: backoff{first: spacingFirst, most: retryMost}, retry: backoff{first: retryFirst, most: retryMost}, reports: map[string][]*ticket{}, results: map[string]int{},
	}, nil
}

// Run works until ctx is done. The API server may be away, at the start as well. Of two
// companions with one table the second gets workload.ErrLocked.
func (c *Companion) Run(ctx context.Context) error {
	lock, err := workload.Lock(filepath.Join(filepath.Dir(c.o.Table), "kube.lock"))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	t, err := newTable(c.o.Table, c.o.Node, c.meters, c.log)
	if err != nil {
		return err
	}
	tail, err := record.NewTail(c.o.Journal, c.cursor.Position)
	if err != nil {
		return err
	}
	defer func() { _ = tail.Close() }()
	c.ledger.read(c.cursor.Position)
	ctx, cancel := context.WithCancel(ctx)
	defer c.running.Wait()
	defer cancel()
	c.running.Go(func() { c.store.informer.RunWithContext(ctx) })
	c.running.Go(func() {
		for !c.store.synced() && ctx.Err() == nil {
			sleep(ctx, retryFirst)
		}
		c.keepTable(ctx, t)
	})
	c.running.Go(func() { c.keeper.run(ctx) })
	c.follow(ctx, tail)
	return nil
}

// follow takes each line of the journal over and keeps the cursor.
func (c *Companion) follow(ctx context.Context, tail *record.Tail) {
	bell := workload.NewBell(filepath.Dir(c.o.Journal), time.Second)
	defer bell.Close()
	failing := c.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: retryMost})
	for ctx.Err() == nil {
		if err := c.drain(ctx, tail); err != nil {
			c.meters.failed(doingJournal)
			failing.Error().Err(err).Msg("journal can't be read, it is tried again")
		} else {
			c.read.Store(time.Now().UnixNano())
			c.since = time.Time{}
		}
		c.mourn()
		if err := c.save(); err != nil {
			c.meters.failed(doingCursor)
			failing.Error().Err(err).Msg("cursor not kept: a new start reports again what is reported")
		}
		bell.Wait(ctx)
	}
}

// drain takes what is new of the journal.
func (c *Companion) drain(ctx context.Context, tail *record.Tail) error {
	before, err := tail.Position()
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		e, err := tail.Next()
		if errors.Is(err, record.ErrCut) {
			if before, posErr := tail.Position(); posErr == nil {
				c.ledger.read(before)
			}
		}
		if err != nil || e == nil {
			return err
		}
		c.take(ctx, &e.Line, before)
		if before, err = tail.Position(); err != nil {
			return err
		}
		c.ledger.read(before)
	}
	return nil
}

// enforce is the mode of an agent that kills. What another says it would do changes nothing
// in the cluster.
const enforce = "enforce"

// take acts on a line.
func (c *Companion) take(ctx context.Context, l *record.Line, before record.Position) {
	c.alive = later(c.alive, past(l.Time.Time))
	switch {
	case l.Kind == record.KindStart, l.Kind == record.KindStop, l.Kind == record.KindCondition && l.Mode == enforce:
		c.pressure.take(l)
		poke(c.keeper.wake)
	case l.Kind == record.KindKill && l.Mode == enforce && isPodKill(l):
		c.pressure.take(l)
		poke(c.keeper.wake)
		if l.Time.Before(c.since) {
			c.log.Info().Str("id", l.ID.String()).Str("uid", l.Victim.UID).Msg("a kill from before the first start of a companion is not reported")
			return
		}
		c.report(ctx, l, before)
	}
}

// isPodKill: a demo's units, and those that are no pods, are nobody's in the cluster.
func isPodKill(l *record.Line) bool {
	return l.Victim != nil && l.Victim.UID != "" && !filepath.IsAbs(l.Victim.UID) && l.Scene == ""
}

// report brings a kill to the cluster, in a goroutine of its own. Kills of one pod while
// it is under way are one eviction.
func (c *Companion) report(ctx context.Context, l *record.Line, before record.Position) {
	ticket := c.ledger.begin(before)
	uid := l.Victim.UID
	c.mu.Lock()
	defer c.mu.Unlock()
	underWay := len(c.reports[uid]) > 0
	c.reports[uid] = append(c.reports[uid], ticket)
	if underWay {
		return
	}
	changed, stop := c.store.watch(uid)
	r := newReport(c, *l, !c.since.IsZero())
	c.running.Go(func() {
		defer stop()
		if result := r.run(ctx, changed); result != "" {
			c.meters.reports.WithLabelValues(r.kind(), result).Inc()
			c.finish(uid, result)
			r.log.Info().Str("result", result).Int("attempts", r.attempts).Msg("eviction reported")
		}
	})
}

func (c *Companion) finish(uid, result string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.reports[uid] {
		c.ledger.finish(t)
	}
	delete(c.reports, uid)
	c.results[result]++
}

// save keeps the cursor if it moved.
func (c *Companion) save() error {
	next := cursor{Schema: cursorSchema, Position: c.ledger.low(), Pressure: c.pressure.saved()}
	if next.equal(c.cursor) {
		return nil
	}
	if err := next.save(c.o.Cursor); err != nil {
		return err
	}
	c.cursor = next
	return nil
}

// deadAfter is since when nothing is heard of an agent that ended without a line. It writes its
// state file once a second.
const deadAfter = time.Minute

// past is a time, or now where that is before it.
func past(t time.Time) time.Time {
	if now := time.Now(); t.After(now) {
		return now
	}
	return t
}

// mourn lets pressure end that an agent asserted and can't take back, because it is dead. One that
// starts writes lines before its first state.
func (c *Companion) mourn() {
	if fi, err := os.Stat(c.o.State); err == nil {
		c.alive = later(c.alive, past(fi.ModTime()))
	}
	c.alive = past(c.alive) // the clock may have been set back
	if c.pressure.asserted() && time.Since(c.alive) > c.deadAfter {
		c.log.Warn().Time("since", c.alive).Msg("the agent writes no state: its pressure ends with the transition period")
		c.pressure.abandon(c.alive)
	}
}

// Stats are for metrics.
type Stats struct {
	// Reports counts the evictions that were brought to the cluster, by their result.
	Reports map[string]int
	// Backlog is how many kill lines are under way.
	Backlog int
}

// Stats may be asked by any goroutine.
func (c *Companion) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Reports: make(map[string]int, len(c.results)), Backlog: c.ledger.backlog()}
	for result, n := range c.results {
		s.Reports[result] = n
	}
	return s
}

// Healthy is an error when the journal has not been read for a while: a new start may help.
func (c *Companion) Healthy() error {
	if at := c.read.Load(); at != 0 && time.Since(time.Unix(0, at)) > deadAfter {
		return fmt.Errorf("journal %s not read since %s", c.o.Journal, time.Unix(0, at).Format(time.RFC3339))
	}
	return nil
}

// Ready is an error until the node's pods are known and in the table, while the last writing of
// the table failed, and while nothing has been heard of the pods for a minute.
func (c *Companion) Ready() error {
	switch {
	case !c.store.synced():
		return fmt.Errorf("the pods of node %s are not listed yet", c.o.Node)
	case !c.tabled.Load():
		return fmt.Errorf("workload table %s not written", c.o.Table)
	}
	if _, lost := c.store.heard.state(); !lost.IsZero() && time.Since(lost) > c.blindAfter {
		return fmt.Errorf("the pods of node %s can't be listed or watched since %s", c.o.Node, lost.Format(time.RFC3339))
	}
	return nil
}
