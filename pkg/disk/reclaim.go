package disk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// requestEvery is between two looks for a request of the agent, which waits, where no change of
	// its directory is told.
	requestEvery = 50 * time.Millisecond
	// overdue is how long after the deadline a runtime is given up that does not return.
	overdue = 500 * time.Millisecond
)

// errHangs: the runtime has not come back from the last reclaim.
var errHangs = errors.New("the container runtime hangs in the last reclaim")

// reclaimer answers the agent's requests, each id once. It belongs to one goroutine.
type reclaimer struct {
	path    string
	owner   uint32
	runtime Runtime
	// kubeletHas is as in Options.
	kubeletHas func() func(uid string) bool
	// imageAge is as in cri.Reclaim.
	imageAge time.Duration
	// stat asks the filesystem of a signal.
	stat func(signal string) (unix.Statfs_t, error)
	// settle has figures of who grows measured once more; nil: nobody does.
	settle func(ctx context.Context)
	answer func(workload.Reclaim)
	log    zerolog.Logger

	last  string // the id that was answered
	said  string
	hangs atomic.Bool
}

// run answers until ctx is done.
func (r *reclaimer) run(ctx context.Context) {
	bell := workload.NewBell(filepath.Dir(r.path), requestEvery)
	defer bell.Close()
	for ctx.Err() == nil {
		r.look(ctx)
		bell.Wait(ctx)
	}
}

func (r *reclaimer) look(ctx context.Context) {
	q, err := workload.LoadReclaim(r.path, r.owner)
	text := ""
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		text = err.Error()
	}
	if text != r.said {
		if r.said = text; text != "" {
			r.log.Warn().Err(err).Msg("reclaim request refused")
		}
	}
	if err != nil || q.ID == r.last {
		return
	}
	r.last = q.ID
	r.answer(r.perform(ctx, q))
}

// perform does what is asked while there is time. A request whose time is over, of before a
// restart as a rule, is answered with an error.
func (r *reclaimer) perform(ctx context.Context, q *workload.ReclaimRequest) workload.Reclaim {
	done := workload.Reclaim{ID: q.ID, Signal: q.Signal}
	err := errors.New("the deadline is over")
	if left := q.Left(monotonicNs()); left > 0 {
		err = r.free(ctx, q, left, &done)
		if now, err := r.available(q); r.settle != nil && (err != nil || now < q.AvailableWanted) {
			r.settle(ctx) // a unit is chosen by them next
		}
	}
	if err != nil && !errors.Is(err, cri.ErrNone) { // where there are no containers there is nothing to free
		done.Error = fmt.Sprintf("%.1000s", err) // the runtime's words
	}
	done.DoneNs = monotonicNs()
	said := r.log.Info().Str("id", q.ID).Str("signal", q.Signal).Int64("containers", done.Containers).Int64("images", done.Images)
	if done.Error != "" {
		said.Str("error", done.Error)
	}
	said.Msg("reclaim answered")
	return done
}

// free has the runtime free what is asked for; that may be nothing.
func (r *reclaimer) free(ctx context.Context, q *workload.ReclaimRequest, left time.Duration, done *workload.Reclaim) error {
	if !q.Containers && !q.Images {
		return nil
	}
	before, beforeErr := r.available(q)
	freed, err := r.reclaim(ctx, max(left-settleWithin-overdue, left/2), cri.Reclaim{Containers: q.Containers, Images: q.Images, ImageAge: r.imageAge}, func() int64 {
		now, err := r.available(q)
		if err != nil {
			return math.MaxInt64
		}
		return q.AvailableWanted - now
	})
	done.Containers, done.Images = int64(freed.Containers), int64(freed.Images)
	if after, afterErr := r.available(q); beforeErr == nil && afterErr == nil {
		more := max(after-before, 0)
		if isInodes(q.Signal) {
			done.FreedInodes = &more
		} else {
			done.FreedBytes = &more
		}
	}
	return err
}

func (r *reclaimer) available(q *workload.ReclaimRequest) (int64, error) {
	st, err := r.stat(q.Signal)
	available, _ := room(q.Signal, &st)
	return available, err
}

// reclaim calls the runtime and does not wait for one that ignores its deadline.
func (r *reclaimer) reclaim(ctx context.Context, within time.Duration, what cri.Reclaim, missing func() int64) (cri.Reclaimed, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	switch {
	case r.runtime == nil:
		return cri.Reclaimed{}, errors.New("no container runtime")
	case !r.hangs.CompareAndSwap(false, true):
		return cri.Reclaimed{}, errHangs
	}
	if r.kubeletHas != nil {
		what.KubeletHas = r.kubeletHas()
	}
	type result struct {
		freed cri.Reclaimed
		err   error
	}
	results := make(chan result, 1)
	go func() {
		freed, err := r.runtime.Reclaim(ctx, what, missing)
		r.hangs.Store(false)
		results <- result{freed, err}
	}()
	deadline, _ := ctx.Deadline()
	select {
	case got := <-results:
		return got.freed, got.err
	case <-time.After(time.Until(deadline) + overdue):
		return cri.Reclaimed{}, fmt.Errorf("%w: no answer %s after the deadline", errHangs, overdue)
	}
}
