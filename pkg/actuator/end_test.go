package actuator

import (
	"errors"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

func TestUnitThatHearsEndsWithinItsGrace(t *testing.T) {
	b := newBed(t)
	u, polite := b.unit("polite", load.Sleeper)
	_, bystander := b.unit("bystander", load.Sleeper)
	h, err := Open(b.fs, &u)
	must(t, err)
	defer h.Close()
	out := h.End(nil, sample.Now, time.Hour, time.Minute, func() { t.Error("killed, though it ended by itself") })
	if out.Err != nil || out.DeadNs == 0 || out.SignalledAllNs != 0 || out.Processes != 1 {
		t.Errorf("outcome %+v, want one process that ended unkilled", out)
	}
	if polite.Alive() || !bystander.Alive() || h.Busy() {
		t.Errorf("alive: %v, bystander: %v, busy: %v", polite.Alive(), bystander.Alive(), h.Busy())
	}
}

func TestUnitThatDoesNotHearIsKilledAfterItsGrace(t *testing.T) {
	b := newBed(t)
	u, _ := b.unit("deaf", "")
	deaf, err := load.Start("/proc/self/exe", []string{"load"}, load.Spec{
		Kind: load.Sleeper, IgnoreTerm: true, ProcsFiles: b.fs.ProcsFiles(u.Cgroup), Deadline: 2 * time.Minute,
	})
	must(t, err)
	t.Cleanup(func() { _ = deaf.Stop() })
	h, err := Open(b.fs, &u)
	must(t, err)
	defer h.Close()
	const grace = 200 * time.Millisecond
	asked, killed := sample.Now(), uint64(0)
	out := h.End(nil, sample.Now, grace, time.Minute, func() {
		if !deaf.Alive() || !h.Busy() {
			t.Error("dead, or not busy, before it was killed")
		}
		killed = sample.Now()
	})
	if out.Err != nil || out.DeadNs < killed || deaf.Alive() || h.Busy() {
		t.Errorf("outcome %+v, alive: %v, busy: %v", out, deaf.Alive(), h.Busy())
	}
	if killed < asked+uint64(grace) {
		t.Error("killed before its grace was over")
	}
}

func TestNobodyToAsk(t *testing.T) {
	b := newBed(t)
	u, _ := b.unit("empty", "")
	h, err := Open(b.fs, &u)
	must(t, err)
	defer h.Close()
	out := h.End(nil, sample.Now, time.Minute, time.Minute, func() { t.Error("killed nobody") })
	if !errors.Is(out.Err, ErrGone) || h.Busy() {
		t.Errorf("outcome %+v, busy: %v, want ErrGone", out, h.Busy())
	}
}
