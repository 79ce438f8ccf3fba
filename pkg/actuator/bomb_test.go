package actuator

import (
	"errors"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Sweeps (v1) or cgroup.kill (v2) do it alone: nothing here keeps the bomb from forking.
func TestForkBombDies(t *testing.T) {
	b := newBed(t)
	_, bystander := b.unit("bystander", load.Sleeper) // before a hundred others want the CPU
	victim, bomb := b.unit("bomb", load.Bomb)
	b.limit(victim.Cgroup, 128<<20, 100)
	awaitForks(t, bomb, 60)
	h, err := Open(b.fs, &victim)
	must(t, err)
	defer h.Close()
	if _, err := h.Strike(Culprit{}); err != nil {
		t.Fatalf("strike: %v", err)
	}
	if out := h.Finish(nil, sample.Now, time.Minute); out.Err != nil || out.DeadNs == 0 {
		t.Fatalf("finish: %+v", out)
	}
	forks, err := bomb.Progress()
	must(t, err)
	c, err := b.fs.Open(victim.Cgroup)
	must(t, err)
	defer c.Close()
	if pids, err := c.Procs(nil); len(pids) > 0 || err != nil {
		t.Errorf("%v live after Finish, error %v", pids, err)
	}
	if later, _ := bomb.Progress(); later != forks {
		t.Errorf("%d forks after Finish", later-forks)
	}
	if !bystander.Alive() {
		t.Error("the bystander died")
	}
}

func awaitForks(t *testing.T, l *load.Load, n int64) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		done, err := l.Progress()
		must(t, err)
		if done >= n {
			return
		}
	}
	t.Fatalf("fewer than %d forks", n)
}

// A pod's sandbox is no target: it outlives the containers, and Finish does not wait for it.
func TestOnlyTargetsDie(t *testing.T) {
	b := newBed(t)
	pod, _ := b.unit("pod", "")
	_, web := b.unit("pod/web", load.Sleeper)
	_, db := b.unit("pod/db", load.Sleeper)
	_, sandbox := b.unit("pod/sandbox", load.Sleeper)
	pod.Targets = []workload.Target{{Cgroup: pod.Cgroup + "/web"}, {Cgroup: pod.Cgroup + "/db"}, {Cgroup: pod.Cgroup + "/ended"}}
	h, err := Open(b.fs, &pod)
	must(t, err)
	defer h.Close()
	if _, err := h.Strike(Culprit{}); err != nil {
		t.Fatalf("strike: %v", err)
	}
	if !h.Busy() {
		t.Error("not busy between Strike and Finish")
	}
	if out := h.Finish(nil, sample.Now, time.Minute); out.Err != nil || out.DeadNs == 0 {
		t.Errorf("finish: %+v", out)
	}
	if web.Alive() || db.Alive() || !sandbox.Alive() {
		t.Errorf("alive: web %v, db %v, sandbox %v, want the sandbox alone", web.Alive(), db.Alive(), sandbox.Alive())
	}
}

func TestStrikeOfAnEmptyUnit(t *testing.T) {
	b := newBed(t)
	empty, _ := b.unit("empty", "")
	h, err := Open(b.fs, &empty)
	must(t, err)
	defer h.Close()
	if b.fs.Version() == cgroupfs.V1 {
		if _, err := h.Strike(Culprit{}); !errors.Is(err, ErrGone) {
			t.Errorf("got %v, want ErrGone", err)
		}
		if h.Busy() {
			t.Error("busy after a strike that hit nobody")
		}
	}
	must(t, b.fs.Remove(empty.Cgroup))
	if _, err := h.Strike(Culprit{}); !errors.Is(err, ErrGone) {
		t.Errorf("removed: got %v, want ErrGone", err)
	}
}
