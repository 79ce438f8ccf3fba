package signal

// Layout says which filesystems of the kubelet's three are one.
type Layout struct {
	// DedicatedImageFs: images (and writable layers, unless split) have a filesystem of
	// their own.
	DedicatedImageFs bool
	// SplitImageFs: only the images have; the writable layers lie with nodefs.
	SplitImageFs bool
}
