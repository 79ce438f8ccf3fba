package disk

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
)

// Runtime is the container runtime, a *cri.Client. Each call ends with its context, or soon
// after; one that does not holds up nothing but the next call.
type Runtime interface {
	Filesystems(ctx context.Context) (cri.Filesystems, error)
	// Containers may return some with the error that says what could not be told.
	Containers(ctx context.Context) ([]cri.Container, error)
	// Reclaim removes what no pod needs until nothing is missing.
	Reclaim(ctx context.Context, what cri.Reclaim, missing func() int64) (cri.Reclaimed, error)
}

const (
	// askEvery is between two questions to the runtime, askWithin how long it may think.
	askEvery, askWithin = 5 * time.Second, 5 * time.Second
	// askAgain is the least between two, where a container has come that the last list lacks: it
	// alone tells the container's name, by which it may have a limit.
	askAgain = time.Second
	// containersAge is how old a list of containers may be: without a younger one their
	// names and the runtime's own figures are not known.
	containersAge = 30 * time.Second
)

// asked is what the runtime said last.
type asked struct {
	mu          sync.Mutex
	containers  map[string][]cri.Container // by pod uid
	atNs        uint64
	filesystems *cri.Filesystems
}

// ask keeps the answers fresh until ctx is done; now has it ask soon, and told is called after that.
func (a *asked) ask(ctx context.Context, r Runtime, now <-chan struct{}, told func(), log zerolog.Logger) {
	said, isSoon := "", false
	for every := time.NewTicker(askEvery); ; {
		err := a.once(ctx, r)
		if isSoon {
			told()
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != said && ctx.Err() == nil {
			said = text
			switch {
			case errors.Is(err, cri.ErrNone):
				log.Info().Msg(text)
			case err != nil:
				log.Warn().Err(err).Msg("degraded: no answer from the container runtime; figures are without what only it knows")
			default:
				log.Info().Msg("the container runtime answers again")
			}
		}
		sleep(ctx, askAgain)
		select {
		case <-ctx.Done():
			every.Stop()
			return
		case <-now:
			isSoon = true
		case <-every.C:
			isSoon = false
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
	byPod := map[string][]cri.Container{}
	for _, c := range list {
		if c.Rootfs == nil && !c.Running {
			c.Rootfs = a.lastUsage(&c)
		}
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

// lastUsage is what was last said of a container, which may have ended since: some runtimes
// have figures of those that run alone, and the layer lies there.
func (a *asked) lastUsage(c *cri.Container) *cri.Usage {
	for _, was := range a.containers[c.PodUID] { // nobody else replaces it
		if was.ID == c.ID {
			return was.Rootfs
		}
	}
	return nil
}

// of returns the containers of a pod that count, one a name: the running one, else the
// newest, as the kubelet does. ok is false while the list is missing or old.
func (a *asked) of(uid string, nowNs uint64) (list []cri.Container, ok bool) {
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
func (a *asked) dirs() *cri.Filesystems {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.filesystems
}
