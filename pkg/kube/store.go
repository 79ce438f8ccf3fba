package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// store is the node's pods as the API server last told. Goroutines may share it.
type store struct {
	informer cache.SharedIndexInformer
	// changed has a token when any pod changed since it was taken.
	changed chan struct{}
	heard   heard

	mu       sync.Mutex
	watchers map[string]chan struct{} // by the uid in the cgroup's name
}

const byUID = "uid"

func newStore(c *client, m *meters, log zerolog.Logger) (*store, error) {
	s := &store{changed: make(chan struct{}, 1), watchers: map[string]chan struct{}{}}
	sampled := log.Sample(&zerolog.BurstSampler{Burst: 3, Period: retryMost})
	s.heard.listMost, s.heard.watchMost = listMost, watchMost
	s.heard.failed = func(err error) {
		m.failed(doingPods)
		sampled.Warn().Err(err).Msg("pods can't be listed or watched, what is known of them stays; it is tried again")
	}
	s.informer = cache.NewSharedIndexInformer(c.pods(&s.heard), &corev1.Pod{}, 0, cache.Indexers{
		byUID: func(o any) ([]string, error) { return []string{o.(*pod).entry.UID}, nil },
	})
	// A request that failed is told of above, and the reflector keeps some of them for itself.
	err := s.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		log.Debug().Err(err).Msg("the pods are listed anew")
	})
	_, added := s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.note(o) },
		UpdateFunc: func(_, o any) { s.note(o) },
		DeleteFunc: func(o any) {
			if u, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = u.Obj
			}
			s.note(o)
		},
	})
	return s, errors.Join(err, added, s.informer.SetTransform(strip))
}

// note tells who waits for a change.
func (s *store) note(o any) {
	poke(s.changed)
	p, ok := o.(*pod)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watchers[p.entry.UID]; w != nil {
		poke(w)
	}
}

// poke leaves a token.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// watch gets a token at each change of a pod. One at a time may watch a pod.
func (s *store) watch(uid string) (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[uid] = c
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, uid)
	}
}

// synced reports whether the first list has come.
func (s *store) synced() bool { return s.informer.HasSynced() }

// heardSince is since when lists and watches have been answered, zero while they are not.
func (s *store) heardSince() time.Time {
	since, _ := s.heard.state()
	if !s.synced() {
		return time.Time{}
	}
	return since
}

// get is nil for a pod that is not known.
func (s *store) get(uid string) *pod {
	found, err := s.informer.GetIndexer().ByIndex(byUID, uid)
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0].(*pod)
}

func (s *store) all() []*pod {
	list := s.informer.GetStore().List()
	pods := make([]*pod, 0, len(list))
	for _, o := range list {
		pods = append(pods, o.(*pod))
	}
	return pods
}
