package cri_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
)

// fakeRuntime is a runtime in memory, on a real socket. What is removed is noted in order.
type fakeRuntime struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer

	mu         sync.Mutex
	containers []*runtime.Container
	statuses   map[string]*runtime.ContainerStatus
	sandboxes  []*runtime.PodSandbox
	images     []*runtime.Image
	stats      []*runtime.ContainerStats
	config     string
	fs         *runtime.ImageFsInfoResponse
	removed    []string
	refuse     map[string]bool
	statsFail  bool
	// removing is called before something is removed, and may change what there is.
	removing func(id string)
	// listing is called before images are listed.
	listing func()
	// statusCalls counts ContainerStatus.
	statusCalls int
	// others answers what is not CRI; nil: unknown methods.
	others func(method string) error
}

// serve listens on socket until stop is called.
func (f *fakeRuntime) serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		if f.others == nil {
			return status.Error(codes.Unimplemented, method)
		}
		var request emptypb.Empty
		if err := errors.Join(stream.RecvMsg(&request), f.others(method)); err != nil {
			return err
		}
		return stream.SendMsg(new(emptypb.Empty))
	}))
	runtime.RegisterRuntimeServiceServer(s, f)
	runtime.RegisterImageServiceServer(s, f)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return s.Stop
}

// client serves the runtime and returns a client of it.
func (f *fakeRuntime) client(t *testing.T) *cri.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	f.serve(t, socket)
	return dial(t, socket)
}

func dial(t *testing.T, socket string) *cri.Client {
	t.Helper()
	c, err := cri.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// pod adds a sandbox that was created age ago.
func (f *fakeRuntime) pod(uid string, ready bool, age time.Duration) {
	state := runtime.PodSandboxState_SANDBOX_NOTREADY
	if ready {
		state = runtime.PodSandboxState_SANDBOX_READY
	}
	f.sandboxes = append(f.sandboxes, &runtime.PodSandbox{
		Id: "sandbox-" + uid, State: state, CreatedAt: time.Now().Add(-age).UnixNano(), Labels: labels(uid),
	})
}

func labels(uid string) map[string]string {
	return map[string]string{
		"io.kubernetes.pod.uid": uid, "io.kubernetes.pod.name": "name-" + uid, "io.kubernetes.pod.namespace": "ns",
	}
}

// container adds one to a pod; it was created age ago and, if it exited, ended then too.
func (f *fakeRuntime) container(id, uid, name, image string, state runtime.ContainerState, age time.Duration) *runtime.ContainerStatus {
	created := time.Now().Add(-age).UnixNano()
	f.containers = append(f.containers, &runtime.Container{
		Id: id, PodSandboxId: "sandbox-" + uid, Metadata: &runtime.ContainerMetadata{Name: name},
		Image: &runtime.ImageSpec{Image: image}, ImageRef: image, State: state, CreatedAt: created, Labels: labels(uid),
	})
	s := &runtime.ContainerStatus{Id: id, State: state, CreatedAt: created}
	if state == runtime.ContainerState_CONTAINER_EXITED {
		s.FinishedAt = created
	}
	if f.statuses == nil {
		f.statuses = map[string]*runtime.ContainerStatus{}
	}
	f.statuses[id] = s
	return s
}

func (f *fakeRuntime) image(id string, tags ...string) *runtime.Image {
	i := &runtime.Image{Id: id, RepoTags: tags}
	f.images = append(f.images, i)
	return i
}

func (f *fakeRuntime) ListContainers(context.Context, *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &runtime.ListContainersResponse{Containers: slices.Clone(f.containers)}, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.statusCalls++
	s := f.statuses[r.GetContainerId()]
	if s == nil {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	return &runtime.ContainerStatusResponse{Status: s}, nil
}

func (f *fakeRuntime) ListContainerStats(context.Context, *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	if f.statsFail {
		return nil, status.Error(codes.Unknown, "a task is gone")
	}
	return &runtime.ListContainerStatsResponse{Stats: f.stats}, nil
}

func (f *fakeRuntime) ContainerStats(_ context.Context, r *runtime.ContainerStatsRequest) (*runtime.ContainerStatsResponse, error) {
	for _, s := range f.stats {
		if s.GetAttributes().GetId() == r.GetContainerId() {
			return &runtime.ContainerStatsResponse{Stats: s}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "no such container")
}

func (f *fakeRuntime) ListPodSandbox(context.Context, *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &runtime.ListPodSandboxResponse{Items: slices.Clone(f.sandboxes)}, nil
}

func (f *fakeRuntime) ListImages(context.Context, *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listing != nil {
		f.listing()
	}
	return &runtime.ListImagesResponse{Images: slices.Clone(f.images)}, nil
}

func (f *fakeRuntime) Status(context.Context, *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	return &runtime.StatusResponse{Info: map[string]string{"config": f.config}}, nil
}

func (f *fakeRuntime) ImageFsInfo(context.Context, *runtime.ImageFsInfoRequest) (*runtime.ImageFsInfoResponse, error) {
	return f.fs, nil
}

func (f *fakeRuntime) StopPodSandbox(context.Context, *runtime.StopPodSandboxRequest) (*runtime.StopPodSandboxResponse, error) {
	return &runtime.StopPodSandboxResponse{}, nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	return &runtime.RemoveContainerResponse{}, f.remove(r.GetContainerId())
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, r *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	return &runtime.RemovePodSandboxResponse{}, f.remove(r.GetPodSandboxId())
}

func (f *fakeRuntime) RemoveImage(_ context.Context, r *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	return &runtime.RemoveImageResponse{}, f.remove(r.GetImage().GetImage())
}

func (f *fakeRuntime) remove(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse[id] {
		return status.Error(codes.Unknown, "refused")
	}
	if f.removing != nil {
		f.removing(id)
	}
	f.removed = append(f.removed, id)
	f.drop(id)
	return nil
}

// gone is what was removed, in order.
func (f *fakeRuntime) gone() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.removed)
}

// drop makes something vanish.
func (f *fakeRuntime) drop(id string) {
	f.containers = slices.DeleteFunc(f.containers, func(c *runtime.Container) bool { return c.GetId() == id })
	f.sandboxes = slices.DeleteFunc(f.sandboxes, func(s *runtime.PodSandbox) bool { return s.GetId() == id })
	f.images = slices.DeleteFunc(f.images, func(i *runtime.Image) bool { return i.GetId() == id })
	delete(f.statuses, id)
}
