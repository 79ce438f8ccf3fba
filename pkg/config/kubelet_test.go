package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

const kubeletHead = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// kubeletFile returns the line of our own file that names a KubeletConfiguration.
func kubeletFile(t *testing.T, body string) string {
	t.Helper()
	return "kubeletConfig: " + writeKubelet(t, kubeletHead+body) + "\n"
}

func writeKubelet(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// The names and forms are those of the kubelet's own type.
func TestInheritsWhatTheKubeletsTypeWrites(t *testing.T) {
	no, yes := false, true
	file, err := yaml.Marshal(kubelet.KubeletConfiguration{
		EvictionHard:                     map[string]string{"memory.available": "1Gi"},
		EvictionSoft:                     map[string]string{"memory.available": "2Gi"},
		EvictionSoftGracePeriod:          map[string]string{"memory.available": "1m"},
		EvictionMinimumReclaim:           map[string]string{"memory.available": "5%"},
		EvictionMaxPodGracePeriod:        7,
		EvictionPressureTransitionPeriod: metav1.Duration{Duration: 30 * time.Second},
		MergeDefaultEvictionSettings:     &yes,
		EnforceNodeAllocatable:           []string{"none"},
		LocalStorageCapacityIsolation:    &no,
		CgroupRoot:                       "/outer",
		CgroupsPerQOS:                    &yes,
		CgroupDriver:                     "systemd",
		FeatureGates:                     map[string]bool{"Swap": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	line := kubeletFile(t, string(file))
	want := Default()
	want.KubeletConfig = strings.TrimSpace(strings.TrimPrefix(line, "kubeletConfig: "))
	want.EvictionHard = map[string]string{"memory.available": "1Gi", "nodefs.available": "10%",
		"nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"}
	want.EvictionSoft = map[string]string{"memory.available": "2Gi"}
	want.EvictionSoftGracePeriod = map[string]string{"memory.available": "1m"}
	want.EvictionMinimumReclaim = map[string]string{"memory.available": "5%"}
	want.EvictionMaxPodGracePeriod = 7
	want.EvictionPressureTransitionPeriod = 30 * time.Second
	want.EnforceNodeAllocatable = []string{"none"}
	want.LocalStorageCapacityIsolation = false
	want.Roots = []string{"/outer/kubepods", "/outer.slice/outer-kubepods.slice"}
	if d := cmp.Diff(want, mustParse(t, line)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestInheritedKeysAreTheKubelets(t *testing.T) {
	var keys []string
	for f := range reflect.TypeFor[kubelet.KubeletConfiguration]().Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		keys = append(keys, key)
	}
	for _, key := range append([]string{"cgroupRoot", "cgroupsPerQOS"}, inheritedKeys...) {
		if !slices.Contains(keys, key) {
			t.Errorf("KubeletConfiguration has no key %s", key)
		}
	}
}

func TestOurOwnKeyOutranksTheKubelets(t *testing.T) {
	const body = `
evictionHard: {memory.available: 1Gi, pid.available: 5%}
evictionSoft: {memory.available: 2Gi}
evictionSoftGracePeriod: {memory.available: 1m}
evictionMaxPodGracePeriod: 7
evictionPressureTransitionPeriod: 0s
mergeDefaultEvictionSettings: true
enforceNodeAllocatable: [none]
localStorageCapacityIsolation: false
cgroupRoot: /outer
`
	for name, c := range map[string]struct {
		own  string
		get  func(*Config) any
		want any
	}{
		"nothing of our own": {"", func(c *Config) any { return c.EvictionMaxPodGracePeriod }, int32(7)},
		"null is nothing":    {"evictionMaxPodGracePeriod: null", func(c *Config) any { return c.EvictionMaxPodGracePeriod }, int32(7)},
		"zero is something":  {"evictionMaxPodGracePeriod: 0", func(c *Config) any { return c.EvictionMaxPodGracePeriod }, int32(0)},
		"kubeadm's 0s is 5m": {"", func(c *Config) any { return c.EvictionPressureTransitionPeriod }, 5 * time.Minute},
		"a boolean":          {"localStorageCapacityIsolation: true", func(c *Config) any { return c.LocalStorageCapacityIsolation }, true},
		"a list":             {"enforceNodeAllocatable: []", func(c *Config) any { return c.EnforceNodeAllocatable }, []string{}},
		"a map as a whole, and no defaults into it": {`evictionHard: {pid.available: "9"}`,
			func(c *Config) any { return c.hard() }, map[string]string{"pid.available": "9"}},
		"an empty map: none": {"evictionHard: {}", func(c *Config) any { return c.hard() }, map[string]string{}},
		"our defaults into the kubelet's": {"mergeDefaultEvictionSettings: false", func(c *Config) any { return c.hard() },
			map[string]string{"memory.available": "1Gi", "pid.available": "5%"}},
		"another grace period for the kubelet's soft threshold": {"evictionSoftGracePeriod: {memory.available: 2m}",
			func(c *Config) any { ts, _ := c.Thresholds(); return ts[len(ts)-1] },
			signal.Threshold{Signal: signal.MemoryAvailable, Value: mi(2048, "2Gi"), GracePeriod: 2 * time.Minute}},
		"roots":                      {"roots: [/mine]", func(c *Config) any { return c.Roots }, []string{"/mine"}},
		"given roots must exist":     {"roots: [/mine]", func(c *Config) any { return c.RootsGiven }, true},
		"inherited roots need not":   {"", func(c *Config) any { return c.RootsGiven }, false},
		"the kubelet's root is none": {"", func(c *Config) any { return c.NodefsGiven }, false},
		"a key that is ours alone":   {"mode: enforce", func(c *Config) any { return c.Mode }, ModeEnforce},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.get(mustParse(t, kubeletFile(t, body)+c.own))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestInheritsTheKubeletsDefaults(t *testing.T) {
	want := mustParse(t, "evictionHard: {}\nmergeDefaultEvictionSettings: true").hard()
	for name, body := range map[string]string{
		"nothing said": "", "null": "evictionHard: null\n", "merged": "mergeDefaultEvictionSettings: true\n",
	} {
		if d := cmp.Diff(want, mustParse(t, kubeletFile(t, body)).hard()); d != "" {
			t.Errorf("%s (-want +got)\n%s", name, d)
		}
	}
	if got := mustParse(t, kubeletFile(t, "evictionHard: {}\n")).hard(); len(got) > 0 {
		t.Errorf("an empty map turns all off, got %v", got)
	}
}

func TestDefaultRootsFollowCgroupRoot(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"none":                               {"", []string{"/kubepods", "/kubepods.slice"}},
		"the driver is the runtime's to say": {"cgroupDriver: systemd", []string{"/kubepods", "/kubepods.slice"}},
		"the top":                            {"cgroupRoot: /", []string{"/kubepods", "/kubepods.slice"}},
		"two levels, a dash is escaped":      {"cgroupRoot: a-b/c", []string{"/a-b/c/kubepods", "/a_b.slice/a_b-c.slice/a_b-c-kubepods.slice"}},
		"no cgroups per QoS":                 {"cgroupsPerQOS: false\ncgroupRoot: /a", []string{"/a", "/a.slice"}},
		"no cgroups per QoS at the top":      {"cgroupsPerQOS: false", []string{"/kubepods", "/kubepods.slice"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, mustParse(t, kubeletFile(t, c.body)).Roots); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestKubeletConfigErrorsNameFileKeyValueAndForm(t *testing.T) {
	for name, c := range map[string]struct{ file, key, value, want string }{
		"empty file":           {"", "apiVersion", "", "kubelet.config.k8s.io/v1beta1"},
		"not a map":            {"[]", "the file", "[]", "a map"},
		"no kind":              {"apiVersion: kubelet.config.k8s.io/v1beta1", "kind", "", "KubeletConfiguration"},
		"wrong kind":           {"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: Pod\nevictionHard: x", "kind", `"Pod"`, "KubeletConfiguration"},
		"wrong version":        {"apiVersion: v1\nkind: KubeletConfiguration", "apiVersion", `"v1"`, "v1beta1"},
		"bad quantity":         {kubeletHead + "evictionHard: {memory.available: 100MB}", "evictionHard[memory.available]", `"100MB"`, "500Mi"},
		"unquoted number":      {kubeletHead + "evictionHard: {pid.available: 100}", "evictionHard[pid.available]", "100", "quoted"},
		"unknown signal":       {kubeletHead + "evictionSoft: {x: 1Gi}", "evictionSoft[x]", "", "memory.available"},
		"soft without grace":   {kubeletHead + "evictionSoft: {memory.available: 1Gi}", "evictionSoftGracePeriod[memory.available]", "", "1m30s"},
		"bad duration":         {kubeletHead + "evictionPressureTransitionPeriod: 5", "evictionPressureTransitionPeriod", "5", "1m30s"},
		"bad cgroup root":      {kubeletHead + "cgroupRoot: /../a", "cgroupRoot", `"/../a"`, "cgroup path"},
		"bad value, outranked": {kubeletHead + "evictionHard: {memory.available: x}", "evictionHard[memory.available]", `"x"`, "500Mi"},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeKubelet(t, c.file)
			_, err := Parse([]byte("evictionHard: {}\nkubeletConfig: " + file))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no *Error", err)
			}
			if !strings.Contains(err.Error(), file) || e.Key != c.key || e.Value != c.value || !strings.Contains(e.Want, c.want) {
				t.Errorf("got %v (%#v), want the file, key %q, value %q and a form with %q", err, e, c.key, c.value, c.want)
			}
		})
	}
}

func TestKubeletConfigLeavesTheRestToTheKubelet(t *testing.T) {
	for name, body := range map[string]string{
		"unknown key":         "noSuchKey: 1\n",
		"key in another case": "EvictionMaxPodGracePeriod: 1\n",
		"bad value elsewhere": "maxPods: many\n",
		"repeated key":        "evictionMaxPodGracePeriod: 1\nevictionMaxPodGracePeriod: 0\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustParse(t, kubeletFile(t, body)).EvictionMaxPodGracePeriod; got != 0 {
				t.Errorf("got %d", got)
			}
		})
	}
}

func TestUnreadableKubeletConfig(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	if _, err := Parse([]byte("kubeletConfig: " + missing)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing file: %v", err)
	}
	for name, c := range map[string]struct{ file, want string }{
		"fifo":        {fifo, "regular"},
		"directory":   {dir, "regular"},
		"large file":  {writeKubelet(t, kubeletHead+"#"+strings.Repeat("x", maxFileBytes)), "larger"},
		"broken YAML": {writeKubelet(t, "a: ["), "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte("kubeletConfig: " + c.file))
			if err == nil || !strings.Contains(err.Error(), c.file) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want the file and %s", err, c.want)
			}
		})
	}
}

func TestHeadroom(t *testing.T) {
	const soft = "evictionSoft: {memory.available: %s}\nevictionSoftGracePeriod: {memory.available: 1m}\n"
	for name, c := range map[string]struct{ kubelet, own, want string }{
		"a share of bytes":                      {"{memory.available: 100Mi}", "20%", "{memory.available: 120Mi}"},
		"a share of tasks":                      {`{pid.available: "1000"}`, "20%", `{pid.available: "1200"}`},
		"a share of inodes":                     {`{nodefs.inodesFree: 500k}`, "10%", "{nodefs.inodesFree: 550k}"},
		"a share of a share, not points":        {"{nodefs.available: 10%, imagefs.available: 15%}", "10%", "{nodefs.available: 11%, imagefs.available: 16.5%}"},
		"shares print without binary dust":      {"{nodefs.available: 1.1%}", "10%", "{nodefs.available: 1.21%}"},
		"a share of one task is cut":            {`{pid.available: "1"}`, "50%", `{pid.available: "1"}`},
		"more than the value itself":            {"{memory.available: 100Mi}", "300%", "{memory.available: 400Mi}"},
		"bytes on bytes":                        {"{memory.available: 100Mi}", "{memory.available: 200Mi}", "{memory.available: 300Mi}"},
		"tasks on tasks":                        {`{pid.available: "1000"}`, `{pid.available: "500"}`, `{pid.available: "1500"}`},
		"the kubelet's form is kept":            {"{memory.available: 1G}", "{memory.available: 1Gi}", `{memory.available: "2073741824"}`},
		"each signal its own":                   {"{memory.available: 100Mi, nodefs.available: 10%}", "{memory.available: 1Mi, nodefs.available: 50%}", "{memory.available: 101Mi, nodefs.available: 15%}"},
		"a signal that the map leaves out":      {"{memory.available: 100Mi, pid.available: 10%}", "{memory.available: 1Mi}", "{memory.available: 101Mi, pid.available: 10%}"},
		"a signal that the kubelet leaves out":  {"{memory.available: 100Mi}", "{pid.available: 1k}", "{memory.available: 100Mi}"},
		"off stays off":                         {"{memory.available: 0%, pid.available: 100%}", "20%", "{memory.available: 0%, pid.available: 100%}"},
		"never met is not turned off":           {"{memory.available: 0.0%}", "20%", "{memory.available: 0.0%}"},
		"no headroom":                           {"{memory.available: 100Mi, pid.available: 10%}", "0%", "{memory.available: 100Mi, pid.available: 10%}"},
		"the defaults are the kubelet's too":    {"null", "100%", "{memory.available: 200Mi, nodefs.available: 20%, nodefs.inodesFree: 10%, imagefs.available: 30%, imagefs.inodesFree: 10%}"},
		"merged defaults are the kubelet's too": {"{memory.available: 1Gi}\nmergeDefaultEvictionSettings: true", "100%", "{memory.available: 2Gi, nodefs.available: 20%, nodefs.inodesFree: 10%, imagefs.available: 30%, imagefs.inodesFree: 10%}"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mustParse(t, kubeletFile(t, "evictionHard: "+c.kubelet+"\n")+"headroom: "+c.own).Thresholds()
			if err != nil {
				t.Fatal(err)
			}
			want, err := mustParse(t, "evictionHard: "+c.want).Thresholds()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
	t.Run("soft thresholds too, and the copies for allocatable", func(t *testing.T) {
		got, err := mustParse(t, kubeletFile(t, "evictionHard: {memory.available: 1Gi}\n"+strings.Replace(soft, "%s", "2Gi", 1))+"headroom: 50%").Thresholds()
		want, wantErr := mustParse(t, "evictionHard: {memory.available: 1536Mi}\n"+strings.Replace(soft, "%s", "3Gi", 1)).Thresholds()
		if d := cmp.Diff(want, got); d != "" || err != nil || wantErr != nil {
			t.Errorf("%v %v (-want +got)\n%s", err, wantErr, d)
		}
	})
	t.Run("never our own thresholds", func(t *testing.T) {
		c := mustParse(t, kubeletFile(t, "evictionHard: {memory.available: 1Gi}\n"+strings.Replace(soft, "%s", "2Gi", 1))+
			"headroom: 50%\nevictionHard: {memory.available: 100Mi}")
		if h, s := c.EvictionHard["memory.available"], c.EvictionSoft["memory.available"]; h != "100Mi" || s != "3Gi" {
			t.Errorf("hard %s, soft %s", h, s)
		}
	})
}

func TestHeadroomThatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct{ kubelet, own, key, value, want string }{
		"bytes on a percentage":                 {"{nodefs.available: 10%}", "{nodefs.available: 5Gi}", "headroom[nodefs.available]", `"5Gi"`, `a percentage: the kubelet's evictionHard[nodefs.available] is "10%"`},
		"above all of the capacity":             {"{nodefs.available: 90%}", "20%", "headroom", `"20%"`, "below 100%"},
		"all of the capacity would turn it off": {"{nodefs.available: 80%}", "{nodefs.available: 25%}", "headroom[nodefs.available]", `"25%"`, "below 100%"},
		"nearly all, rounded to it":             {"{nodefs.available: 99.99999999%}", "0%", "headroom", `"0%"`, "below 100%"},
		"bytes beyond 64 bits":                  {"{memory.available: 7Ei}", "{memory.available: 1Ei}", "headroom[memory.available]", `"1Ei"`, "less"},
		"share beyond 64 bits":                  {"{memory.available: 7Ei}", "50%", "headroom", `"50%"`, "less"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(kubeletFile(t, "evictionHard: "+c.kubelet+"\n") + "headroom: " + c.own))
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

func TestHeadroomNeedNotFitWhatIsOutranked(t *testing.T) {
	line := kubeletFile(t, "evictionHard: {pid.available: 90%}\nevictionSoft: {nodefs.available: 90%}\nevictionSoftGracePeriod: {nodefs.available: 1m}\n")
	mustParse(t, line+"headroom: 20%\nevictionHard: {}\nevictionSoft: {}\n")
}

func TestHeadroomOfNoThresholdWarns(t *testing.T) {
	got := mustParse(t, kubeletFile(t, "evictionHard: {memory.available: 1Gi}\n")+"headroom: {pid.available: 1k, memory.available: 1%}").Warnings()
	want := []string{"headroom[pid.available]: ignored, the signal has no threshold"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestLoadOwnLeavesTheKubeletsFileAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	for text, ok := range map[string]bool{
		"kubeletConfig: /none\nheadroom: 20%\njournal: /j\n": true,
		"journal: j\n":           false,
		"journal: /j\n---\na: 1": false,
		"journall: /j\n":         false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := LoadOwn(file)
		if (err == nil) != ok || ok && (c.Journal != "/j" || c.State != Default().State) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
	if _, err := LoadOwn(file + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
