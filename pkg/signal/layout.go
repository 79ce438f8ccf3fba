package signal

// Layout says on which filesystems container images and writable layers lie, in the
// kubelet's terms. It decides what counts as a unit's usage of a disk signal. The six disk
// signals exist in each layout; where filesystems coincide, their observations do.
//
//	layout                 dedicated  split  containerfs is  thresholds of containerfs
//	one filesystem         false      false  nodefs          those of nodefs
//	images and layers apart true      false  imagefs         those of imagefs
//	images alone apart     true       true   nodefs          those of nodefs
//
// Writable layers on a third filesystem are a split too: containerfs then is that one, with
// the thresholds of nodefs.
type Layout struct {
	// DedicatedImageFs: images, or images and writable layers, lie apart from nodefs.
	DedicatedImageFs bool `json:"dedicatedImageFs"`
	// SplitImageFs: images and writable layers lie apart from each other.
	SplitImageFs bool `json:"splitImageFs"`
}

// layoutOf compares the devices of the three filesystems, as the kubelet does
// (pkg/kubelet/stats/provider.go, HasDedicatedImageFs).
func layoutOf(node, image, container uint64) Layout {
	split := image != container
	return Layout{DedicatedImageFs: split || image != node, SplitImageFs: split}
}

// ThresholdsOf returns the signal whose thresholds s has: its own, or of a containerfs
// signal those of nodefs or imagefs, which replace any that were configured.
func (l Layout) ThresholdsOf(s Signal) Signal {
	apart := l.DedicatedImageFs && !l.SplitImageFs
	switch {
	case s == ContainerFsAvailable && apart:
		return ImageFsAvailable
	case s == ContainerFsAvailable:
		return NodeFsAvailable
	case s == ContainerFsInodesFree && apart:
		return ImageFsInodesFree
	case s == ContainerFsInodesFree:
		return NodeFsInodesFree
	}
	return s
}
