package disk

import (
	"cmp"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// sum adds figures up; one that is missing makes the sum no data, one without inodes that of
// the inodes.
type sum struct {
	Tally
	missing, noInodes bool
	readNs            uint64 // of the oldest, 0 when there is none
}

func (s *sum) add(f *figure) {
	if f == nil {
		s.missing = true
		return
	}
	s.Tally = s.plus(f.Tally)
	s.noInodes = s.noInodes || f.Inodes < 0
	s.date(f.readNs)
}

func (s *sum) date(readNs uint64) {
	if s.readNs == 0 || readNs < s.readNs {
		s.readNs = readNs
	}
}

func (s *sum) bytes() *int64 {
	if s.missing {
		return nil
	}
	return &s.Bytes
}

func (s *sum) inodes() *int64 {
	if s.missing || s.noInodes {
		return nil
	}
	return &s.Inodes
}

// entry is what is known of a unit now.
func (u *unit) entry(containers []cri.Container, listed bool, nowNs uint64, wall time.Time) workload.DiskEntry {
	rootfs, running, perContainer := u.rootfs(containers, listed, nowNs, wall)
	logs, away, volumes, other := sum{missing: !u.hasLogs}, sum{}, sum{missing: !u.hasVolumes}, sum{}
	e := workload.DiskEntry{UID: u.uid}
	for _, p := range u.parts {
		switch p.kind {
		case containerLogs:
			if p.figure != nil && p.figure.isAway {
				away.add(p.current())
			} else {
				logs.add(p.current())
			}
			if p.name != "" && p.figure != nil {
				c := named(&perContainer, p.name)
				c.LogsBytes = &p.figure.Bytes
				c.date(p.figure.readNs)
			}
		case emptyDir:
			if p.figure != nil {
				e.Volumes = append(e.Volumes, workload.VolumeDisk{Reading: workload.Reading{ReadNs: p.figure.readNs},
					Name: p.name, Medium: p.medium, UsedBytes: &p.figure.Bytes})
			}
			if p.medium == "" {
				volumes.add(p.current())
			}
		case localVolume, directory:
			volumes.add(p.current())
		case podLogs, hostsFile:
			other.add(p.current())
		case unlinked:
			volumes.missing = volumes.missing || p.isPast
			if f := p.figure; f != nil && f.Tally != (Tally{}) {
				e.Unlinked = &workload.Unlinked{Reading: workload.Reading{ReadNs: f.readNs}, UsedBytes: f.Bytes, Inodes: f.Inodes}
				inLayers, inVolumes := f.split()
				rootfs.add(inLayers)
				running.add(inLayers)
				volumes.add(inVolumes)
			}
		}
	}
	if !logs.missing { // else it is not the unit that writes them, but the runtime
		e.WroteBytes, e.MadeInodes = known(u.growth.atMost(nowNs))
	}
	e.EphemeralStorage, e.Inodes = combined(&rootfs, &running, &logs, &away, &volumes, &other)
	for _, c := range perContainer[:min(len(perContainer), mostListed)] {
		e.Containers = append(e.Containers, c.ContainerDisk)
	}
	if len(e.Volumes) > mostListed {
		slices.SortStableFunc(e.Volumes, func(a, b workload.VolumeDisk) int {
			return cmp.Compare(min(1, u.limits[b.Name]), min(1, u.limits[a.Name]))
		})
		e.Volumes = e.Volumes[:mostListed]
	}
	return e
}

// mostListed is how many volumes of a unit, those with limits first, and how many containers are told
// of one by one, all in their sums: a table of more elements than readers take would be none. 300 units
// have room for as many.
const mostListed = 50

// known are the figures that are data.
func known(t Tally) (bytes, inodes *int64) {
	if t.Bytes != workload.NoData {
		bytes = &t.Bytes
	}
	if t.Inodes != workload.NoData {
		inodes = &t.Inodes
	}
	return bytes, inodes
}

// combined dates the sums by the oldest reading among those that are data. What is used is
// held against limits, for which dead containers' layers don't count, as in the kubelet
// (removeTerminatedContainers): they take their room all the same.
func combined(rootfs, running, logs, away, volumes, other *sum) (*workload.EphemeralStorage, *workload.Inodes) {
	var total sum
	for _, s := range []*sum{running, logs, away, volumes, other} {
		if s.missing {
			total.missing = true
			continue
		}
		total.Tally = total.plus(s.Tally)
		if s.readNs > 0 {
			total.date(s.readNs)
		}
	}
	if !rootfs.missing && rootfs.readNs > 0 {
		total.date(rootfs.readNs)
	}
	if total.readNs == 0 {
		return nil, nil // nothing was read
	}
	at := workload.Reading{ReadNs: total.readNs}
	return &workload.EphemeralStorage{Reading: at, RootfsBytes: rootfs.bytes(), LogsBytes: logs.bytes(),
			LogsElsewhereBytes: away.Bytes, LocalVolumesBytes: volumes.bytes(), UsedBytes: total.bytes()},
		&workload.Inodes{Reading: at, Rootfs: rootfs.inodes(), Logs: logs.inodes(), LogsElsewhere: max(0, away.Inodes), LocalVolumes: volumes.inodes()}
}

// container is a container's entry in the making.
type container struct{ workload.ContainerDisk }

func (c *container) date(readNs uint64) {
	if c.ReadNs == 0 || readNs < c.ReadNs {
		c.ReadNs = readNs
	}
}

// named finds or adds a container.
func named(list *[]container, name string) *container {
	i := slices.IndexFunc(*list, func(c container) bool { return c.Name == name })
	if i < 0 {
		i = len(*list)
		*list = append(*list, container{workload.ContainerDisk{Name: name}})
	}
	return &(*list)[i]
}

// rootfs adds up the writable layers: those that we walk, else the runtime's own figures,
// which are ten seconds old as a rule. The runtime's list knows the dead and the names; the
// unit's cgroups know who was started, or has ended, since, and all where there is no list.
func (u *unit) rootfs(list []cri.Container, listed bool, nowNs uint64, wall time.Time) (all, running sum, named []container) {
	for _, c := range list {
		f := u.layerFigure(c, nowNs, wall)
		if f != nil || c.Running { // one that ended before we came grows no more
			all.add(f)
		}
		if !c.Running {
			continue
		}
		running.add(f)
		if f != nil {
			n := container{workload.ContainerDisk{Name: c.Name, RootfsBytes: &f.Bytes}}
			n.date(f.readNs)
			named = append(named, n)
		}
	}
	for _, id := range slices.Concat(u.containers, u.ended) {
		p := u.layer(id)
		switch {
		case slices.ContainsFunc(list, func(c cri.Container) bool { return c.ID == id }):
		case p != nil:
			all.add(p.current())
			if !slices.Contains(u.ended, id) {
				running.add(p.current())
			}
		default:
			all.missing, running.missing = true, true
		}
	}
	if u.isPod && !listed && len(u.containers) == 0 {
		all.missing, running.missing = true, true
	}
	return all, running, named
}

func (u *unit) layerFigure(c cri.Container, nowNs uint64, wall time.Time) *figure {
	if p := u.layer(c.ID); p != nil && p.figure != nil {
		return p.current()
	}
	if c.Rootfs == nil {
		return nil
	}
	age := max(wall.Sub(c.Rootfs.Time), 0)
	if !c.Running { // may have grown after it was read, and grows no more
		age = min(age, containersAge)
	}
	if age > containersAge || uint64(age) >= nowNs {
		return nil // would make all the others old
	}
	return &figure{Tally: Tally{c.Rootfs.Bytes, c.Rootfs.Inodes}, readNs: nowNs - uint64(age)}
}

// entries are those of all units that anything is known of, or should be, by uid.
func entries(units map[string]*unit, containers func(uid string) ([]cri.Container, bool), nowNs uint64, wall time.Time) []workload.DiskEntry {
	list := make([]workload.DiskEntry, 0, len(units))
	for _, u := range units {
		of, listed := containers(u.uid)
		if u.hasDisk() {
			list = append(list, u.entry(of, listed, nowNs, wall))
		}
	}
	slices.SortFunc(list, func(a, b workload.DiskEntry) int { return cmp.Compare(a.UID, b.UID) })
	return list
}

// hasDisk: there is something to be known of. What is no pod, no container and has no directory in
// the configuration has no figures.
func (u *unit) hasDisk() bool { return u.isPod || len(u.parts) > 0 || u.isUnlayered() }

// layoutOf asks the filesystems. containers "" is with the images, images "" not known.
func layoutOf(node, images, containers string) (*workload.DiskLayout, error) {
	l := &workload.DiskLayout{ImageDir: images, ContainerDir: containers}
	if images == "" {
		return l, nil
	}
	nodeDev, err := device(node)
	if err != nil {
		return nil, err
	}
	imageDev, err := device(images)
	if err != nil {
		return nil, err
	}
	containerDev := imageDev
	if containers != "" {
		if containerDev, err = device(containers); err != nil {
			return nil, err
		}
	}
	l.SplitImageFs = containerDev != imageDev
	l.DedicatedImageFs = imageDev != nodeDev || l.SplitImageFs
	return l, nil
}

// device is a filesystem's number: as in pkg/signal, of btrfs what its subvolumes have in common, the
// first word of f_fsid (fs/btrfs/super.c).
func device(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	fs, err := statfs(dir)
	if err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if fs.Type == unix.BTRFS_SUPER_MAGIC {
		return unix.BTRFS_SUPER_MAGIC<<32 | uint64(uint32(fs.Fsid.Val[0])), nil
	}
	return st.Dev, nil
}
