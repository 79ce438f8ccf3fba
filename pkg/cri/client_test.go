package cri_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
)

const (
	running = runtime.ContainerState_CONTAINER_RUNNING
	exited  = runtime.ContainerState_CONTAINER_EXITED
	created = runtime.ContainerState_CONTAINER_CREATED
	unknown = runtime.ContainerState_CONTAINER_UNKNOWN
)

func TestEndpointHasToBeASocketsPath(t *testing.T) {
	for _, endpoint := range []string{"tcp://127.0.0.1:1", "containerd.sock", "unix://containerd.sock"} {
		if _, err := cri.Dial(endpoint); err == nil {
			t.Errorf("%q is taken", endpoint)
		}
	}
}

func TestUnansweredCallEndsByItsDeadlineAndHeals(t *testing.T) {
	f := &fakeRuntime{fs: imageFs("/images")}
	socket := filepath.Join(t.TempDir(), "s")
	c := dial(t, socket)
	askBy := func(c *cri.Client) error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := c.Filesystems(ctx)
		return err
	}
	ask := func() error { return askBy(c) }

	if err := ask(); !errors.Is(err, cri.ErrUnavailable) {
		t.Errorf("without a socket: %v", err)
	}
	hung, err := net.Listen("unix", socket) // accepts by its backlog, and never reads
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*cri.Client{"a client that failed before": c, "a new client": dial(t, socket)} {
		if err := askBy(c); !errors.Is(err, cri.ErrUnavailable) {
			t.Errorf("a socket that hangs, %s: %v", what, err)
		}
	}
	_ = hung.Close()
	stop := f.serve(t, socket)
	healed(t, ask)
	stop()
	if err := ask(); !errors.Is(err, cri.ErrUnavailable) {
		t.Errorf("a runtime that was stopped: %v", err)
	}
	f.serve(t, socket)
	healed(t, ask)
}

// healed asks until there is an answer.
func healed(t *testing.T, ask func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never healed: %v", err)
		}
	}
}

func imageFs(dirs ...string) *runtime.ImageFsInfoResponse {
	var all []*runtime.FilesystemUsage
	for _, d := range dirs {
		all = append(all, &runtime.FilesystemUsage{FsId: &runtime.FilesystemIdentifier{Mountpoint: d}})
	}
	return &runtime.ImageFsInfoResponse{ImageFilesystems: all}
}

func TestFilesystems(t *testing.T) {
	split, same := imageFs("/images"), imageFs("/images")
	split.ContainerFilesystems = imageFs("/layers").ImageFilesystems
	same.ContainerFilesystems = same.ImageFilesystems
	for name, tc := range map[string]struct {
		answer *runtime.ImageFsInfoResponse
		want   cri.Filesystems
		fails  bool
	}{
		"images alone, before Kubernetes 1.29": {imageFs("/images"), cri.Filesystems{ImageDir: "/images"}, false},
		"writable layers with the images":      {same, cri.Filesystems{ImageDir: "/images"}, false},
		"writable layers apart":                {split, cri.Filesystems{ImageDir: "/images", ContainerDir: "/layers"}, false},
		"several, the first counts":            {imageFs("/images", "/more"), cri.Filesystems{ImageDir: "/images"}, false},
		"none":                                 {imageFs(), cri.Filesystems{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeRuntime{fs: tc.answer}
			got, err := f.client(t).Filesystems(t.Context())
			if (err != nil) != tc.fails || got != tc.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func TestContainers(t *testing.T) {
	for name, fails := range map[string]bool{"by one list": false, "one by one where the list fails": true} {
		t.Run(name, func(t *testing.T) {
			f := &fakeRuntime{statsFail: fails}
			f.pod("u", true, time.Hour)
			f.container("c1", "u", "app", "sha256:a", running, time.Hour).LogPath = "/log/app/1.log"
			f.container("c0", "u", "app", "sha256:a", exited, 2*time.Hour)
			f.container("c2", "u", "new", "sha256:a", running, time.Second)
			f.stats = []*runtime.ContainerStats{
				{Attributes: &runtime.ContainerAttributes{Id: "c1"}, WritableLayer: &runtime.FilesystemUsage{
					Timestamp: 7, UsedBytes: &runtime.UInt64Value{Value: 4096}, InodesUsed: &runtime.UInt64Value{Value: 3},
				}},
				{Attributes: &runtime.ContainerAttributes{Id: "c2"}}, // not measured yet
			}
			got, err := f.client(t).Containers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 3 {
				t.Fatalf("got %d containers, want 3", len(got))
			}
			c1 := got[0]
			if c1.ID != "c1" || c1.Name != "app" || c1.PodUID != "u" || c1.PodName != "name-u" || c1.PodNamespace != "ns" ||
				c1.SandboxID != "sandbox-u" || !c1.Running || c1.LogPath != "/log/app/1.log" || c1.Image != "sha256:a" || !c1.Finished.IsZero() {
				t.Errorf("running container is %+v", c1)
			}
			if diff := cmp.Diff(&cri.Usage{Bytes: 4096, Inodes: 3, Time: time.Unix(0, 7)}, c1.Rootfs); diff != "" {
				t.Errorf("writable layer (-want +got):\n%s", diff)
			}
			if c0 := got[1]; c0.Running || c0.Finished.IsZero() || c0.Rootfs != nil {
				t.Errorf("dead container is %+v", c0)
			}
			if got[2].Rootfs != nil {
				t.Errorf("a layer that is not measured yet is %+v", got[2].Rootfs)
			}
		})
	}
}

func TestStatusIsAskedOnceAState(t *testing.T) {
	f := &fakeRuntime{}
	f.pod("u", true, time.Hour)
	f.container("c", "u", "app", "i", running, time.Hour)
	c := f.client(t)
	list := func() cri.Container {
		t.Helper()
		got, err := c.Containers(t.Context())
		if err != nil || len(got) != 1 {
			t.Fatalf("got %v, %v", got, err)
		}
		return got[0]
	}
	list()
	list()
	if f.statusCalls != 1 {
		t.Errorf("asked %d times, want once", f.statusCalls)
	}
	f.mu.Lock()
	f.containers[0].State = exited
	f.statuses["c"].FinishedAt = 9
	f.mu.Unlock()
	if got := list(); got.Finished != time.Unix(0, 9) {
		t.Errorf("ended at %v, want what the status says after the end", got.Finished)
	}
}
