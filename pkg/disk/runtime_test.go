package disk

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// asking counts questions.
type asking struct {
	fakeRuntime
	at []time.Time
}

func (r *asking) Containers(context.Context) ([]cri.Container, error) {
	r.at = append(r.at, time.Now())
	return nil, nil
}

// The runtime is asked at once for a container that has come, and not more often than once a
// second, however many come.
func TestTheRuntimeIsAskedForWhoHasCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		now, r, told := make(chan struct{}, 1), new(asking), 0
		go new(asked).ask(ctx, r, now, func() { told++ }, zerolog.Nop())
		began := time.Now()
		time.Sleep(2 * time.Second)
		hasten(now)
		for range 10 {
			time.Sleep(50 * time.Millisecond)
			hasten(now)
		}
		time.Sleep(2500 * time.Millisecond)
		stop()
		synctest.Wait()
		want := []time.Duration{0, 2 * time.Second, 3 * time.Second, 5 * time.Second}
		if len(r.at) != len(want) || told != 2 {
			t.Fatalf("asked at %v, told %d times, want %v and 2", r.at, told, want)
		}
		for i, at := range r.at {
			if got := at.Sub(began); got != want[i] {
				t.Errorf("question %d after %s, want %s", i, got, want[i])
			}
		}
	})
}

// A container that comes is noticed by its cgroup, its old and quiet pod is read again, and the
// runtime asked for it.
func TestAContainerThatComesIsLookedForSoon(t *testing.T) {
	n := newNode(t)
	w := newWorker(n.Options)
	isAsked := func() bool {
		select {
		case <-w.askNow:
			return true
		default:
			return false
		}
	}
	hasMoved := func() (moved int) {
		for turn := range oldShares {
			if w.hasMoved(turn) {
				moved++
			}
		}
		return moved
	}
	look := func() *unit {
		w.find()
		u := w.units[podUID]
		u.bornNs = 0
		return u
	}
	u := look()
	for _, id := range u.containers {
		u.add(&part{place: place{n.base, "store/" + id}, kind: layer, name: id})
	}
	if !isAsked() || hasMoved() != 0 {
		t.Fatal("not asked for who was there, or cgroups have moved")
	}
	if look() != u || isAsked() {
		t.Fatal("a quiet pod was read again")
	}
	pod := n.units.units[u.cgroup]
	pod.Targets = append(pod.Targets, workload.Target{Cgroup: u.cgroup + "/" + "3" + id1[1:]})
	n.units.units[u.cgroup] = pod
	u.links++ // the container's directory has come since
	(*w.families.Load())[slices.IndexFunc(*w.families.Load(), func(f family) bool { return f.cgroup == u.cgroup })].links++
	if n := hasMoved(); n != 1 {
		t.Errorf("noticed in %d turns, want one: it is old", n)
	}
	if look() == u || !isAsked() || hasMoved() != 0 {
		t.Error("the pod was not read again, or the runtime not asked")
	}
	(*w.families.Load())[slices.IndexFunc(*w.families.Load(), func(f family) bool { return f.isLevel })].links++
	if n := hasMoved(); n != oldShares {
		t.Errorf("a pod that comes is noticed in %d turns, want all", n)
	}
}
