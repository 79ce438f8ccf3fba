package workload

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Unit is a workload with the cgroups to kill.
type Unit struct {
	Workload
	// Targets are a pod's container cgroups without the runtime's own, which are the runtime's
	// to remove: sandbox and monitors. Of any other unit the unit itself. TargetIDs are their
	// identities.
	Targets   []Target
	TargetIDs []Identity
	// Runs: something but these has a process. The sandbox of a dead pod can lie there
	// empty, and is then among the targets, as nothing shows what it was.
	Runs bool

	// seen is what the cgroup itself says, whatever table and configuration add.
	seen struct {
		requestBytes int64
		protected    string
	}
}

// Equal reports whether two readings of a unit found the same. Both were judged by the same
// table and configuration.
func (u *Unit) Equal(v *Unit) bool {
	return u.Same(v) && u.seen == v.seen && u.Usage.Processes == v.Usage.Processes && u.Cgroup == v.Cgroup
}

// JudgedLike reports whether table and configuration said the same of two readings.
func (w *Workload) JudgedLike(v *Workload) bool {
	return w.Namespace == v.Namespace && w.Name == v.Name && w.Evict == v.Evict && w.Protected == v.Protected &&
		w.Priority == v.Priority && w.Static == v.Static && w.Mirror == v.Mirror &&
		w.MemoryRequestBytes == v.MemoryRequestBytes && w.PodLevelRequest == v.PodLevelRequest &&
		w.TerminationGracePeriodSeconds == v.TerminationGracePeriodSeconds &&
		w.EphemeralStorageRequestBytes == v.EphemeralStorageRequestBytes &&
		equalLimits(w.EphemeralStorageLimitBytes, v.EphemeralStorageLimitBytes) &&
		slices.Equal(w.Containers, v.Containers) && slices.Equal(w.Volumes, v.Volumes)
}

func equalLimits(x, y *int64) bool {
	if x == nil || y == nil {
		return x == y
	}
	return *x == *y
}

// Same reports whether two readings of a cgroup are of the same unit with the same cgroups
// to kill.
func (u *Unit) Same(v *Unit) bool {
	return u.ID == v.ID && slices.Equal(u.TargetIDs, v.TargetIDs)
}

// ContainerOf returns the index of the container that a target is, -1 for none that is known.
// Where one runs, and the table knows of one alone and not yet of its id, it is that one.
func (u *Unit) ContainerOf(target int) int {
	all := u.Containers
	if len(u.Targets) == 1 && len(all) == 1 && all[0].ID == "" {
		return 0
	}
	name := path.Base(u.Targets[target].Cgroup)
	return slices.IndexFunc(all, func(c Container) bool { return c.ID != "" && strings.Contains(name, c.ID) })
}

// Target is a cgroup to kill, with all below it.
type Target struct {
	Cgroup string
}

// Options say where units are sought and which are spared.
type Options struct {
	FS *cgroupfs.FS
	// Roots are cgroup paths below which units may be evicted.
	Roots []string
	// Protect are globs (path.Match) of a unit's cgroup path, "namespace/name" or uid.
	Protect []string
	// SelfPIDs are the agent's own processes.
	SelfPIDs []int
	// TablePath is the workload table, TableUID its expected owner.
	TablePath string
	TableUID  uint32
	// NodeName is the node's in the cluster, empty where it is not known.
	NodeName string
	// AllowFirst lets the table's mark "first" count.
	AllowFirst bool
	// NodeMemoryBytes is for requests inferred from oom_score_adj.
	NodeMemoryBytes int64
	// Procfs is "/proc".
	Procfs string
}

// Reader reads single units. It belongs to one goroutine.
type Reader struct {
	o     *Options
	rules *atomic.Pointer[rules]
	pids  []int
}

// rules are what is known of units without looking at them. They are replaced, never changed.
type rules struct {
	version    uint64
	entries    map[string]*Entry // the table's, by uid
	protect    []string
	allowFirst bool
}

// Scanner lists units. It belongs to one goroutine.
type Scanner struct {
	Reader
	table  *Table
	seen   stamp // the file that was taken over or refused last
	status TableStatus
	levels []string
}

// NewScanner makes a scanner; nothing is read before Scan.
func NewScanner(o Options) *Scanner {
	s := &Scanner{Reader: Reader{o: &o, rules: new(atomic.Pointer[rules])}}
	s.rules.Store(&rules{protect: o.Protect, allowFirst: o.AllowFirst})
	return s
}

// NewReader makes a reader for another goroutine. It goes by the scanner's table and
// configuration as they change.
func (s *Scanner) NewReader() *Reader { return &Reader{o: s.o, rules: s.rules} }

// Configure changes Options.Protect and Options.AllowFirst for the units that are read from
// now on.
func (s *Scanner) Configure(protect []string, allowFirst bool) {
	former := s.rules.Load()
	s.rules.Store(&rules{former.version + 1, former.entries, protect, allowFirst})
}

// Scan reads the units below the roots. One that vanishes meanwhile is absent.
func (s *Scanner) Scan() ([]Unit, error) {
	s.LoadTable()
	dirs, err := s.List()
	if err != nil {
		return nil, err
	}
	units := make([]Unit, 0, len(dirs))
	for _, dir := range dirs {
		u, err := s.Unit(dir)
		if errors.Is(err, cgroupfs.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	return units, nil
}

// List names the cgroups of the units below the roots, sorted, and reads none of them. A
// root that is missing has none.
func (s *Scanner) List() ([]string, error) {
	s.levels = s.levels[:0]
	var dirs []string
	for _, root := range s.o.Roots {
		found, err := s.below(root)
		if err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			return nil, err
		}
		dirs = append(dirs, found...)
	}
	slices.Sort(dirs)
	return dirs, nil
}

// Levels are the cgroups that List found units in, or none yet: the roots, and what lies
// between them and their units. What is made in one of them may be a unit.
func (s *Scanner) Levels() []string { return s.levels }

// HasPods reports whether what List looked at holds pods, or would: the kubelet's levels are there.
func (s *Scanner) HasPods() bool {
	return slices.ContainsFunc(s.levels, func(level string) bool { return isKubeletLevel(path.Base(level)) })
}

func (s *Scanner) below(dir string) ([]string, error) {
	s.levels = append(s.levels, dir)
	names, err := s.o.FS.Children(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var dirs []string
	for _, name := range names {
		child := path.Join(dir, name)
		switch s.kindOf(child, name) {
		case isUnit:
			dirs = append(dirs, child)
		case isLevel:
			found, err := s.below(child)
			if err != nil && !errors.Is(err, cgroupfs.ErrGone) {
				return nil, err
			}
			dirs = append(dirs, found...)
		}
	}
	return dirs, nil
}

type kind int

const (
	isNothing kind = iota // among the kubelet's pods, and none
	isUnit
	isLevel
	isRoot // its own turn comes
)

// kindOf says what a child of a root or level is, by its name and path alone.
func (r *Reader) kindOf(child, name string) kind {
	switch {
	case slices.Contains(r.o.Roots, child):
		return isRoot
	case isKubeletLevel(name), r.isAboveRoot(child):
		return isLevel
	case inKubepods(child) && podUID(name) == "":
		return isNothing
	}
	return isUnit
}

// isAboveRoot: a unit that holds a root would take the root's units with it.
func (r *Reader) isAboveRoot(dir string) bool {
	return slices.ContainsFunc(r.o.Roots, func(root string) bool { return isBelow(dir, root) })
}

func isBelow(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && len(rest) > 1 && rest[0] == '/'
}

// UnitOf returns the cgroup of the unit that a cgroup is or belongs to, by their names; ""
// when there can be none: it is outside the roots, a root or a level.
func (r *Reader) UnitOf(cgroup string) string {
	at := ""
	for _, root := range r.o.Roots {
		if isBelow(root, cgroup) && len(root) > len(at) {
			at = root // the innermost
		}
	}
	if at == "" {
		return ""
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(cgroup, at), "/")
	for name := range strings.SplitSeq(rest, "/") {
		at = path.Join(at, name)
		switch r.kindOf(at, name) {
		case isUnit:
			return at
		case isLevel:
			continue
		}
		return ""
	}
	return ""
}

// Unit reads one unit. ErrGone when it is not there.
func (r *Reader) Unit(dir string) (Unit, error) {
	c, err := r.o.FS.OpenToRead(dir)
	if err != nil {
		return Unit{}, err
	}
	defer func() { _ = c.Close() }()
	u := Unit{Workload: Workload{
		UID: dir, Cgroup: dir,
		ID:    Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()},
		Usage: NoUsage,
	}}
	if r.pids, err = c.Procs(r.pids[:0]); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
		return Unit{}, err
	} else if err == nil {
		u.Usage.Processes = int64(len(r.pids))
	}
	if uid := podUID(path.Base(dir)); uid != "" {
		u.UID, u.QOSClass = uid, qosOf(dir)
		u.seen.requestBytes = r.inferRequest(c, u.QOSClass)
		u.seen.protected = r.holdsSelf()
		if err := r.containers(&u); err != nil {
			return Unit{}, err
		}
	} else {
		u.Targets, u.TargetIDs, u.Runs = []Target{{dir}}, []Identity{u.ID}, u.Usage.Processes > 0
		u.seen.protected = cmp.Or(r.holdsSelf(), r.holdsVital())
	}
	r.Judge(&u)
	return u, nil
}

// Judge makes anew what follows from the table and the configuration, of a unit as it was
// read.
func (r *Reader) Judge(u *Unit) {
	u.Namespace, u.Name = "", path.Base(u.Cgroup)
	if u.UID != u.Cgroup {
		u.Name = u.UID
	}
	u.Priority, u.Static, u.Mirror, u.Evict = 0, u.UID != u.Cgroup && IsStaticUID(u.UID), false, ""
	u.MemoryRequestBytes, u.Protected = u.seen.requestBytes, u.seen.protected
	u.TerminationGracePeriodSeconds, u.PodLevelRequest = NoData, false
	u.EphemeralStorageRequestBytes, u.EphemeralStorageLimitBytes, u.Containers, u.Volumes = 0, nil, nil, nil
	rules := r.rules.Load()
	rules.apply(u)
	rules.protectUnit(u)
}

// Version moves when table or configuration change: units that were read before are to be
// judged anew.
func (r *Reader) Version() uint64 { return r.rules.Load().version }

// containers finds the pod's child cgroups, without the runtime's own when there are others.
func (r *Reader) containers(pod *Unit) error {
	names, _ := r.o.FS.Children(pod.Cgroup)
	runtimes := Unit{}
	for _, name := range names {
		dir := path.Join(pod.Cgroup, name)
		c, err := r.o.FS.OpenToRead(dir)
		if errors.Is(err, cgroupfs.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		to := pod
		if arePauses, runs := r.inhabitants(c); isMonitor(name) || arePauses && r.isSandbox(pod.UID, name, c) {
			to = &runtimes
		} else {
			pod.Runs = pod.Runs || runs
		}
		to.Targets = append(to.Targets, Target{dir})
		to.TargetIDs = append(to.TargetIDs, Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()})
		_ = c.Close()
	}
	switch {
	case len(pod.Targets) > 0:
		return nil
	case len(runtimes.Targets) > 0:
		pod.Targets, pod.TargetIDs = runtimes.Targets, runtimes.TargetIDs
	default:
		pod.Targets, pod.TargetIDs = []Target{{pod.Cgroup}}, []Identity{pod.ID}
	}
	return nil
}

// inhabitants reports whether all processes of a cgroup are named as a sandbox's is, and whether
// there are any. One that has no name any more has ended since.
func (r *Reader) inhabitants(c *cgroupfs.Cgroup) (arePauses, runs bool) {
	var err error
	if r.pids, err = c.Procs(r.pids[:0]); err != nil {
		return false, false
	}
	for _, pid := range r.pids {
		switch comm := r.comm(pid); {
		case comm == "pause":
			arePauses = true
		case comm != "":
			return false, true
		}
	}
	return arePauses, arePauses
}

const (
	// sandboxAdj is the oom_score_adj of a sandbox by containerd, CRI-O and cri-dockerd. The
	// kubelet gives no container less than -997, and nobody lowers its own without
	// CAP_SYS_RESOURCE.
	sandboxAdj = -998
	// sandboxBytes and sandboxTasks are far above what a process takes that waits for signals,
	// under 1 MiB and one task, and below what anybody is evicted for.
	sandboxBytes = 16 << 20
	sandboxTasks = 64
)

// isSandbox reports whether a child of a pod, of whose processes r.pids all are named pause, is
// its sandbox. Anybody may take that name, to be spared beside another container. So it is none
// of the containers that the table knows, and has a sandbox's oom_score_adj; or, where the
// runtime can't set that (containerd's restrict_oom_score_adj), one process that holds nothing.
func (r *Reader) isSandbox(uid, name string, c *cgroupfs.Cgroup) bool {
	if r.rules.Load().isContainer(uid, name) {
		return false
	}
	isMarked, processes := true, 0
	for _, pid := range r.pids {
		if adj, err := r.adjOf(pid); err == nil {
			isMarked = isMarked && adj == sandboxAdj
			processes++
		}
	}
	return isMarked || processes == 1 && holdsNothing(c)
}

// holdsNothing: no more than a sandbox does. Without a figure that is not known.
func holdsNothing(c *cgroupfs.Cgroup) bool {
	bytes, err := c.MemoryCurrentBytes()
	tasks, tasksErr := c.PidsCurrent()
	return err == nil && tasksErr == nil && bytes <= sandboxBytes && tasks <= sandboxTasks
}

func (r *Reader) comm(pid int) string {
	b, _ := os.ReadFile(filepath.Join(r.o.Procfs, strconv.Itoa(pid), "comm"))
	return strings.TrimSpace(string(b))
}

// adjOf is a process's oom_score_adj, an error when it has ended.
func (r *Reader) adjOf(pid int) (int64, error) {
	b, err := os.ReadFile(filepath.Join(r.o.Procfs, strconv.Itoa(pid), "oom_score_adj"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// vital are processes without which the node's pods can't be run at all.
var vital = []string{"kubelet", "containerd", "crio", "dockerd", "conmon", "systemd"}

// holdsSelf says that the agent runs in the unit of r.pids: it is never its own victim.
func (r *Reader) holdsSelf() string {
	for _, pid := range r.pids {
		if slices.Contains(r.o.SelfPIDs, pid) {
			return "the agent itself"
		}
	}
	return ""
}

// holdsVital says why a unit that is no pod is never a victim, judged by r.pids.
func (r *Reader) holdsVital() string {
	for _, pid := range r.pids {
		comm := r.comm(pid)
		switch {
		case pid == 1:
			return "holds PID 1"
		case slices.Contains(vital, comm), strings.HasPrefix(comm, "containerd-shim"):
			return "holds the container runtime or kubelet: " + comm
		}
	}
	return ""
}

func (k *rules) protectUnit(u *Unit) {
	if u.Protected != "" {
		return
	}
	for _, glob := range k.protect {
		names := []string{u.Cgroup, u.UID}
		if u.Namespace != "" { // else it would look like a cgroup's path
			names = append(names, u.Namespace+"/"+u.Name)
		}
		for _, name := range names {
			if ok, _ := path.Match(glob, name); ok {
				u.Protected = "protect: " + glob
				return
			}
		}
	}
	switch {
	case u.Static:
		u.Protected = "static pod"
	case u.Critical():
		u.Protected = "critical"
	case u.Evict == "never":
		u.Protected = "table: never"
	}
}

// inferRequest guesses a pod's memory request without the table: the kubelet writes it
// into oom_score_adj (1000 - 1000 x request / capacity, within 3 and 999) of Burstable
// containers; a Guaranteed pod's request is its limit.
func (r *Reader) inferRequest(c *cgroupfs.Cgroup, qos QOSClass) int64 {
	switch qos {
	case QOSGuaranteed:
		if limit, err := c.MemoryMaxBytes(); err == nil && limit < cgroupfs.Unlimited {
			return limit
		}
	case QOSBurstable:
		for _, pid := range r.pids {
			if adj, err := r.adjOf(pid); err == nil && adj >= 3 && adj <= 999 {
				return r.o.NodeMemoryBytes / 1000 * (1000 - adj)
			}
		}
	}
	return 0
}
