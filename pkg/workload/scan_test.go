package workload

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

const (
	uidA       = "0a1b2c3d-0000-4000-8000-00000000000a"
	uidB       = "0a1b2c3d-0000-4000-8000-00000000000b"
	underlineB = "0a1b2c3d_0000_4000_8000_00000000000b"
)

// node is a cgroup v2 tree and a /proc, both made of plain files.
type node struct {
	t              *testing.T
	cgroups, procs string
}

func newNode(t *testing.T) *node {
	n := &node{t, t.TempDir(), t.TempDir()}
	n.file(filepath.Join(n.cgroups, "cgroup.controllers"), "memory pids\n")
	return n
}

func (n *node) file(name, text string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// cgroup makes a cgroup, and those above it, with these processes in it.
func (n *node) cgroup(dir string, pids ...int) {
	n.t.Helper()
	text := ""
	for _, pid := range pids {
		text += strconv.Itoa(pid) + "\n"
	}
	n.file(filepath.Join(n.cgroups, dir, "cgroup.procs"), text)
	for up := path.Dir(dir); ; up = path.Dir(up) {
		procs := filepath.Join(n.cgroups, up, "cgroup.procs")
		if _, err := os.Stat(procs); err != nil {
			n.file(procs, "")
		}
		if up == "/" {
			return
		}
	}
}

func (n *node) process(pid int, comm string, oomScoreAdj int) {
	dir := filepath.Join(n.procs, strconv.Itoa(pid))
	n.file(filepath.Join(dir, "comm"), comm+"\n")
	n.file(filepath.Join(dir, "oom_score_adj"), strconv.Itoa(oomScoreAdj)+"\n")
}

// table makes a table of this text and has o name it.
func (n *node) table(o *Options, workloads string) {
	o.TablePath, o.TableUID = filepath.Join(n.t.TempDir(), "workloads.json"), uint32(os.Getuid())
	n.file(o.TablePath, `{"schema":"ebpf-evict/workloads/v1","workloads":[`+workloads+`]}`)
}

func (n *node) scan(o Options) map[string]Unit {
	n.t.Helper()
	fs, err := cgroupfs.New(n.cgroups)
	if err != nil {
		n.t.Fatal(err)
	}
	o.FS, o.Procfs = fs, n.procs
	s := NewScanner(o)
	found, err := s.Scan()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := s.TableStatus().LastError; err != nil {
		n.t.Fatal(err)
	}
	units := map[string]Unit{}
	for _, u := range found {
		if _, twice := units[u.Cgroup]; twice {
			n.t.Errorf("%s twice", u.Cgroup)
		}
		units[u.Cgroup] = u
	}
	return units
}

func TestScanFindsUnits(t *testing.T) {
	const slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underlineB + ".slice"
	const nested = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + underlineB + ".slice"
	for name, tc := range map[string]struct {
		cgroups, roots []string
		want           map[string]string // cgroup to uid and QoS
	}{
		"cgroupfs driver: pods, never levels": {
			[]string{"/kubepods/besteffort/pod" + uidA + "/c", "/kubepods/burstable", "/kubepods/pod" + uidB + "/c"},
			[]string{"/kubepods"},
			map[string]string{
				"/kubepods/besteffort/pod" + uidA: uidA + " BestEffort",
				"/kubepods/pod" + uidB:            uidB + " Guaranteed",
			},
		},
		"systemd driver": {
			[]string{slice + "/cri-containerd-1.scope"},
			[]string{"/kubepods.slice"},
			map[string]string{slice: uidB + " Burstable"},
		},
		"systemd driver below a cgroupRoot, as kind's": {
			[]string{nested + "/cri-containerd-1.scope", "/kubelet.slice/kubelet-kubepods.slice/stranger.slice"},
			[]string{"/kubelet.slice"},
			map[string]string{nested: uidB + " Burstable"},
		},
		"cgroupfs driver below a cgroupRoot": {
			[]string{"/kubelet/kubepods/besteffort/pod" + uidA + "/c", "/kubelet/kubepods/stranger"}, []string{"/kubelet/kubepods"},
			map[string]string{"/kubelet/kubepods/besteffort/pod" + uidA: uidA + " BestEffort"},
		},
		"a stranger among the pods is none": {
			[]string{"/kubepods/burstable/stranger", "/kubepods/other"}, []string{"/kubepods"}, map[string]string{},
		},
		"standalone: direct children only": {
			[]string{"/jobs/a/below", "/jobs/b", "/elsewhere"}, []string{"/jobs"},
			map[string]string{"/jobs/a": "/jobs/a ", "/jobs/b": "/jobs/b "},
		},
		"root of roots: levels are passed through": {
			[]string{"/kubepods/burstable/pod" + uidA, "/system"}, []string{"/"},
			map[string]string{"/kubepods/burstable/pod" + uidA: uidA + " Burstable", "/system": "/system "},
		},
		"a root inside a root": {
			[]string{"/kubepods/burstable/pod" + uidA}, []string{"/kubepods", "/kubepods/burstable"},
			map[string]string{"/kubepods/burstable/pod" + uidA: uidA + " Burstable"},
		},
		"a missing root": {[]string{"/jobs/a"}, []string{"/gone", "/jobs"}, map[string]string{"/jobs/a": "/jobs/a "}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			for _, dir := range tc.cgroups {
				n.cgroup(dir)
			}
			got := map[string]string{}
			usage := NoUsage
			usage.Processes = 0 // that much the scan sees
			for dir, u := range n.scan(Options{Roots: tc.roots}) {
				got[dir] = u.UID + " " + string(u.QOSClass)
				if u.ID.MemoryID == 0 || u.TerminationGracePeriodSeconds != NoData || u.Usage != usage {
					t.Errorf("%+v: want an identity, and no data where nothing is known", u)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			n.eachBelongsToWhatTheScanFound(tc.cgroups, tc.roots, got)
		})
	}
}

// eachBelongsToWhatTheScanFound checks UnitOf for each cgroup and all above it.
func (n *node) eachBelongsToWhatTheScanFound(cgroups, roots []string, units map[string]string) {
	n.t.Helper()
	r := NewScanner(Options{Roots: roots}).NewReader()
	for _, dir := range cgroups {
		for at := dir + "/deep/below"; at != "/"; at = path.Dir(at) {
			want := ""
			for unit := range units {
				if at == unit || strings.HasPrefix(at, unit+"/") {
					want = unit
				}
			}
			// The name of a level below a level that has none yet is a unit's.
			if got := r.UnitOf(at); got != want && (want != "" || units[got] != "" || len(at) <= len(dir)) {
				n.t.Errorf("%s belongs to %q, want %q", at, got, want)
			}
		}
	}
}

// What the table says of a unit that was read before needs no second reading, and what it
// no longer says is gone.
func TestUnitsAreJudgedAnewByANewTable(t *testing.T) {
	const job = "/jobs/a"
	n := newNode(t)
	n.cgroup(job, 1)
	n.process(1, "init", 0)
	n.cgroup("/jobs/b")
	fs, err := cgroupfs.New(n.cgroups)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{FS: fs, Procfs: n.procs, Roots: []string{"/jobs"}}
	n.table(&o, `{"uid":"/jobs/b","name":"web","priority":7,"evict":"never","terminationGracePeriodSeconds":9}`)
	s := NewScanner(o)
	units, err := s.Scan()
	if err != nil || len(units) != 2 || units[1].Protected != "table: never" || units[1].Priority != 7 {
		t.Fatalf("units %+v, %v", units, err)
	}
	n.file(o.TablePath, `{"schema":"ebpf-evict/workloads/v1","workloads":[]}`)
	before := s.Version()
	s.LoadTable()
	if s.Version() == before {
		t.Error("the new table makes no difference")
	}
	s.Configure([]string{"/jobs/*"}, false)
	fresh, err := s.Scan()
	if err != nil {
		t.Fatal(err)
	}
	for i := range units {
		s.Judge(&units[i])
		if diff := cmp.Diff(fresh[i].Workload, units[i].Workload); diff != "" {
			t.Errorf("judged anew (-read anew +judged)\n%s", diff)
		}
	}
	if units[0].Protected != "holds PID 1" || units[1].Protected != "protect: /jobs/*" {
		t.Errorf("protected: %q and %q", units[0].Protected, units[1].Protected)
	}
}

func TestTargetsLeaveTheSandboxOut(t *testing.T) {
	const pod = "/kubepods/pod" + uidA
	for name, tc := range map[string]struct {
		containers map[string][]int
		want       []Target
		runs       bool
	}{
		"sandbox and containers":   {map[string][]int{"a": {11}, "b": {12, 10}, "s": {10}}, []Target{{pod + "/a"}, {pod + "/b"}}, true},
		"the sandbox alone":        {map[string][]int{"s": {10}}, []Target{{pod + "/s"}}, false},
		"an empty container stays": {map[string][]int{"a": nil, "s": {10}}, []Target{{pod + "/a"}}, false},
		"one of two is empty":      {map[string][]int{"a": nil, "b": {11}}, []Target{{pod + "/a"}, {pod + "/b"}}, true},
		"the sandbox ends now":     {map[string][]int{"s": {99}}, []Target{{pod + "/s"}}, false},
		"no containers":            {nil, []Target{{pod}}, false},
		"CRI-O's monitors stay": {
			map[string][]int{"crio-a": {11}, "crio-conmon-a": {13}, "crio-s": {10}, "crio-conmon-s": {14}},
			[]Target{{pod + "/crio-a"}}, true,
		},
		"a monitor of what has ended": {map[string][]int{"crio-a": nil, "crio-conmon-a": {13}}, []Target{{pod + "/crio-a"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.process(10, "pause", -998)
			n.process(11, "web", 999)
			n.process(12, "db", 999)
			n.process(13, "conmon", -1000)
			n.process(14, "conmon", -1000)
			n.cgroup(pod)
			for c, pids := range tc.containers {
				n.cgroup(pod+"/"+c, pids...)
			}
			got := n.scan(Options{Roots: []string{"/kubepods"}})[pod]
			if diff := cmp.Diff(tc.want, got.Targets); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got.Runs != tc.runs {
				t.Errorf("runs: %v", got.Runs)
			}
		})
	}
}

// Who calls itself pause is not spared for that beside another container of its pod.
func TestASandboxIsToldFromWhoTakesItsName(t *testing.T) {
	const pod = "/kubepods/besteffort/pod" + uidA
	const mebibyte = 1 << 20
	type child struct {
		pids         []int
		adj          int
		bytes, tasks int64
	}
	for name, tc := range map[string]struct {
		child
		id     string // of a container of the pod in the table
		spared bool
	}{
		"a sandbox":                   {child{[]int{10}, -998, mebibyte, 1}, "9a1e", true},
		"a sandbox with a page cache": {child{[]int{10}, -998, 20 * mebibyte, 1}, "9a1e", true},
		"a sandbox of a runtime that can't lower the score": {child{[]int{10}, 0, 4 * mebibyte, 6}, "9a1e", true},
		"a sandbox, no table":                               {child{[]int{10}, 0, 4 * mebibyte, 6}, "", true},
		"a hog":                                             {child{[]int{10}, 1000, 17 * mebibyte, 1}, "", false},
		"threads":                                           {child{[]int{10}, 1000, mebibyte, 65}, "", false},
		"processes":                                         {child{[]int{10, 13}, 1000, mebibyte, 2}, "", false},
		"a container of the table that holds nothing yet": {child{[]int{10}, 1000, mebibyte, 1}, "c0de", false},
		"a container of the table with CAP_SYS_RESOURCE":  {child{[]int{10}, -998, mebibyte, 1}, "c0de", false},
	} {
		for _, cgroup := range []string{"c0de", "cri-containerd-c0de.scope", "crio-c0de", "crio-c0de.scope"} {
			t.Run(name+" in "+cgroup, func(t *testing.T) {
				n := newNode(t)
				n.process(11, "web", 1000)
				n.cgroup(pod+"/a", 11)
				for _, pid := range tc.pids {
					n.process(pid, "pause", tc.adj)
				}
				n.cgroup(pod+"/"+cgroup, tc.pids...)
				n.file(filepath.Join(n.cgroups, pod, cgroup, "memory.current"), strconv.FormatInt(tc.bytes, 10)+"\n")
				n.file(filepath.Join(n.cgroups, pod, cgroup, "pids.current"), strconv.FormatInt(tc.tasks, 10)+"\n")
				o := Options{Roots: []string{"/kubepods"}}
				if tc.id != "" {
					n.table(&o, `{"uid":"`+uidA+`","containers":[{"name":"waits"},{"name":"runs","id":"`+tc.id+`"}]}`)
				}
				want := []Target{{pod + "/a"}, {pod + "/" + cgroup}}
				if tc.spared {
					want = want[:1]
				}
				if diff := cmp.Diff(want, n.scan(o)[pod].Targets); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		}
	}
}

func TestProtectedUnits(t *testing.T) {
	const job, pod = "/jobs/a", "/kubepods/pod" + uidA
	const hash = "0123456789abcdef0123456789abcdef"
	const hashed = "/kubepods/burstable/pod" + hash
	for name, tc := range map[string]struct {
		unit, comm string
		pid        int
		o          Options
		table      string
		want       string
	}{
		"nothing speaks against it":     {unit: job, want: ""},
		"glob of the cgroup":            {unit: job, o: Options{Protect: []string{"/jobs/*"}}, want: "protect: /jobs/*"},
		"glob of another level":         {unit: job, o: Options{Protect: []string{"/*"}}, want: ""},
		"glob of the uid":               {unit: pod, o: Options{Protect: []string{"0a1b*"}}, want: "protect: 0a1b*"},
		"glob of namespace and name":    {unit: pod, o: Options{Protect: []string{"ns/*"}}, table: `{"uid":"` + uidA + `","namespace":"ns","name":"w"}`, want: "protect: ns/*"},
		"the agent itself":              {unit: job, pid: 20, o: Options{SelfPIDs: []int{20}}, want: "the agent itself"},
		"the agent itself, in a pod":    {unit: pod, pid: 20, o: Options{SelfPIDs: []int{20}}, want: "the agent itself"},
		"PID 1":                         {unit: job, pid: 1, want: "holds PID 1"},
		"kubelet":                       {unit: job, comm: "kubelet", want: "holds the container runtime or kubelet: kubelet"},
		"a shim, its name cut":          {unit: job, comm: "containerd-shim", want: "holds the container runtime or kubelet: containerd-shim"},
		"a pod may run its own systemd": {unit: pod, comm: "systemd", want: ""},
		"critical priority":             {unit: pod, table: `{"uid":"` + uidA + `","priority":2000000000}`, want: "critical"},
		"just below critical":           {unit: pod, table: `{"uid":"` + uidA + `","priority":1999999999}`, want: ""},
		"static":                        {unit: pod, table: `{"uid":"` + uidA + `","static":true}`, want: "static pod"},
		"static by its cgroup":          {unit: hashed, want: "static pod"},
		"the table can't lift that":     {unit: hashed, table: `{"uid":"` + hash + `","static":false,"evict":"first"}`, o: Options{AllowFirst: true}, want: "static pod"},
		"a uid without dashes is a job": {unit: "/jobs/" + hash, want: ""},
		"mirror":                        {unit: pod, table: `{"uid":"` + uidA + `","mirror":true}`, want: "critical"},
		"never":                         {unit: pod, table: `{"uid":"` + uidA + `","evict":"never"}`, want: "table: never"},
		"first does not lift a glob":    {unit: pod, o: Options{Protect: []string{pod}, AllowFirst: true}, table: `{"uid":"` + uidA + `","evict":"first"}`, want: "protect: " + pod},
	} {
		t.Run(name, func(t *testing.T) {
			n, pid, comm := newNode(t), max(tc.pid, 1), tc.comm
			if tc.pid == 0 {
				pid = 30
			}
			n.cgroup(tc.unit+"/c", pid)
			n.process(pid, comm, 0)
			tc.o.Roots = []string{"/jobs", "/kubepods"}
			if tc.table != "" {
				n.table(&tc.o, tc.table)
			}
			if got := n.scan(tc.o)[tc.unit].Protected; got != tc.want {
				t.Errorf("protected: %q, want %q", got, tc.want)
			}
		})
	}
}

func TestMemoryRequestWithoutATable(t *testing.T) {
	const capacity = 1 << 30
	for name, tc := range map[string]struct {
		dir, limit string
		adj        int
		want       int64
	}{
		"Burstable, from oom_score_adj":     {"/kubepods/burstable/pod" + uidA, "max", 900, capacity / 1000 * 100},
		"Burstable, not the kubelet's":      {"/kubepods/burstable/pod" + uidA, "max", -998, 0},
		"Guaranteed, the limit":             {"/kubepods/pod" + uidA, "4096", -997, 4096},
		"Guaranteed, no limit":              {"/kubepods/pod" + uidA, "max", -997, 0},
		"BestEffort, whatever is the limit": {"/kubepods/besteffort/pod" + uidA, "4096", 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.cgroup(tc.dir+"/c", 40)
			n.process(40, "web", tc.adj)
			n.file(filepath.Join(n.cgroups, tc.dir, "memory.max"), tc.limit+"\n")
			got := n.scan(Options{Roots: []string{"/kubepods"}, NodeMemoryBytes: capacity})[tc.dir]
			if got.MemoryRequestBytes != tc.want {
				t.Errorf("request %d, want %d", got.MemoryRequestBytes, tc.want)
			}
		})
	}
}

// A table knows more of what is there; what is not below the roots it can't name.
func TestTableAddsKnowledgeAndNoUnits(t *testing.T) {
	const pod = "/kubepods/besteffort/pod" + uidA
	n := newNode(t)
	n.cgroup(pod + "/c")
	n.cgroup("/system/sshd")
	o := Options{Roots: []string{"/kubepods"}}
	n.table(&o, `{"uid":"`+uidA+`","name":"web","cgroup":"/system/sshd","qosClass":"Guaranteed","terminationGracePeriodSeconds":9},
		{"uid":"/system/sshd","cgroup":"/system/sshd","evict":"first"}, {"uid":"`+uidB+`","cgroup":"/kubepods/pod`+uidB+`"}`)
	units := n.scan(o)
	u := units[pod]
	if len(units) != 1 || u.Name != "web" || u.TerminationGracePeriodSeconds != 9 {
		t.Errorf("units %+v, want the one pod and its name", units)
	}
	if diff := cmp.Diff([]Target{{pod + "/c"}}, u.Targets); diff != "" || u.QOSClass != QOSBestEffort {
		t.Errorf("QoS %s and targets are the path's alone (-want +got)\n%s", u.QOSClass, diff)
	}
}

// Each runtime with each driver, by the names that a node of it has: what is to be killed of a
// pod with a sandbox and two containers.
func TestTargetsOfEachRuntimeAndDriver(t *testing.T) {
	const (
		pause  = "3f0c9a7be1d25846f7a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8"
		web    = "8d21be5f0a7c6e3b94f1d0c2a5e8b7d6c3f2a1e0d9c8b7a6f5e4d3c2b1a0f9e8"
		db     = "c7e5a3f1b9d8c6e4a2f0b8d7c5e3a1f9b7d6c4e2a0f8b6d5c3e1a9f7b5d4c2e0"
		uid    = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
		fs     = "/kubepods/burstable/pod" + uid
		slice  = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_4e5f_4a6b_8c7d_9e0f1a2b3c4d.slice"
		nested = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0a1b2c3d_4e5f_4a6b_8c7d_9e0f1a2b3c4d.slice"
	)
	for name, tc := range map[string]struct {
		pod, root string
		container func(id string) string // its cgroup's name
		others    []string               // the runtime's own, with a process each
	}{
		"containerd, cgroupfs": {fs, "/kubepods", func(id string) string { return id }, nil},
		"containerd, systemd":  {slice, "/kubepods.slice", func(id string) string { return "cri-containerd-" + id + ".scope" }, nil},
		"containerd, systemd, below a cgroupRoot as kind's": {
			nested, "/kubelet.slice/kubelet-kubepods.slice", func(id string) string { return "cri-containerd-" + id + ".scope" }, nil,
		},
		"CRI-O, cgroupfs": {
			fs, "/kubepods", func(id string) string { return "crio-" + id },
			[]string{"crio-conmon-" + pause, "crio-conmon-" + web, "crio-conmon-" + db},
		},
		"CRI-O, systemd, monitors in the pod": {
			slice, "/kubepods.slice", func(id string) string { return "crio-" + id + ".scope" },
			[]string{"crio-conmon-" + pause + ".scope", "crio-conmon-" + web + ".scope", "crio-conmon-" + db + ".scope"},
		},
		"CRI-O, systemd, monitors in system.slice": {slice, "/kubepods.slice", func(id string) string { return "crio-" + id + ".scope" }, nil},
		"docker by cri-dockerd, systemd":           {slice, "/kubepods.slice", func(id string) string { return "docker-" + id + ".scope" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.process(20, "pause", -998)
			n.process(21, "web", 900)
			n.process(22, "db", 900)
			n.cgroup(tc.pod+"/"+tc.container(pause), 20)
			n.cgroup(tc.pod+"/"+tc.container(web), 21)
			n.cgroup(tc.pod+"/"+tc.container(db), 22)
			for i, other := range tc.others {
				n.process(30+i, "conmon", -1000)
				n.cgroup(tc.pod+"/"+other, 30+i)
			}
			got := n.scan(Options{Roots: []string{tc.root}})[tc.pod]
			want := []Target{{tc.pod + "/" + tc.container(web)}, {tc.pod + "/" + tc.container(db)}}
			if got.UID != uid || got.QOSClass != QOSBurstable || !got.Runs {
				t.Errorf("uid %q, QoS %q, runs %v", got.UID, got.QOSClass, got.Runs)
			}
			if diff := cmp.Diff(want, got.Targets); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
