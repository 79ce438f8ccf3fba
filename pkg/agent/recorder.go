package agent

import (
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// recorder writes journal and state in a goroutine of its own: nothing waits for a disk.
type recorder struct {
	journal journal
	log     zerolog.Logger
	entries chan entry
	done    chan struct{}
	once    sync.Once
	// pending could not be written yet; failing: the last try failed.
	pending []entry
	failing bool
	// written, when set, is called after a line is in the journal and before it is synced.
	written func(*record.Line)
}

// journal is a record.Journal.
type journal interface {
	Append(*record.Line) error
	Sync() error
	Close() error
}

type entry struct {
	line *record.Line
	// after runs when the line is on disk.
	after func()
}

// backlog is how many lines may wait: evictions come one at a time, refusals once a second.
const backlog = 256

func startRecorder(j journal, log zerolog.Logger, written func(*record.Line)) *recorder {
	r := &recorder{journal: j, log: log, entries: make(chan entry, backlog), done: make(chan struct{}), written: written}
	go r.write()
	return r
}

// send queues a line; never blocks. A line that finds no room is logged instead.
func (r *recorder) send(l *record.Line, after func()) {
	if l.Time.IsZero() {
		l.Time = record.Time{Time: time.Now()}
	}
	select {
	case r.entries <- entry{l, after}:
	default:
		r.log.Error().Str("kind", string(l.Kind)).Str("id", l.ID.String()).Msg("journal backlog full, line lost")
	}
}

// after calls f when every line before it is on disk, or given up; without room it is not
// called.
func (r *recorder) after(f func()) {
	select {
	case r.entries <- entry{after: f}:
	default:
	}
}

// retryEvery is between two tries to write what found no room in the journal.
const retryEvery = time.Second

func (r *recorder) write() {
	defer close(r.done)
	for {
		var retry <-chan time.Time
		if len(r.pending) > 0 {
			retry = time.After(retryEvery)
		}
		select {
		case e, ok := <-r.entries:
			if !ok {
				r.flush()
				return
			}
			r.pending = append(r.pending, e)
		case <-retry:
		}
		r.flush()
	}
}

// flush writes what is pending, in order, up to the first line that can't be written.
func (r *recorder) flush() {
	for len(r.pending) > 0 && r.append(r.pending[0]) {
		r.pending = r.pending[1:]
	}
	if over := len(r.pending) - backlog; over > 0 {
		r.log.Error().Int("lines", over).Msg("journal takes no lines, the oldest are lost")
		r.pending = r.pending[over:]
	}
}

func (r *recorder) append(e entry) bool {
	if e.line == nil {
		e.after()
		return true
	}
	if err := r.journal.Append(e.line); err != nil {
		if !r.failing {
			r.log.Error().Err(err).Str("kind", string(e.line.Kind)).Msg("journal line not written; it is tried again")
		}
		r.failing = true
		return false
	}
	r.failing = false
	if r.written != nil {
		r.written(e.line)
	}
	r.announce(e.line)
	if err := r.journal.Sync(); err != nil {
		r.log.Warn().Err(err).Msg("journal not synced")
	}
	if e.after != nil {
		e.after()
	}
	return true
}

func (r *recorder) announce(l *record.Line) {
	if l.Victim == nil {
		return
	}
	ev := r.log.Warn()
	if l.Kind == record.KindDrill && l.Outcome == record.OutcomeKilled {
		ev = r.log.Debug() // who asked for it is told
	}
	ev = ev.Str("id", l.ID.String()).Str("signal", l.Signal).Str("tier", l.Tier).
		Str("cgroup", l.Victim.Cgroup).Str("reason", l.Reason)
	if l.Outcome != "" { // a kill line has none yet
		ev = ev.Str("outcome", string(l.Outcome))
	}
	if l.Timeline != nil && l.Timeline.Signalled != 0 {
		ev = ev.Dur(sinceWhen(l.Tier), time.Duration(l.Timeline.Signalled-l.Timeline.Crossed))
	}
	ev.Msg(string(l.Kind))
}

// sinceWhen: a hook stamps the crossing, readings find that it was crossed before.
func sinceWhen(tier string) string {
	if isReading(tier) {
		return "seen_to_signalled_ms"
	}
	return "crossed_to_signalled_ms"
}

// close writes what is queued and closes the journal. It takes as long as the disk does.
func (r *recorder) close() error {
	r.once.Do(func() { close(r.entries) })
	<-r.done
	err := r.journal.Close()
	if len(r.pending) > 0 {
		err = errors.Join(errDisk, err)
	}
	return err
}
