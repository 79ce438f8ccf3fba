package cri

import (
	"context"
	"errors"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Filesystems are directories on the filesystems that the runtime stores on.
type Filesystems struct {
	// ImageDir lies on that of the images: the kubelet's imagefs.
	ImageDir string
	// ContainerDir lies on that of the writable layers; "" where they lie with the images.
	ContainerDir string
}

// Filesystems asks where images and writable layers lie (ImageFsInfo). Whether two
// directories are of one filesystem is for statfs to tell.
func (c *Client) Filesystems(ctx context.Context) (Filesystems, error) {
	if err := c.isThere(); err != nil {
		return Filesystems{}, err
	}
	info, err := call(ctx, lookWithin, "ask for the image filesystem", c.images.ImageFsInfo, &runtime.ImageFsInfoRequest{})
	if err != nil {
		return Filesystems{}, err
	}
	// The first of each, as the kubelet takes it.
	f := Filesystems{ImageDir: mountpoint(info.GetImageFilesystems()), ContainerDir: mountpoint(info.GetContainerFilesystems())}
	if f.ImageDir == "" {
		return Filesystems{}, errors.New("ask for the image filesystem: the runtime names none")
	}
	if f.ContainerDir == f.ImageDir {
		f.ContainerDir = ""
	}
	return f, nil
}

func mountpoint(usages []*runtime.FilesystemUsage) string {
	if len(usages) == 0 {
		return ""
	}
	return usages[0].GetFsId().GetMountpoint()
}
