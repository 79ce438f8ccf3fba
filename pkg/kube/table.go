package kube

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// tableEvery is the least time between two tables: a node that starts 100 pods at once
// writes some ten. The agent looks once a second.
const tableEvery = 100 * time.Millisecond

// vouchEvery is how often a table that still holds is said to: its time of change is set anew.
const vouchEvery = time.Minute

// table writes the workload table from the pods there are. One goroutine.
type table struct {
	path, node string
	generation uint64
	last       []workload.Entry
	written    bool
	shortened  map[string]bool // by uid, what was said already
	meters     *meters
	log        zerolog.Logger
}

// GiveTable makes the table's directory, if it is not there, and gives it to a user. It needs
// root, or CAP_CHOWN.
func GiveTable(dir string, uid uint32) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Lchown(dir, int(uid), int(uid)) // the directory above is root's
}

// newTable goes on above the generation of the table that is there. Where none is, the
// clock stands for it: a reader refuses a generation that goes back.
func newTable(path, node string, m *meters, log zerolog.Logger) (*table, error) {
	t := &table{path: path, node: node, generation: uint64(max(0, time.Now().UnixMilli())), meters: m, log: log}
	former, err := workload.LoadTable(path, uint32(os.Geteuid()))
	switch {
	case err == nil:
		t.generation = max(t.generation, former.Generation)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, workload.ErrTable): // it is replaced
	default:
		return nil, err
	}
	return t, nil
}

// update writes a table if it says something new.
func (t *table) update(pods []*pod) error {
	entries := make([]workload.Entry, 0, len(pods))
	for _, p := range pods {
		if !p.ended() {
			entries = append(entries, p.entry)
		}
	}
	slices.SortFunc(entries, func(a, b workload.Entry) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	// A static pod that was changed has two mirrors for a moment.
	entries = slices.CompactFunc(entries, func(a, b workload.Entry) bool { return a.UID == b.UID })
	if t.written && reflect.DeepEqual(entries, t.last) {
		return nil
	}
	fitted := fit(entries, tableMost)
	next := workload.Table{Node: t.node, Generation: t.nextGeneration(), Workloads: fitted}
	if err := workload.WriteTable(t.path, &next); err != nil {
		return err
	}
	t.generation, t.last, t.written = next.Generation, entries, true
	t.tellShortened(entries, fitted)
	return nil
}

// tellShortened says once a pod, for as long as there is one, that it is not whole in the table.
func (t *table) tellShortened(entries, fitted []workload.Entry) {
	said := t.shortened
	t.shortened = map[string]bool{}
	now := 0
	for i := range entries {
		e := &entries[i]
		volumes, containers := len(e.Volumes)-len(fitted[i].Volumes), len(e.Containers)-len(fitted[i].Containers)
		if volumes+containers > 0 {
			now++
			if !said[e.UID] {
				t.log.Warn().Str("pod", e.Namespace+"/"+e.Name).Str("uid", e.UID).Int("volumes", volumes).Int("containers", containers).
					Msg("too many for the workload table: left out, their limits are the kubelet's to enforce")
			}
		}
		if volumes+containers > 0 || said[e.UID] {
			t.shortened[e.UID] = true
		}
	}
	t.meters.shortened.Set(float64(now))
}

// nextGeneration stays at the end of the numbers, which somebody else may have written: readers
// take over one that is the same.
func (t *table) nextGeneration() uint64 { return max(t.generation, t.generation+1) }

// vouch says that the table still holds. One that is gone is to be written again.
func (t *table) vouch() {
	now := time.Now()
	t.written = os.Chtimes(t.path, now, now) == nil
}

// keepTable writes the table whenever pods have changed, and vouches for it while something
// is heard of them: a table grows old with what it says. A list that failed changes none.
func (c *Companion) keepTable(ctx context.Context, t *table) {
	retry := backoff{first: 100 * time.Millisecond, most: 10 * time.Second}
	vouch := time.NewTicker(c.vouchEvery)
	defer vouch.Stop()
	for ctx.Err() == nil {
		wait := tableEvery
		err := t.update(c.store.all())
		c.tabled.Store(err == nil)
		if err != nil {
			c.meters.failed(doingTable)
			c.log.Error().Err(err).Msg("workload table not written, the former one stays")
			sleep(ctx, retry.next(nil))
			continue
		}
		retry.reset()
		sleep(ctx, wait)
		select {
		case <-ctx.Done():
		case <-c.store.changed:
		case <-vouch.C:
			if !c.store.heardSince().IsZero() {
				t.vouch()
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
