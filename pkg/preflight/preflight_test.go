package preflight

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// root is a directory that stands for "/", with these files in it.
func root(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLockdown(t *testing.T) {
	const file = "sys/kernel/security/lockdown"
	for name, tt := range map[string]struct {
		text, mode, effect string
	}{
		"none":            {"[none] integrity confidentiality\n", "none", ""},
		"integrity":       {"none [integrity] confidentiality\n", "integrity", "nothing of ours"},
		"confidentiality": {"none integrity [confidentiality]\n", "confidentiality", "lockdown=confidentiality"},
		"no mode marked":  {"none integrity\n", "unknown", `says "none integrity"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := lockdown(root(t, map[string]string{file: tt.text}))
			if got.Mode != tt.mode || !strings.Contains(got.Effect, tt.effect) {
				t.Errorf("%+v, want %s and %q", got, tt.mode, tt.effect)
			}
		})
	}
	if got := lockdown(t.TempDir()); got.Mode != "unknown" || !strings.Contains(got.Effect, "securityfs") {
		t.Errorf("without the file: %+v", got)
	}
}

func TestCapabilities(t *testing.T) {
	const status = "proc/self/status"
	for name, tt := range map[string]struct {
		status, namespace string
		want              []string
	}{
		"all":  {"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n", userNamespace, allRights()},
		"none": {"CapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n", userNamespace, nil},
		"all but CAP_SYS_RESOURCE": {"CapEff:\t000001fffeffffff\n", userNamespace,
			slices.DeleteFunc(allRights(), func(n string) bool { return n == "CAP_SYS_RESOURCE" })},
		"CAP_BPF and CAP_PERFMON":     {"CapEff:\t000000c000000000\n", userNamespace, []string{"CAP_BPF", "CAP_PERFMON"}},
		"all of a user namespace":     {"CapEff:\t000001ffffffffff\n", "user:[4026532000]", nil},
		"a file without capabilities": {"Name:\tx\n", userNamespace, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := root(t, map[string]string{status: tt.status, "proc/self/ns/mnt": ""})
			if err := os.Symlink(tt.namespace, filepath.Join(dir, "proc/self/ns/user")); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range capabilities(dir) {
				if c.Use == "" {
					t.Errorf("%s is for nothing", c.Name)
				}
				if c.Held {
					got = append(got, c.Name)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("held (-want +got):\n%s", d)
			}
		})
	}
}

func allRights() (names []string) {
	for _, r := range rights {
		names = append(names, r.name)
	}
	return names
}

// well is a node on which all is as it should be.
func well() Report {
	r := Report{
		BTF: BTF{OK: true}, Cgroup: Cgroup{Memory: true, Pids: true}, Programs: Programs{OK: true}, Drill: Drill{Possible: true},
		Lockdown: Lockdown{Mode: "none"}, Fallback: Fallback{Memory: "poll", MemoryWhy: "v2", Tasks: "event"},
	}
	for _, name := range allRights() {
		r.Capabilities = append(r.Capabilities, Capability{Name: name, Held: true})
	}
	r.Tiers = tiers(backends{memory: "bpf-alloc", tasks: "bpf-task"})
	return r
}

func (r *Report) lose(names ...string) {
	for i := range r.Capabilities {
		r.Capabilities[i].Held = r.Capabilities[i].Held && !slices.Contains(names, r.Capabilities[i].Name)
	}
}

// refuse is what a kernel without our programs leaves.
func (r *Report) refuse(why string) {
	r.Programs = Programs{Error: why}
	r.watchBy("poll", "event")
}

func (r *Report) watchBy(memory, tasks string) {
	r.Tiers = tiers(backends{memory: memory, tasks: tasks})
}

func TestWhatIsMissing(t *testing.T) {
	const (
		bpf   = "leastTier: bpf\n"
		event = "leastTier: event\n"
		soft  = "evictionHard: {}\nevictionSoft: {memory.available: 1Gi}\nevictionSoftGracePeriod: {memory.available: 1m}\n"
	)
	memory := []string{"memory.available", "allocatableMemory.available"}
	for name, tt := range map[string]struct {
		change func(*Report)
		config string
		euid   int
		want   []string
	}{
		"nothing":                            {change: func(*Report) {}},
		"rights that only make it better":    {change: func(r *Report) { r.lose("CAP_SYS_NICE", "CAP_IPC_LOCK", "CAP_SYS_RESOURCE", "CAP_NET_ADMIN") }},
		"CAP_SYS_ADMIN in place of CAP_BPF":  {change: func(r *Report) { r.lose("CAP_BPF", "CAP_PERFMON") }, config: bpf},
		"the right to kill":                  {change: func(r *Report) { r.lose("CAP_KILL") }, want: []string{"CAP_KILL"}},
		"root":                               {change: func(*Report) {}, euid: 1000, want: []string{"root"}},
		"the rights to load":                 {change: func(r *Report) { r.lose("CAP_BPF", "CAP_SYS_ADMIN"); r.refuse("EPERM") }, config: bpf, want: append([]string{"CAP_BPF"}, memory...)},
		"types":                              {change: func(r *Report) { r.BTF = BTF{Error: "none"}; r.refuse("no BTF") }, config: bpf, want: append([]string{"BTF"}, memory...)},
		"reading of memory":                  {change: func(r *Report) { r.Lockdown = Lockdown{"confidentiality", "forbids"}; r.refuse("unknown func") }, config: bpf, want: append([]string{"lockdown"}, memory...)},
		"an old kernel":                      {change: func(r *Report) { r.refuse("unknown func x#169") }, config: bpf, want: append([]string{"BPF programs"}, memory...)},
		"an old kernel that will do":         {change: func(r *Report) { r.refuse("unknown func x#169") }},
		"an old kernel, nothing hard":        {change: func(r *Report) { r.refuse("unknown func x#169") }, config: bpf + soft},
		"a tier better than poll":            {change: func(r *Report) { r.watchBy("poll", "event") }, config: event, want: memory},
		"a tier better than poll, and it is": {change: func(r *Report) { r.watchBy("event", "poll") }, config: event},
		"anybody who watches":                {change: func(r *Report) { r.watchBy(TierNone, "poll") }, config: soft, want: memory[:1]},
		"a drill at start":                   {change: func(r *Report) { r.Drill = Drill{Error: "read-only"} }, want: []string{"drill"}},
		"a drill that nobody asks for":       {change: func(r *Report) { r.Drill.Possible = false }, config: "drill: {atStart: false}"},
		"memory cgroups":                     {change: func(r *Report) { r.Cgroup = Cgroup{Error: "no memory controller"} }, want: []string{"cgroups"}},
		"the pids controller, unused":        {change: func(r *Report) { r.Cgroup.Pids = false }},
		"the pids controller": {change: func(r *Report) { r.Cgroup.Pids = false }, config: `evictionHard: {allocatablePID.available: "10"}`,
			want: []string{"allocatablePID.available"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := config.Parse([]byte(tt.config))
			if err != nil {
				t.Fatal(err)
			}
			r := well()
			tt.change(&r)
			r.judge(Options{Config: c}, tt.euid, nil)
			var got []string
			for _, m := range r.Missing {
				if m.Get == "" {
					t.Errorf("%s: no word on how to get it", m.What)
				}
				got = append(got, m.What)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("missing (-want +got):\n%s", d)
			}
			if r.Protects != (tt.want == nil) {
				t.Errorf("protects: %t", r.Protects)
			}
		})
	}
}

func TestWhyAProgramIsRefused(t *testing.T) {
	notPermitted := fmt.Errorf("map .bss: map create: %w", unix.EPERM)
	for name, tt := range map[string]struct {
		lost []string
		err  error
		want string
	}{
		"without the rights":           {[]string{"CAP_SYS_ADMIN", "CAP_PERFMON"}, notPermitted, "operation not permitted: needs CAP_BPF and CAP_PERFMON"},
		"by the kernel":                {nil, notPermitted, "map .bss: map create: operation not permitted"},
		"for another reason than that": {[]string{"CAP_SYS_ADMIN", "CAP_BPF"}, unix.E2BIG, "argument list too long"},
	} {
		r := well()
		r.lose(tt.lost...)
		if got := r.refusal(tt.err); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestTiersWithoutBPF(t *testing.T) {
	found := backends{memory: TierNone, tasks: "bpf-task", memoryWhy: "refused"}.instead(Fallback{Memory: "poll", MemoryWhy: "cgroup v2", Tasks: "event"})
	all := tiers(found)
	for _, want := range []Tier{
		{Signal: "memory.available", Tier: "poll", ExpectedLatencyNs: 740_000, Why: "no BPF; cgroup v2"},
		{Signal: "allocatablePID.available", Tier: "bpf-task", ExpectedLatencyNs: 130_000},
		{Signal: "imagefs.available", Tier: "poll", ExpectedLatencyNs: 255_000_000, Why: "statfs, then new figures: seconds where large trees grow or images are to be freed"},
	} {
		if !slices.Contains(all, want) {
			t.Errorf("no %+v in %+v", want, all)
		}
	}
	if len(all) != len(signal.Names()) {
		t.Errorf("%d tiers, want one for each signal", len(all))
	}
}
