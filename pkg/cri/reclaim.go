package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrBusy means that somebody else, most likely the kubelet's own collection, removes dead
// containers or images at this moment: what is left is left to it.
var ErrBusy = errors.New("another garbage collection is at it")

const (
	// EndedAge is how long a pod has to rest before all of its containers go, where the
	// runtime alone is asked. The kubelet relists once a second and tells the API server its
	// pods' ends within seconds.
	EndedAge = 30 * time.Second
	// ImageAge is the kubelet's imageMinimumGCAge: an image that was just pulled is about to
	// be used.
	ImageAge = 2 * time.Minute
)

// XFS counts as available what was freed some milliseconds later.
const (
	freedEvery = 10 * time.Millisecond
	// stillFreed is how long nothing more has to be freed after a collection until it has freed
	// all: each image has it before the next goes.
	stillFreed = 10 * freedEvery
	// containersFreed is how long dead containers have at most before an image goes, whose
	// removal has them collected; lastFreed is how long they have when no image goes and nobody
	// collects on demand. Whoever fills the disk goes on meanwhile.
	containersFreed = 50 * freedEvery
	lastFreed       = 600 * freedEvery
)

// Another collection is over when nothing has vanished for calmLooks times calmEvery: the
// kubelet takes up to seconds for one large image.
const (
	calmEvery = 200 * time.Millisecond
	calmLooks = 10
)

// Reclaim says what of the node is to be freed.
type Reclaim struct {
	Containers, Images bool
	// ImageAge is for tests and impatient nodes; 0 is the constant.
	ImageAge time.Duration
	// KubeletHas tells whether the kubelet still has a pod. It makes a pod's cgroup before
	// its sandbox and removes it when it is done with the pod (SyncTerminatedPod), with
	// cgroupsPerQOS as is the default. Of a pod that it has the newest dead containers stay;
	// all of another go, however young: an evicted pod holds its layers until then. nil, or
	// where it does not know a pod that runs: the runtime alone is asked, and a pod has to rest
	// for EndedAge.
	KubeletHas func(podUID string) bool
	// Booted is for tests: when the machine started; zero is when it did.
	Booted time.Time
}

func (r *Reclaim) imageAge() time.Duration {
	if r.ImageAge == 0 {
		return ImageAge
	}
	return r.ImageAge
}

// Reclaimed is how many were removed.
type Reclaimed struct {
	Containers, Images int
}

// Reclaim removes dead containers with their logs, then unused images, in the kubelet's order
// and with its exceptions, one at a time until nothing is missing or ctx ends, and waits for what
// it removed to be freed: as long as that goes on after a collection, else up to 6.5 s. missing,
// in bytes or inodes, is asked before each removal and while waiting.
// While another collection is at it, it waits, and goes on once that is over; ErrBusy means
// that it was not when nothing was missing or ctx ended. What was removed is returned with an
// error too; one removal that fails does not keep from the next. ErrUnavailable: no answer. ErrNone: nobody to ask.
func (c *Client) Reclaim(ctx context.Context, r Reclaim, missing func() int64) (Reclaimed, error) {
	if err := c.isThere(); err != nil {
		return Reclaimed{}, err
	}
	stop := func() bool { return ctx.Err() != nil || missing() <= 0 }
	var all Reclaimed
	for {
		done, err := c.reclaim(ctx, r, missing, stop)
		all.Containers += done.Containers
		all.Images += done.Images
		if !errors.Is(err, ErrBusy) || !c.isCalm(ctx, stop) {
			return all, err
		}
	}
}

// isCalm waits until nothing vanishes any more, so that the other collection is over; false
// when there is reason to stop before.
func (c *Client) isCalm(ctx context.Context, stop func() bool) bool {
	before, err := c.present(ctx)
	for looks := 0; looks < calmLooks; looks++ {
		if err != nil || stop() {
			return false
		}
		time.Sleep(calmEvery)
		var now map[string]bool
		if now, err = c.present(ctx); isAnyGone(before, now) {
			looks = 0
		}
		before = now
	}
	return err == nil
}

// present are the ids of all containers and images.
func (c *Client) present(ctx context.Context) (map[string]bool, error) {
	containers, images, err := c.look(ctx)
	ids := idsOf(images)
	for _, c := range containers {
		ids[c.ID] = true
	}
	return ids, err
}

func isAnyGone(before, now map[string]bool) bool {
	for id := range before {
		if !now[id] {
			return true
		}
	}
	return false
}

// reclaim is one attempt.
func (c *Client) reclaim(ctx context.Context, r Reclaim, missing func() int64, stop func() bool) (Reclaimed, error) {
	var done Reclaimed
	var failed error
	if r.Containers {
		n, err := c.reclaimContainers(ctx, r, stop)
		done.Containers = n
		if isFinal(err) {
			return done, err
		}
		failed = err
	}
	isCollected := done.Containers == 0 || c.collect(ctx) == nil
	if done.Containers > 0 {
		waitFreed(ctx, containersFreed, isCollected, missing)
	}
	if r.Images {
		n, err := c.reclaimImages(ctx, r, missing, stop)
		done.Images = n
		failed = errors.Join(failed, err)
	}
	if !isCollected && done.Images == 0 {
		waitFreed(ctx, lastFreed, false, missing)
	}
	return done, errors.Join(failed, ctx.Err())
}

// waitFreed waits for what was removed to be freed, until nothing is missing or ctx ends; after a
// collection only while it goes on.
func waitFreed(ctx context.Context, within time.Duration, isCollected bool, missing func() int64) {
	left := missing()
	for waited, still := time.Duration(0), time.Duration(0); waited < within && left > 0 && ctx.Err() == nil; waited += freedEvery {
		if isCollected && still == stillFreed {
			return
		}
		time.Sleep(freedEvery)
		still += freedEvery
		now := missing()
		if now < left {
			still = 0
		}
		left = now
	}
}

// isFinal reports whether further tries are useless.
func isFinal(err error) bool { return errors.Is(err, ErrBusy) || errors.Is(err, ErrUnavailable) }

func (c *Client) reclaimContainers(ctx context.Context, r Reclaim, stop func() bool) (removed int, failed error) {
	pods, err := c.pods(ctx, r)
	if err != nil {
		return 0, err
	}
	for _, d := range deadContainers(pods) {
		if stop() {
			return removed, failed
		}
		err := c.removeContainer(ctx, d)
		if isFinal(err) {
			return removed, errors.Join(failed, err)
		}
		if err == nil {
			removed++
		}
		failed = errors.Join(failed, err)
	}
	if stop() {
		return removed, failed
	}
	return removed, errors.Join(failed, c.removeSandboxes(ctx, r))
}

func (c *Client) pods(ctx context.Context, r Reclaim) (map[string]*pod, error) {
	// Containers first: a pod that starts meanwhile then has a ready sandbox.
	containers, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	sandboxes, err := c.sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	return r.pods(containers, sandboxes), nil
}

// removeContainer removes a container and its log. A removal that finds nothing succeeds, so
// the runtime is asked first.
func (c *Client) removeContainer(ctx context.Context, d Container) error {
	_, err := call(ctx, lookWithin, "ask for a container's status", c.runtime.ContainerStatus, &runtime.ContainerStatusRequest{ContainerId: d.ID})
	if isGone(err) {
		return fmt.Errorf("%w: container %s is gone", ErrBusy, d.ID)
	}
	if err != nil {
		return err
	}
	_, err = call(ctx, removeWithin, "remove container "+d.ID, c.runtime.RemoveContainer, &runtime.RemoveContainerRequest{ContainerId: d.ID})
	if err != nil {
		return err
	}
	return removeLogs(d.LogPath)
}

// removeLogs removes a container's log and the older ones beside it, which the kubelet's
// rotation names PATH.TIMESTAMP and PATH.TIMESTAMP.gz.
func removeLogs(path string) error {
	if path == "" {
		return nil
	}
	dir, name := filepath.Split(path)
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("find the logs of a container: %w", err)
	}
	var failed error
	for _, f := range files {
		if f.Name() != name && !strings.HasPrefix(f.Name(), name+".") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("remove the log of a container: %w", err))
		}
	}
	return failed
}

// removeSandboxes removes those that the kubelet would remove once their containers are gone.
func (c *Client) removeSandboxes(ctx context.Context, r Reclaim) error {
	pods, err := c.pods(ctx, r)
	if err != nil {
		return err
	}
	var failed error
	for _, s := range deadSandboxes(pods) {
		err := c.removeSandbox(ctx, s)
		failed = errors.Join(failed, err)
		if isFinal(err) {
			break
		}
	}
	return failed
}

// removeSandbox stops it first, as the kubelet does: its network may still be there.
func (c *Client) removeSandbox(ctx context.Context, s sandbox) error {
	_, err := call(ctx, removeWithin, "stop sandbox "+s.id, c.runtime.StopPodSandbox, &runtime.StopPodSandboxRequest{PodSandboxId: s.id})
	if err != nil {
		return err
	}
	_, err = call(ctx, removeWithin, "remove sandbox "+s.id, c.runtime.RemovePodSandbox, &runtime.RemovePodSandboxRequest{PodSandboxId: s.id})
	return err
}

func (c *Client) reclaimImages(ctx context.Context, r Reclaim, missing func() int64, stop func() bool) (removed int, failed error) {
	if stop() {
		return 0, nil
	}
	sandboxImage, err := c.sandboxImage(ctx)
	if err != nil {
		return 0, err
	}
	containers, images, err := c.look(ctx)
	if err != nil {
		return 0, err
	}
	expected := idsOf(images)
	for _, candidate := range unused(images, containers, sandboxImage, r.imageAge()) {
		if stop() {
			return removed, failed
		}
		// A pod may have started with it meanwhile, or somebody else remove images too.
		containers, images, err := c.look(ctx)
		if err == nil {
			err = allThere(expected, images)
		}
		if err != nil {
			return removed, errors.Join(failed, err)
		}
		if candidate.isNamed(usedNames(containers)) {
			continue
		}
		delete(expected, candidate.id)
		err = c.removeImage(ctx, candidate)
		if isFinal(err) {
			return removed, errors.Join(failed, err)
		}
		if err == nil {
			removed++
			waitFreed(ctx, stillFreed, true, missing)
		}
		failed = errors.Join(failed, err)
	}
	return removed, failed
}

// allThere is ErrBusy if an image went that we did not remove.
func allThere(expected map[string]bool, images []image) error {
	there := idsOf(images)
	for id := range expected {
		if !there[id] {
			return fmt.Errorf("%w: image %s is gone", ErrBusy, id)
		}
	}
	return nil
}

func (c *Client) removeImage(ctx context.Context, i image) error {
	_, err := call(ctx, removeWithin, "remove image "+i.id, c.images.RemoveImage,
		&runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: i.id, RuntimeHandler: i.handler}})
	return err
}

func (c *Client) look(ctx context.Context) ([]Container, []image, error) {
	containers, err := c.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	images, err := c.lookAtImages(ctx, containers)
	return containers, images, err
}

func idsOf(images []image) map[string]bool {
	ids := make(map[string]bool, len(images))
	for _, i := range images {
		ids[i.id] = true
	}
	return ids
}
