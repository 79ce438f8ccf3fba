package signal

import "slices"

// The kubelet's disk signals. Bytes come from statfs's f_bavail, inodes from f_ffree.
const (
	// NodeFsAvailable is free bytes of the filesystem that holds the kubelet's root directory.
	NodeFsAvailable Signal = "nodefs.available"
	// NodeFsInodesFree is free inodes of the same filesystem.
	NodeFsInodesFree Signal = "nodefs.inodesFree"
	// ImageFsAvailable is free bytes of the filesystem that holds the container images.
	ImageFsAvailable Signal = "imagefs.available"
	// ImageFsInodesFree is free inodes of the same filesystem.
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	// ContainerFsAvailable is free bytes of the filesystem of the writable layers. The
	// kubelet copies its thresholds from nodefs or imagefs, as the layout asks.
	ContainerFsAvailable Signal = "containerfs.available"
	// ContainerFsInodesFree is free inodes of the same filesystem.
	ContainerFsInodesFree Signal = "containerfs.inodesFree"
)

// names are in the order of urgency: memory, pid, bytes, inodes.
var names = []Signal{
	MemoryAvailable, AllocatableMemoryAvailable, PIDAvailable, AllocatablePIDAvailable,
	NodeFsAvailable, ImageFsAvailable, ContainerFsAvailable,
	NodeFsInodesFree, ImageFsInodesFree, ContainerFsInodesFree,
}

// Names returns every signal that a threshold may name, the most urgent first: the
// kubelet's nine and allocatablePID.available.
func Names() []Signal { return slices.Clone(names) }

// Bytes reports whether the signal counts bytes; the others count tasks or inodes.
func (s Signal) Bytes() bool {
	return s.Memory() || s == NodeFsAvailable || s == ImageFsAvailable || s == ContainerFsAvailable
}

// Disk reports whether the signal is about a filesystem.
func (s Signal) Disk() bool {
	switch s {
	case NodeFsAvailable, ImageFsAvailable, ContainerFsAvailable,
		NodeFsInodesFree, ImageFsInodesFree, ContainerFsInodesFree:
		return true
	}
	return false
}
