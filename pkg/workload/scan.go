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

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Unit is a workload with the cgroups to kill.
type Unit struct {
	Workload
	// Targets are a pod's container cgroups without the sandbox, which is the runtime's to
	// remove; of any other unit the unit itself.
	Targets []Target
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
	// AllowFirst lets the table's mark "first" count.
	AllowFirst bool
	// NodeMemoryBytes is for requests inferred from oom_score_adj.
	NodeMemoryBytes int64
	// Procfs is "/proc".
	Procfs string
}

// Scanner lists units. It belongs to one goroutine.
type Scanner struct {
	o       Options
	table   *Table
	entries map[string]*Entry // table's, by uid
	loaded  os.FileInfo       // the file that table came from
	status  TableStatus
	pids    []int
}

// NewScanner makes a scanner; nothing is read before Scan.
func NewScanner(o Options) *Scanner { return &Scanner{o: o} }

// Configure changes Options.Protect and Options.AllowFirst for the scans that follow.
func (s *Scanner) Configure(protect []string, allowFirst bool) {
	s.o.Protect, s.o.AllowFirst = protect, allowFirst
}

// Scan lists the units below the roots. One that vanishes meanwhile is absent.
func (s *Scanner) Scan() ([]Unit, error) {
	s.loadTable()
	var units []Unit
	for _, root := range s.o.Roots {
		found, err := s.below(root)
		if err != nil && !errors.Is(err, cgroupfs.ErrGone) {
			return nil, err
		}
		units = append(units, found...)
	}
	// A root inside another root names its units twice.
	slices.SortFunc(units, func(a, b Unit) int { return strings.Compare(a.Cgroup, b.Cgroup) })
	return slices.CompactFunc(units, func(a, b Unit) bool { return a.Cgroup == b.Cgroup }), nil
}

func (s *Scanner) below(dir string) ([]Unit, error) {
	names, err := s.o.FS.Children(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var units []Unit
	for _, name := range names {
		child := path.Join(dir, name)
		if slices.Contains(s.o.Roots, child) {
			continue // a root is no unit; its own turn comes
		}
		if isLevel(name) || s.isAboveRoot(child) {
			found, err := s.below(child)
			if err != nil && !errors.Is(err, cgroupfs.ErrGone) {
				return nil, err
			}
			units = append(units, found...)
			continue
		}
		if inKubepods(child) && podUID(name) == "" {
			continue // neither a pod nor a level of the kubelet's
		}
		u, err := s.unit(child)
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

// isAboveRoot: a unit that holds a root would take the root's units with it.
func (s *Scanner) isAboveRoot(dir string) bool {
	return slices.ContainsFunc(s.o.Roots, func(root string) bool { return strings.HasPrefix(root, dir+"/") })
}

func (s *Scanner) unit(dir string) (Unit, error) {
	c, err := s.o.FS.Open(dir)
	if err != nil {
		return Unit{}, err
	}
	defer func() { _ = c.Close() }()
	u := Unit{Workload: Workload{
		UID: dir, Name: path.Base(dir), Cgroup: dir,
		ID:                            Identity{MemoryID: c.MemoryID(), PidsID: c.PidsID()},
		TerminationGracePeriodSeconds: NoData,
		Usage:                         NoUsage,
	}}
	if s.pids, err = c.Procs(s.pids[:0]); err != nil && !errors.Is(err, cgroupfs.ErrGone) {
		return Unit{}, err
	} else if err == nil {
		u.Usage.Processes = int64(len(s.pids))
	}
	if uid := podUID(path.Base(dir)); uid != "" {
		u.UID, u.Name = uid, uid
		u.QOSClass = qosOf(dir)
		u.MemoryRequestBytes = s.inferRequest(c, u.QOSClass)
		u.Targets = s.containers(dir)
		u.Protected = s.holdsSelf()
	} else {
		u.Targets = []Target{{dir}}
		u.Protected = cmp.Or(s.holdsSelf(), s.holdsVital())
	}
	s.applyTable(&u)
	s.protect(&u)
	return u, nil
}

// containers are the pod's child cgroups, without the sandbox when there are others.
func (s *Scanner) containers(pod string) []Target {
	names, _ := s.o.FS.Children(pod)
	var all, rest []Target
	for _, name := range names {
		t := Target{path.Join(pod, name)}
		all = append(all, t)
		if !s.isSandbox(t.Cgroup) {
			rest = append(rest, t)
		}
	}
	switch {
	case len(rest) > 0:
		return rest
	case len(all) > 0:
		return all
	}
	return []Target{{pod}}
}

// isSandbox reports whether all processes of a cgroup are the pause container's.
func (s *Scanner) isSandbox(dir string) bool {
	c, err := s.o.FS.Open(dir)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	pids, err := c.Procs(nil)
	if err != nil || len(pids) == 0 {
		return false
	}
	for _, pid := range pids {
		if s.comm(pid) != "pause" {
			return false
		}
	}
	return true
}

func (s *Scanner) comm(pid int) string {
	b, _ := os.ReadFile(filepath.Join(s.o.Procfs, strconv.Itoa(pid), "comm"))
	return strings.TrimSpace(string(b))
}

// vital are processes without which the node's pods can't be run at all.
var vital = []string{"kubelet", "containerd", "crio", "dockerd", "conmon", "systemd"}

// holdsSelf says that the agent runs in the unit of s.pids: it is never its own victim.
func (s *Scanner) holdsSelf() string {
	for _, pid := range s.pids {
		if slices.Contains(s.o.SelfPIDs, pid) {
			return "the agent itself"
		}
	}
	return ""
}

// holdsVital says why a unit that is no pod is never a victim, judged by s.pids.
func (s *Scanner) holdsVital() string {
	for _, pid := range s.pids {
		comm := s.comm(pid)
		switch {
		case pid == 1:
			return "holds PID 1"
		case slices.Contains(vital, comm), strings.HasPrefix(comm, "containerd-shim"):
			return "holds the container runtime or kubelet: " + comm
		}
	}
	return ""
}

func (s *Scanner) protect(u *Unit) {
	if u.Protected != "" {
		return
	}
	for _, glob := range s.o.Protect {
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
	case u.Critical():
		u.Protected = "critical"
	case u.Evict == "never":
		u.Protected = "table: never"
	}
}

// inferRequest guesses a pod's memory request without the table: the kubelet writes it
// into oom_score_adj (1000 - 1000 x request / capacity, within 3 and 999) of Burstable
// containers; a Guaranteed pod's request is its limit.
func (s *Scanner) inferRequest(c *cgroupfs.Cgroup, qos QOSClass) int64 {
	switch qos {
	case QOSGuaranteed:
		if limit, err := c.MemoryMaxBytes(); err == nil && limit < cgroupfs.Unlimited {
			return limit
		}
	case QOSBurstable:
		for _, pid := range s.pids {
			b, err := os.ReadFile(filepath.Join(s.o.Procfs, strconv.Itoa(pid), "oom_score_adj"))
			if err != nil {
				continue
			}
			adj, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			if err == nil && adj >= 3 && adj <= 999 {
				return s.o.NodeMemoryBytes / 1000 * (1000 - adj)
			}
		}
	}
	return 0
}
