package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet's labels (k8s.io/kubelet pkg/types).
const (
	labelPodUID       = "io.kubernetes.pod.uid"
	labelPodName      = "io.kubernetes.pod.name"
	labelPodNamespace = "io.kubernetes.pod.namespace"
)

// Container is one container of a pod, running or not.
type Container struct {
	ID, Name string
	// The pod's, as the kubelet labels them; "" for a container that is not the kubelet's.
	PodUID, PodName, PodNamespace string
	SandboxID                     string
	Running                       bool
	// Created is by the runtime's clock, as Finished, which is zero until it ended.
	Created, Finished time.Time
	// Image is the image's id, or what the runtime has in its place.
	Image string
	// LogPath is the log on the host, "" when there is none.
	LogPath string
	// Rootfs is the writable layer; nil when the runtime does not tell, as containerd 1.6 does
	// for up to 10 s after the start. It does tell of dead ones.
	Rootfs *Usage

	state runtime.ContainerState
	// named are all names that the container has for its image.
	named []string
}

// Usage is what a writable layer occupies.
type Usage struct {
	Bytes int64
	// Inodes is -1 when the runtime does not tell.
	Inodes int64
	// Time is when the runtime measured it: containerd does so every 10 s.
	Time time.Time
}

// containerStatus is what ContainerStatus tells beyond the list.
type containerStatus struct {
	state    runtime.ContainerState
	finished time.Time
	logPath  string
	// images are those mounted as volumes.
	images []string
}

// Containers lists the containers of all pods with their writable layers. It also looks at
// the images: when one was first and last seen in use is known by these calls, so a reclaim
// is the better the more regularly they are made. With an error come the containers that
// were listed, if any, without what could not be told.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	if err := c.isThere(); err != nil {
		return nil, err
	}
	containers, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	// One shim that hangs holds up the figures of all.
	if err := c.addUsage(ctx, containers); err != nil {
		return containers, err
	}
	_, err = c.lookAtImages(ctx, containers)
	return containers, err
}

// list is the containers without their usage.
func (c *Client) list(ctx context.Context) ([]Container, error) {
	answer, err := call(ctx, lookWithin, "list containers", c.runtime.ListContainers, &runtime.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	known := make(map[string]containerStatus, len(answer.GetContainers()))
	var containers []Container
	for _, listed := range answer.GetContainers() {
		s, err := c.status(ctx, listed)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		known[listed.GetId()] = s
		containers = append(containers, newContainer(listed, s))
	}
	c.mu.Lock()
	c.statuses = known
	c.mu.Unlock()
	return containers, nil
}

func newContainer(listed *runtime.Container, s containerStatus) Container {
	image := listed.GetImageId()
	if image == "" {
		image = listed.GetImageRef()
	}
	named := append([]string{
		listed.GetImageId(), listed.GetImageRef(), listed.GetImage().GetImage(), listed.GetImage().GetUserSpecifiedImage(),
	}, s.images...)
	return Container{
		ID: listed.GetId(), Name: listed.GetMetadata().GetName(),
		PodUID: listed.GetLabels()[labelPodUID], PodName: listed.GetLabels()[labelPodName], PodNamespace: listed.GetLabels()[labelPodNamespace],
		SandboxID: listed.GetPodSandboxId(),
		Running:   listed.GetState() == runtime.ContainerState_CONTAINER_RUNNING,
		Created:   time.Unix(0, listed.GetCreatedAt()),
		Finished:  s.finished,
		Image:     image,
		LogPath:   s.logPath,
		state:     listed.GetState(),
		named:     named,
	}
}

// status is asked for once a state: 200 pods take one call then, not 400.
func (c *Client) status(ctx context.Context, listed *runtime.Container) (containerStatus, error) {
	c.mu.Lock()
	s, ok := c.statuses[listed.GetId()]
	c.mu.Unlock()
	if ok && s.state == listed.GetState() {
		return s, nil
	}
	answer, err := call(ctx, lookWithin, "ask for a container's status", c.runtime.ContainerStatus,
		&runtime.ContainerStatusRequest{ContainerId: listed.GetId()})
	if err != nil {
		return containerStatus{}, err
	}
	s = containerStatus{state: listed.GetState(), logPath: answer.GetStatus().GetLogPath()}
	if at := answer.GetStatus().GetFinishedAt(); at > 0 && s.state == runtime.ContainerState_CONTAINER_EXITED {
		s.finished = time.Unix(0, at)
	}
	for _, m := range answer.GetStatus().GetMounts() {
		if image := m.GetImage().GetImage(); image != "" {
			s.images = append(s.images, image)
		}
	}
	return s, nil
}

// addUsage adds the writable layers. containerd up to 1.7 fails the whole list when one
// container goes meanwhile: then each is asked for alone.
func (c *Client) addUsage(ctx context.Context, containers []Container) error {
	answer, err := call(ctx, lookWithin, "list container stats", c.runtime.ListContainerStats, &runtime.ListContainerStatsRequest{})
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	if err != nil {
		return c.addUsageOneByOne(ctx, containers)
	}
	byID := make(map[string]*Usage, len(answer.GetStats()))
	for _, s := range answer.GetStats() {
		byID[s.GetAttributes().GetId()] = usageOf(s)
	}
	for i := range containers {
		containers[i].Rootfs = byID[containers[i].ID]
	}
	return nil
}

// addUsageOneByOne leaves those without usage of which the runtime tells none.
func (c *Client) addUsageOneByOne(ctx context.Context, containers []Container) error {
	for i := range containers {
		if !containers[i].Running {
			continue
		}
		answer, err := call(ctx, lookWithin, "ask for a container's stats", c.runtime.ContainerStats,
			&runtime.ContainerStatsRequest{ContainerId: containers[i].ID})
		if errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("container %s: %w", containers[i].ID, err)
		}
		containers[i].Rootfs = usageOf(answer.GetStats())
	}
	return nil
}

// usageOf is nil where the runtime has not measured yet.
func usageOf(s *runtime.ContainerStats) *Usage {
	w := s.GetWritableLayer()
	if w.GetUsedBytes() == nil || w.GetTimestamp() == 0 {
		return nil
	}
	u := &Usage{Bytes: int64(w.GetUsedBytes().GetValue()), Inodes: -1, Time: time.Unix(0, w.GetTimestamp())}
	if n := w.GetInodesUsed(); n != nil {
		u.Inodes = int64(n.GetValue())
	}
	return u
}
