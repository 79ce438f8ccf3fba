package cri_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
)

func never() int64 { return 1 }

// until is what is missing until there is enough.
func until(enough func() bool) func() int64 {
	return func() int64 {
		if enough() {
			return 0
		}
		return 1
	}
}

// quiet is enough when nothing more is removed, well before a reclaim would give up waiting.
func quiet(f *fakeRuntime) func() int64 {
	removed, looks := 0, 0
	return until(func() bool {
		if n := len(f.gone()); n != removed {
			removed, looks = n, 0
		}
		looks++
		return removed > 0 && looks > 30
	})
}

// booted is long before what the tests make: their machine may have just started.
var booted = time.Now().Add(-24 * time.Hour)

// atOnce takes images of any age.
var atOnce = cri.Reclaim{Containers: true, Images: true, ImageAge: time.Nanosecond, Booted: booted}

func TestDeadContainersGoInTheKubeletsOrder(t *testing.T) {
	t.Parallel() // a reclaim waits up to 2 s for what it removed
	for name, tc := range map[string]struct {
		prepare func(*fakeRuntime)
		want    []string
		// has is what the kubelet says of the pods; nil when it is not asked.
		has func(uid string) bool
	}{
		"of a running pod all but the newest dead of each name": {func(f *fakeRuntime) {
			f.pod("u", true, time.Hour)
			f.container("app3", "u", "app", "", running, 10*time.Minute)
			f.container("app2", "u", "app", "", exited, 20*time.Minute)
			f.container("app1", "u", "app", "", exited, 30*time.Minute)
			f.container("app0", "u", "app", "", exited, 40*time.Minute)
			f.container("init0", "u", "init", "", exited, 50*time.Minute)
		}, []string{"app0", "app1"}, nil},
		"of a pod that ended all, then its sandbox": {func(f *fakeRuntime) {
			f.pod("u", false, time.Hour)
			f.container("app1", "u", "app", "", exited, 10*time.Minute)
			f.container("app0", "u", "app", "", exited, 20*time.Minute)
			f.container("never", "u", "late", "", created, 5*time.Minute)
		}, []string{"app0", "app1", "never", "sandbox-u"}, nil},
		"not of a pod that ended a moment ago": {func(f *fakeRuntime) {
			f.pod("u", false, time.Hour)
			f.container("app", "u", "app", "", exited, time.Second)
		}, nil, nil},
		"not of a pod whose sandbox is replaced this moment": {func(f *fakeRuntime) {
			f.pod("u", false, time.Hour)
			f.pod("u", false, time.Second)
			f.sandboxes[1].Id = "sandbox-second"
			f.container("app", "u", "app", "", exited, 10*time.Minute)
		}, nil, nil},
		"not of a pod that the kubelet still has": {func(f *fakeRuntime) {
			f.pod("u", false, time.Hour)
			f.container("app", "u", "app", "", exited, 10*time.Minute)
		}, nil, func(string) bool { return true }},
		"of a pod that ended a moment ago, and the kubelet is done with it": {func(f *fakeRuntime) {
			f.pod("u", false, time.Minute)
			f.container("app", "u", "app", "", exited, time.Second)
		}, []string{"app", "sandbox-u"}, func(string) bool { return false }},
		"not of a pod that ended a moment ago, where the kubelet seems not to have those that run": {func(f *fakeRuntime) {
			f.pod("runs", true, time.Hour)
			f.pod("u", false, time.Minute)
			f.container("app", "u", "app", "", exited, time.Second)
		}, nil, func(string) bool { return false }},
		"not of a running pod, whatever its kubelet says": {func(f *fakeRuntime) {
			f.pod("u", true, time.Minute)
			f.container("app", "u", "app", "", exited, time.Second)
		}, nil, func(string) bool { return false }},
		"not of a pod from before the boot": {func(f *fakeRuntime) {
			f.pod("u", false, 20*365*24*time.Hour)
			f.container("app", "u", "app", "", exited, 10*time.Minute)
		}, nil, nil},
		"not one in an unknown state, nor the others of its pod": {func(f *fakeRuntime) {
			f.pod("u", false, time.Hour)
			f.container("app", "u", "app", "", unknown, 10*time.Minute)
			f.container("side", "u", "side", "", exited, 10*time.Minute)
		}, nil, nil},
		"not one that is about to start": {func(f *fakeRuntime) {
			f.pod("u", true, time.Hour)
			f.container("app1", "u", "app", "", created, 10*time.Minute)
			f.container("app0", "u", "app", "", exited, 20*time.Minute)
		}, nil, nil},
		"not one that is not the kubelet's": {func(f *fakeRuntime) {
			f.pod("u", false, time.Hour)
			f.container("app", "u", "app", "", exited, 10*time.Minute)
			f.sandboxes[0].Labels, f.containers[0].Labels = nil, nil
		}, nil, nil},
		"older sandboxes of a running pod": {func(f *fakeRuntime) {
			f.pod("u", false, time.Hour)
			f.sandboxes[0].Id = "sandbox-first"
			f.pod("u", true, time.Minute)
			f.container("app", "u", "app", "", running, time.Minute)
		}, []string{"sandbox-first"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeRuntime{}
			tc.prepare(f)
			done, err := f.client(t).Reclaim(t.Context(), cri.Reclaim{Containers: true, KubeletHas: tc.has, Booted: booted}, quiet(f))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, f.gone()); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
			containers := 0
			for _, id := range tc.want {
				if !strings.HasPrefix(id, "sandbox-") {
					containers++
				}
			}
			if done != (cri.Reclaimed{Containers: containers}) {
				t.Errorf("says %+v, want %d containers", done, containers)
			}
		})
	}
}

func TestRemovedContainersTakeTheirLogsAlong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"0.log", "0.log.20260102-030405", "0.log.20260102-030405.gz", "1.log", "10.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := &fakeRuntime{}
	f.pod("u", true, time.Hour)
	f.container("app0", "u", "app", "", exited, time.Hour).LogPath = filepath.Join(dir, "0.log")
	f.container("app1", "u", "app", "", exited, time.Minute).LogPath = filepath.Join(dir, "1.log")
	if _, err := f.client(t).Reclaim(t.Context(), cri.Reclaim{Containers: true, Booted: booted}, quiet(f)); err != nil {
		t.Fatal(err)
	}
	var left []string
	files, _ := os.ReadDir(dir)
	for _, file := range files {
		left = append(left, file.Name())
	}
	if diff := cmp.Diff([]string{"1.log", "10.log"}, left); diff != "" {
		t.Errorf("logs left (-want +got):\n%s", diff)
	}
}

func TestUnusedImagesGo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prepare func(*fakeRuntime)
		want    []string
	}{
		"not those of running or dead containers": {func(f *fakeRuntime) {
			f.image("sha256:free")
			f.image("sha256:run")
			f.image("sha256:dead")
			f.container("r", "u", "r", "sha256:run", running, time.Hour)
			f.container("d", "u", "d", "sha256:dead", exited, time.Hour)
		}, []string{"sha256:free"}},
		"not those that a container has by tag or digest": {func(f *fakeRuntime) {
			f.image("sha256:tag", "host/app:1")
			f.image("sha256:digest").RepoDigests = []string{"host/app@sha256:1"}
			f.container("r", "u", "r", "host/app:1", running, time.Hour)
			f.container("d", "u", "d", "host/app@sha256:1", running, time.Hour)
		}, nil},
		"not those mounted as volumes": {func(f *fakeRuntime) {
			f.image("sha256:volume")
			f.container("r", "u", "r", "sha256:run", running, time.Hour).Mounts =
				[]*runtime.Mount{{Image: &runtime.ImageSpec{Image: "sha256:volume"}}}
		}, nil},
		"not the pinned": {func(f *fakeRuntime) { f.image("sha256:pinned").Pinned = true }, nil},
		"not the sandboxes' by the runtime's configuration": {func(f *fakeRuntime) {
			f.image("sha256:infra", "host/infra:1")
			f.config = `{"sandboxImage":"host/infra:1"}`
		}, nil},
		"not what is called pause": {func(f *fakeRuntime) {
			f.image("sha256:p1", "registry.k8s.io/pause:3.10")
			f.image("sha256:p2").RepoDigests = []string{"registry.k8s.io/pause@sha256:2"}
			f.image("sha256:q", "host/pauser:1")
		}, []string{"sha256:q"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeRuntime{}
			f.pod("u", true, time.Hour)
			tc.prepare(f)
			done, err := f.client(t).Reclaim(t.Context(), atOnce, never)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, f.gone()); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
			if done != (cri.Reclaimed{Images: len(tc.want)}) {
				t.Errorf("says %+v, want %d images", done, len(tc.want))
			}
		})
	}
}

func TestImageUsedLongestAgoGoesFirst(t *testing.T) {
	t.Parallel()
	f := &fakeRuntime{}
	f.pod("u", true, time.Hour)
	f.image("sha256:a")
	f.image("sha256:b")
	f.image("sha256:c")
	c := f.client(t)
	look := func() {
		t.Helper()
		if _, err := c.Containers(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.container("a", "u", "a", "sha256:a", running, time.Hour)
	look()
	f.drop("a")
	f.container("b", "u", "b", "sha256:b", running, time.Hour)
	look()
	f.drop("b")
	if _, err := c.Reclaim(t.Context(), atOnce, never); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"sha256:c", "sha256:a", "sha256:b"}, f.gone()); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestImageJustPulledStays(t *testing.T) {
	t.Parallel()
	f := &fakeRuntime{}
	f.image("sha256:a")
	c := f.client(t)
	if _, err := c.Reclaim(t.Context(), cri.Reclaim{Images: true}, never); err != nil {
		t.Fatal(err)
	}
	if len(f.gone()) > 0 {
		t.Errorf("removed %v at the first look, though it may have been pulled a moment ago", f.gone())
	}
}

func TestImageThatAPodTakesMeanwhileStays(t *testing.T) {
	t.Parallel()
	f := &fakeRuntime{}
	f.pod("u", true, time.Hour)
	f.image("sha256:a")
	f.image("sha256:b")
	f.removing = func(string) { f.container("new", "u", "new", "sha256:b", created, 0) }
	if _, err := f.client(t).Reclaim(t.Context(), atOnce, never); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"sha256:a"}, f.gone()); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestReclaimStopsWhenEnoughIsFree(t *testing.T) {
	t.Parallel()
	f := &fakeRuntime{}
	f.pod("u", true, time.Hour)
	f.container("app0", "u", "app", "", exited, 40*time.Minute)
	f.container("app1", "u", "app", "", exited, 30*time.Minute)
	f.container("app2", "u", "app", "", exited, 20*time.Minute)
	f.image("sha256:a")
	c := f.client(t)
	for i, want := range [][]string{nil, {"app0"}, {"app0", "app1"}, {"app0", "app1", "sha256:a"}} {
		enough := func() bool { return len(f.gone()) == i }
		if _, err := c.Reclaim(t.Context(), atOnce, until(enough)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, f.gone()); diff != "" {
			t.Errorf("until %d are removed (-want +got):\n%s", i, diff)
		}
	}
}

func TestWhatWasRemovedHasTimeToBeFreed(t *testing.T) {
	t.Parallel()
	images := func(f *fakeRuntime) { f.image("sha256:a"); f.image("sha256:b") }
	for name, tc := range map[string]struct {
		prepare func(*fakeRuntime)
		looks   int
		want    string
	}{
		"an image before the next": {images, 5, "sha256:a"},
		"dead containers before an image": {func(f *fakeRuntime) {
			f.pod("u", true, time.Hour)
			f.container("app0", "u", "app", "", exited, 40*time.Minute)
			f.container("app1", "u", "app", "", exited, 30*time.Minute)
			images(f)
		}, 25, "app0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, looks := &fakeRuntime{}, 0
			tc.prepare(f)
			enough := func() bool {
				if len(f.gone()) > 0 {
					looks++
				}
				return looks > tc.looks
			}
			if _, err := f.client(t).Reclaim(t.Context(), atOnce, until(enough)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tc.want}, f.gone()); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReclaimEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := &fakeRuntime{}
	f.image("sha256:a")
	f.image("sha256:b")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := f.client(t).Reclaim(ctx, atOnce, func() int64 {
		if len(f.gone()) == 1 {
			cancel()
		}
		return 1
	})
	if !errors.Is(err, context.Canceled) || len(f.gone()) != 1 {
		t.Errorf("removed %v, error %v; want one image and the context's error", f.gone(), err)
	}
}

func TestFailedRemovalKeepsNobodyElse(t *testing.T) {
	t.Parallel()
	f := &fakeRuntime{refuse: map[string]bool{"app0": true, "sha256:a": true}}
	f.pod("u", true, time.Hour)
	f.container("app0", "u", "app", "", exited, 40*time.Minute)
	f.container("app1", "u", "app", "", exited, 30*time.Minute)
	f.container("app2", "u", "app", "", exited, 20*time.Minute)
	f.image("sha256:a")
	f.image("sha256:b")
	done, err := f.client(t).Reclaim(t.Context(), atOnce, never)
	if err == nil || !strings.Contains(err.Error(), "app0") || !strings.Contains(err.Error(), "sha256:a") {
		t.Errorf("error is %v, want one that names both", err)
	}
	if done != (cri.Reclaimed{Containers: 1, Images: 1}) {
		t.Errorf("says %+v, want one of each", done)
	}
	if diff := cmp.Diff([]string{"app1", "sha256:b"}, f.gone()); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestReclaimGoesOnWhenAnotherCollectionIsOver(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		with, vanishes string
		want           []string
	}{
		"that of images":     {"sha256:a", "sha256:b", []string{"app0", "app1", "sha256:a", "sha256:c"}},
		"that of containers": {"app0", "app1", []string{"app0", "sha256:a", "sha256:b", "sha256:c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := reclaimable()
			f.removing = func(id string) {
				if id == tc.with {
					f.drop(tc.vanishes)
				}
			}
			done, err := f.client(t).Reclaim(t.Context(), atOnce, never)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, f.gone()); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
			if done.Containers+done.Images != len(tc.want) {
				t.Errorf("says %+v, want %d in all", done, len(tc.want))
			}
		})
	}
}

func TestCollectionThatGoesOnIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := reclaimable()
	for i := range 40 {
		f.image(fmt.Sprint("sha256:z", i))
	}
	lists := -1
	f.removing = func(id string) {
		if id == "sha256:a" {
			lists = 0
		}
	}
	f.listing = func() {
		if lists%3 == 0 {
			f.drop(fmt.Sprint("sha256:z", lists/3))
		}
		if lists >= 0 {
			lists++
		}
	}
	enough := func() bool { f.mu.Lock(); defer f.mu.Unlock(); return lists > 18 }
	done, err := f.client(t).Reclaim(t.Context(), atOnce, until(enough))
	if !errors.Is(err, cri.ErrBusy) {
		t.Errorf("error is %v, want ErrBusy", err)
	}
	if done != (cri.Reclaimed{Containers: 2, Images: 1}) {
		t.Errorf("removed %+v, want no image but the first while others vanish", done)
	}
}

// reclaimable has two dead containers and three images to remove.
func reclaimable() *fakeRuntime {
	f := &fakeRuntime{}
	f.pod("u", true, time.Hour)
	f.container("app0", "u", "app", "", exited, 40*time.Minute)
	f.container("app1", "u", "app", "", exited, 30*time.Minute)
	f.container("app2", "u", "app", "", exited, 20*time.Minute)
	f.image("sha256:a")
	f.image("sha256:b")
	f.image("sha256:c")
	return f
}

// containerd collects on demand, so that no image has to go for what a dead container held.
func TestWhatContainersHeldIsCollectedBeforeAnImageGoes(t *testing.T) {
	t.Parallel()
	f := &fakeRuntime{}
	f.pod("u", true, time.Hour)
	f.container("app1", "u", "app", "", exited, time.Minute)
	f.container("app0", "u", "app", "", exited, time.Hour)
	f.image("sha256:unused")
	var asked []string
	var freed atomic.Bool
	f.others = func(method string) error {
		asked = append(asked, method)
		if strings.HasSuffix(method, "Create") {
			return status.Error(codes.AlreadyExists, "one that was killed left it")
		}
		freed.Store(true)
		return nil
	}
	done, err := f.client(t).Reclaim(t.Context(), atOnce, until(freed.Load))
	if err != nil || done != (cri.Reclaimed{Containers: 1}) {
		t.Errorf("%+v, %v, want a container alone", done, err)
	}
	const leases = "/containerd.services.leases.v1.Leases/"
	if diff := cmp.Diff([]string{leases + "Create", leases + "Delete"}, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// After a collection who fills the disk is waited for no longer than something is freed.
func TestACollectionIsWaitedForWhileItFrees(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		missing func(look int) int64
		images  int
		most    int // looks
	}{
		"it frees bit by bit": {func(look int) int64 { return int64(30-look) / 5 }, 0, 35},
		"it freed nothing":    {func(int) int64 { return 1 }, 1, 30},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeRuntime{others: func(string) error { return nil }}
			f.pod("u", true, time.Hour)
			f.container("app1", "u", "app", "", exited, time.Minute)
			f.container("app0", "u", "app", "", exited, time.Hour)
			f.image("sha256:unused")
			looks := 0
			done, err := f.client(t).Reclaim(t.Context(), atOnce, func() int64 {
				if len(f.gone()) > 0 {
					looks++
				}
				return max(tc.missing(looks), 0)
			})
			if err != nil || done != (cri.Reclaimed{Containers: 1, Images: tc.images}) || looks > tc.most {
				t.Errorf("%+v after %d looks, %v, want %d images after %d at most", done, looks, err, tc.images, tc.most)
			}
		})
	}
}
