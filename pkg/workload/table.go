package workload

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// TableSchema is the schema of the workload table.
const TableSchema = "ebpf-evict/workloads/v1"

// Table is what an orchestrator's companion knows about the units. It adds knowledge and
// never outranks the kernel's facts.
type Table struct {
	Schema     string  `json:"schema"`
	Node       string  `json:"node"`
	Generation uint64  `json:"generation"`
	Workloads  []Entry `json:"workloads"`
}

// Entry is one unit of the table: the snapshot's workload without usage.
type Entry struct {
	UID                           string                `json:"uid"`
	Namespace                     string                `json:"namespace"`
	Name                          string                `json:"name"`
	Cgroup                        string                `json:"cgroup,omitempty"`
	QOSClass                      string                `json:"qosClass"`
	Priority                      int32                 `json:"priority"`
	Static                        bool                  `json:"static"`
	Mirror                        bool                  `json:"mirror"`
	TerminationGracePeriodSeconds *int64                `json:"terminationGracePeriodSeconds,omitempty"`
	Memory                        EntryMemory           `json:"memory"`
	EphemeralStorage              EntryEphemeralStorage `json:"ephemeralStorage"`
	// Volumes are the emptyDirs.
	Volumes []EntryVolume `json:"volumes,omitempty"`
	// Containers are app, init and sidecar containers, a limit only where it is enforced.
	Containers []EntryContainer `json:"containers,omitempty"`
	// Evict is "allow" (or empty), "never" or "first".
	Evict string `json:"evict,omitempty"`

	// containers and volumes are those above, without usage. Units share them.
	containers []Container
	volumes    []Volume
}

// EntryMemory is what a unit asks for.
type EntryMemory struct {
	RequestBytes *int64 `json:"requestBytes,omitempty"`
	// PodLevelRequestBytes is the pod's own, in the place of the containers'.
	PodLevelRequestBytes *int64 `json:"podLevelRequestBytes,omitempty"`
}

// EntryEphemeralStorage is what a unit asks for, and may use.
type EntryEphemeralStorage struct {
	RequestBytes int64 `json:"requestBytes"`
	// LimitBytes absent is none, and 0 a limit of nothing.
	LimitBytes *int64 `json:"limitBytes,omitempty"`
}

// EntryVolume is an emptyDir. SizeLimitBytes 0 is no limit.
type EntryVolume struct {
	Name           string `json:"name"`
	Medium         string `json:"medium"`
	SizeLimitBytes int64  `json:"sizeLimitBytes,omitempty"`
}

// EntryContainer is an app, init or sidecar container.
type EntryContainer struct {
	Name string `json:"name"`
	// ID is the runtime's, which is in the name of the cgroup; empty until it runs.
	ID                           string `json:"id,omitempty"`
	MemoryRequestBytes           int64  `json:"memoryRequestBytes,omitempty"`
	EphemeralStorageRequestBytes int64  `json:"ephemeralStorageRequestBytes,omitempty"`
	EphemeralStorageLimitBytes   int64  `json:"ephemeralStorageLimitBytes,omitempty"`
}

// TableStatus says how the table is doing.
type TableStatus struct {
	// Taken: there is a table in use.
	Taken      bool
	Generation uint64
	// Changed is when the file that was taken or refused last was written, or set anew.
	Changed time.Time
	// Refused counts the tables that were not taken over; the last good one stays.
	Refused   uint64
	LastError error
}

// ErrTable means that a table is not one: refused, and the last good one kept.
var ErrTable = errors.New("workload table refused")

// LoadTable reads a table that owner wrote. A symbolic link, a fifo, a file of another
// owner or of more than 4 MiB is ErrTable; no file is os.ErrNotExist.
func LoadTable(path string, owner uint32) (*Table, error) {
	data, err := readFile(path, owner, maxTableBytes, ErrTable)
	if err != nil {
		return nil, fmt.Errorf("read the workload table: %w", err)
	}
	return ParseTable(data)
}

// ParseTable parses and checks a table. All errors are ErrTable.
func ParseTable(data []byte) (*Table, error) {
	var t Table
	if err := decode(data, &t, t.check); err != nil {
		return nil, refuse(ErrTable, err)
	}
	return &t, nil
}

// CheckNode refuses the table of another node than this. Either may not know its name, which is then
// empty.
func (t *Table) CheckNode(name string) error {
	if name == "" || t.Node == "" || t.Node == name {
		return nil
	}
	return fmt.Errorf("%w: of node %.80q, this is %.80q", ErrTable, t.Node, name)
}

func (t *Table) check() error {
	if t.Schema != TableSchema {
		return fmt.Errorf("schema %.80q, want %q", t.Schema, TableSchema)
	}
	if err := checkNames(t.Node); err != nil {
		return err
	}
	seen := make(map[string]bool, len(t.Workloads))
	for i := range t.Workloads {
		if err := t.Workloads[i].check(seen); err != nil {
			return fmt.Errorf("workloads[%d]: %w", i, err)
		}
	}
	return nil
}

func (e *Entry) check(seen map[string]bool) error {
	if err := errors.Join(checkPaths(e.UID, e.Cgroup), checkNames(e.Namespace, e.Name, e.QOSClass, e.Evict)); err != nil {
		return err
	}
	switch {
	case e.UID == "":
		return errors.New("no uid")
	case seen[e.UID]:
		return fmt.Errorf("uid %q twice", e.UID)
	case strings.Contains("/"+e.Cgroup+"/", "/../"):
		return fmt.Errorf("cgroup %q leads upwards", e.Cgroup)
	case !slices.Contains([]string{"", "allow", "never", "first"}, e.Evict):
		return fmt.Errorf("evict %q, want allow, never or first", e.Evict)
	}
	seen[e.UID] = true
	if err := e.list(); err != nil {
		return err
	}
	return e.checkAmounts()
}

// list makes containers and volumes.
func (e *Entry) list() error {
	named := make(map[string]bool, len(e.Containers))
	for i := range e.Containers {
		c := &e.Containers[i]
		if err := checkNames(c.Name, c.ID); err != nil {
			return err
		}
		if named[c.Name] {
			return fmt.Errorf("container %q twice", c.Name)
		}
		named[c.Name] = true
		e.containers = append(e.containers, Container{
			Name: c.Name, ID: c.ID, WorkingSetBytes: NoData, RootfsBytes: NoData, LogsBytes: NoData, MemoryRequestBytes: c.MemoryRequestBytes,
			EphemeralStorageRequestBytes: c.EphemeralStorageRequestBytes, EphemeralStorageLimitBytes: c.EphemeralStorageLimitBytes,
		})
	}
	clear(named)
	for _, v := range e.Volumes {
		if err := checkNames(v.Name, v.Medium); err != nil {
			return err
		}
		if named[v.Name] {
			return fmt.Errorf("volume %q twice", v.Name)
		}
		named[v.Name] = true
		e.volumes = append(e.volumes, Volume{Name: v.Name, Medium: v.Medium, UsedBytes: NoData, SizeLimitBytes: v.SizeLimitBytes})
	}
	return nil
}

// checkAmounts refuses what is below zero.
func (e *Entry) checkAmounts() error {
	amounts := []*int64{e.Memory.RequestBytes, e.Memory.PodLevelRequestBytes, &e.EphemeralStorage.RequestBytes, e.EphemeralStorage.LimitBytes}
	for i := range e.Containers {
		c := &e.Containers[i]
		amounts = append(amounts, &c.MemoryRequestBytes, &c.EphemeralStorageRequestBytes, &c.EphemeralStorageLimitBytes)
	}
	for i := range e.Volumes {
		amounts = append(amounts, &e.Volumes[i].SizeLimitBytes)
	}
	for _, n := range amounts {
		if n != nil && *n < 0 {
			return fmt.Errorf("negative request or limit %d", *n)
		}
	}
	return nil
}

// TableStatus reports the table in use and what was refused.
func (s *Scanner) TableStatus() TableStatus {
	status := s.status
	status.Changed = time.Unix(s.seen.mtime.Unix())
	return status
}

// LoadTable takes a newer table over and keeps the last good one otherwise. Units that were
// read before are to be judged anew. One file is parsed once, also when it was refused.
func (s *Scanner) LoadTable() {
	if s.o.TablePath == "" {
		return
	}
	file, err := stampOf(s.o.TablePath)
	if err == nil && file == s.seen {
		return
	}
	t, err := LoadTable(s.o.TablePath, s.o.TableUID)
	if err == nil {
		err = t.CheckNode(s.o.NodeName)
	}
	if err == nil && s.table != nil && t.Generation < s.table.Generation {
		err = fmt.Errorf("%w: generation %d after %d", ErrTable, t.Generation, s.table.Generation)
	}
	switch {
	case errors.Is(err, os.ErrNotExist): // no companion: the cgroups alone tell enough
		return
	case err == nil:
		s.take(t)
		s.seen = file
		s.status.Taken, s.status.Generation, s.status.LastError = true, t.Generation, nil
		return
	case errors.Is(err, ErrTable): // what else kept it from being read may be over
		s.seen = file
	}
	s.status.Refused++
	s.status.LastError = err
}

// take makes t the table in use.
func (s *Scanner) take(t *Table) {
	entries := make(map[string]*Entry, len(t.Workloads))
	for i := range t.Workloads {
		entries[t.Workloads[i].UID] = &t.Workloads[i]
	}
	former := s.rules.Load()
	s.table = t
	s.rules.Store(&rules{former.version + 1, entries, former.protect, former.allowFirst})
}

// apply adds what the table knows of a unit that the cgroups show.
func (k *rules) apply(u *Unit) {
	e := k.entries[u.UID]
	if e == nil {
		return
	}
	u.Namespace, u.Name = e.Namespace, e.Name
	u.Priority, u.Static, u.Mirror = e.Priority, u.Static || e.Static, e.Mirror // the cgroup's name outranks the table
	if e.Memory.RequestBytes != nil {
		u.MemoryRequestBytes = *e.Memory.RequestBytes
	}
	if e.Memory.PodLevelRequestBytes != nil {
		u.MemoryRequestBytes, u.PodLevelRequest = *e.Memory.PodLevelRequestBytes, true
	}
	u.EphemeralStorageRequestBytes, u.EphemeralStorageLimitBytes = e.EphemeralStorage.RequestBytes, e.EphemeralStorage.LimitBytes
	u.Containers, u.Volumes = e.containers, e.volumes
	if e.TerminationGracePeriodSeconds != nil {
		u.TerminationGracePeriodSeconds = *e.TerminationGracePeriodSeconds
	}
	if e.Evict != "first" || k.allowFirst {
		u.Evict = e.Evict
	}
}

// isContainer reports whether a pod's child cgroup is that of a container in the table.
func (k *rules) isContainer(uid, name string) bool {
	e := k.entries[uid]
	return e != nil && slices.ContainsFunc(e.Containers, func(c EntryContainer) bool {
		return c.ID != "" && strings.Contains(name, c.ID)
	})
}
