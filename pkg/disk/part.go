package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// kind says what of a unit a part is.
type kind int

const (
	emptyDir      kind = iota
	localVolume        // a configMap, a gitRepo
	directory          // one of the configuration
	containerLogs      // a container's log directory
	podLogs            // the files beside these
	hostsFile          // the pod's /etc/hosts
	layer              // a writable layer
	unlinked           // files without a name that are open
)

// place is a directory or file: base is ours or the administrator's, and links in it count;
// rel is opened below it without following one.
type place struct{ base, rel string }

func (p place) String() string { return p.base + "/" + p.rel }

// open opens a directory. Mounts on the way are entered: an emptyDir of medium Memory is one.
func (p place) open() (int, error) {
	base, err := unix.Open(p.base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: p.base, Err: err}
	}
	defer unix.Close(base)
	fd, err := openDir(base, p.rel, beneath)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: p.String(), Err: err}
	}
	return fd, nil
}

// directories names what is in a directory, files left out. A directory of ours that holds
// what a pod's author chose: at most mostNames.
func (p place) directories() ([]string, error) {
	fd, err := p.open()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), p.String())
	defer f.Close()
	entries, err := f.ReadDir(mostNames)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// mostNames is far above the volumes or containers of a pod, and the pods of a node.
const mostNames = 10000

// part is what has a figure of its own: one tree of one unit.
type part struct {
	place
	kind kind
	// name is the volume's or the container's, of a layer the container's id.
	name string
	// medium is an emptyDir's, known from its filesystem: "" on disk, "Memory", "HugePages".
	medium string
	// figure is the last whole one; changed: it was another than the one before. isPast: the unit
	// wrote much since, and the agent can't wait for another.
	figure          *figure
	changed, isPast bool
	// foundNs is when the part was found, triedNs when its last visit began, 0 before the
	// first has ended.
	foundNs, triedNs uint64

	// beside are the unit's parts, of the unlinked one alone, which search is of when it is under way.
	beside []*part
	search *search
	// walk is the one under way, with the medium of what it walks and when it began. isAway: what is
	// visited are logs, or a directory, on another filesystem than nodefs.
	walk       *walk
	walkMedium string
	isAway     bool
	beganNs    uint64
	// spentNs is the CPU time of the visit that is under way, costNs of the last one.
	spentNs, costNs uint64
	quota           trust
	// isAwaited: the agent waited for it when it was last seen to be due.
	isAwaited bool
	// said is the last error that was reported.
	said string
}

// current is the figure that a unit is ranked by, nil where there is none.
func (p *part) current() *figure {
	if p.isPast {
		return nil
	}
	return p.figure
}

func (p *part) isOfLogs() bool { return p.kind == containerLogs || p.kind == podLogs }

// isUnderWay: a visit has begun and not ended.
func (p *part) isUnderWay() bool { return p.walk != nil || p.search != nil }

// figure is what a part occupies, and when it was read.
type figure struct {
	Tally
	readNs uint64
	// inLayers is what of it lies in writable layers, of files without a name.
	inLayers Tally
	// isAway: it is of another filesystem than nodefs.
	isAway bool
}

// split parts what lies in layers from what lies in volumes.
func (f *figure) split() (inLayers, inVolumes *figure) {
	return &figure{Tally: f.inLayers, readNs: f.readNs},
		&figure{Tally: Tally{f.Bytes - f.inLayers.Bytes, f.Inodes - f.inLayers.Inodes}, readNs: f.readNs}
}

// trust in a part's project quota: who owns files can give them to another project
// (FS_IOC_FSSETXATTR outside a user namespace of their own), so now and then a walk compares.
type trust struct {
	project project
	untilNs uint64
	before  Tally
}

// volumeOn is the filesystem of a volume that lies on disk.
func (p *part) volumeOn() (on dev, ok bool) {
	if p.kind != emptyDir && p.kind != localVolume && p.kind != directory {
		return dev{}, false
	}
	fd, err := p.open()
	if err != nil {
		return dev{}, false
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if _, _, inMemory := memoryFs(fd); inMemory || statOf(fd, &st) != nil {
		return dev{}, false
	}
	return devOf(&st), true
}

const (
	tmpfsMagic     = unix.TMPFS_MAGIC
	hugetlbfsMagic = unix.HUGETLBFS_MAGIC
)

// memoryFs is what a volume in memory holds by its own filesystem: no walk, and nothing
// that keeps the kubelet from unmounting it. ok is false on disk, in a node's own tmpfs,
// and where the filesystem has no size.
func memoryFs(fd int) (t Tally, medium string, ok bool) {
	var top unix.Statx_t
	if err := statOf(fd, &top); err != nil || top.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return Tally{}, "", false
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return Tally{}, "", false
	}
	switch st.Type {
	case tmpfsMagic:
		medium = "Memory"
	case hugetlbfsMagic:
		medium = "HugePages"
	default:
		return Tally{}, "", false
	}
	if st.Blocks == 0 || st.Files == 0 {
		return Tally{}, medium, false
	}
	return Tally{int64(st.Blocks-st.Bfree) * st.Frsize, int64(st.Files - st.Ffree)}, medium, true
}

// fileTally is a single file's.
func (p place) fileTally() (Tally, error) {
	base, err := unix.Open(p.base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Tally{}, err
	}
	defer unix.Close(base)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: beneath}
	fd, err := unix.Openat2(base, p.rel, &how)
	if err != nil {
		return Tally{}, fmt.Errorf("open %s: %w", p, err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := statOf(fd, &st); err != nil {
		return Tally{}, fmt.Errorf("stat %s: %w", p, err)
	}
	return Tally{int64(st.Blocks) * blockSize, 1}, nil
}
