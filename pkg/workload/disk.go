package workload

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// DiskSchema is the schema of the disk figures.
const DiskSchema = "ebpf-evict/disk/v1"

// DiskTable is what the disk process found out about the node's workloads: each figure
// with the time of its reading, an absent one is no data. Bytes and inodes are of what the
// unit occupies (blocks, not lengths). Times are CLOCK_MONOTONIC.
//
//	{"schema":"ebpf-evict/disk/v1","node":"n","writtenNs":90000000000,
//	 "layout":{"dedicatedImageFs":true,"splitImageFs":false,"imageDir":"/var/lib/containerd","containerDir":""},
//	 "workloads":[{"uid":"…",
//	   "wroteBytes":7,"madeInodes":3,"unlinked":{"readNs":80000000000,"usedBytes":1,"inodes":1},
//	   "ephemeralStorage":{"readNs":80000000000,"rootfsBytes":1,"logsBytes":2,"localVolumesBytes":3,"usedBytes":7},
//	   "inodes":{"readNs":80000000000,"rootfs":1,"logs":2,"localVolumes":3},
//	   "volumes":[{"readNs":80000000000,"name":"v","medium":"","usedBytes":3}],
//	   "containers":[{"readNs":80000000000,"name":"c","rootfsBytes":1,"logsBytes":2}]}],
//	 "reclaim":{"id":"…","signal":"imagefs.available","doneNs":70000000000,
//	   "freedBytes":1,"freedInodes":2,"containers":1,"images":0,"error":""}}
type DiskTable struct {
	Schema string `json:"schema"`
	Node   string `json:"node"`
	// WrittenNs is when the table was written. A later one replaces an earlier one.
	WrittenNs uint64 `json:"writtenNs"`
	// Measuring: units that were there at the writer's start have no figures yet, and whoever
	// has some would be evicted in their place.
	Measuring bool `json:"measuring,omitempty"`
	// Layout is the writer's; absent until it has found it out.
	Layout    *DiskLayout `json:"layout"`
	Workloads []DiskEntry `json:"workloads"`
	// Reclaim is the last node-level reclaim; absent when there was none.
	Reclaim *Reclaim `json:"reclaim"`

	entries map[string]*DiskEntry // by uid
}

// DiskLayout says on which filesystems images and writable layers lie, in the kubelet's
// terms: pkg/signal's Layout as the writer sees it.
type DiskLayout struct {
	// DedicatedImageFs: images, or images and writable layers, lie apart from nodefs.
	DedicatedImageFs bool `json:"dedicatedImageFs"`
	// SplitImageFs: images and writable layers lie apart from each other.
	SplitImageFs bool `json:"splitImageFs"`
	// ImageDir and ContainerDir are directories on the filesystems of the images and of the
	// writable layers, as the container runtime names them. ImageDir "" is not known,
	// ContainerDir "" is with the images.
	ImageDir     string `json:"imageDir"`
	ContainerDir string `json:"containerDir"`
}

// DiskEntry is the disk figures of one unit.
type DiskEntry struct {
	UID string `json:"uid"`
	// WroteBytes and MadeInodes are what the unit can have filled at most, by its counters: what
	// figures are missing may hold so much together. Absent: that can't be told.
	WroteBytes *int64 `json:"wroteBytes,omitempty"`
	MadeInodes *int64 `json:"madeInodes,omitempty"`
	// Unlinked is among the figures below: no du finds it. Absent: nothing, or not known.
	Unlinked         *Unlinked         `json:"unlinked,omitempty"`
	EphemeralStorage *EphemeralStorage `json:"ephemeralStorage"`
	Inodes           *Inodes           `json:"inodes"`
	// Volumes are the emptyDirs.
	Volumes    []VolumeDisk    `json:"volumes"`
	Containers []ContainerDisk `json:"containers"`
}

// Reading dates figures.
type Reading struct {
	// ReadNs is when the oldest of them was read.
	ReadNs uint64 `json:"readNs"`
}

// Age is how old the figures are; never negative.
func (r Reading) Age(nowNs uint64) time.Duration {
	return time.Duration(min(nowNs-min(nowNs, r.ReadNs), math.MaxInt64))
}

// EphemeralStorage is a unit's bytes on disk.
type EphemeralStorage struct {
	Reading
	// RootfsBytes is the writable layers.
	RootfsBytes *int64 `json:"rootfsBytes"`
	// LogsBytes is the logs on nodefs, LogsElsewhereBytes those on another filesystem, as far as
	// they are known: they count for limits alone, and in the kubelet's rankings.
	LogsBytes          *int64 `json:"logsBytes"`
	LogsElsewhereBytes int64  `json:"logsElsewhereBytes,omitempty"`
	// LocalVolumesBytes is emptyDirs of medium "", configMaps, gitRepos and directories of the
	// configuration.
	LocalVolumesBytes *int64 `json:"localVolumesBytes"`
	// UsedBytes is the total, with the pod's log directory and etc-hosts; absent means the
	// sum of those above.
	UsedBytes *int64 `json:"usedBytes"`
}

// Inodes is a unit's inodes, divided as its bytes are.
type Inodes struct {
	Reading
	Rootfs        *int64 `json:"rootfs"`
	Logs          *int64 `json:"logs"`
	LogsElsewhere int64  `json:"logsElsewhere,omitempty"`
	LocalVolumes  *int64 `json:"localVolumes"`
}

// Unlinked is what files take that have no name any more and that the unit holds open.
type Unlinked struct {
	Reading
	UsedBytes int64 `json:"usedBytes"`
	Inodes    int64 `json:"inodes"`
}

// VolumeDisk is one emptyDir.
type VolumeDisk struct {
	Reading
	Name string `json:"name"`
	// Medium is "" (disk), "Memory" or "HugePages…".
	Medium    string `json:"medium"`
	UsedBytes *int64 `json:"usedBytes"`
}

// ContainerDisk is one container's bytes on disk.
type ContainerDisk struct {
	Reading
	Name        string `json:"name"`
	RootfsBytes *int64 `json:"rootfsBytes"`
	LogsBytes   *int64 `json:"logsBytes"`
}

// Reclaim is what a node-level reclaim freed, by the id of the agent's request.
type Reclaim struct {
	ID     string `json:"id"`
	Signal string `json:"signal"`
	// DoneNs is when it ended.
	DoneNs uint64 `json:"doneNs"`
	// FreedBytes and FreedInodes are by how much the signal's filesystem has more
	// available after it than before; absent where that can't be told.
	FreedBytes  *int64 `json:"freedBytes"`
	FreedInodes *int64 `json:"freedInodes"`
	// Containers and Images are how many were removed.
	Containers int64 `json:"containers"`
	Images     int64 `json:"images"`
	// Error says what went wrong, in at most 4096 bytes; empty when nothing did.
	Error string `json:"error"`
}

// ErrDisk means that a file is no disk table: refused, and the last good one kept.
var ErrDisk = errors.New("disk figures refused")

// ErrDiskStale means that the disk process has written nothing for too long: there is no
// data, and somebody should look.
var ErrDiskStale = errors.New("disk figures are stale")

// Entry returns the figures of a unit, nil when there are none.
func (t *DiskTable) Entry(uid string) *DiskEntry { return t.entries[uid] }

// LoadDisk reads a disk table that owner wrote. A symbolic link, a fifo, a file of another
// owner or of more than 8 MiB is ErrDisk; no file is os.ErrNotExist.
func LoadDisk(path string, owner uint32) (*DiskTable, error) {
	data, err := readFile(path, owner, maxDiskBytes, ErrDisk)
	if err != nil {
		return nil, fmt.Errorf("read the disk figures: %w", err)
	}
	return ParseDisk(data)
}

// ParseDisk parses and checks a disk table. All errors are ErrDisk.
func ParseDisk(data []byte) (*DiskTable, error) {
	var t DiskTable
	if err := decode(data, &t, t.check, t.list); err != nil {
		return nil, refuse(ErrDisk, err)
	}
	return &t, nil
}

// list makes entries.
func (t *DiskTable) list() error {
	t.entries = make(map[string]*DiskEntry, len(t.Workloads))
	for i := range t.Workloads {
		e := &t.Workloads[i]
		err := e.check(t.WrittenNs)
		if err == nil && t.entries[e.UID] != nil {
			err = fmt.Errorf("uid %q twice", e.UID)
		}
		if err != nil {
			return fmt.Errorf("workloads[%d]: %w", i, err)
		}
		t.entries[e.UID] = e
	}
	return nil
}

func (t *DiskTable) check() error {
	switch {
	case t.Schema != DiskSchema:
		return fmt.Errorf("schema %.80q, want %q", t.Schema, DiskSchema)
	case t.WrittenNs == 0:
		return errors.New("no writtenNs")
	case t.Layout != nil && t.Layout.SplitImageFs && !t.Layout.DedicatedImageFs:
		return errors.New("a split image filesystem is a dedicated one too")
	case t.Layout != nil && !(isDirectory(t.Layout.ImageDir) && isDirectory(t.Layout.ContainerDir)):
		return fmt.Errorf("layout: %.80q and %.80q are to be absolute and clean", t.Layout.ImageDir, t.Layout.ContainerDir)
	case t.Reclaim != nil:
		return t.Reclaim.check(t.WrittenNs)
	}
	return nil
}

// isDirectory reports whether a name can be a directory's, or none is given.
func isDirectory(name string) bool {
	return name == "" || len(name) <= maxPathBytes && path.IsAbs(name) && path.Clean(name) == name && !strings.Contains(name, "\x00")
}

func (r *Reclaim) check(writtenNs uint64) error {
	switch {
	case r.ID == "" || r.Signal == "":
		return errors.New("reclaim without id or signal")
	case r.DoneNs == 0 || r.DoneNs > writtenNs:
		return fmt.Errorf("reclaim done at %d ns, written at %d ns", r.DoneNs, writtenNs)
	}
	if err := checkPaths(r.ID, r.Signal, r.Error); err != nil {
		return fmt.Errorf("reclaim: %w", err)
	}
	return plausible(r.FreedBytes, r.FreedInodes, &r.Containers, &r.Images)
}

func (e *DiskEntry) check(writtenNs uint64) error {
	if e.UID == "" {
		return errors.New("no uid")
	}
	if err := checkPaths(e.UID); err != nil {
		return err
	}
	if err := plausible(e.WroteBytes, e.MadeInodes); err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	if s := e.Unlinked; s != nil {
		if err := s.check(writtenNs, &s.UsedBytes, &s.Inodes); err != nil {
			return fmt.Errorf("unlinked: %w", err)
		}
	}
	if s := e.EphemeralStorage; s != nil {
		if err := s.check(writtenNs, s.RootfsBytes, s.LogsBytes, &s.LogsElsewhereBytes, s.LocalVolumesBytes, s.UsedBytes); err != nil {
			return fmt.Errorf("ephemeralStorage: %w", err)
		}
	}
	if s := e.Inodes; s != nil {
		if err := s.check(writtenNs, s.Rootfs, s.Logs, &s.LogsElsewhere, s.LocalVolumes); err != nil {
			return fmt.Errorf("inodes: %w", err)
		}
	}
	volumes := make(map[string]bool, len(e.Volumes))
	for _, v := range e.Volumes {
		if err := checkNames(v.Name, v.Medium); err != nil {
			return err
		}
		if err := v.check(writtenNs, v.UsedBytes); err != nil || volumes[v.Name] {
			return fmt.Errorf("volume %q: %w", v.Name, orTwice(err))
		}
		volumes[v.Name] = true
	}
	containers := make(map[string]bool, len(e.Containers))
	for _, c := range e.Containers {
		if err := checkNames(c.Name); err != nil {
			return err
		}
		if err := c.check(writtenNs, c.RootfsBytes, c.LogsBytes); err != nil || containers[c.Name] {
			return fmt.Errorf("container %q: %w", c.Name, orTwice(err))
		}
		containers[c.Name] = true
	}
	return nil
}

func orTwice(err error) error {
	if err == nil {
		return errors.New("named twice")
	}
	return err
}

func (r Reading) check(writtenNs uint64, figures ...*int64) error {
	if r.ReadNs == 0 || r.ReadNs > writtenNs {
		return fmt.Errorf("read at %d ns, written at %d ns", r.ReadNs, writtenNs)
	}
	return plausible(figures...)
}

// maxFigure is 2^60 bytes or inodes: more than any filesystem holds, and several of them
// add up without overflow.
const maxFigure = 1 << 60

func plausible(figures ...*int64) error {
	for _, f := range figures {
		if f != nil && (*f < 0 || *f > maxFigure) {
			return fmt.Errorf("implausible figure %d", *f)
		}
	}
	return nil
}

// DiskReader keeps the last good disk table. It belongs to one goroutine, off the hot path.
type DiskReader struct {
	path   string
	owner  uint32
	maxAge time.Duration
	last   *DiskTable
	// seen is the file that was parsed last, into parsed or to parseErr.
	seen     stamp
	parsed   *DiskTable
	parseErr error
	// refused counts the tables that were not taken over.
	refused uint64
}

// NewDiskReader makes a reader of a file that owner writes. A table is stale maxAge after
// it was written, whatever the age of its figures.
func NewDiskReader(path string, owner uint32, maxAge time.Duration) *DiskReader {
	return &DiskReader{path: path, owner: owner, maxAge: maxAge}
}

// Refused counts the files that were no table, or an older one. No file at all is not
// counted.
func (r *DiskReader) Refused() uint64 { return r.refused }

// aheadTolerance is how far a table may be dated ahead of the caller's clock, which the
// caller read before the file.
const aheadTolerance = time.Second

// Read returns the newest good table and what is wrong, if anything; both at once when the
// file was refused and the last good table still serves. Without a table that serves the
// error is os.ErrNotExist (nobody writes one), ErrDisk, ErrDiskStale, or several of them.
//
// A file is parsed once, so Read may be called often.
func (r *DiskReader) Read(nowNs uint64) (*DiskTable, error) {
	file, err := stampOf(r.path)
	isNew := err != nil || file != r.seen
	if isNew {
		r.parse(file)
	}
	if err = r.parseErr; err == nil {
		err = r.take(r.parsed, nowNs) // one dated ahead may be due by now
	}
	if isNew && err != nil && !errors.Is(err, os.ErrNotExist) {
		r.refused++
	}
	if r.last == nil {
		return nil, err
	}
	if age := (Reading{r.last.WrittenNs}).Age(nowNs); age > r.maxAge {
		return nil, errors.Join(err, fmt.Errorf("%w: written %s ago", ErrDiskStale, age))
	}
	return r.last, err
}

func (r *DiskReader) parse(file stamp) {
	r.parsed, r.parseErr = LoadDisk(r.path, r.owner)
	if r.seen = file; r.parseErr != nil && !errors.Is(r.parseErr, ErrDisk) {
		r.seen = stamp{} // what kept it from being read may be over
	}
}

func (r *DiskReader) take(t *DiskTable, nowNs uint64) error {
	if err := r.follows(t, nowNs); err != nil {
		return err
	}
	r.last = t
	return nil
}

// follows says what keeps t from replacing the last table.
func (r *DiskReader) follows(t *DiskTable, nowNs uint64) error {
	switch {
	case r.last != nil && t.WrittenNs < r.last.WrittenNs:
		return fmt.Errorf("%w: written at %d ns after one of %d ns", ErrDisk, t.WrittenNs, r.last.WrittenNs)
	case t.WrittenNs > nowNs && t.WrittenNs-nowNs > uint64(aheadTolerance):
		return fmt.Errorf("%w: dated %d ns ahead", ErrDisk, t.WrittenNs-nowNs)
	}
	return nil
}

// Usage is what the unit holds by the figures that are not older than maxAge; nil when
// there is none.
func (e *DiskEntry) Usage(nowNs uint64, maxAge time.Duration) *DiskUsage {
	u := NoDiskUsage
	if s := e.EphemeralStorage; s != nil && s.Age(nowNs) <= maxAge {
		u.Rootfs.Bytes, u.Logs.Bytes, u.LocalVolumes.Bytes = figure(s.RootfsBytes), figure(s.LogsBytes), figure(s.LocalVolumesBytes)
		u.LogsElsewhere.Bytes, u.UsedBytes = s.LogsElsewhereBytes, figure(s.UsedBytes)
	}
	if n := e.Inodes; n != nil && n.Age(nowNs) <= maxAge {
		u.Rootfs.Inodes, u.Logs.Inodes, u.LocalVolumes.Inodes = figure(n.Rootfs), figure(n.Logs), figure(n.LocalVolumes)
		u.LogsElsewhere.Inodes = n.LogsElsewhere
	}
	if u == NoDiskUsage {
		return nil
	}
	return &u
}

// Unmeasured is what the unit may hold at most of what has no figure.
func (e *DiskEntry) Unmeasured() FsUsage {
	u := FsUsage{math.MaxInt64, math.MaxInt64}
	if e.WroteBytes != nil {
		u.Bytes = *e.WroteBytes
	}
	if e.MadeInodes != nil {
		u.Inodes = *e.MadeInodes
	}
	return u
}

// Measure gives a unit the figures that are not older than maxAge: its own, and those of the
// containers and emptyDirs that it is known to have. Its slices are replaced, not changed.
func (e *DiskEntry) Measure(w *Workload, nowNs uint64, maxAge time.Duration) {
	w.Usage.Disk = e.Usage(nowNs, maxAge)
	w.Containers, w.Volumes = slices.Clone(w.Containers), slices.Clone(w.Volumes)
	for i := range e.Containers {
		read := &e.Containers[i]
		if at := slices.IndexFunc(w.Containers, func(c Container) bool { return c.Name == read.Name }); at >= 0 && read.Age(nowNs) <= maxAge {
			w.Containers[at].RootfsBytes, w.Containers[at].LogsBytes = figure(read.RootfsBytes), figure(read.LogsBytes)
		}
	}
	for i := range e.Volumes {
		read := &e.Volumes[i]
		if at := slices.IndexFunc(w.Volumes, func(v Volume) bool { return v.Name == read.Name }); at >= 0 && read.Age(nowNs) <= maxAge {
			w.Volumes[at].UsedBytes = figure(read.UsedBytes)
		}
	}
}

// OldestAge is the age of the oldest figure of a unit's own, of those that are there; false
// where there is none.
func (e *DiskEntry) OldestAge(nowNs uint64) (oldest time.Duration, ok bool) {
	if s := e.EphemeralStorage; s != nil {
		oldest, ok = s.Age(nowNs), true
	}
	if n := e.Inodes; n != nil {
		oldest, ok = max(oldest, n.Age(nowNs)), true
	}
	return oldest, ok
}

// figure turns an absent figure into NoData.
func figure(v *int64) int64 {
	if v == nil {
		return NoData
	}
	return *v
}
