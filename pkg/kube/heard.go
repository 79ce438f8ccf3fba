package kube

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// heard is whether the API server tells of the pods: the answer to the last list or watch.
// Goroutines may share it.
type heard struct {
	failed func(error) // is told of each request that failed

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

// listen notes each answer to the requests of a reflector, which retries some without a word.
func (h *heard) listen(lw *cache.ListWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := lw.ListWithContext(ctx, o)
			if ctx.Err() == nil {
				h.note(err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := lw.WatchWithContext(ctx, o)
			if ctx.Err() == nil {
				h.note(err)
			}
			return w, err
		},
	}
}
