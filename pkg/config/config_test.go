package config

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

func mustParse(t *testing.T, yaml string) *Config {
	t.Helper()
	c, err := Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseEveryKey(t *testing.T) {
	got := mustParse(t, `
evictionHard: {memory.available: 500Mi, nodefs.available: 10%}
evictionSoft: {memory.available: "1Gi"}
evictionSoftGracePeriod: {memory.available: 1m30s}
evictionMinimumReclaim: {memory.available: "0"}
evictionMaxPodGracePeriod: -1
evictionPressureTransitionPeriod: 30s
mergeDefaultEvictionSettings: true
enforceNodeAllocatable: [none]
localStorageCapacityIsolation: false
mode: enforce
roots: [/a.slice, /b]
compat: kubelet
journal: /x/journal
state: /x/state
workloads: /x/table
tableOwner: 65532
allowEvictFirst: true
nodefs: /x/kubelet/
imagefs: /x/images
containerfs: /
disk: /x/disk.json
diskDirectories: {"/machine.slice/*": [/srv/machines]}
containerRuntimeEndpoint: unix:///run/crio/crio.sock
imageMinimumGCAge: 5m
podLogsDir: /srv/pod-logs
reclaim: /x/reclaim.json
reclaimDeadline: 5s
hugepages: false
protect: ["kube-system/*"]
budget: {killsPerMinute: 0, killsPerHour: 256}
drill: {atStart: false, every: 90m}
backstop: {enabled: false, grace: 2ms}
fillBytesPerSecond: 11G
marginBytes: 1073741824
btf: /x/vmlinux
leastTier: event
`)
	want := &Config{
		EvictionHard:                     map[string]string{"memory.available": "500Mi", "nodefs.available": "10%"},
		EvictionSoft:                     map[string]string{"memory.available": "1Gi"},
		EvictionSoftGracePeriod:          map[string]string{"memory.available": "1m30s"},
		EvictionMinimumReclaim:           map[string]string{"memory.available": "0"},
		EvictionMaxPodGracePeriod:        -1,
		EvictionPressureTransitionPeriod: 30 * time.Second,
		MergeDefaultEvictionSettings:     true,
		EnforceNodeAllocatable:           []string{"none"},
		Mode:                             ModeEnforce,
		Roots:                            []string{"/a.slice", "/b"},
		RootsGiven:                       true,
		Compat:                           CompatKubelet,
		Journal:                          "/x/journal",
		State:                            "/x/state",
		Workloads:                        "/x/table",
		TableOwner:                       65532,
		AllowEvictFirst:                  true,
		Nodefs:                           "/x/kubelet",
		NodefsGiven:                      true,
		Imagefs:                          "/x/images",
		ImagefsGiven:                     true,
		Containerfs:                      "/",
		Disk:                             "/x/disk.json",
		DiskDirectories:                  map[string][]string{"/machine.slice/*": {"/srv/machines"}},
		ContainerRuntimeEndpoint:         "unix:///run/crio/crio.sock",
		ImageMinimumGCAge:                5 * time.Minute,
		PodLogsDir:                       "/srv/pod-logs",
		Reclaim:                          "/x/reclaim.json",
		ReclaimDeadline:                  5 * time.Second,
		Protect:                          []string{"kube-system/*"},
		Budget:                           Budget{KillsPerMinute: 0, KillsPerHour: 256},
		Drill:                            Drill{Every: 90 * time.Minute},
		Backstop:                         Backstop{Enabled: false, Grace: 2 * time.Millisecond},
		MaxFillBytesPerSecond:            11e9,
		MarginBytes:                      1 << 30,
		BTF:                              "/x/vmlinux",
		LeastTier:                        LeastTierEvent,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestParseKeepsDefaults(t *testing.T) {
	for name, yaml := range map[string]string{
		"empty file":        "",
		"comment":           "# nothing\n",
		"nulls":             "evictionHard:\nroots: null\nbudget: ~\nmode:\n",
		"empty document":    "---\n",
		"zero transition":   "evictionPressureTransitionPeriod: 0s",
		"part of a budget":  "budget: {killsPerHour: 120}",
		"part of backstop":  "backstop: {grace: 1000us}",
		"marked document":   "%YAML 1.1\n---\nmode: shadow\n...\n# end\n",
		"empty compat":      `compat: ""`,
		"part of a drill":   "drill: {every: 60m}",
		"no rate, no limit": "fillBytesPerSecond: 0",
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(Default(), mustParse(t, yaml)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestGraceOfTheBackstop(t *testing.T) {
	for yaml, want := range map[string]time.Duration{
		"0": 0, `"0"`: 0, "0s": 0, "50us": 50 * time.Microsecond, "10s": 10 * time.Second, "null": time.Millisecond, "": time.Millisecond,
	} {
		if got := mustParse(t, "backstop: {grace: "+yaml+"}").Backstop; got != (Backstop{true, want}) {
			t.Errorf("grace %s: %+v", yaml, got)
		}
	}
}

func TestParseErrorsNameKeyValueAndForm(t *testing.T) {
	soft := "evictionSoft: {memory.available: 1Gi}\nevictionSoftGracePeriod: "
	for name, c := range map[string]struct{ yaml, key, value, want string }{
		"unknown key":                      {"evictHard: {}", "evictHard", "", "evictionHard, "},
		"key in another case":              {"Mode: enforce", "Mode", "", "mode"},
		"unknown key inside":               {"budget: {kills: 1}", "budget.kills", "", "killsPerHour"},
		"not a map":                        {"[]", "the file", "[]", "a map"},
		"unquoted number as a quantity":    {"evictionHard: {memory.available: 100}", "evictionHard[memory.available]", "100", "quoted"},
		"null as a quantity":               {"evictionHard: {memory.available: }", "evictionHard[memory.available]", "null", "quoted"},
		"unquoted number as a grace":       {soft + "{memory.available: 30}", "evictionSoftGracePeriod[memory.available]", "30", "1m30s"},
		"map given as a string":            {"evictionHard: memory.available<100Mi", "evictionHard", `"memory.available<100Mi"`, "a map of signals"},
		"unknown signal, hard":             {`evictionHard: {memory.free: "1Gi"}`, "evictionHard[memory.free]", "", "containerfs.inodesFree"},
		"unknown signal, soft":             {`evictionSoft: {x: "1Gi"}`, "evictionSoft[x]", "", "memory.available"},
		"unknown signal, grace":            {"evictionSoftGracePeriod: {x: 1s}", "evictionSoftGracePeriod[x]", "", "memory.available"},
		"unknown signal, reclaim":          {`evictionMinimumReclaim: {x: "1"}`, "evictionMinimumReclaim[x]", "", "memory.available"},
		"percent is no number":             {"evictionHard: {pid.available: abc%}", "evictionHard[pid.available]", `"abc%"`, "percentage"},
		"percent is NaN":                   {"evictionHard: {pid.available: NaN%}", "evictionHard[pid.available]", `"NaN%"`, "percentage"},
		"percent below zero":               {"evictionHard: {pid.available: -1%}", "evictionHard[pid.available]", `"-1%"`, "percentage"},
		"percent above 100":                {"evictionHard: {pid.available: 100.1%}", "evictionHard[pid.available]", `"100.1%"`, "percentage"},
		"quantity unparsable":              {"evictionHard: {memory.available: 100MB}", "evictionHard[memory.available]", `"100MB"`, "500Mi"},
		"quantity that fills the memory":   {`evictionHard: {memory.available: "1e15000000"}`, "evictionHard[memory.available]", `"1e15000000"`, "500Mi"},
		"quantity that never gets smaller": {`evictionMinimumReclaim: {memory.available: "1e-15000000"}`, "evictionMinimumReclaim[memory.available]", `"1e-15000000"`, "500Mi"},
		"quantity empty":                   {`evictionHard: {memory.available: ""}`, "evictionHard[memory.available]", `""`, "500Mi"},
		"quantity zero":                    {`evictionHard: {memory.available: "0"}`, "evictionHard[memory.available]", `"0"`, "above zero"},
		"quantity below zero":              {`evictionHard: {memory.available: "-1Mi"}`, "evictionHard[memory.available]", `"-1Mi"`, "above zero"},
		"quantity beyond 64 bits":          {`evictionHard: {memory.available: 1e30}`, "evictionHard[memory.available]", "1e+30", "quoted"},
		"quoted quantity beyond 64 bits":   {`evictionHard: {memory.available: "1e30"}`, "evictionHard[memory.available]", `"1e30"`, "500Mi"},
		"soft without grace":               {"evictionSoft: {memory.available: 1Gi}", "evictionSoftGracePeriod[memory.available]", "", "1m30s"},
		"grace unparsable":                 {soft + "{memory.available: 90}", "evictionSoftGracePeriod[memory.available]", "90", "1m30s"},
		"grace without unit":               {soft + `{memory.available: "90"}`, "evictionSoftGracePeriod[memory.available]", `"90"`, "1m30s"},
		"grace below zero":                 {soft + "{memory.available: -1s}", "evictionSoftGracePeriod[memory.available]", `"-1s"`, "1m30s"},
		"grace of no threshold below 0":    {"evictionSoftGracePeriod: {memory.available: -1s}", "evictionSoftGracePeriod[memory.available]", `"-1s"`, "1m30s"},
		"reclaim percent zero":             {"evictionMinimumReclaim: {memory.available: 0%}", "evictionMinimumReclaim[memory.available]", `"0%"`, "above zero"},
		"reclaim percent infinite":         {"evictionMinimumReclaim: {memory.available: Inf%}", "evictionMinimumReclaim[memory.available]", `"Inf%"`, "above zero"},
		"reclaim below zero":               {`evictionMinimumReclaim: {memory.available: "-1"}`, "evictionMinimumReclaim[memory.available]", `"-1"`, "quantity"},
		"pod grace beyond 32 bits":         {"evictionMaxPodGracePeriod: 2147483648", "evictionMaxPodGracePeriod", "2147483648", "32-bit"},
		"pod grace as a string":            {`evictionMaxPodGracePeriod: "5"`, "evictionMaxPodGracePeriod", `"5"`, "number"},
		"transition without unit":          {"evictionPressureTransitionPeriod: 30", "evictionPressureTransitionPeriod", "30", "1m30s"},
		"transition unparsable":            {"evictionPressureTransitionPeriod: soon", "evictionPressureTransitionPeriod", `"soon"`, "1m30s"},
		"boolean as a string":              {`mergeDefaultEvictionSettings: "true"`, "mergeDefaultEvictionSettings", `"true"`, "true or false"},
		"unknown enforcement":              {"enforceNodeAllocatable: [pod]", "enforceNodeAllocatable", `["pod"]`, "pods"},
		"none and pods":                    {"enforceNodeAllocatable: [none, pods]", "enforceNodeAllocatable", `["none","pods"]`, "none alone"},
		"unknown mode":                     {"mode: dry-run", "mode", `"dry-run"`, "shadow or enforce"},
		"empty mode":                       {`mode: ""`, "mode", `""`, "shadow or enforce"},
		"unknown compat":                   {"compat: 1.13", "compat", "1.13", "kubelet"},
		"relative root":                    {"roots: [kubepods]", "roots", `["kubepods"]`, "absolute"},
		"root with dots":                   {"roots: [/a/../b]", "roots", `["/a/../b"]`, "absolute"},
		"top as a root":                    {"roots: [/]", "roots", `["/"]`, "below the top"},
		"no root":                          {"roots: []", "roots", "[]", "absolute"},
		"root as a string":                 {"roots: /kubepods", "roots", `"/kubepods"`, "a list"},
		"relative journal":                 {"journal: j.jsonl", "journal", `"j.jsonl"`, "absolute"},
		"directory as state":               {"state: /run/x/", "state", `"/run/x/"`, "absolute"},
		"owner below zero":                 {"tableOwner: -1", "tableOwner", "-1", "uid"},
		"mark as a word":                   {"allowEvictFirst: always", "allowEvictFirst", `"always"`, "true or false"},
		"relative directory":               {"nodefs: lib/kubelet", "nodefs", `"lib/kubelet"`, "absolute"},
		"images as a list":                 {"imagefs: [/a]", "imagefs", `["/a"]`, "directory"},
		"directory with a NUL":             {`containerfs: "/a\0"`, "containerfs", `"/a\u0000"`, "absolute"},
		"disk figures as a directory":      {"disk: /run/x/", "disk", `"/run/x/"`, "absolute"},
		"huge pages as a number":           {"hugepages: 1", "hugepages", "1", "true or false"},
		"headroom over nothing":            {"headroom: 20%", "headroom", "", "kubeletConfig"},
		"headroom without a unit":          {"headroom: 20", "headroom", "20", `"20%"`},
		"headroom of bytes for all":        {"headroom: 200Mi", "headroom", `"200Mi"`, "a map of signals"},
		"headroom below zero":              {"headroom: -1%", "headroom", `"-1%"`, `"20%"`},
		"headroom is NaN":                  {"headroom: NaN%", "headroom", `"NaN%"`, `"20%"`},
		"headroom as a list":               {"headroom: [20%]", "headroom", `["20%"]`, "a map of signals"},
		"headroom of an unknown signal":    {"headroom: {x: 1%}", "headroom[x]", "", "memory.available"},
		"headroom of a signal below zero":  {`headroom: {memory.available: "-1"}`, "headroom[memory.available]", `"-1"`, `"200Mi"`},
		"headroom as an unquoted number":   {"headroom: {memory.available: 1}", "headroom[memory.available]", "1", "quoted"},
		"relative kubelet file":            {"kubeletConfig: config.yaml", "kubeletConfig", `"config.yaml"`, "absolute"},
		"broken glob":                      {`protect: ["[a"]`, "protect", `["[a"]`, "globs"},
		"directories of a relative glob":   {`diskDirectories: {"machine/*": ["/srv"]}`, "diskDirectories", `{"machine/*":["/srv"]}`, "globs of cgroups"},
		"a relative directory":             {`diskDirectories: {"/machine/*": ["srv"]}`, "diskDirectories", `{"/machine/*":["srv"]}`, "absolute directories"},
		"a directory with a slash behind":  {`diskDirectories: {"/machine/*": ["/srv/"]}`, "diskDirectories", `{"/machine/*":["/srv/"]}`, "without a slash at the end"},
		"a relative socket":                {"containerRuntimeEndpoint: containerd.sock", "containerRuntimeEndpoint", `"containerd.sock"`, "unix:///run"},
		"a runtime by TCP":                 {"containerRuntimeEndpoint: tcp://localhost:1", "containerRuntimeEndpoint", `"tcp://localhost:1"`, "unix:///run"},
		"a directory alone":                {`diskDirectories: {"/machine/*": "/srv"}`, "diskDirectories", `{"/machine/*":"/srv"}`, "lists"},
		"empty glob":                       {`protect: [""]`, "protect", `[""]`, "globs"},
		"budget below zero":                {"budget: {killsPerMinute: -1}", "budget.killsPerMinute", "-1", "0 (no kill at all)"},
		"budget beyond what is counted":    {"budget: {killsPerHour: 257}", "budget.killsPerHour", "257", "256"},
		"budget as a number":               {"budget: 20", "budget", "20", "killsPerHour, killsPerMinute"},
		"a second's reclaim at the least":  {"reclaimDeadline: 100ms", "reclaimDeadline", `"100ms"`, "from 1s to 10m"},
		"a reclaim of an hour":             {"reclaimDeadline: 1h", "reclaimDeadline", `"1h"`, "0 (no reclaim)"},
		"drill as a switch":                {"drill: true", "drill", "true", "atStart, every"},
		"drills without a pause":           {"drill: {every: 10ms}", "drill.every", `"10ms"`, "from 1s to 2562047h"},
		"drills once in 11,000 years":      {"drill: {every: 99999999h}", "drill.every", `"99999999h"`, "from 1s to 2562047h"},
		"drills a minute too seldom":       {"drill: {every: 2562047h1m}", "drill.every", `"2562047h1m"`, "to 2562047h"},
		"drills below zero":                {"drill: {every: -1h}", "drill.every", `"-1h"`, "0 (never)"},
		"drills without a unit":            {"drill: {every: 5}", "drill.every", "5", `"1h"`},
		"backstop as a word":               {"backstop: on", "backstop", "true", "enabled, grace"},
		"backstop grace below zero":        {"backstop: {grace: -1ms}", "backstop.grace", `"-1ms"`, "or 0"},
		"backstop grace of no time":        {"backstop: {grace: 1ns}", "backstop.grace", `"1ns"`, "from 50µs"},
		"backstop grace too long":          {"backstop: {grace: 10.1s}", "backstop.grace", `"10.1s"`, "to 10s"},
		"backstop grace without a unit":    {"backstop: {grace: 5}", "backstop.grace", "5", "to 10s"},
		"rate below zero":                  {"fillBytesPerSecond: -1", "fillBytesPerSecond", "-1", "1Gi"},
		"least tier unknown":               {"leastTier: bpf-alloc", "leastTier", `"bpf-alloc"`, "bpf"},
		"margin unparsable":                {"marginBytes: much", "marginBytes", `"much"`, "1Gi"},
		"margin beyond 64 bits":            {"marginBytes: 1e30", "marginBytes", "1e+30", "1Gi"},
		"two documents":                    {"mode: shadow\n---\nmode: enforce\n", "the file", "", "one YAML document"},
		"two documents, the first empty":   {"---\n---\nmode: enforce\n", "the file", "", "one YAML document"},
		"document after an end":            {"mode: shadow\n...\nmode: enforce\n", "the file", "", "one YAML document"},
		"long value is cut for a message":  {"mode: " + strings.Repeat("x", 200), "mode", `"` + strings.Repeat("x", 79) + "…", "enforce"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.yaml))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no *Error", err)
			}
			if e.Key != c.key || e.Value != c.value || !strings.Contains(e.Want, c.want) {
				t.Errorf("got %#v, want key %q, value %q and a form with %q", e, c.key, c.value, c.want)
			}
		})
	}
}

func TestNegativePodGracePeriodIsKept(t *testing.T) {
	if got := mustParse(t, "evictionMaxPodGracePeriod: -1").EvictionMaxPodGracePeriod; got != -1 {
		t.Errorf("got %d", got)
	}
}

func TestParseRefusesBrokenYAML(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"repeated key": {"mode: shadow\nmode: enforce\n", `"mode" already set`},
		"no YAML":      {"roots: [", "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(c.yaml)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %s", err, c.want)
			}
		})
	}
}

func TestErrorReadsAsOneSentence(t *testing.T) {
	_, err := Parse([]byte("evictionHard: {memory.available: 100}"))
	want := `evictionHard[memory.available]: 100 is not accepted, want a quoted quantity above zero such as "500Mi" or percentage such as "10%"`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// mi is a threshold or minimum reclaim of n mebibytes as apimachinery prints it.
func mi(n int64, text string) signal.Quantity { return signal.Quantity{Value: n << 20, Text: text} }

// ones are hard thresholds of 1.
func ones(signals ...signal.Signal) (ts []signal.Threshold) {
	for _, s := range signals {
		ts = append(ts, signal.Threshold{Signal: s, Value: signal.Quantity{Value: 1, Text: "1"}})
	}
	return ts
}

func share(p float32, text string) signal.Quantity { return signal.Quantity{Percent: p, Text: text} }

func TestThresholds(t *testing.T) {
	mem, alloc := signal.MemoryAvailable, signal.AllocatableMemoryAvailable
	defaults := []signal.Threshold{
		{Signal: mem, Value: mi(100, "100Mi")},
		{Signal: signal.NodeFsAvailable, Value: share(float32(10)/100, "10%")},
		{Signal: signal.ImageFsAvailable, Value: share(float32(15)/100, "15%")},
		{Signal: signal.NodeFsInodesFree, Value: share(float32(5)/100, "5%")},
		{Signal: signal.ImageFsInodesFree, Value: share(float32(5)/100, "5%")},
		{Signal: alloc, Value: mi(100, "100Mi")},
	}
	merged := append([]signal.Threshold{}, defaults...)
	merged[0].Value, merged[5].Value = mi(1536, "1536Mi"), mi(1536, "1536Mi")
	for name, c := range map[string]struct {
		yaml string
		want []signal.Threshold
	}{
		"nothing given: the kubelet's defaults": {"", defaults},
		"null: the kubelet's defaults":          {"evictionHard: null", defaults},
		"empty map: none":                       {"evictionHard: {}", nil},
		"one given: no other default": {`evictionHard: {pid.available: "1k"}`, []signal.Threshold{
			{Signal: signal.PIDAvailable, Value: signal.Quantity{Value: 1000, Text: "1k"}}}},
		"one given, defaults merged": {"evictionHard: {memory.available: 1.5Gi}\nmergeDefaultEvictionSettings: true", merged},
		"one turned off, defaults merged": {
			"evictionHard: {memory.available: 0%}\nmergeDefaultEvictionSettings: true", defaults[1:5]},
		"0% and 100% turn off": {"evictionHard: {memory.available: 0%, pid.available: 100%}", nil},
		"soft 0% needs no grace": {
			"evictionHard: {}\nevictionSoft: {memory.available: 0%}", nil},
		"0.0% and 100.0% are thresholds": {"evictionHard: {pid.available: 0.0%, nodefs.available: 100.0%}", []signal.Threshold{
			{Signal: signal.PIDAvailable, Value: share(0, "0.0%")},
			{Signal: signal.NodeFsAvailable, Value: share(1, "100.0%")}}},
		"percentages that Go reads: 10%%, 1e1%, 0x1p3%": {"evictionHard: {pid.available: 10%%, nodefs.available: 1e1%, imagefs.available: 0x1p3%}", []signal.Threshold{
			{Signal: signal.PIDAvailable, Value: share(float32(10)/100, "10%%")},
			{Signal: signal.NodeFsAvailable, Value: share(float32(10)/100, "1e1%")},
			{Signal: signal.ImageFsAvailable, Value: share(float32(8)/100, "0x1p3%")}}},
		"a part of a byte counts as one": {`evictionHard: {pid.available: "0.5"}`, []signal.Threshold{
			{Signal: signal.PIDAvailable, Value: signal.Quantity{Value: 1, Text: "500m"}}}},
		"quantities print as apimachinery's: most as written": {`evictionHard: {memory.available: "1E9", pid.available: "5000",
  nodefs.available: +5Mi, imagefs.available: 0100Mi}
enforceNodeAllocatable: []`, []signal.Threshold{
			{Signal: mem, Value: signal.Quantity{Value: 1e9, Text: "1E9"}},
			{Signal: signal.PIDAvailable, Value: signal.Quantity{Value: 5000, Text: "5k"}},
			{Signal: signal.NodeFsAvailable, Value: mi(5, "+5Mi")},
			{Signal: signal.ImageFsAvailable, Value: mi(100, "0100Mi")}}},
		"the quantity forms of Kubernetes": {`evictionHard: {memory.available: 1.5Gi, pid.available: 1k, nodefs.available: "1e9", imagefs.available: 500M}
enforceNodeAllocatable: [none]`, []signal.Threshold{
			{Signal: mem, Value: mi(1536, "1536Mi")},
			{Signal: signal.PIDAvailable, Value: signal.Quantity{Value: 1000, Text: "1k"}},
			{Signal: signal.NodeFsAvailable, Value: signal.Quantity{Value: 1e9, Text: "1e9"}},
			{Signal: signal.ImageFsAvailable, Value: signal.Quantity{Value: 500e6, Text: "500M"}}}},
		"a quantity of 64 bits": {`evictionHard: {nodefs.available: "8Ei"}`, []signal.Threshold{
			{Signal: signal.NodeFsAvailable, Value: signal.Quantity{Value: math.MaxInt64, Text: "9223372036854775807"}}}},
		"percent of minus zero is zero": {"evictionHard: {pid.available: -0%}", []signal.Threshold{
			{Signal: signal.PIDAvailable, Value: share(0, "-0%")}}},
		"every signal of the kubelet and our own": {`evictionHard: {memory.available: "1", allocatableMemory.available: "1", pid.available: "1", allocatablePID.available: "1",
  nodefs.available: "1", imagefs.available: "1", containerfs.available: "1", nodefs.inodesFree: "1", imagefs.inodesFree: "1", containerfs.inodesFree: "1"}
enforceNodeAllocatable: []`, ones(signal.Names()...)},
		"one more than the defaults, merged": {"evictionHard: {pid.available: \"1\"}\nmergeDefaultEvictionSettings: true",
			slices.Insert(slices.Clone(defaults), 1, ones(signal.PIDAvailable)...)},
		"null and merged: the defaults":             {"mergeDefaultEvictionSettings: true", defaults},
		"empty and merged: the defaults":            {"evictionHard: {}\nmergeDefaultEvictionSettings: true", defaults},
		"grace without a soft threshold is ignored": {"evictionHard: {}\nevictionSoftGracePeriod: {pid.available: 1s}", nil},
		"reclaim without a threshold is ignored":    {"evictionHard: {}\nevictionMinimumReclaim: {pid.available: 1%}", nil},
		"soft below hard is not questioned": {`
evictionHard: {pid.available: "9"}
evictionSoft: {pid.available: "1"}
evictionSoftGracePeriod: {pid.available: 1h}`, []signal.Threshold{
			{Signal: signal.PIDAvailable, Value: signal.Quantity{Value: 9, Text: "9"}},
			{Signal: signal.PIDAvailable, Value: signal.Quantity{Value: 1, Text: "1"}, GracePeriod: time.Hour}}},
		"reclaim of 0 and of more than all": {`
evictionHard: {pid.available: "1", nodefs.available: "1"}
evictionMinimumReclaim: {pid.available: "0", nodefs.available: 150%}`, []signal.Threshold{
			{Signal: signal.PIDAvailable, Value: signal.Quantity{Value: 1, Text: "1"}, MinReclaim: signal.Quantity{Text: "0"}},
			{Signal: signal.NodeFsAvailable, Value: signal.Quantity{Value: 1, Text: "1"}, MinReclaim: share(1.5, "150%")}}},
		"hard and soft of 0s: the soft one is the later, for containerfs": {`
evictionHard: {nodefs.available: 1Mi}
evictionSoft: {nodefs.available: 2Mi}
evictionSoftGracePeriod: {nodefs.available: 0s}`, []signal.Threshold{
			{Signal: signal.NodeFsAvailable, Value: mi(1, "1Mi")},
			{Signal: signal.NodeFsAvailable, Value: mi(2, "2Mi")}}},
		"hard, soft, grace and minimum reclaim; only the hard is copied": {`
evictionHard: {memory.available: 100Mi, allocatablePID.available: "7"}
evictionSoft: {memory.available: 200Mi}
evictionSoftGracePeriod: {memory.available: 90s, pid.available: 5s}
evictionMinimumReclaim: {memory.available: 50Mi, nodefs.available: 1Gi, allocatablePID.available: 200%}`, []signal.Threshold{
			{Signal: mem, Value: mi(100, "100Mi"), MinReclaim: mi(50, "50Mi")},
			{Signal: signal.AllocatablePIDAvailable, Value: signal.Quantity{Value: 7, Text: "7"}, MinReclaim: share(2, "200%")},
			{Signal: mem, Value: mi(200, "200Mi"), GracePeriod: 90 * time.Second, MinReclaim: mi(50, "50Mi")},
			{Signal: alloc, Value: mi(100, "100Mi"), MinReclaim: mi(50, "50Mi")}}},
		"soft of 0s is hard and is copied": {`
evictionHard: {}
evictionSoft: {memory.available: 200Mi}
evictionSoftGracePeriod: {memory.available: 0s}`, []signal.Threshold{
			{Signal: mem, Value: mi(200, "200Mi")},
			{Signal: alloc, Value: mi(200, "200Mi")}}},
		"allocatable given by hand is not copied": {
			"evictionHard: {memory.available: 500Mi, allocatableMemory.available: 200Mi}", []signal.Threshold{
				{Signal: mem, Value: mi(500, "500Mi")},
				{Signal: alloc, Value: mi(200, "200Mi")}}},
		"allocatable turned off by hand is not copied": {
			"evictionHard: {memory.available: 500Mi, allocatableMemory.available: 0%}", []signal.Threshold{
				{Signal: mem, Value: mi(500, "500Mi")}}},
		"as the kubelet, allocatable given by hand stays beside its copy": {
			"evictionHard: {memory.available: 100Mi, allocatableMemory.available: 300Mi}\ncompat: kubelet", []signal.Threshold{
				{Signal: mem, Value: mi(100, "100Mi")},
				{Signal: alloc, Value: mi(300, "300Mi")},
				{Signal: alloc, Value: mi(100, "100Mi")}}},
		"pods not enforced: no copy": {"evictionHard: {memory.available: 100Mi}\nenforceNodeAllocatable: [kube-reserved]", []signal.Threshold{
			{Signal: mem, Value: mi(100, "100Mi")}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mustParse(t, c.yaml).Thresholds()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestPercentagesRoundAsTheKubelets(t *testing.T) {
	for _, c := range []struct {
		percent        string
		capacity, want int64
	}{
		{"10%", 107374182400, 10737418400},
		{"15%", 107374182400, 16106128000},
		{"5%", 6553600, 327680},
		{"29%", 100, 28},
		{"7%", 100, 7},
		{"10%", 32768, 3276},
		{"33.3%", 1000, 333},
		{"57%", 100, 56},
	} {
		ts, err := mustParse(t, "evictionHard: {pid.available: "+c.percent+"}").Thresholds()
		if err != nil {
			t.Fatal(err)
		}
		if got := ts[0].Value.Of(c.capacity); got != c.want {
			t.Errorf("%s of %d: got %d, want %d", c.percent, c.capacity, got, c.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"defaults":      {"", nil},
		"soft and disk": {"evictionHard: {nodefs.available: 10%}\nevictionSoft: {memory.available: 1Gi}\nevictionSoftGracePeriod: {memory.available: 1s}\ncompat: kubelet", nil},
		"left-overs": {"evictionSoftGracePeriod: {memory.available: 1s}\nevictionMinimumReclaim: {pid.available: \"5\", memory.available: 1Mi}", []string{
			"evictionSoftGracePeriod[memory.available]: ignored, evictionSoft does not name the signal",
			"evictionMinimumReclaim[pid.available]: ignored, the signal has no threshold"}},
		"negative transition": {"evictionPressureTransitionPeriod: -1s", []string{
			"evictionPressureTransitionPeriod: below zero, no condition is ever published"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, mustParse(t, c.yaml).Warnings()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("mode: enforce\n"))
	if c, err := Load(path); err != nil || c.Mode != ModeEnforce {
		t.Errorf("got %v, %v", c, err)
	}
	a, errA := Load(path)
	b, errB := Load(path)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	a.Roots[0], a.EnforceNodeAllocatable[0], a.Mode = "/changed", "changed", "changed"
	if d := cmp.Diff(b, mustParse(t, "mode: enforce\n")); d != "" {
		t.Errorf("one value changed another:\n%s", d)
	}
	write([]byte("mode: x\n"))
	var e *Error
	if _, err := Load(path); !errors.As(err, &e) || !strings.Contains(err.Error(), path) {
		t.Errorf("bad mode: %v", err)
	}
	write(append([]byte("mode: enforce\n#"), make([]byte, maxFileBytes)...))
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("large file: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(fifo); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("fifo: %v", err)
	}
}
