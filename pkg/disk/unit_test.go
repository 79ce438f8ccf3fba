package disk

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/cri"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

const (
	podUID = "0f0e2b6a-6a3b-4c59-9a0e-0d6a3f9d2c11"
	id1    = "1111111111111111111111111111111111111111111111111111111111111111"
	id2    = "2222222222222222222222222222222222222222222222222222222222222222"
)

// node is a node in a temporary directory, with one pod of two containers and one unit that
// is no pod.
type node struct {
	base  string
	units *fakeUnits
	Options
}

func newNode(t testing.TB) *node {
	t.Helper()
	base := t.TempDir()
	n := &node{base: base}
	pod := filepath.Join(base, "kubelet/pods", podUID)
	logs := filepath.Join(base, "logs", "shop_web-0_"+podUID)
	for name, size := range map[string]int{
		pod + "/etc-hosts": 300,
		pod + "/volumes/kubernetes.io~empty-dir/cache/data":   100 << 10,
		pod + "/volumes/kubernetes.io~empty-dir/scratch/a/b":  200 << 10,
		pod + "/volumes/kubernetes.io~configmap/settings/key": 1,
		pod + "/volumes/kubernetes.io~secret/token/key":       1 << 20, // counted nowhere
		pod + "/volumes/kubernetes.io~projected/sa/token":     1 << 20,
		pod + "/plugins/kubernetes.io~empty-dir/cache/ready":  1 << 20,
		logs + "/web/0.log":                                      50 << 10,
		logs + "/sidecar/0.log":                                  20 << 10,
		logs + "/other.log":                                      4 << 10,
		base + "/machines/one/disk.img":                          300 << 10,
		base + "/store/layer1/fs/file":                           40 << 10,
		base + "/cgroup/cgroup.controllers":                      0,
		base + "/cgroup/kubepods/pod" + podUID + "/cgroup.procs": 0,
	} {
		write(t, name, size)
	}
	cgroup := filepath.Join(base, "cgroup")
	put(t, cgroup+"/cgroup.controllers", "io memory pids\n")
	for _, dir := range []string{"kubepods/pod" + podUID + "/" + id1, "kubepods/pod" + podUID + "/" + id2, "machine/one"} {
		put(t, filepath.Join(cgroup, dir, "cgroup.procs"), "")
	}
	fs, err := cgroupfs.New(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	put(t, base+"/proc/vmstat", "nr_free_pages 1\nnr_dirtied 1\n")
	n.Options = Options{
		FS: fs, NodeFs: base + "/kubelet", Logs: base + "/logs", Stores: []string{base + "/store"}, DockerLogs: base + "/docker",
		Directories: map[string][]string{"/machine/*": {base + "/machines/one"}},
		Table:       base + "/disk.json", Request: base + "/reclaim.json", RequestOwner: uint32(os.Geteuid()),
		Node: "n", Procfs: base + "/proc", Log: zerolog.New(zerolog.NewTestWriter(t)),
	}
	group := "/kubepods/pod" + podUID
	n.units = &fakeUnits{units: map[string]workload.Unit{
		group: {Workload: workload.Workload{UID: podUID, Cgroup: group, QOSClass: workload.QOSBurstable,
			Volumes: []workload.Volume{{Name: "cache", SizeLimitBytes: 1 << 20}}},
			Targets: []workload.Target{{Cgroup: group + "/" + id1}, {Cgroup: group + "/" + id2}}},
		"/machine/one":       {Workload: workload.Workload{UID: "/machine/one", Cgroup: "/machine/one"}, Targets: []workload.Target{{Cgroup: "/machine/one"}}},
		"/machine.slice/two": {Workload: workload.Workload{UID: "/machine.slice/two", Cgroup: "/machine.slice/two"}},
	}}
	n.Units = n.units
	return n
}

// fakeUnits are what a scanner would find.
type fakeUnits struct {
	mu    sync.Mutex
	units map[string]workload.Unit
}

func (f *fakeUnits) LoadTable()           {}
func (f *fakeUnits) Judge(*workload.Unit) {}
func (f *fakeUnits) Levels() []string     { return []string{"/kubepods", "/machine"} }

func (f *fakeUnits) List() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.units)), nil
}

func (f *fakeUnits) Unit(cgroup string) (workload.Unit, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u, ok := f.units[cgroup]; ok {
		return u, nil
	}
	return workload.Unit{}, cgroupfs.ErrGone
}

func (f *fakeUnits) remove(cgroup string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.units, cgroup)
}

// process puts a process with a layer into a container's cgroup, and the layer into the host's table.
func (n *node) process(t *testing.T, id, pid, upper string) {
	t.Helper()
	put(t, filepath.Join(n.base, "cgroup/kubepods/pod"+podUID, id, "cgroup.procs"), pid+"\n")
	of := filepath.Join(n.base, "proc", pid, "mountinfo")
	put(t, of, overlayOn("0:"+pid, "/", upper)+"901 900 0:56 / /proc rw - proc proc rw\n")
	host := filepath.Join(n.base, "proc/1/mountinfo")
	before, _ := os.ReadFile(host)
	put(t, host, string(before)+overlayOn("0:"+pid, "/run/"+id+"/rootfs", upper))
}

// overlayOn is a line of mountinfo.
func overlayOn(device, at, upper string) string {
	return "900 800 " + device + " / " + at + " rw,relatime shared:1 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=" + upper + ",workdir=/w,nouserxattr\n"
}

// fakeRuntime answers at once.
type fakeRuntime struct {
	imageDir   string // "" is "/"
	containers []cri.Container
	err        error
	reclaim    func(ctx context.Context, what cri.Reclaim, missing func() int64) (cri.Reclaimed, error)
}

func (r *fakeRuntime) Filesystems(context.Context) (cri.Filesystems, error) {
	return cri.Filesystems{ImageDir: cmp.Or(r.imageDir, "/")}, r.err
}

func (r *fakeRuntime) Containers(context.Context) ([]cri.Container, error) {
	return r.containers, r.err
}

func (r *fakeRuntime) Reclaim(ctx context.Context, what cri.Reclaim, missing func() int64) (cri.Reclaimed, error) {
	return r.reclaim(ctx, what, missing)
}

func TestFiguresOfAPodAreTheKubeletsParts(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	old := min(9*time.Second, monotonic()/2) // a machine may have just started
	n.Runtime = &fakeRuntime{containers: []cri.Container{
		{ID: id1, Name: "web", PodUID: podUID, Running: true},
		{ID: id2, Name: "sidecar", PodUID: podUID, Running: true, Rootfs: &cri.Usage{Bytes: 8192, Inodes: 3, Time: time.Now().Add(-old)}},
		{ID: "dead", Name: "sidecar", PodUID: podUID, Rootfs: &cri.Usage{Bytes: 1 << 30, Inodes: 3, Time: time.Now()}},
		{ID: "other", Name: "web", PodUID: "another", Running: true, Rootfs: &cri.Usage{Bytes: 1 << 30, Inodes: 3, Time: time.Now()}},
	}}
	e := n.once(t).Entry(podUID)
	du := func(dir string) int64 { return runDu(t, filepath.Join(n.base, dir), "-B1") }
	inodes := func(dir string) int64 { return runDu(t, filepath.Join(n.base, dir), "--inodes") }
	pod, logs := "kubelet/pods/"+podUID+"/volumes/kubernetes.io~", "logs/shop_web-0_"+podUID
	volumes := du(pod+"empty-dir/cache") + du(pod+"empty-dir/scratch") + du(pod+"configmap/settings")
	containerLogs := du(logs+"/web") + du(logs+"/sidecar")
	rootfs := du("store/layer1/fs") + 8192
	s := e.EphemeralStorage
	for name, tc := range map[string]struct {
		got  *int64
		want int64
	}{
		"rootfs":         {s.RootfsBytes, rootfs},
		"logs":           {s.LogsBytes, containerLogs},
		"volumes":        {s.LocalVolumesBytes, volumes},
		"used":           {s.UsedBytes, rootfs + containerLogs + volumes + du(logs+"/other.log") + du("kubelet/pods/"+podUID+"/etc-hosts")},
		"rootfs inodes":  {e.Inodes.Rootfs, inodes("store/layer1/fs") + 3},
		"logs inodes":    {e.Inodes.Logs, inodes(logs+"/web") + inodes(logs+"/sidecar")},
		"volumes inodes": {e.Inodes.LocalVolumes, inodes(pod+"empty-dir/cache") + inodes(pod+"empty-dir/scratch") + inodes(pod+"configmap/settings")},
	} {
		if tc.got == nil || *tc.got != tc.want {
			t.Errorf("%s: got %v, want %d", name, show(tc.got), tc.want)
		}
	}
	if v := e.Volumes; len(v) != 2 || v[0].Name != "cache" || *v[0].UsedBytes != du(pod+"empty-dir/cache") || v[1].Name != "scratch" {
		t.Errorf("volumes %+v, want the two emptyDirs", v)
	}
	if age := s.Age(monotonicNs()); age < old || age > old+soon {
		t.Errorf("age %s, want that of the oldest figure, the runtime's of %s", age, old)
	}
	byName := map[string]workload.ContainerDisk{}
	for _, c := range e.Containers {
		byName[c.Name] = c
	}
	if c := byName["sidecar"]; len(byName) != 2 || c.RootfsBytes == nil || *c.RootfsBytes != 8192 || *c.LogsBytes != du(logs+"/sidecar") {
		t.Errorf("containers %+v", byName)
	}
}

func TestFiguresWithoutTheRuntime(t *testing.T) {
	for name, r := range map[string]Runtime{
		"none":               nil,
		"one that fails":     &fakeRuntime{err: errors.New("connection refused")},
		"one without socket": dial(t, filepath.Join(t.TempDir(), "none")),
		"one that hangs":     dial(t, deafSocket(t)),
	} {
		n := newNode(t)
		n.Runtime = r
		e := n.once(t).Entry(podUID)
		if s := e.EphemeralStorage; s.RootfsBytes != nil || s.UsedBytes != nil || s.LogsBytes == nil || s.LocalVolumesBytes == nil {
			t.Errorf("%s: got %+v, want all but writable layers", name, s)
		}
		// The kernel knows of the layers of containers that run.
		n.process(t, id1, "4711", n.base+"/store/layer1/fs")
		n.process(t, id2, "4712", n.base+"/store/layer2/fs")
		if s := n.once(t).Entry(podUID).EphemeralStorage; s.RootfsBytes == nil {
			t.Errorf("%s: no figure though the layers are known", name)
		}
	}
}

func dial(t *testing.T, socket string) Runtime {
	t.Helper()
	client, err := cri.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// deafSocket is one that takes connections and says nothing.
func deafSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "deaf") // a socket's name has 107 characters at most
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.RemoveAll(dir)
	})
	return filepath.Join(dir, "s")
}

func TestRuntimeThatTellsLess(t *testing.T) {
	n := newNode(t)
	n.Runtime = &fakeRuntime{err: errors.New("one shim hangs"), containers: []cri.Container{
		{ID: id1, Name: "web", PodUID: podUID, Running: true, Rootfs: &cri.Usage{Bytes: 5000, Inodes: -1, Time: time.Now()}},
		{ID: id2, Name: "sidecar", PodUID: podUID, Running: true, Rootfs: &cri.Usage{Bytes: 3000, Inodes: -1, Time: time.Now()}},
	}}
	e := n.once(t).Entry(podUID)
	if e.EphemeralStorage.RootfsBytes == nil || *e.EphemeralStorage.RootfsBytes != 8000 || e.Inodes.Rootfs != nil || e.Inodes.Logs == nil {
		t.Errorf("got %s bytes, %v inodes, want 8000 and no data", fmt.Sprint(show(e.EphemeralStorage.RootfsBytes)), show(e.Inodes.Rootfs))
	}
}

// A dead container's layer lies there, and is not held against a limit.
func TestLayersOfDeadContainers(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	layer := func(bytes int64) *cri.Usage { return &cri.Usage{Bytes: bytes, Inodes: 1, Time: time.Now()} }
	n.Runtime = &fakeRuntime{containers: []cri.Container{
		{ID: id1, Name: "web", PodUID: podUID, Running: true},
		{ID: id2, Name: "sidecar", PodUID: podUID, Running: true, Rootfs: layer(8192)},
		{ID: "dead", Name: "init", PodUID: podUID, Rootfs: layer(1 << 20)},
		{ID: "unknown", Name: "init2", PodUID: podUID},
	}}
	e := n.once(t).Entry(podUID)
	s, running := e.EphemeralStorage, runDu(t, filepath.Join(n.base, "store/layer1/fs"), "-B1")+8192
	if s.RootfsBytes == nil || *s.RootfsBytes != running+1<<20 {
		t.Errorf("layers hold %v, want %d", show(s.RootfsBytes), running+1<<20)
	}
	others := *s.LogsBytes + *s.LocalVolumesBytes + runDu(t, filepath.Join(n.base, "logs/shop_web-0_"+podUID, "other.log"), "-B1") +
		runDu(t, filepath.Join(n.base, "kubelet/pods", podUID, "etc-hosts"), "-B1")
	if s.UsedBytes == nil || *s.UsedBytes != running+others {
		t.Errorf("used are %v, want %d", show(s.UsedBytes), running+others)
	}
	for _, c := range e.Containers {
		if c.Name == "init" {
			t.Errorf("got %+v of a dead container", c)
		}
	}
}

// A runtime that has figures of who runs alone says nothing of a layer that lies there. What it
// held at last counts, and is no figure of after its end.
func TestLayerOfAContainerThatEnded(t *testing.T) {
	runtime := &fakeRuntime{containers: []cri.Container{
		{ID: id2, Name: "sidecar", PodUID: podUID, Running: true, Rootfs: &cri.Usage{Bytes: 8192, Inodes: 1, Time: time.Now()}},
	}}
	var a asked
	look := func() *figure {
		t.Helper()
		if err := a.once(t.Context(), runtime); err != nil {
			t.Fatal(err)
		}
		list, ok := a.of(podUID, monotonicNs())
		if !ok || len(list) != 1 {
			t.Fatalf("containers %+v", list)
		}
		return new(unit).layerFigure(list[0], monotonicNs(), time.Now())
	}
	look()
	ended := monotonicNs()
	runtime.containers[0].Running, runtime.containers[0].Rootfs = false, nil
	for range 2 {
		if f := look(); f == nil || f.Bytes != 8192 || f.readNs > ended {
			t.Errorf("figure %+v, want what it held before its end", f)
		}
	}
	a.containers[podUID][0].Rootfs.Time = time.Now().Add(-time.Hour)
	if f := look(); f == nil || monotonicNs()-f.readNs > uint64(2*containersAge) {
		t.Errorf("figure %+v: an old one would make all the others old", f)
	}
}

// A container that was started since the runtime was asked is nobody's who holds nothing.
func TestContainerThatTheRuntimesListLacks(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	n.Runtime = &fakeRuntime{containers: []cri.Container{
		{ID: id2, Name: "sidecar", PodUID: podUID, Running: true, Rootfs: &cri.Usage{Bytes: 8192, Inodes: 3, Time: time.Now()}},
	}}
	du := runDu(t, filepath.Join(n.base, "store/layer1/fs"), "-B1")
	if e := n.once(t).Entry(podUID); e.EphemeralStorage.RootfsBytes == nil || *e.EphemeralStorage.RootfsBytes != du+8192 {
		t.Errorf("got %s bytes of writable layers, want %d", show(e.EphemeralStorage.RootfsBytes), du+8192)
	}
}

func TestRuntimesOldFiguresCountForNothing(t *testing.T) {
	n := newNode(t)
	n.Runtime = &fakeRuntime{containers: []cri.Container{
		{ID: id1, Name: "web", PodUID: podUID, Running: true, Rootfs: &cri.Usage{Bytes: 1, Inodes: 1, Time: time.Now().Add(-time.Minute)}},
	}}
	s := n.once(t).Entry(podUID).EphemeralStorage
	if s.RootfsBytes != nil || s.Age(monotonicNs()) > 50*time.Second {
		t.Errorf("rootfs %v, read %s ago: it would make the others old", show(s.RootfsBytes), s.Age(monotonicNs()))
	}
}

func TestDirectoriesOfAUnitThatIsNoPod(t *testing.T) {
	n := newNode(t)
	table := n.once(t)
	e := table.Entry("/machine/one")
	want := runDu(t, n.base+"/machines/one", "-B1")
	if e == nil || *e.EphemeralStorage.LocalVolumesBytes != want || *e.EphemeralStorage.RootfsBytes != 0 || *e.EphemeralStorage.LogsBytes != 0 {
		t.Errorf("got %+v, want %d bytes and neither layers nor logs", e, want)
	}
	if e := table.Entry("/machine.slice/two"); e != nil {
		t.Errorf("got %+v of a unit without directories: it has no figures", e)
	}
}

// A directory of the configuration that is not there may be misspelt, or not mounted where we
// look from: that its unit holds nothing would be a guess. One that was there and went is gone.
func TestDirectoryThatWasNeverThere(t *testing.T) {
	n := newNode(t)
	var log bytes.Buffer
	n.Log = zerolog.New(&log)
	there, missing := n.base+"/machines/one", n.base+"/machines/two"
	n.Directories["/machine*/*"] = []string{missing}
	table, err := Once(t.Context(), n.Options)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range table.Workloads {
		if s := e.EphemeralStorage; s != nil && strings.HasPrefix(e.UID, "/machine") && s.LocalVolumesBytes != nil {
			t.Errorf("%s has %d bytes, want no data", e.UID, *s.LocalVolumesBytes)
		}
	}
	if said := strings.Count(log.String(), missing); said != 1 || strings.Contains(log.String(), there) {
		t.Errorf("said %d times, want once:\n%s", said, log.String())
	}
	v := newVisitor(monotonicNs)
	p := &part{place: place{there, "."}, kind: directory}
	p.figure = conclude(v, p).figure
	if err := os.RemoveAll(there); err != nil {
		t.Fatal(err)
	}
	if out := conclude(v, p); out.figure == nil || out.figure.Tally != (Tally{}) {
		t.Errorf("gone, and %+v, %v", out.figure, out.err)
	}
}

// What lies on another filesystem than nodefs frees nothing there.
func TestDirectoryOnAnotherFilesystem(t *testing.T) { mountns.Run(t, testDirectoryOnAnotherFilesystem) }

func testDirectoryOnAnotherFilesystem(t *testing.T) {
	n := newNode(t)
	var log bytes.Buffer
	n.Log = zerolog.New(&log)
	there, away := n.base+"/machines/one", n.base+"/machines/data"
	write(t, away+"/below", 50<<10)
	if err := unix.Mount("tmpfs", away, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	write(t, away+"/disk.img", 4<<20)
	n.Directories = map[string][]string{"/machine*/*": {there, away}}
	table := n.once(t)
	want := runDu(t, there, "-B1")
	for _, uid := range []string{"/machine/one", "/machine.slice/two"} {
		if e := table.Entry(uid); e == nil || e.EphemeralStorage == nil || e.EphemeralStorage.LocalVolumesBytes == nil || *e.EphemeralStorage.LocalVolumesBytes != want {
			t.Errorf("%s: got %+v, want %d bytes", uid, e, want)
		}
	}
	if said := strings.Count(log.String(), errElsewhere.Error()); said != 1 || !strings.Contains(log.String(), away) || strings.Contains(log.String(), there) {
		t.Errorf("said %d times, want once, of %s:\n%s", said, away, log.String())
	}
	w := newWorker(n.Options)
	p := &part{place: place{away, "."}, kind: directory}
	for !w.step(p) {
	}
	if p.figure == nil || p.figure.Tally != (Tally{}) {
		t.Fatalf("figure %+v, want nothing", p.figure)
	}
	if err := unix.Unmount(away, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for !w.step(p) {
	}
	if want := runDu(t, away, "-B1"); p.figure.Bytes != want {
		t.Errorf("%d bytes when it lies on nodefs again, want %d", p.figure.Bytes, want)
	}
	w.visitor.nodefs = n.base + "/none"
	if out := conclude(w.visitor, p); out.err == nil || out.figure != nil {
		t.Errorf("got %+v where nodefs can't be asked, want no figure", out)
	}
}

// Logs on another filesystem count for limits, and not for nodefs.
func TestLogsOnAnotherFilesystem(t *testing.T) { mountns.Run(t, testLogsOnAnotherFilesystem) }

func testLogsOnAnotherFilesystem(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	n.process(t, id2, "4712", n.base+"/store/layer2/fs")
	dockers := n.base + "/docker/" + id1
	write(t, dockers+"/"+id1+"-json.log", 30<<10)
	want := n.once(t).Entry(podUID) // all on one
	logs := "/shop_web-0_" + podUID
	away := t.TempDir()
	if err := unix.Mount("tmpfs", away, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"/web/0.log": 50 << 10, "/sidecar/0.log": 20 << 10, "/other.log": 4 << 10} {
		write(t, away+logs+name, size)
	}
	n.Logs = away
	e := n.once(t).Entry(podUID)
	du := func(dir string) int64 { return runDu(t, dir, "-B1") }
	elsewhere := du(away+logs+"/web") + du(away+logs+"/sidecar")
	if s := e.EphemeralStorage; show(s.LogsBytes) != any(du(dockers)) || s.LogsElsewhereBytes != elsewhere || show(s.RootfsBytes) != show(want.EphemeralStorage.RootfsBytes) {
		t.Errorf("%+v: %v bytes of logs on nodefs and %d elsewhere, want %d and %d", s, show(s.LogsBytes), s.LogsElsewhereBytes, du(dockers), elsewhere)
	}
	used := *want.EphemeralStorage.UsedBytes - (*want.EphemeralStorage.LogsBytes - du(dockers)) + elsewhere - du(n.base+"/logs"+logs+"/other.log") + du(away+logs+"/other.log")
	if s := e.EphemeralStorage; show(s.UsedBytes) != any(used) {
		t.Errorf("%v bytes used, want %d, logs included", show(s.UsedBytes), used)
	}
	if i := e.Inodes; show(i.Logs) != any(int64(2)) || i.LogsElsewhere != 4 {
		t.Errorf("%v inodes of logs on nodefs and %d elsewhere, want 2 and 4", show(i.Logs), i.LogsElsewhere)
	}
	for _, c := range e.Containers {
		if c.Name != "" && show(c.LogsBytes) != any(du(away+logs+"/"+c.Name)) {
			t.Errorf("%s: %v bytes of logs", c.Name, show(c.LogsBytes))
		}
	}
	// One without a figure is missing for the limit alone.
	w := newWorker(n.Options)
	w.find()
	u := w.units[podUID]
	w.visitAll(u)
	u.growth.seen(writes{70_000, 1, true}, monotonicNs())
	for _, p := range u.parts {
		p.isPast = p.kind == containerLogs && p.name == "web"
	}
	past := u.entry(nil, false, monotonicNs()+4*second, time.Now())
	if s := past.EphemeralStorage; show(s.LogsBytes) != any(du(dockers)) || s.UsedBytes != nil || past.WroteBytes == nil {
		t.Errorf("%+v, logs of %v bytes, used %v, can hold %v: want the logs on nodefs and no total", s, show(s.LogsBytes), show(s.UsedBytes), show(past.WroteBytes))
	}
	if err := unix.Unmount(away, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

// Subvolumes of one btrfs have device numbers of their own, and one room.
func TestDirectoryInASubvolumeOfNodefs(t *testing.T) {
	mountns.Run(t, testDirectoryInASubvolumeOfNodefs)
}

func testDirectoryInASubvolumeOfNodefs(t *testing.T) {
	base := mountImage(t, "btrfs", "", []string{"mkfs.btrfs", "-q", "-f"})
	for _, name := range []string{"node", "data"} {
		makeSubvolume(t, base, name)
	}
	write(t, base+"/data/disk.img", 4<<20)
	unix.Sync()
	v := newVisitor(monotonicNs)
	v.nodefs = base + "/node"
	out := conclude(v, &part{place: place{base + "/data", "."}, kind: directory})
	if out.err != nil || out.figure == nil || out.figure.Bytes < 4<<20 {
		t.Errorf("got %+v, %v, want what lies there", out.figure, out.err)
	}
}

func makeSubvolume(t *testing.T, base, name string) {
	t.Helper()
	dir, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var args struct { // struct btrfs_ioctl_vol_args
		fd   int64
		name [4088]byte
	}
	copy(args.name[:], name)
	const create = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), create, uintptr(unsafe.Pointer(&args))); errno != 0 {
		t.Fatalf("subvolume %s: %v", name, errno)
	}
}

// Directories of a unit that lie in each other count once.
func TestDirectoriesThatOverlap(t *testing.T) { mountns.Run(t, testDirectoriesThatOverlap) }

func testDirectoriesThatOverlap(t *testing.T) {
	n := newNode(t)
	one, two := n.base+"/machines/one", n.base+"/machines/one-more"
	write(t, one+"/sub/deep/file", 100<<10)
	write(t, two+"/file", 70<<10)
	write(t, n.base+"/elsewhere/file", 30<<10)
	for name, to := range map[string]string{"alias": one, "inner": one + "/sub", "dangling": n.base + "/none"} {
		if err := os.Symlink(to, n.base+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	first, second, mounted := runDu(t, one, "-B1"), runDu(t, two, "-B1"), runDu(t, n.base+"/elsewhere", "-B1")
	mount(t, n.base+"/elsewhere", one+"/mounted", "", unix.MS_BIND, "")
	volumes := func() *int64 {
		t.Helper()
		if e := n.once(t).Entry("/machine/one"); e != nil && e.EphemeralStorage != nil {
			return e.EphemeralStorage.LocalVolumesBytes
		}
		return nil
	}
	for name, tc := range map[string]struct {
		globs map[string][]string
		want  int64
	}{
		"disjoint, by a common beginning":      {map[string][]string{"/machine/*": {one, two}}, first + second},
		"one in the other":                     {map[string][]string{"/machine/*": {one, one + "/sub"}}, first},
		"the outer one last":                   {map[string][]string{"/machine/*": {one + "/sub/deep", one + "/sub", one, two}}, first + second},
		"by two globs":                         {map[string][]string{"/machine/*": {one + "/sub"}, "/machine/one": {one}, "/*/one": {one}}, first},
		"the same by a link":                   {map[string][]string{"/machine/*": {one, n.base + "/alias"}}, first},
		"a link into the other":                {map[string][]string{"/machine/*": {n.base + "/inner", one}}, first},
		"below a link":                         {map[string][]string{"/machine/*": {one, n.base + "/alias/sub"}}, first},
		"one that is not there in the other":   {map[string][]string{"/machine/*": {one, one + "/none"}}, first},
		"one that no walk of the other enters": {map[string][]string{"/machine/*": {one, one + "/mounted"}}, first + mounted},
	} {
		n.Directories = tc.globs
		if got := volumes(); got == nil || *got != tc.want {
			t.Errorf("%s: got %v, want %d bytes", name, show(got), tc.want)
		}
	}
	n.Directories = map[string][]string{"/machine/*": {one, n.base + "/dangling"}}
	if got := volumes(); got != nil {
		t.Errorf("%d bytes beside a link to nothing, want no data", *got)
	}
}

func TestLayersOutsideAStoreAreNotBelieved(t *testing.T) {
	n := newNode(t)
	for _, upper := range []string{n.base + "/machines/one", n.base + "/store/../machines/one", n.base + "/storeroom"} {
		n.process(t, id1, "4711", upper)
		w := newWorker(n.Options)
		w.find()
		if p := w.units[podUID].layer(id1); p != nil {
			t.Errorf("%s was taken for a layer", p)
		}
	}
}

// Where the runtime keeps its layers is asked of it, too: it may be a directory that nobody
// configured.
func TestLayersLieWhereTheRuntimeSays(t *testing.T) {
	n := newNode(t)
	n.Stores = nil
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	n.process(t, id2, "4712", n.base+"/elsewhere/fs")
	n.Runtime = &fakeRuntime{imageDir: n.base + "/store"}
	w := newWorker(n.Options)
	if w.find(); w.units[podUID].layer(id1) != nil {
		t.Fatal("believed before the runtime said so")
	}
	if err := w.asked.once(t.Context(), n.Runtime); err != nil {
		t.Fatal(err)
	}
	if w.find(); w.units[podUID].layer(id1) == nil || w.units[podUID].layer(id2) != nil {
		t.Errorf("layers %v and %v, want the first alone", w.units[podUID].layer(id1), w.units[podUID].layer(id2))
	}
}

func TestContainerIDs(t *testing.T) {
	for cgroup, want := range map[string]string{
		"/kubepods/burstable/podX/" + id1:                                      id1,
		"/kubepods.slice/kubepods-podX.slice/cri-containerd-" + id1 + ".scope": id1,
		"/machine.slice/libpod-" + id2 + ".scope":                              id2,
		"/system.slice/docker-" + id2 + ".scope":                               id2,
		"/kubepods.slice/crio-" + id1:                                          id1,
		"/machine.slice/vm1":                                                   "",
		"/x/" + strings.ToUpper("a") + id1[1:]:                                 "",
	} {
		if got := containerID(cgroup); got != want {
			t.Errorf("%s: got %q, want %q", cgroup, got, want)
		}
	}
}

// A real overlay, seen from outside by one of the threads whose root it is.
func TestLayerOfARealOverlay(t *testing.T) { mountns.Run(t, testLayerOfARealOverlay) }

func testLayerOfARealOverlay(t *testing.T) {
	base := filepath.Join(t.TempDir(), "with blank")
	for _, dir := range []string{"lower", "upper", "work", "merged"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + base + "/lower,upperdir=" + base + "/upper,workdir=" + base + "/work"
	if err := unix.Mount("overlay", base+"/merged", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(base+"/merged", unix.MNT_DETACH) }()
	tid, release := threadWithRoot(t, base+"/merged")
	defer release()
	if p := (&layers{procfs: "/proc", stores: []string{base}}).of("c", tid); p == nil || p.rel != "upper" {
		t.Errorf("got %v, want the upper directory", p)
	}
	for name, pid := range map[string]int{"a process of the host": 1, "one that names another's layer": startImpostor(t, base)} {
		if p := (&layers{procfs: "/proc", stores: []string{base}}).of("c", pid); p != nil {
			t.Errorf("%s: got %v, want that nothing is known", name, p)
		}
	}
}

// impostorEnv names a store with another's layer in it.
const impostorEnv = "DISK_TEST_IMPOSTOR"

// startImpostor starts a process in namespaces of its own, whose root is an overlay with that layer's
// name and another's files. It ends with the test.
func startImpostor(t *testing.T, store string) (pid int) {
	t.Helper()
	pid, mount := startSelf(t, impostorEnv+"="+store, unix.CLONE_NEWUSER|unix.CLONE_NEWNS)
	mount()
	mounts, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	if root, _, _ := strings.Cut(string(mounts), "\n"); err != nil || !strings.Contains(root, " / / ") || !strings.Contains(root, "upperdir="+strings.ReplaceAll(store, " ", `\040`)+"/upper,") {
		t.Fatalf("its root is %q, %v", root, err)
	}
	return pid
}

func impose(store string) {
	lines := bufio.NewReader(os.Stdin)
	_, _ = lines.ReadString('\n')
	err := unix.Mount("tmpfs", store, "tmpfs", 0, "")
	for _, dir := range []string{"lower", "upper", "work", "merged"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(store, dir), 0o700))
	}
	options := "lowerdir=" + store + "/lower,upperdir=" + store + "/upper,workdir=" + store + "/work"
	err = errors.Join(err, unix.Mount("overlay", store+"/merged", "overlay", 0, options),
		os.Mkdir(store+"/merged/old", 0o700), unix.PivotRoot(store+"/merged", store+"/merged/old"), unix.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH))
	fmt.Println(err)
	_, _ = lines.ReadString('\n')
}

// Who may mount in namespaces of their own can name any directory: the host's table has what the
// runtime mounted.
func TestLayersAreBelievedThatTheHostMounted(t *testing.T) {
	for name, tc := range map[string]struct {
		process, host, own string
		want               string
	}{
		"the host mounted it":                     {process: overlayOn("0:55", "/", "/store/a"), host: overlayOn("0:55", "/run/c", "/store/a"), want: "a"},
		"among others":                            {process: overlayOn("0:55", "/", "/store/a"), host: overlayOn("0:54", "/run/b", "/store/b") + overlayOn("0:55", "/run/c", "/store/a") + overlayOn("0:56", "/run/d", "/store/d"), want: "a"},
		"beside a long line":                      {process: overlayOn("0:55", "/", "/store/a"), host: overlayOn("0:54", "/"+strings.Repeat("b", 1<<17), "/store/b") + overlayOn("0:55", "/run/c", "/store/a"), want: "a"},
		"in the namespace that we are in":         {process: overlayOn("0:55", "/", "/store/a"), own: overlayOn("0:55", "/run/c", "/store/a"), want: "a"},
		"one of its own below another's name":     {process: overlayOn("0:99", "/", "/store/a"), host: overlayOn("0:55", "/run/c", "/store/a")},
		"one of its own over the host's":          {process: overlayOn("0:99", "/", "/store/b") + overlayOn("0:55", "/", "/store/a"), host: overlayOn("0:55", "/run/c", "/store/a"), want: "a"},
		"the number is another's since":           {process: overlayOn("0:55", "/", "/store/a"), host: overlayOn("0:55", "/run/c", "/store/b")},
		"no line tells of the root":               {process: overlayOn("0:55", "/srv", "/store/a"), host: overlayOn("0:55", "/run/c", "/store/a")},
		"out of the stores":                       {process: overlayOn("0:55", "/", "/else/a"), host: overlayOn("0:55", "/run/c", "/else/a")},
		"the host's table can't be read":          {process: overlayOn("0:55", "/", "/store/a")},
		"a volume of the host is the root":        {process: "1 0 8:1 /volumes/v / rw - ext4 /dev/vda rw\n", host: "1 0 8:1 / / rw - ext4 /dev/vda rw\n"},
		"its line in the host's table is cut":     {process: overlayOn("0:55", "/", "/store/a"), host: "900 800 0:55 / /run/c rw"},
		"the process has ended":                   {host: overlayOn("0:55", "/run/c", "/store/a")},
		"an overlay without an upper directory":   {process: "1 0 0:55 / / ro - overlay overlay ro,lowerdir=/store/a:/store/b\n", host: "1 0 0:55 / /run/c ro - overlay overlay ro,lowerdir=/store/a:/store/b\n"},
		"a filesystem whose source looks like it": {process: "1 0 0:55 / / rw - fuse.overlay overlay rw,upperdir=/store/a\n", host: "1 0 0:55 / /run/c rw - fuse.overlay overlay rw,upperdir=/store/a\n"},
	} {
		t.Run(name, func(t *testing.T) {
			procfs := t.TempDir()
			for who, text := range map[string]string{"4711": tc.process, "1": tc.host, "self": tc.own} {
				if text != "" {
					put(t, filepath.Join(procfs, who, "mountinfo"), text)
				}
			}
			l := layers{procfs: procfs, stores: []string{"/store"}}
			got := ""
			if p := l.of("c", 4711); p != nil {
				got = p.rel
			}
			if got != tc.want {
				t.Errorf("got layer %q, want %q", got, tc.want)
			}
		})
	}
}

// A container's layer is looked for with several of its processes, and a root that is nobody's layer
// tells nothing, now and later.
func TestAForeignRootTellsNothing(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4713", n.base+"/store/layer1/fs")
	n.process(t, id2, "4712", n.base+"/store/layer2/fs")
	procs := filepath.Join(n.base, "cgroup/kubepods/pod"+podUID, id1, "cgroup.procs")
	put(t, procs, "4711\n4712\n")
	put(t, filepath.Join(n.base, "proc/4711/mountinfo"), "1 0 8:1 /volumes/v / rw - ext4 /dev/vda rw\n")
	put(t, filepath.Join(n.base, "proc/4712/mountinfo"), overlayOn("0:99", "/", n.base+"/store/layer2/fs"))
	group := "/docker/" + id1
	put(t, filepath.Join(n.base, "cgroup", group, "cgroup.procs"), "4711\n")
	n.units.units[group] = workload.Unit{Workload: workload.Workload{UID: group, Cgroup: group}, Targets: []workload.Target{{Cgroup: group}}}
	w := newWorker(n.Options)
	for range 2 {
		w.find()
		w.units[podUID].readNs, w.units[group].readNs = 0, 0
		if p := w.units[podUID].layer(id1); p != nil || !w.units[podUID].isUnlayered() {
			t.Fatalf("%v was taken for the layer", p)
		}
		if u := w.units[group]; u.layer(id1) != nil || !u.isUnlayered() || !u.hasDisk() {
			t.Errorf("layer %v of a container whose process has entered a volume: it has no figures, and should", u.layer(id1))
		}
	}
	put(t, procs, "4711\n4712\n4713\n")
	if w.find(); w.units[podUID].layer(id1) == nil || w.units[podUID].layer(id1).rel != "layer1/fs" {
		t.Errorf("layer %v, want what the third process shows", w.units[podUID].layer(id1))
	}
}

// The host's table is long on a dense node: once a look is enough, and the next look reads it anew.
func TestTheHostsTableIsReadOnceALook(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	w := newWorker(n.Options)
	w.find()
	n.process(t, id2, "4712", n.base+"/store/layer2/fs")
	if p := w.finder.layers.of(id2, 4712); p != nil {
		t.Errorf("%v: the table was read again in the same look", p)
	}
	w.units[podUID].readNs = 0
	if w.find(); w.units[podUID].layer(id2) == nil {
		t.Error("the next look has the table of the one before")
	}
}

func (n *node) once(t *testing.T) *workload.DiskTable {
	t.Helper()
	table, err := Once(t.Context(), n.Options)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := workload.ParseDisk(data)
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return parsed
}

func put(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func show(v *int64) any {
	if v == nil {
		return "no data"
	}
	return *v
}

// Whoever may make pods may make them of 10,000 volumes: the table stays one that is read.
func TestAPodOfManyVolumesDoesNotStopTheTable(t *testing.T) {
	units := map[string]*unit{}
	for i := range 250 {
		u := &unit{uid: fmt.Sprintf("%08d-0000-0000-0000-000000000000", i), isPod: true, hasVolumes: true, hasLogs: true, limits: map[string]int64{"v999": 1}}
		for v := range 1000 {
			name := fmt.Sprint("v", v)
			u.parts = append(u.parts,
				&part{place: place{"/k", name}, kind: emptyDir, name: name, figure: &figure{Tally: Tally{4096, 1}, readNs: 1}},
				&part{place: place{"/l", name}, kind: containerLogs, name: name, figure: &figure{Tally: Tally{4096, 1}, readNs: 1}})
		}
		units[u.uid] = u
	}
	path := filepath.Join(t.TempDir(), "disk.json")
	list := entries(units, func(string) ([]cri.Container, bool) { return nil, true }, 2, time.Now())
	if err := workload.NewDiskWriter(path).Write(&workload.DiskTable{Node: "n", WrittenNs: 2, Workloads: list}); err != nil {
		t.Fatal(err)
	}
	table, err := workload.LoadDisk(path, uint32(os.Geteuid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range table.Workloads {
		if !slices.ContainsFunc(e.Volumes, func(v workload.VolumeDisk) bool { return v.Name == "v999" }) {
			t.Fatalf("%s: the volume with a limit is not told of", e.UID)
		}
		if got := *e.EphemeralStorage.UsedBytes; got != 2000*4096 {
			t.Fatalf("%s uses %d bytes, want those of all", e.UID, got)
		}
	}
}
