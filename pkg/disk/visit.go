package disk

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// visitor visits parts: it belongs to one goroutine, which may be held up by a filesystem.
type visitor struct {
	room linkRoom
	// buf is what directories are read into, by one step of one walk at a time; link is for where
	// a descriptor leads.
	buf, link []byte
	// open opens the unit's cgroup, whose processes procfs tells of.
	open   func(cgroup string) (*cgroupfs.Cgroup, error)
	procfs string
	// nodefs is a directory on nodefs, "": what directories lie on is not asked.
	nodefs string
	// owners are the parts that projects were first seen of: a project that two parts share
	// is no figure of either.
	owners map[project]*part
	now    func() uint64
	// verify is for how long a quota is believed after a walk found the same.
	verifyNs uint64
}

// walkDeadline is how long a walk may take, with all its rests: what has not ended by then
// grows under our feet, or has tens of millions of files.
const walkDeadline = time.Hour

var errEndless = fmt.Errorf("no end within %s", walkDeadline)

// verifyEvery is how often a walk is to confirm a quota, ten times as rare as other walks.
const verifyEvery = 10 * restEvery

func newVisitor(now func() uint64) *visitor {
	return &visitor{room: linkRoom{left: maxLinks}, buf: make([]byte, maxChunk), link: make([]byte, unix.PathMax), owners: map[project]*part{}, now: now, verifyNs: uint64(verifyEvery)}
}

// outcome of a visit that is at its end: a new figure, or why there is none.
type outcome struct {
	figure *figure
	medium string
	err    error
}

// visit does a step of work for a part. It returns nil while there is more to do.
func (v *visitor) visit(p *part) *outcome {
	if !p.isUnderWay() {
		p.beganNs, p.spentNs = v.now(), 0
		if out := v.begin(p); out != nil {
			return out
		}
	}
	if p.kind == unlinked {
		return v.seek(p)
	}
	if !p.walk.step() {
		if !v.isLate(p) {
			return nil
		}
		p.walk.miss(errEndless)
	}
	return v.finish(p)
}

func (v *visitor) isLate(p *part) bool { return v.now()-p.beganNs >= uint64(walkDeadline) }

// seek does a step of a search.
func (v *visitor) seek(p *part) *outcome {
	s := p.search
	if !s.step() {
		if !v.isLate(p) {
			return nil
		}
		s.miss(errEndless)
	}
	p.search = nil
	s.end()
	if s.missed != nil {
		return &outcome{err: s.missed}
	}
	return &outcome{figure: &figure{Tally: s.inLayers.plus(s.inVolumes), readNs: p.beganNs, inLayers: s.inLayers}}
}

// beginSearch starts one. What a project quota counts is in its figure.
func (v *visitor) beginSearch(p *part) *outcome {
	var volumes, counted []dev
	for _, of := range p.beside {
		on, ok := of.volumeOn()
		switch {
		case !ok, v.isOnNodefs(of) != nil:
		case of.quota.project != project{}:
			counted = append(counted, on)
		default:
			volumes = append(volumes, on)
		}
	}
	volumes = slices.DeleteFunc(volumes, func(d dev) bool { return slices.Contains(counted, d) })
	c, err := v.open(p.base)
	if err == nil {
		if p.search, err = newSearch(c, v.procfs, volumes, &v.room, v.buf[:minChunk], v.link); err == nil {
			return nil
		}
		_ = c.Close()
	}
	if errors.Is(err, cgroupfs.ErrGone) {
		return &outcome{figure: &figure{readNs: p.beganNs}} // and its processes with it
	}
	return &outcome{err: err}
}

// begin finds the figure without a walk, or starts one.
func (v *visitor) begin(p *part) *outcome {
	switch p.kind {
	case unlinked:
		return v.beginSearch(p)
	case hostsFile:
		t, err := p.fileTally()
		return p.concluded(t, "", err)
	}
	fd, err := p.open()
	if err != nil {
		return p.concluded(Tally{}, p.medium, err)
	}
	err = v.isOnNodefs(p)
	if p.isAway = err == errElsewhere; p.isAway && p.kind == containerLogs {
		err = nil
	}
	if err != nil {
		unix.Close(fd)
		if p.isAway {
			return &outcome{figure: &figure{readNs: p.beganNs}, err: err}
		}
		return &outcome{err: err}
	}
	medium := ""
	if p.kind == emptyDir {
		var t Tally
		var ok bool
		if t, medium, ok = memoryFs(fd); ok {
			unix.Close(fd)
			return p.concluded(t, medium, nil)
		}
	}
	if t, ok := v.byQuota(p, fd); ok {
		unix.Close(fd)
		return p.concluded(t, medium, nil)
	}
	if p.walk, err = newWalk(fd, p.kind == podLogs, &v.room, v.buf); err != nil {
		return p.concluded(Tally{}, medium, err)
	}
	p.walk.former, p.walkMedium = p.figure, medium
	return nil
}

// errElsewhere: what is removed there frees nothing on nodefs, whose thresholds go by the figure. Logs
// there have a figure, for limits.
var errElsewhere = errors.New("it lies on another filesystem than nodefs, and does not count")

// isOnNodefs is nil where a directory of the configuration, or of logs, lies on nodefs, and for all
// other parts, which lie where their figures count.
func (v *visitor) isOnNodefs(p *part) error {
	if p.kind != directory && p.kind != containerLogs || v.nodefs == "" {
		return nil
	}
	of, err := device(p.base)
	node, nodeErr := device(v.nodefs)
	if err := errors.Join(err, nodeErr); err != nil {
		return err
	}
	if of != node && !(isZFS(p.base) && isZFS(v.nodefs)) {
		return errElsewhere
	}
	return nil
}

// zfsMagic is ZFS_SUPER_MAGIC (OpenZFS, include/sys/fs/zfs.h). Datasets, of one pool as a rule, take
// their space from each other.
const zfsMagic = 0x2fc12fc1

func isZFS(dir string) bool {
	st, err := statfs(dir)
	return err == nil && int64(st.Type) == zfsMagic
}

// errNeverThere: a name that is wrong, or what is not mounted where we look from, would hold
// nothing for ever.
var errNeverThere = errors.New("it is not there, and never was: no figure of the units that it is for")

// concluded is the outcome of a reading. What is not there holds nothing, but for a directory
// of the configuration that never was.
func (p *part) concluded(t Tally, medium string, err error) *outcome {
	if errors.Is(err, unix.ENOENT) && p.kind == directory && p.figure == nil {
		err = errNeverThere
	} else if errors.Is(err, unix.ENOENT) {
		t, err = Tally{}, nil
	}
	if err != nil {
		return &outcome{medium: medium, err: err}
	}
	return &outcome{figure: p.figureOf(t, p.beganNs), medium: medium}
}

func (p *part) figureOf(t Tally, readNs uint64) *figure {
	return &figure{Tally: t, readNs: readNs, isAway: p.isAway}
}

// byQuota is the figure of the filesystem, once a walk has confirmed it.
func (v *visitor) byQuota(p *part, fd int) (t Tally, ok bool) {
	if p.kind == podLogs {
		return Tally{}, false
	}
	own := projectOf(fd)
	if own == (project{}) || !v.owns(p, own) {
		p.quota = trust{}
		return Tally{}, false
	}
	used, err := own.used(fd)
	if err != nil {
		p.quota = trust{}
		return Tally{}, false
	}
	if own == p.quota.project && p.beganNs < p.quota.untilNs {
		return used, true
	}
	p.quota = trust{project: own, before: used}
	return Tally{}, false
}

// owns reports whether no other part has the same project.
func (v *visitor) owns(p *part, own project) bool {
	if owner := v.owners[own]; owner != nil && owner != p && owner.quota.project == own {
		owner.quota = trust{}
		return false
	}
	v.owners[own] = p
	return true
}

// finish ends a walk. One that missed something raises the last whole figure and does not
// make it younger.
func (v *visitor) finish(p *part) *outcome {
	w := p.walk
	p.walk = nil
	found, missed := w.total(), w.missed
	v.confirm(p, found, missed)
	w.end()
	if missed == nil {
		return &outcome{figure: p.figureOf(found, p.beganNs), medium: p.walkMedium}
	}
	out := &outcome{medium: p.walkMedium, err: missed}
	if last := p.figure; last != nil {
		out.figure = p.figureOf(Tally{max(last.Bytes, found.Bytes), max(last.Inodes, found.Inodes)}, last.readNs)
	}
	return out
}

// confirm believes a quota that said before or after the walk, or between, what it found.
func (v *visitor) confirm(p *part, found Tally, missed error) {
	own := p.quota.project
	if own == (project{}) || missed != nil {
		return
	}
	fd, err := p.open()
	if err != nil {
		return
	}
	defer unix.Close(fd)
	after, err := own.used(fd)
	if err != nil || projectOf(fd) != own {
		p.quota = trust{}
		return
	}
	if agrees(found.Bytes, p.quota.before.Bytes, after.Bytes, 1<<20) && agrees(found.Inodes, p.quota.before.Inodes, after.Inodes, 16) {
		p.quota.untilNs = v.now() + v.verifyNs
	}
}

// agrees: within 1 % of what lies between two readings, and some slack for small ones.
func agrees(found, a, b, slack int64) bool {
	slack += max(a, b) / 100
	return found >= min(a, b)-slack && found <= max(a, b)+slack
}

// forget ends the walk of a part that is no longer a unit's.
func (v *visitor) forget(p *part) {
	if p.walk != nil {
		p.walk.end()
		p.walk = nil
	}
	if p.search != nil {
		p.search.end()
		p.search = nil
	}
	if own := p.quota.project; own != (project{}) && v.owners[own] == p {
		delete(v.owners, own)
	}
}
