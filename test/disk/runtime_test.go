package disk

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
)

var both = []filesystems{{kind: "ext4"}, {kind: "xfs"}}

const mebibyte = 1 << 20

func never() int64 { return 1 }

func TestStatsAreWhatWasWritten(t *testing.T) {
	for _, f := range both {
		t.Run(f.kind, func(t *testing.T) {
			b := newBed(t, f)
			p := b.Pod("writers")
			const written, files = 64 * mebibyte, 3000
			dead := p.RunToEnd("init", 16*mebibyte)
			w := p.Writer("w", intoLayer, 0, written)
			l := p.Litterer("l", "/litter", 0, files)
			c := b.client()
			var last []cri.Container
			b.await("figures of what was written", func() bool {
				var err error
				last, err = c.Containers(t.Context())
				must(t, err)
				bytes, inodes, init := usage(last, w.ID), usage(last, l.ID), usage(last, dead.ID)
				return bytes != nil && inodes != nil && init != nil &&
					near(bytes.Bytes, written) && near(inodes.Inodes, files) && near(init.Bytes, 16*mebibyte)
			})
			i := slices.IndexFunc(last, func(c cri.Container) bool { return c.ID == w.ID })
			got := last[i]
			if got.PodUID != p.UID || got.PodName != "writers" || got.PodNamespace != namespace || got.Name != "w" || !got.Running || got.LogPath != w.Log {
				t.Errorf("container is %+v", got)
			}
			if age := time.Since(got.Rootfs.Time); age < 0 || age > patience {
				t.Errorf("figure is of %s ago", age)
			}
		})
	}
}

// near is within 3 %.
func near(got, want int64) bool { return math.Abs(float64(got-want)) <= 0.03*float64(want) }

func usage(containers []cri.Container, id string) *cri.Usage {
	for _, c := range containers {
		if c.ID == id {
			return c.Rootfs
		}
	}
	return nil
}

func TestLayoutIsFound(t *testing.T) {
	for name, f := range map[string]filesystems{
		"images with the rest":                {kind: "ext4"},
		"images on a filesystem of their own": {kind: "xfs", dedicated: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, f)
			got, err := b.client().Filesystems(t.Context())
			must(t, err)
			if got.ContainerDir != "" {
				t.Errorf("writable layers lie at %s, want with the images", got.ContainerDir)
			}
			if device(t, got.ImageDir) != device(t, b.ImageFs) {
				t.Errorf("images lie at %s, want on %s", got.ImageDir, b.ImageFs)
			}
			if dedicated := device(t, got.ImageDir) != device(t, b.KubeletDir); dedicated != f.dedicated {
				t.Errorf("images on a filesystem of their own: %t, want %t", dedicated, f.dedicated)
			}
		})
	}
}

func device(t *testing.T, path string) uint64 {
	t.Helper()
	var s unix.Stat_t
	must(t, unix.Stat(path, &s))
	return s.Dev
}

func TestDeadContainersDataIsFreed(t *testing.T) {
	for _, f := range both {
		t.Run(f.kind, func(t *testing.T) {
			b := newBed(t, f)
			runs := b.Pod("runs")
			oldest := runs.RunToEnd("app", 64*mebibyte)
			newest := runs.RunToEnd("app", 16*mebibyte)
			live := runs.Writer("app", intoLayer, 0, mebibyte)
			ended := b.Pod("ended")
			over := ended.RunToEnd("job", 48*mebibyte)
			ended.End()
			c := b.client()
			b.sync(b.NodeFs)
			before, _ := b.available(b.NodeFs)

			r := cri.Reclaim{Containers: true, KubeletHas: b.HasCgroup}
			freed := func() int64 { after, _ := b.available(b.NodeFs); return after - before }
			start := time.Now()
			done, err := c.Reclaim(t.Context(), r, func() int64 { return 110*mebibyte - freed() })
			must(t, err)
			t.Logf("%+v freed %d MiB in %s", done, freed()/mebibyte, time.Since(start))
			if done.Containers != 2 || freed() < 110*mebibyte {
				t.Errorf("%d containers freed %d bytes, want 2 with 112 MiB", done.Containers, freed())
			}
			var left []string
			containers, err := c.Containers(t.Context())
			must(t, err)
			for _, c := range containers {
				left = append(left, c.ID)
			}
			for what, id := range map[string]string{"newest dead": newest.ID, "running": live.ID} {
				if !slices.Contains(left, id) {
					t.Errorf("the %s container is gone", what)
				}
			}
			for what, gone := range map[string]*container{"an older dead": oldest, "an ended pod's": over} {
				if slices.Contains(left, gone.ID) {
					t.Errorf("%s container is left", what)
				}
				if _, err := os.Stat(gone.Log); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("log of %s container: %v, want none", what, err)
				}
			}
		})
	}
}

// An evicted pod's writable layer is freed by the next reclaim, once the kubelet is done
// with the pod, and not before.
func TestKilledPodsLayerIsFreedOnceTheKubeletIsDone(t *testing.T) {
	b := newBed(t, filesystems{kind: "ext4"})
	p := b.Pod("evicted", "data")
	w := p.Writer("w", intoLayer, 0, 64*mebibyte)
	p.Writer("v", intoEmptyDir("data"), 0, 32*mebibyte)
	c := b.client()
	b.await("figures of what was written", func() bool {
		all, err := c.Containers(t.Context())
		must(t, err)
		u := usage(all, w.ID)
		return u != nil && near(u.Bytes, 64*mebibyte)
	})
	b.sync(b.NodeFs)
	before, _ := b.available(b.NodeFs)
	freed := func() int64 { after, _ := b.available(b.NodeFs); return after - before }
	r := cri.Reclaim{Containers: true, KubeletHas: b.HasCgroup}

	p.Kill()
	b.await("end of the containers", func() bool {
		all, err := c.Containers(t.Context())
		must(t, err)
		return !slices.ContainsFunc(all, func(c cri.Container) bool { return c.Running })
	})
	if done, err := c.Reclaim(t.Context(), r, never); err != nil || done.Containers != 0 {
		t.Errorf("while the kubelet has the pod: %+v, %v, want none removed", done, err)
	}
	b.Kubelet()
	b.await("end of the pod", func() bool { return !b.HasCgroup(p.UID) })
	done, err := c.Reclaim(t.Context(), r, func() int64 { return 90*mebibyte - freed() })
	must(t, err)
	if done.Containers != 2 || freed() < 90*mebibyte {
		t.Errorf("%+v freed %d bytes, want both containers and 96 MiB", done, freed())
	}
}

func TestUnusedImagesGoAndOthersStay(t *testing.T) {
	for _, f := range []filesystems{{kind: "ext4"}, {kind: "xfs", dedicated: true}} {
		t.Run(f.kind, func(t *testing.T) {
			b := newBed(t, f)
			p := b.Pod("users")
			for _, name := range []string{"running", "dead"} {
				b.Image("ebpf-evict.test/"+name+":1", 4)
			}
			p.Run("running", "ebpf-evict.test/running:1", "wait")
			dead := p.Run("dead", "ebpf-evict.test/dead:1", "wait")
			_, err := b.runtime.StopContainer(b.within(), &runtime.StopContainerRequest{ContainerId: dead.ID, Timeout: 10})
			must(t, err)
			for _, name := range []string{"a", "b", "c"} {
				b.Image("ebpf-evict.test/unused-"+name+":1", 24)
			}
			c := b.client()
			if done, err := c.Reclaim(t.Context(), cri.Reclaim{Images: true}, never); err != nil || done.Images != 0 {
				t.Errorf("images just come: %+v, %v, want none removed", done, err)
			}
			b.sync(b.ImageFs)
			before, _ := b.available(b.ImageFs)
			freed := func() int64 { after, _ := b.available(b.ImageFs); return after - before }
			r := cri.Reclaim{Images: true, ImageAge: time.Nanosecond}

			// One holds 48 MiB, packed and unpacked; beside the three there is the writer's own.
			done, err := c.Reclaim(t.Context(), r, func() int64 { return 40*mebibyte - freed() })
			must(t, err)
			t.Logf("%+v freed %d MiB", done, freed()/mebibyte)
			if done.Images > 2 || freed() < 40*mebibyte {
				t.Errorf("%d images freed %d bytes, want no more than it takes for 40 MiB", done.Images, freed())
			}
			done, err = c.Reclaim(t.Context(), r, never)
			must(t, err)
			t.Logf("%+v freed %d MiB in all", done, freed()/mebibyte)
			if freed() < 140*mebibyte {
				t.Errorf("all unused images freed %d bytes, want 144 MiB", freed())
			}
			want := []string{"ebpf-evict.test/dead:1", infraImage, "ebpf-evict.test/running:1"}
			if got := b.imageNames(); !slices.Equal(got, want) {
				t.Errorf("left are %v, want %v", got, want)
			}
			b.Pod("later").Run("c", "ebpf-evict.test/running:1", "wait")
		})
	}
}

func TestRuntimeThatHangsOrStopsIsAnErrorAndHeals(t *testing.T) {
	b := newBed(t, filesystems{kind: "ext4"})
	b.Pod("p").Run("c", writerImage, "wait")
	c := b.client()
	list := func() ([]cri.Container, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return c.Containers(ctx)
	}
	heals := func(after string) {
		t.Helper()
		var got []cri.Container
		b.await("answer after "+after, func() bool {
			var err error
			got, err = list()
			return err == nil
		})
		if len(got) != 1 || !got[0].Running {
			t.Errorf("after %s the containers are %+v, want the one that runs", after, got)
		}
	}
	heals("nothing")

	b.freeze()
	if _, err := list(); !errors.Is(err, cri.ErrUnavailable) {
		t.Errorf("a runtime that hangs: %v", err)
	}
	fresh := b.client() // connects to a socket that nobody serves
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if done, err := fresh.Reclaim(ctx, cri.Reclaim{Containers: true, Images: true}, never); !errors.Is(err, cri.ErrUnavailable) {
		t.Errorf("reclaim of a runtime that hangs: %+v, %v", done, err)
	}
	b.thaw()
	heals("a hang")

	b.stop()
	if _, err := list(); !errors.Is(err, cri.ErrUnavailable) {
		t.Errorf("a runtime that was stopped: %v", err)
	}
	b.start()
	heals("a restart")
}

func TestImageBeingPulledStays(t *testing.T) {
	b := newBed(t, filesystems{kind: "ext4"})
	b.Image("ebpf-evict.test/unused:1", 8)
	image := newImage(t, "writer", 8)
	r := newRegistry(t, image)
	pulled := make(chan error, 1)
	go func() {
		_, err := b.images.PullImage(b.within(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: r.Name()}})
		pulled <- err
	}()
	select {
	case <-r.Asked:
	case err := <-pulled:
		t.Fatalf("pulled before the registry served: %v", err)
	}

	c := b.client()
	done, err := c.Reclaim(t.Context(), cri.Reclaim{Images: true, ImageAge: time.Nanosecond}, never)
	must(t, err)
	if done.Images != 2 || slices.Contains(b.imageNames(), "ebpf-evict.test/unused:1") {
		t.Errorf("%+v during a pull, want the two unused images gone", done)
	}
	r.LetGo()
	must(t, <-pulled)
	done, err = c.Reclaim(t.Context(), cri.Reclaim{Images: true}, never)
	must(t, err)
	if done.Images != 0 {
		t.Errorf("%+v right after a pull, want none", done)
	}
	b.Pod("p").Run("c", r.Name(), "wait")
}
