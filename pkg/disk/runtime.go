package disk

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Runtime is the container runtime. Each call ends with its context, or soon after; one
// that does not holds up nothing but the next call.
type Runtime interface {
	Filesystems(ctx context.Context) (Filesystems, error)
	// Containers may return some with the error that says what could not be told.
	Containers(ctx context.Context) ([]Container, error)
	// Reclaim removes what no pod needs until enough says so.
	Reclaim(ctx context.Context, what Reclaim, enough func() bool) (Reclaimed, error)
}

// Filesystems are directories on the filesystems of images and of writable layers;
// ContainerDir "" is with the images.
type Filesystems struct{ ImageDir, ContainerDir string }

// Container is a container of a pod as the runtime knows it.
type Container struct {
	ID, Name, PodUID string
	Running          bool
	Created          time.Time
	// Rootfs is the writable layer's usage, nil where the runtime does not tell it.
	Rootfs *RootfsUsage
}

// RootfsUsage is what a writable layer occupied at a time; Inodes is -1 where that is not
// told.
type RootfsUsage struct {
	Tally
	At time.Time
}

// Reclaim says what may be removed. KubeletHas tells whether the kubelet still has a pod, by
// its cgroup; nil where nobody knows.
type Reclaim struct {
	Containers, Images bool
	KubeletHas         func(podUID string) bool
}

// Reclaimed is how many were removed.
type Reclaimed struct{ Containers, Images int }

const (
	// askEvery is between two questions to the runtime, askWithin how long it may think.
	askEvery, askWithin = 5 * time.Second, 5 * time.Second
	// containersAge is how old a list of containers may be: without a younger one their
	// names and the runtime's own figures are not known.
	containersAge = 30 * time.Second
)

// asked is what the runtime said last.
type asked struct {
	mu          sync.Mutex
	containers  map[string][]Container // by pod uid
	atNs        uint64
	filesystems *Filesystems
}

// ask keeps the answers fresh until ctx is done.
func (a *asked) ask(ctx context.Context, r Runtime, log zerolog.Logger) {
	said := ""
	for every := time.NewTicker(askEvery); ; {
		err := a.once(ctx, r)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != said && ctx.Err() == nil {
			said = text
			if err != nil {
				log.Warn().Err(err).Msg("degraded: no answer from the container runtime; figures are without what only it knows")
			} else {
				log.Info().Msg("the container runtime answers again")
			}
		}
		select {
		case <-ctx.Done():
			every.Stop()
			return
		case <-every.C:
		}
	}
}

func (a *asked) once(ctx context.Context, r Runtime) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	at := monotonicNs()
	list, err := r.Containers(ctx)
	if err != nil && len(list) == 0 {
		return err
	}
	byPod := map[string][]Container{}
	for _, c := range list {
		byPod[c.PodUID] = append(byPod[c.PodUID], c)
	}
	fs, fsErr := r.Filesystems(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.containers, a.atNs = byPod, at
	if fsErr == nil {
		a.filesystems = &fs
	}
	return errors.Join(err, fsErr)
}

// of returns the containers of a pod that count, one a name: the running one, else the
// newest, as the kubelet does. ok is false while the list is missing or old.
func (a *asked) of(uid string, nowNs uint64) (list []Container, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.atNs == 0 || nowNs-min(nowNs, a.atNs) > uint64(containersAge) {
		return nil, false
	}
	at := map[string]int{}
	for _, c := range a.containers[uid] {
		i, there := at[c.Name]
		switch {
		case !there:
			at[c.Name] = len(list)
			list = append(list, c)
		case c.Running && !list[i].Running, c.Running == list[i].Running && c.Created.After(list[i].Created):
			list[i] = c
		}
	}
	return list, true
}

// dirs are the runtime's filesystems, nil while it has not told them.
func (a *asked) dirs() *Filesystems {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.filesystems
}
