package cgroupfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	rootV1 = "testdata/6.18-v1" // captured
	rootV2 = "testdata/6.12-v2"
)

func mustNew(t *testing.T, root string) *FS {
	t.Helper()
	f, err := New(root)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustOpen(t *testing.T, f *FS, path string) *Cgroup {
	t.Helper()
	c, err := f.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestNewFindsTheVersionByFiles(t *testing.T) {
	v1, v2 := mustNew(t, rootV1), mustNew(t, rootV2)
	if v1.Version() != V1 || v2.Version() != V2 {
		t.Errorf("got %v and %v, want V1 (hybrid) and V2", v1.Version(), v2.Version())
	}
	if diff := cmp.Diff([]string{"cpu", "cpuacct", "freezer", "memory", "pids"}, v1.Controllers()); diff != "" {
		t.Errorf("v1 controllers (-want +got)\n%s", diff)
	}
	if got, want := v1.MemoryDir("/job"), rootV1+"/memory/job"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := v2.PidsDir("job/"), rootV2+"/job"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNewWithoutMemoryControllerIsAnError(t *testing.T) {
	v2 := t.TempDir()
	if err := os.WriteFile(filepath.Join(v2, "cgroup.controllers"), []byte("cpu pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]string{"v1": t.TempDir(), "v2": v2, "no directory": "/nonexistent"} {
		if _, err := New(root); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCombinedHierarchies(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "freezer,memory", "job"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := mustNew(t, root)
	if got, want := f.MemoryDir("job"), filepath.Join(root, "freezer,memory", "job"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := f.PidsDir("job"); got != "" {
		t.Errorf("pids directory %s without a pids hierarchy", got)
	}
}

func TestChildren(t *testing.T) {
	for name, tc := range map[string]struct {
		root string
		want []string
	}{
		"v1 joins the hierarchies": {rootV1, []string{"idle", "job", "pidsonly"}},
		"v2":                       {rootV2, []string{"idle", "job"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustNew(t, tc.root)
			got, err := f.Children("/")
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("error %v, (-want +got)\n%s", err, diff)
			}
			if _, err := f.Children("/none"); !errors.Is(err, ErrGone) {
				t.Errorf("absent cgroup: got %v, want ErrGone", err)
			}
		})
	}
}

func TestOpenStaysBelowTheMount(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"memory/job", "outside"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"out": "../../outside", "abs": "/", "in": "job"} {
		if err := os.Symlink(to, filepath.Join(root, "memory", link)); err != nil {
			t.Fatal(err)
		}
	}
	f := mustNew(t, root)
	for _, bad := range []string{"..", "/../outside", "job/../..", "job/../job", "out", "abs", "abs/etc", "in", "job\x00"} {
		if c, err := f.Open(bad); err == nil {
			t.Errorf("%q opened as %s", bad, c.Path())
		} else if errors.Is(err, ErrGone) {
			t.Errorf("%q is refused as gone", bad)
		}
	}
	for in, want := range map[string]string{"/job": "/job", "job/": "/job", ".//job/.": "/job", "/": "/", "": "/"} {
		if got := mustOpen(t, f, in).Path(); got != want {
			t.Errorf("%q opened as %s, want %s", in, got, want)
		}
	}
	if _, err := f.Open("/none"); !errors.Is(err, ErrGone) {
		t.Errorf("absent cgroup: got %v, want ErrGone", err)
	}
}

// figures are what a cgroup tells; an absent one is absent here, too.
type figures map[string]int64

func read(t *testing.T, c *Cgroup) figures {
	t.Helper()
	got := figures{}
	for name, f := range map[string]func() (int64, error){
		"current": c.MemoryCurrentBytes, "max": c.MemoryMaxBytes, "inactive": c.InactiveFileBytes,
		"pids": c.PidsCurrent, "pidsMax": c.PidsMax,
	} {
		v, err := f()
		switch {
		case err == nil:
			got[name] = v
		case !errors.Is(err, ErrNoKey):
			t.Errorf("%s: %v", name, err)
		}
	}
	return got
}

func TestFigures(t *testing.T) {
	for name, tc := range map[string]struct {
		root, path string
		want       figures
	}{
		"v1 with limits": {rootV1, "/job",
			figures{"current": 66850816, "max": 64 << 20, "inactive": 27930624, "pids": 1, "pidsMax": 32}},
		"v1 only in the pids hierarchy": {rootV1, "/pidsonly", figures{"pids": 1, "pidsMax": Unlimited}},
		"v2 with limits": {rootV2, "/job",
			figures{"current": 41943040, "max": 64 << 20, "inactive": 27930624, "pids": 3, "pidsMax": 32}},
		"v2 without the key in memory.stat": {rootV2, "/idle",
			figures{"current": 0, "max": Unlimited, "pids": 0, "pidsMax": Unlimited}},
		"v2 root": {rootV2, "/", figures{}},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustOpen(t, mustNew(t, tc.root), tc.path)
			if diff := cmp.Diff(tc.want, read(t, c)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestIDsAreInodes(t *testing.T) {
	c := mustOpen(t, mustNew(t, rootV1), "/pidsonly")
	if c.MemoryID() != 0 || c.PidsID() == 0 {
		t.Errorf("ids %d and %d, want none in the memory hierarchy and one in pids", c.MemoryID(), c.PidsID())
	}
	c = mustOpen(t, mustNew(t, rootV2), "/job")
	if c.MemoryID() == 0 || c.MemoryID() != c.PidsID() {
		t.Errorf("v2 ids %d and %d, want the same", c.MemoryID(), c.PidsID())
	}
}

func TestProcs(t *testing.T) {
	for name, tc := range map[string]struct {
		root, path string
		want       []int
		populated  bool
	}{
		"v1 joins hierarchies and descendants": {rootV1, "/job", []int{9, 4242, 4243, 4244}, true},
		"v1 empty":                             {rootV1, "/idle", []int{9}, false},
		"v2 leaves out other pid namespaces":   {rootV2, "/job", []int{9, 4242, 4243}, true},
		"v2 empty":                             {rootV2, "/idle", []int{9}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustOpen(t, mustNew(t, tc.root), tc.path)
			got, err := c.Procs([]int{9})
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("error %v, (-want +got)\n%s", err, diff)
			}
			if got, err := c.Populated(); got != tc.populated || err != nil {
				t.Errorf("populated %v, %v, want %v", got, err, tc.populated)
			}
		})
	}
}

func TestProcsFiles(t *testing.T) {
	want := []string{rootV1 + "/memory/job/cgroup.procs", rootV1 + "/pids/job/cgroup.procs", rootV1 + "/freezer/job/cgroup.procs"}
	if diff := cmp.Diff(want, mustNew(t, rootV1).ProcsFiles("/job")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{rootV2 + "/job/cgroup.procs"}, mustNew(t, rootV2).ProcsFiles("job")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// copyTree makes a writable copy of a fixture.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func content(t *testing.T, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestKillWritesOneWordAndAllocatesNothing(t *testing.T) {
	root := copyTree(t, rootV2)
	c := mustOpen(t, mustNew(t, root), "/job")
	if !c.CanKill() {
		t.Fatal("cgroup.kill is there, CanKill says no")
	}
	allocs := testing.AllocsPerRun(100, func() {
		if err := c.Kill(); err != nil {
			t.Error(err)
		}
	})
	if allocs != 0 {
		t.Errorf("Kill allocates %v times", allocs)
	}
	if got := content(t, root, "job/cgroup.kill"); got[0] != '1' {
		t.Errorf("wrote %q", got)
	}
}

func TestKillIsUnsupportedWithoutCgroupKill(t *testing.T) {
	root := copyTree(t, rootV2)
	if err := os.Remove(filepath.Join(root, "job/cgroup.kill")); err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]string{"v1": rootV1, "before 5.14": root} {
		c := mustOpen(t, mustNew(t, root), "/job")
		if err := c.Kill(); c.CanKill() || !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: CanKill %v, Kill: %v, want ErrUnsupported", name, c.CanKill(), err)
		}
	}
	c := mustOpen(t, mustNew(t, rootV2), "/job")
	c.Close()
	if err := c.Kill(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("after Close: %v", err)
	}
}

func TestThawWritesOnlyWhereFrozen(t *testing.T) {
	root := copyTree(t, rootV1)
	frozen, thawed := filepath.Join(root, "freezer/job/child/freezer.state"), filepath.Join(root, "freezer/job/freezer.state")
	if err := os.WriteFile(frozen, []byte("FROZEN\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, mustNew(t, root), "/job").Thaw(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, frozen); got != "THAWED" {
		t.Errorf("the frozen child is %q", got)
	}
	if got := content(t, thawed); got != "THAWED\n" {
		t.Errorf("the thawed parent was written: %q", got)
	}
	if err := mustOpen(t, mustNew(t, rootV2), "/job").Thaw(); err != nil {
		t.Errorf("v2: %v", err)
	}
}

func TestLimitsAreWrittenInTheWordsOfTheVersion(t *testing.T) {
	for name, tc := range map[string]struct{ root, memory, pids, unlimited string }{
		"v1": {rootV1, "memory/job/memory.limit_in_bytes", "pids/job/pids.max", "-1"},
		"v2": {rootV2, "job/memory.max", "job/pids.max", "max"},
	} {
		t.Run(name, func(t *testing.T) {
			root := copyTree(t, tc.root)
			c := mustOpen(t, mustNew(t, root), "/job")
			if err := errors.Join(c.SetMemoryMax(4096), c.SetPidsMax(5)); err != nil {
				t.Fatal(err)
			}
			got := []string{content(t, root, tc.memory), content(t, root, tc.pids)}
			if err := errors.Join(c.SetMemoryMax(Unlimited), c.SetPidsMax(Unlimited)); err != nil {
				t.Fatal(err)
			}
			got = append(got, content(t, root, tc.memory), content(t, root, tc.pids))
			if diff := cmp.Diff([]string{"4096", "5", tc.unlimited, "max"}, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestARemovedCgroupIsNotItsSuccessor(t *testing.T) {
	root := copyTree(t, rootV2)
	c := mustOpen(t, mustNew(t, root), "/job/child")
	child := filepath.Join(root, "job/child")
	if err := os.RemoveAll(child); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(child, os.DirFS(filepath.Join(rootV2, "job/child"))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.MemoryCurrentBytes(); !errors.Is(err, ErrGone) {
		t.Errorf("usage: got %v, want ErrGone", err)
	}
	if pids, err := c.Procs(nil); !errors.Is(err, ErrGone) || len(pids) != 0 {
		t.Errorf("processes: got %v, %v, want ErrGone", pids, err)
	}
	if populated, err := c.Populated(); !errors.Is(err, ErrGone) || populated {
		t.Errorf("populated: got %v, %v, want ErrGone", populated, err)
	}
}

func TestCreateLeavesNothingBehindOnFailure(t *testing.T) {
	root := copyTree(t, rootV1)
	if err := os.Mkdir(filepath.Join(root, "pids/new"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := mustNew(t, root)
	if err := f.Create("/new"); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	if _, err := os.Stat(filepath.Join(root, "memory/new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the memory directory stays: %v", err)
	}
	if err := f.Create("/a/../../b"); err == nil {
		t.Error("a path with .. was created")
	}
	if err := f.Remove("/none"); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
}

func TestRemoveLeavesTheRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "memory/job"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "", "."} {
		if err := mustNew(t, root).Remove(path); err == nil {
			t.Errorf("%q was removed", path)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "memory/job")); err != nil {
		t.Error(err)
	}
}

func TestCreateEnablesControllersAboveOnly(t *testing.T) {
	root := copyTree(t, rootV2)
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("cpu memory\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := mustNew(t, root).Create("/job/new/leaf"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, root, "cgroup.subtree_control"); got != "+pids" {
		t.Errorf("root got %q, want only what it lacked", got)
	}
	if got := content(t, root, "job/cgroup.subtree_control"); got != "memory pids\n" {
		t.Errorf("job has both and was written: %q", got)
	}
	if _, err := os.Stat(filepath.Join(root, "job/new/leaf")); err != nil {
		t.Error(err)
	}
}
