package cri

import (
	"cmp"
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sighting is what the client itself saw of an image, as the kubelet's image collection
// keeps it: no runtime tells when an image was pulled or used.
type sighting struct {
	first, lastUsed time.Time
}

// image is one of the runtime's images.
type image struct {
	id      string
	names   []string // with the id
	handler string
	pinned  bool
	sighting
}

// lookAtImages lists the images and notes which are there and in use. Those that were there
// at the first look count as just pulled: it can't be told.
func (c *Client) lookAtImages(ctx context.Context, containers []Container) ([]image, error) {
	answer, err := call(ctx, lookWithin, "list images", c.images.ListImages, &runtime.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	used, now := usedNames(containers), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	images := make([]image, 0, len(answer.GetImages()))
	seen := make(map[string]sighting, len(answer.GetImages()))
	for _, listed := range answer.GetImages() {
		i := newImage(listed)
		i.sighting = c.seen[i.id]
		if i.first.IsZero() {
			i.first = now
		}
		if i.isNamed(used) {
			i.lastUsed = now
		}
		seen[i.id] = i.sighting
		images = append(images, i)
	}
	c.seen = seen
	return images, nil
}

func newImage(listed *runtime.Image) image {
	return image{
		id:      listed.GetId(),
		names:   slices.Concat([]string{listed.GetId()}, listed.GetRepoTags(), listed.GetRepoDigests()),
		handler: listed.GetSpec().GetRuntimeHandler(),
		pinned:  listed.GetPinned(),
	}
}

// usedNames are all names by which containers, running or dead, have their images.
func usedNames(containers []Container) map[string]bool {
	used := map[string]bool{}
	for _, c := range containers {
		for _, name := range c.named {
			used[name] = true
		}
	}
	delete(used, "")
	return used
}

func (i *image) isNamed(names map[string]bool) bool {
	return slices.ContainsFunc(i.names, func(n string) bool { return names[n] })
}

// isPause reports whether it is a sandbox's by its usual name, registry.k8s.io/pause: small,
// and without it no pod starts.
func (i *image) isPause() bool {
	return slices.ContainsFunc(i.names, func(n string) bool {
		base := path.Base(n)
		if end := strings.IndexAny(base, ":@"); end >= 0 {
			base = base[:end]
		}
		return base == "pause"
	})
}

// unused are the images that no container has and that have been there for age, those first
// that were used longest ago, then those that are there longest: the kubelet's order. The id
// makes it total.
func unused(images []image, containers []Container, sandboxImage string, age time.Duration) []image {
	used, now := usedNames(containers), time.Now()
	if sandboxImage != "" {
		used[sandboxImage] = true
	}
	free := slices.DeleteFunc(slices.Clone(images), func(i image) bool {
		return i.pinned || i.isPause() || i.isNamed(used) || now.Sub(i.first) < age
	})
	slices.SortFunc(free, func(a, b image) int {
		return cmp.Or(a.lastUsed.Compare(b.lastUsed), a.first.Compare(b.first), cmp.Compare(a.id, b.id))
	})
	return free
}

// sandboxImage is the image of the sandboxes by the runtime's configuration, "" where it
// shows none: containerd before 1.7 does and does not pin it, later ones and CRI-O pin it.
func (c *Client) sandboxImage(ctx context.Context) (string, error) {
	answer, err := call(ctx, lookWithin, "ask for the runtime's configuration", c.runtime.Status, &runtime.StatusRequest{Verbose: true})
	if err != nil {
		return "", err
	}
	var config struct {
		SandboxImage string `json:"sandboxImage"`
	}
	_ = json.Unmarshal([]byte(answer.GetInfo()["config"]), &config) // another runtime's is of another form
	return config.SandboxImage, nil
}
