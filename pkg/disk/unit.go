package disk

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// unit is a workload with its parts.
type unit struct {
	uid, cgroup string
	isPod       bool
	// read is the unit as it was read at readNs; bornNs is when it was read first.
	read           workload.Unit
	readNs, bornNs uint64
	// links are how many cgroups were in its own then.
	links uint64
	// goneNs is since when its cgroup is gone, 0: it is there.
	goneNs uint64
	// leftNs is when it, no pod and without a cgroup, was last known to hold something.
	leftNs uint64
	parts  []*part
	// limits are the emptyDirs' sizes that must not be passed, by name.
	limits map[string]int64
	// containers are the ids in the names of its cgroups.
	containers []string
	// ended are ids of containers that have ended, and whose layer is known.
	ended []string
	// hasVolumes and hasLogs: their directories could be listed, so that none is none.
	hasVolumes, hasLogs bool
	growth              growth
}

// finder finds the parts of units.
type finder struct {
	kubelet kubelet
	layers  layers
	// directories are those of units that are no pods, by globs (path.Match) of their cgroups.
	directories map[string][]string
	// pids lists the processes of a cgroup.
	pids func(cgroup string) []int
	// logs are the pods' directories of logs, nil when they are to be listed anew.
	logs *logDirectories
}

type logDirectories struct {
	dirs map[string]string // by pod uid
	err  error
}

// find returns a unit with its parts, and keeps figures and walks of those that it had. The
// former's parts that are not among them are the caller's to end.
func (f *finder) find(w *workload.Unit, was *unit) *unit {
	u := &unit{uid: w.UID, cgroup: w.Cgroup, isPod: w.QOSClass != "", read: *w, limits: limitsOf(w)}
	if u.isPod {
		f.findPod(u)
	} else {
		f.findDirectories(u)
	}
	f.findLayers(u, w.Targets, was)
	if len(u.parts) > 0 {
		u.add(&part{place: place{u.cgroup, ""}, kind: unlinked})
	}
	u.keep(was)
	for _, p := range u.parts {
		if p.kind == unlinked {
			p.beside = u.parts
		}
	}
	return u
}

// limit takes over what the table says now.
func (u *unit) limit(units Units) {
	units.Judge(&u.read)
	u.limits = limitsOf(&u.read)
}

func limitsOf(w *workload.Unit) map[string]int64 {
	var limits map[string]int64
	for _, v := range w.Volumes {
		if v.SizeLimitBytes > 0 {
			if limits == nil {
				limits = map[string]int64{}
			}
			limits[v.Name] = v.SizeLimitBytes
		}
	}
	return limits
}

func (f *finder) findPod(u *unit) {
	if parts, err := f.kubelet.volumes(u.uid); err == nil {
		u.parts, u.hasVolumes = parts, true
	}
	if f.logs == nil {
		dirs, err := f.kubelet.logDirectories()
		f.logs = &logDirectories{dirs, err}
	}
	u.hasLogs = f.logs.err == nil
	if dir := f.logs.dirs[u.uid]; dir != "" {
		parts, err := f.kubelet.logParts(dir)
		u.parts, u.hasLogs = append(u.parts, parts...), err == nil
	}
}

func (f *finder) findDirectories(u *unit) {
	u.hasVolumes, u.hasLogs = true, true
	var all []string
	for glob, dirs := range f.directories {
		if ok, _ := path.Match(glob, u.cgroup); ok {
			all = append(all, dirs...)
		}
	}
	for _, dir := range outermost(all) {
		u.add(&part{place: place{dir, "."}, kind: directory})
	}
}

// outermost leaves out the directories that lie in another of them: it would count twice.
func outermost(names []string) (left []string) {
	slices.Sort(names) // globs come in any order
	var all []located
	for _, name := range slices.Compact(names) {
		all = append(all, locate(name))
	}
	for _, d := range all {
		if !slices.ContainsFunc(all, d.isIn) {
			left = append(left, d.name)
		}
	}
	return left
}

// located is a directory with its name without links, and its mount: 0 where it is not there, and
// before 5.8.
type located struct {
	name, real string
	mount      uint64
}

func locate(name string) located {
	d := located{name: name, real: name}
	if real, err := filepath.EvalSymlinks(name); err == nil {
		d.real = real
	}
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, d.real, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st) == nil {
		d.mount = st.Mnt_id
	}
	return d
}

// isIn reports whether a walk of another directory meets this one: it enters no other mount. Of two
// names of the same the first counts.
func (d located) isIn(o located) bool {
	if d.real == o.real {
		return d.name > o.name
	}
	return strings.HasPrefix(d.real, strings.TrimSuffix(o.real, "/")+"/") && (d.mount == 0 || d.mount == o.mount)
}

// findLayers finds the layers of containers, and docker's logs. A layer that was known stays: that
// a cgroup holds no process, or such whose roots are elsewhere, tells nothing.
func (f *finder) findLayers(u *unit, targets []workload.Target, was *unit) {
	for _, t := range targets {
		id := containerID(t.Cgroup)
		if id == "" {
			continue
		}
		u.containers = append(u.containers, id)
		if was != nil && was.layer(id) != nil {
			u.add(was.layer(id))
		} else {
			f.findLayer(u, id, t.Cgroup)
		}
		u.add(f.layers.dockerLogs(id))
	}
	u.keepEnded(was)
}

// keepEnded keeps the layers of containers that ended: they lie there until the runtime
// removes them.
func (u *unit) keepEnded(was *unit) {
	if was == nil {
		return
	}
	for _, p := range was.parts {
		if p.kind != layer || u.layer(p.name) != nil {
			continue
		}
		if _, err := os.Lstat(p.String()); !errors.Is(err, os.ErrNotExist) {
			u.add(p)
			u.ended = append(u.ended, p.name)
		}
	}
}

func (f *finder) findLayer(u *unit, id, cgroup string) {
	for _, pid := range f.pids(cgroup) {
		if p := f.layers.of(id, pid); p != nil {
			u.add(p)
			return
		}
	}
}

// isUnlayered reports whether no layer is known of a container of the unit. Each writes somewhere, if
// into no overlay then into a subvolume, a dataset or a plain directory.
func (u *unit) isUnlayered() bool {
	return slices.ContainsFunc(u.containers, func(id string) bool { return u.layer(id) == nil })
}

func (u *unit) layer(id string) *part {
	for _, p := range u.parts {
		if p.kind == layer && p.name == id {
			return p
		}
	}
	return nil
}

// add adds a part, if there is one and it is not there yet.
func (u *unit) add(p *part) {
	if p != nil && !slices.ContainsFunc(u.parts, func(o *part) bool { return o.place == p.place }) {
		u.parts = append(u.parts, p)
	}
}

// keep takes over the parts that were known before.
func (u *unit) keep(was *unit) {
	if was == nil {
		return
	}
	for i, p := range u.parts {
		if j := slices.IndexFunc(was.parts, func(o *part) bool { return o.place == p.place && o.kind == p.kind }); j >= 0 {
			u.parts[i] = was.parts[j]
		}
	}
}
