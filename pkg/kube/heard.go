package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

const (
	// blindAfter is for how long lists and watches may fail until the companion is not ready.
	blindAfter = time.Minute
	// listMost is for the answer to a list, or to a watch that begins with one. A node has few pods.
	listMost = 30 * time.Second
	// watchMost is for the answer to a watch, which a proxy may hold back until the server's first
	// bookmark, a minute later.
	watchMost = 90 * time.Second
	// watchGrace is for how long a watch may last longer than it asked for: the connection may
	// be gone, and nobody says so.
	watchGrace = 30 * time.Second
)

// heard is whether the API server tells of the pods: the answer to the last list or watch.
// Goroutines may share it.
type heard struct {
	failed func(error) // is told of each request that failed
	// listMost and watchMost are the constants of these names.
	listMost, watchMost time.Duration

	mu    sync.Mutex
	since time.Time // of the first answer after which none failed, zero: the last one failed
	lost  time.Time // of the first failure after which none was answered
}

// note takes the outcome of a request over.
func (h *heard) note(err error) {
	h.mu.Lock()
	now := time.Now()
	switch {
	case err != nil && h.lost.IsZero():
		h.since, h.lost = time.Time{}, now
	case err == nil && h.since.IsZero():
		h.since, h.lost = now, time.Time{}
	}
	h.mu.Unlock()
	if err != nil {
		h.failed(err)
	}
}

// state: one of the two is zero, both before the first answer.
func (h *heard) state() (since, lost time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.lost
}

// listen notes each answer to the requests of a reflector, which retries some without a word,
// and waits for none for ever.
func (h *heard) listen(lw *cache.ListWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			limited, cancel := context.WithTimeout(ctx, h.listMost)
			defer cancel()
			limited, code := withCode(limited)
			list, err := lw.ListWithContext(limited, o)
			err = code.of(err)
			if ctx.Err() == nil {
				h.note(err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			most := h.watchMost
			if o.SendInitialEvents != nil && *o.SendInitialEvents {
				most = h.listMost
			}
			coded, code := withCode(ctx)
			w, err := watchWithin(coded, lw, o, most)
			err = code.of(err)
			if ctx.Err() == nil {
				h.note(err)
			}
			return w, err
		},
	}
}

// watchWithin has a watch answered within most, and ended some time after it should have.
func watchWithin(ctx context.Context, lw *cache.ListWatch, o metav1.ListOptions, most time.Duration) (watch.Interface, error) {
	limited, cancel := context.WithCancel(ctx)
	t := time.AfterFunc(most, cancel)
	w, err := lw.WatchWithContext(limited, o)
	inTime := t.Stop()
	if err != nil {
		cancel()
		if !inTime && ctx.Err() == nil {
			err = fmt.Errorf("no answer within %v: %w", most, err)
		}
		return nil, err
	}
	if o.TimeoutSeconds != nil {
		time.AfterFunc(time.Duration(*o.TimeoutSeconds)*time.Second+watchGrace, cancel)
	}
	return w, nil //nolint:govet // its context ends with the timer, or with ctx
}
