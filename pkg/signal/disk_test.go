package signal

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// machine is filesystems at paths, in fake time.
type machine struct {
	mu    sync.Mutex
	mount map[string]fsStat
	hangs map[string]chan struct{} // closed when the filesystem answers again
	reads map[string][]time.Duration
	start time.Time
}

func (m *machine) stat(path string) (fsStat, error) {
	m.mu.Lock()
	m.reads[path] = append(m.reads[path], time.Since(m.start))
	hang := m.hangs[path]
	m.mu.Unlock()
	if hang != nil {
		<-hang
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.mount[path]
	if !ok {
		return fsStat{}, errors.New("no such directory")
	}
	return s, nil
}

func (m *machine) set(path string, s fsStat) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mount[path] = s
}

func (m *machine) remove(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mount, path)
}

func (m *machine) readsOf(path string) []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.reads[path])
}

// nowNs starts at a second, since 0 is no time.
func (m *machine) nowNs() uint64 { return uint64(time.Second + time.Since(m.start)) }

// onMachine runs f in a bubble of fake time, with the disks of o.Paths running.
func onMachine(t *testing.T, o DiskOptions, mount map[string]fsStat, f func(*testing.T, *machine, *Disks)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{mount: maps.Clone(mount), hangs: map[string]chan struct{}{}, reads: map[string][]time.Duration{}, start: time.Now()}
		d := NewDisks(o)
		d.stat, d.now = m.stat, m.nowNs
		ctx, stop := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer stop()
		d.Start(ctx)
		synctest.Wait()
		f(t, m, d)
	})
}

// disk is a filesystem of 1000 GB in blocks of 1 kB, and of a million inodes.
func disk(device uint64, gbFree, inodesFree uint64) fsStat {
	return fsStat{device: device, unit: 1000, blocks: gb, blocksAvailable: gbFree * 1000_000, inodes: 1_000_000, inodesFree: inodesFree}
}

func (m *machine) wants(t *testing.T, d *Disks, s Signal, available int64) {
	t.Helper()
	o, err := d.Observe(s, m.nowNs())
	if err != nil || o.Available != available || o.Signal != s {
		t.Errorf("%s: got %+v, %v, want %d", s, o, err, available)
	}
}

func (m *machine) wantsNone(t *testing.T, d *Disks, s Signal, names string) {
	t.Helper()
	o, err := d.Observe(s, m.nowNs())
	if !errors.Is(err, ErrNoData) || o != (Observation{}) || !strings.Contains(err.Error(), names) || !strings.HasPrefix(err.Error(), string(s)) {
		t.Errorf("%s: got %+v, %v, want ErrNoData that names %q", s, o, err, names)
	}
}

var twoPaths = DiskPaths{NodeFs: "/node", ImageFs: "/image"}

func TestBytesAndInodesShareAStamp(t *testing.T) {
	onMachine(t, DiskOptions{Paths: twoPaths}, map[string]fsStat{"/node": disk(1, 500, 7), "/image": disk(2, 300, 8)},
		func(t *testing.T, m *machine, d *Disks) {
			want := Observation{Signal: NodeFsAvailable, Available: 500 * gb, Capacity: 1000 * gb, Ns: uint64(time.Second)}
			got, err := d.Observe(NodeFsAvailable, m.nowNs())
			if err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
			want = Observation{Signal: NodeFsInodesFree, Available: 7, Capacity: 1_000_000, Ns: uint64(time.Second)}
			got, err = d.Observe(NodeFsInodesFree, m.nowNs())
			if err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
			m.wants(t, d, ImageFsAvailable, 300*gb)
			m.wants(t, d, ImageFsInodesFree, 8)
			m.wantsNone(t, d, MemoryAvailable, "no disk signal")
		})
}

func TestContainerFsFollowsTheLayout(t *testing.T) {
	tests := map[string]struct {
		paths      DiskPaths
		image, ctr uint64 // devices; nodefs has 1
		want       Layout
		containers int64 // GB free on containerfs
	}{
		"one path":                         {DiskPaths{NodeFs: "/node"}, 2, 3, Layout{}, 500},
		"images on the node's filesystem":  {twoPaths, 1, 3, Layout{}, 500},
		"images and layers apart":          {twoPaths, 2, 3, Layout{DedicatedImageFs: true}, 300},
		"the layers' path is the images'":  {DiskPaths{"/node", "/image", "/ctr"}, 2, 2, Layout{DedicatedImageFs: true}, 300},
		"images alone apart":               {DiskPaths{"/node", "/image", "/ctr"}, 2, 1, Layout{true, true}, 500},
		"layers on a third":                {DiskPaths{"/node", "/image", "/ctr"}, 2, 3, Layout{true, true}, 100},
		"three paths into one filesystem":  {DiskPaths{"/node", "/image", "/ctr"}, 1, 1, Layout{}, 500},
		"layers named, images on the node": {DiskPaths{NodeFs: "/node", ContainerFs: "/ctr"}, 2, 3, Layout{true, true}, 100},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			free := map[uint64]uint64{1: 500, 2: 300, 3: 100}
			mount := map[string]fsStat{"/node": disk(1, 500, 7), "/image": disk(tc.image, free[tc.image], 8), "/ctr": disk(tc.ctr, free[tc.ctr], 9)}
			onMachine(t, DiskOptions{Paths: tc.paths}, mount, func(t *testing.T, m *machine, d *Disks) {
				if got, err := d.Layout(); err != nil || got != tc.want {
					t.Errorf("layout %+v, %v, want %+v", got, err, tc.want)
				}
				m.wants(t, d, ContainerFsAvailable, tc.containers*gb)
			})
		})
	}
}

// Two paths are read at two times, and what they show must be one observation all the same:
// the newest.
func TestOneFilesystemIsObservedOnce(t *testing.T) {
	onMachine(t, DiskOptions{Paths: twoPaths}, map[string]fsStat{"/node": disk(1, 500, 7), "/image": disk(1, 500, 7)},
		func(t *testing.T, m *machine, d *Disks) {
			hang := make(chan struct{})
			m.mu.Lock()
			m.hangs["/node"] = hang
			m.mu.Unlock()
			m.set("/image", disk(1, 400, 6))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			node, err := d.Observe(NodeFsAvailable, m.nowNs())
			if err != nil || node.Available != 400*gb || node.Ns != uint64(11*time.Second) {
				t.Errorf("nodefs %+v, %v, want the newer reading by the other path", node, err)
			}
			m.wants(t, d, ImageFsAvailable, 400*gb)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			m.wantsNone(t, d, NodeFsAvailable, "stale") // its own path must answer too
			m.wants(t, d, ImageFsAvailable, 400*gb)
			close(hang)
		})
}

func TestAFilesystemThatHangs(t *testing.T) {
	onMachine(t, DiskOptions{Paths: twoPaths}, map[string]fsStat{"/node": disk(1, 500, 7), "/image": disk(2, 300, 8)},
		func(t *testing.T, m *machine, d *Disks) {
			hang := make(chan struct{})
			m.mu.Lock()
			m.hangs["/image"] = hang
			m.mu.Unlock()
			time.Sleep(10*time.Second + answerWithin)
			synctest.Wait()
			m.wants(t, d, ImageFsAvailable, 300*gb) // as old as it may be
			time.Sleep(time.Nanosecond)
			m.wantsNone(t, d, ImageFsAvailable, "stale")
			m.wantsNone(t, d, ContainerFsInodesFree, "stale")

			m.set("/node", disk(1, 499, 6))
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			m.wants(t, d, NodeFsAvailable, 499*gb)
			m.wants(t, d, NodeFsInodesFree, 6)
			if got := len(m.readsOf("/image")); got != 2 {
				t.Errorf("%d readings of the filesystem that hangs, want the first and one that waits", got)
			}
			if l, err := d.Layout(); err != nil || l != (Layout{DedicatedImageFs: true}) {
				t.Errorf("layout %+v, %v", l, err)
			}

			m.mu.Lock()
			delete(m.hangs, "/image")
			m.mu.Unlock()
			close(hang)
			synctest.Wait()
			m.wantsNone(t, d, ImageFsAvailable, "stale") // an answer to the question of ten minutes ago
			time.Sleep(10 * time.Second)
			synctest.Wait()
			m.wants(t, d, ImageFsAvailable, 300*gb)
		})
}

func TestAPathThatHangsFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := NewDisks(DiskOptions{Paths: twoPaths})
		d.now = func() uint64 { return uint64(time.Second) }
		d.stat = func(path string) (fsStat, error) {
			if path == "/image" {
				<-release
			}
			return disk(1, 500, 7), nil
		}
		ctx, stop := context.WithCancel(t.Context())
		d.Start(ctx)
		synctest.Wait()
		if _, err := d.Observe(NodeFsAvailable, uint64(time.Second)); err != nil {
			t.Errorf("nodefs: %v", err)
		}
		for _, s := range []Signal{ImageFsAvailable, ContainerFsAvailable} {
			if _, err := d.Observe(s, uint64(time.Second)); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "/image has not been read") {
				t.Errorf("%s: %v", s, err)
			}
		}
		if _, err := d.Layout(); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "/image") {
			t.Errorf("layout: %v", err)
		}
		stop()
		close(release)
	})
}

func TestAPathThatVanishes(t *testing.T) {
	onMachine(t, DiskOptions{Paths: twoPaths}, map[string]fsStat{"/node": disk(1, 500, 7), "/image": disk(2, 300, 8)},
		func(t *testing.T, m *machine, d *Disks) {
			wait := func() { time.Sleep(10 * time.Second); synctest.Wait() }
			dedicated := func(want bool) {
				t.Helper()
				if l, err := d.Layout(); err != nil || l.DedicatedImageFs != want {
					t.Errorf("layout %+v, %v, want dedicated %v", l, err, want)
				}
			}
			m.set("/image", disk(1, 500, 7)) // unmounted: the path shows the parent
			wait()
			m.wantsNone(t, d, ImageFsAvailable, "another filesystem")
			if _, err := d.Observe(ContainerFsAvailable, m.nowNs()); !errors.Is(err, ErrMoved) {
				t.Errorf("containerfs: %v, want ErrMoved", err)
			}
			m.wants(t, d, NodeFsAvailable, 500*gb)
			dedicated(true)

			m.remove("/image")
			time.Sleep(time.Second)
			synctest.Wait()
			m.wantsNone(t, d, ImageFsInodesFree, "no such directory")
			m.wants(t, d, NodeFsAvailable, 500*gb)
			dedicated(true)

			m.set("/image", disk(2, 200, 8)) // mounted again
			time.Sleep(time.Second)
			synctest.Wait()
			m.wants(t, d, ImageFsAvailable, 200*gb)

			m.set("/image", disk(1, 500, 7)) // gone for good
			wait()
			d.Redetect()
			synctest.Wait()
			m.wants(t, d, ImageFsAvailable, 500*gb)
			dedicated(false)
		})
}

func TestLayoutWaitsForANewDetection(t *testing.T) {
	onMachine(t, DiskOptions{Paths: twoPaths}, map[string]fsStat{"/node": disk(1, 500, 7), "/image": disk(2, 300, 8)},
		func(t *testing.T, m *machine, d *Disks) {
			m.remove("/image")
			d.Redetect()
			if _, err := d.Layout(); !errors.Is(err, ErrNoData) {
				t.Errorf("layout of before: %v", err)
			}
			synctest.Wait()
			if _, err := d.Layout(); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "no such directory") {
				t.Errorf("layout without a path: %v", err)
			}
			m.set("/image", disk(3, 300, 8))
			time.Sleep(time.Second)
			synctest.Wait()
			if l, err := d.Layout(); err != nil || !l.DedicatedImageFs {
				t.Errorf("layout %+v, %v", l, err)
			}
		})
}

func TestWithoutInodes(t *testing.T) {
	btrfs := disk(1, 500, 0)
	btrfs.inodes = 0
	onMachine(t, DiskOptions{Paths: DiskPaths{NodeFs: "/node"}}, map[string]fsStat{"/node": btrfs},
		func(t *testing.T, m *machine, d *Disks) {
			m.wants(t, d, NodeFsAvailable, 500*gb)
			m.wantsNone(t, d, NodeFsInodesFree, "counts no inodes")
		})
}

func below(s Signal, value int64) Threshold {
	return Threshold{Signal: s, Value: Quantity{Value: value}}
}

func TestTheNearestThresholdSetsThePace(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	free := disk(1, 500, 900_000)
	tests := map[string]struct {
		thresholds []Threshold
		want       []time.Duration // the readings of /node
	}{
		"none":                       {nil, []time.Duration{0, 10 * s, 20 * s}},
		"of another filesystem":      {[]Threshold{below(ImageFsAvailable, 499*gb)}, []time.Duration{0, 10 * s, 20 * s}},
		"no disk signal":             {[]Threshold{below(MemoryAvailable, 499*gb)}, []time.Duration{0, 10 * s, 20 * s}},
		"far":                        {[]Threshold{below(NodeFsAvailable, 1*gb)}, []time.Duration{0, 10 * s, 20 * s}},
		"8 GB away":                  {[]Threshold{below(NodeFsAvailable, 492*gb)}, []time.Duration{0, 4 * s, 8 * s, 12 * s, 16 * s, 20 * s}},
		"the nearer counts":          {[]Threshold{below(NodeFsAvailable, 480*gb), below(NodeFsAvailable, 492*gb), below(NodeFsAvailable, 1)}, []time.Duration{0, 4 * s, 8 * s, 12 * s, 16 * s, 20 * s}},
		"a percentage of capacity":   {[]Threshold{{Signal: NodeFsAvailable, Value: Quantity{Percent: 31. / 64}}}, []time.Duration{0, 7812500 * time.Microsecond, 15625 * ms}},
		"inodes are nearer":          {[]Threshold{below(NodeFsAvailable, 480*gb), below(NodeFsInodesFree, 897_500)}, []time.Duration{0, 5 * ms * 10}},
		"an alias of the filesystem": {[]Threshold{below(ContainerFsAvailable, 492*gb)}, []time.Duration{0, 4 * s, 8 * s, 12 * s, 16 * s, 20 * s}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := DiskOptions{Paths: DiskPaths{"/node", "/image", "/node"}, Thresholds: tc.thresholds}
			onMachine(t, o, map[string]fsStat{"/node": free, "/image": disk(2, 500, 900_000)}, func(t *testing.T, m *machine, _ *Disks) {
				time.Sleep(20 * time.Second)
				synctest.Wait()
				got := m.readsOf("/node")
				got = got[:min(len(got), len(tc.want))]
				if !slices.Equal(got, tc.want) {
					t.Errorf("read at %v, want %v", got, tc.want)
				}
			})
		})
	}
}

func TestWakeWhileAThresholdIsMetAndOnceAfter(t *testing.T) {
	var woken atomic.Int32
	o := DiskOptions{
		Paths:      DiskPaths{NodeFs: "/node"},
		Thresholds: []Threshold{below(NodeFsAvailable, 500*gb)},
		Wake:       func() { woken.Add(1) },
	}
	onMachine(t, o, map[string]fsStat{"/node": disk(1, 500, 7)}, func(t *testing.T, m *machine, _ *Disks) {
		after := func(step string, gbFree uint64, wait time.Duration, want int32) {
			t.Helper()
			woken.Store(0)
			m.set("/node", disk(1, gbFree, 7))
			time.Sleep(wait)
			synctest.Wait()
			if got := woken.Load(); got != want {
				t.Errorf("%s: woken %d times, want %d", step, got, want)
			}
		}
		after("at the threshold", 500, time.Second, 0)
		after("met", 499, time.Second, 20)
		after("over", 900, time.Minute, 1)
	})
}

func TestObserveDoesNotAllocate(t *testing.T) {
	onMachine(t, DiskOptions{Paths: twoPaths}, map[string]fsStat{"/node": disk(1, 500, 7), "/image": disk(1, 500, 7)},
		func(t *testing.T, m *machine, d *Disks) {
			now := m.nowNs()
			n := testing.AllocsPerRun(100, func() {
				for _, s := range []Signal{NodeFsAvailable, ContainerFsInodesFree} {
					if _, err := d.Observe(s, now); err != nil {
						t.Error(err)
					}
				}
			})
			if n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
}
