package preflight

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
)

func TestWorkloadTable(t *testing.T) {
	t.Setenv("NODE_NAME", "node-1")
	const good = `{"schema":"ebpf-evict/workloads/v1","node":"node-1","generation":7,"workloads":[{"uid":"a"},{"uid":"b"}]}`
	for name, tc := range map[string]struct {
		text   string
		wanted bool
		owner  int
		want   WorkloadTable // but for Error, of which it is a part
	}{
		"none, and units are pods":    {"", true, os.Getuid(), WorkloadTable{Wanted: true, Error: "there is none", Effect: agent.NoTable}},
		"none, and units are no pods": {"", false, os.Getuid(), WorkloadTable{Error: "there is none"}},
		"a good one":                  {good, true, os.Getuid(), WorkloadTable{Wanted: true, OK: true, AgeSeconds: 60, Workloads: 2, Generation: 7}},
		"torn":                        {good[:60], true, os.Getuid(), WorkloadTable{Wanted: true, Error: "unexpected end of JSON", Effect: agent.NoTable}},
		"another node's":              {strings.Replace(good, "node-1", "node-2", 1), true, os.Getuid(), WorkloadTable{Wanted: true, Error: `of node "node-2"`, Effect: agent.NoTable}},
		"somebody else's":             {good, true, os.Getuid() + 1, WorkloadTable{Wanted: true, Error: "belongs to uid", Effect: agent.NoTable}},
	} {
		c := config.Default()
		c.Workloads, c.TableOwner = filepath.Join(t.TempDir(), "workloads.json"), uint32(tc.owner)
		written := time.Unix(1_700_000_000, 0)
		if tc.text != "" {
			if err := os.WriteFile(c.Workloads, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(c.Workloads, written, written); err != nil {
				t.Fatal(err)
			}
		}
		got := workloadTable(c, tc.wanted, written.Add(time.Minute))
		if !strings.Contains(got.Error, tc.want.Error) || (got.Error == "") != tc.want.OK {
			t.Errorf("%s: error %q, want %q", name, got.Error, tc.want.Error)
		}
		got.Error = tc.want.Error
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTheTableIsWantedWhereUnitsArePods(t *testing.T) {
	const pod = "pod0a1b2c3d-0000-4000-8000-00000000000f"
	for _, tc := range []struct {
		cgroup string
		roots  []string
		want   bool
	}{
		{"/kubepods/besteffort/" + pod, []string{"/kubepods"}, true},
		{"/kubepods.slice/kubepods-burstable.slice", []string{"/kubepods.slice"}, true},
		{"/kubelet.slice/kubelet-kubepods.slice", []string{"/kubelet.slice"}, true},
		{"/kubepods/besteffort/" + pod, []string{"/kubepods/besteffort"}, true},
		{"/kubepods/" + pod, []string{"/"}, true},
		{"/elsewhere/besteffort/" + pod, []string{"/elsewhere"}, true},
		{"/jobs/a", []string{"/jobs"}, false},
		{"/jobs/a", []string{"/gone"}, false},
	} {
		top := t.TempDir()
		if err := os.MkdirAll(filepath.Join(top, tc.cgroup), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, "cgroup.controllers"), []byte("memory pids\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		fs, err := cgroupfs.New(top)
		if err != nil {
			t.Fatal(err)
		}
		for dir := tc.cgroup; ; dir = filepath.Dir(dir) {
			if err := os.WriteFile(filepath.Join(top, dir, "cgroup.procs"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if dir == "/" {
				break
			}
		}
		c := config.Default()
		c.Roots, c.RootsGiven = tc.roots, true
		if got := holdPods(c, fs); got != tc.want {
			t.Errorf("%s below %s: %v", tc.cgroup, tc.roots, got)
		}
	}
	if holdPods(config.Default(), nil) {
		t.Error("pods, and no cgroups")
	}
}
