package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/preflight"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/test/ward"
)

// evictImage is the program's, as `make image` packs it.
const evictImage = "localhost/ebpf-evict:bed"

// The directories of a node that the chart's pod uses.
const (
	agentDir = "/run/ebpf-evict/agent"
	pinDir   = "/sys/fs/bpf/ebpf-evict"
)

// What an administrator installs: the image, in a DaemonSet, with exactly the capabilities
// that the chart lists, evicts and reports, and leaves nothing.
func TestTheChartsPodEvictsAndReports(t *testing.T) {
	n := theNodeIs(t)
	bs := n.Bystanders(t)
	s := n.Set(t, "evict")
	s.hasItsRightsAlone()
	h := n.Pod(t, "hog", hog("-rate", "268435456", "-after", "1s"))
	h.await("eviction in the cluster", showsEviction)
	kill := s.kill()
	if v := kill.Victim; v.UID != h.UID || v.Name != "hog" || kill.Node != nodeName || !strings.HasPrefix(string(kill.Tier), "bpf") {
		t.Errorf("node %q, tier %q, victim %+v: want pod %s by BPF, its name from the table", kill.Node, kill.Tier, v, h.UID)
	}
	t.Logf("killed by %s, then Failed/Evicted with %d restarts; %s", kill.Tier, h.Restarts(), timesOf(s.closed(kill.ID)))
	must(t, n.await("proof of the report", func() bool {
		return strings.Contains(s.metrics(9808), `ebpf_evict_kube_reports_total{kind="status",result="done"} 1`)
	}))
	if left := h.Status(); !showsEviction(left) {
		t.Errorf("status %+v", left.Status)
	}
	var events v1.EventList
	must(t, n.get("/api/v1/namespaces/"+namespace+"/events?fieldSelector=reason=Evicted,involvedObject.uid="+h.UID, &events))
	if len(events.Items) != 1 || events.Items[0].Source.Component != "ebpf-evict" {
		t.Errorf("events %+v", events.Items)
	}
	if all := s.metrics(9436); !strings.Contains(all, "\nebpf_evict_up 1\n") {
		t.Errorf("the exporter tells\n%s", all)
	}
	must(t, n.await("end of our taint", n.isReady))
	bs.AreUntouched(t)

	s.uninstall()
	s.leavesNothing()
}

func showsEviction(p *v1.Pod) bool {
	return p.Status.Phase == v1.PodFailed && p.Status.Reason == "Evicted" && slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.DisruptionTarget && c.Reason == v1.PodReasonTerminationByKubelet
	})
}

// What check says inside of a container is what the container has.
func TestCheckNamesTheCapabilityThatIsMissing(t *testing.T) {
	n := theNodeIs(t)
	n.evictImage(t)
	var ds appsv1.DaemonSet
	for _, doc := range chart(t, "check", setValues...) {
		var found metav1.PartialObjectMetadata
		must(t, json.Unmarshal(doc, &found))
		if found.Kind == "DaemonSet" {
			must(t, json.Unmarshal(doc, &ds))
		}
	}
	onBed(&ds)
	full := agentOf(&ds.Spec.Template.Spec).SecurityContext.Capabilities.Add
	lacks := n.lacks(t, &ds, full)
	for _, dropped := range []v1.Capability{"BPF", "SYS_NICE"} {
		at := slices.Index(full, dropped)
		got := n.lacks(t, &ds, slices.Delete(slices.Clone(full), at, at+1))
		want := append(slices.Clone(lacks), "CAP_"+string(dropped))
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("without %s check misses %v, want %v", dropped, got, want)
		}
	}
	t.Logf("with the chart's list check misses %v", lacks)
	if !slices.Equal(lacks, ungiven()) {
		t.Errorf("with the chart's capabilities check misses %v, want %v", lacks, ungiven())
	}
}

// lacks are the capabilities that check misses in the agent's container with these.
func (n *node) lacks(t *testing.T, ds *appsv1.DaemonSet, with []v1.Capability) []string {
	t.Helper()
	spec := ds.Spec.Template.Spec.DeepCopy()
	spec.Containers = []v1.Container{*agentOf(spec)}
	c := &spec.Containers[0]
	c.Args = []string{"check", "-o", "json"}
	c.SecurityContext.Capabilities.Add = with
	c.StartupProbe, c.LivenessProbe = nil, nil
	spec.InitContainers, spec.RestartPolicy = nil, v1.RestartPolicyNever
	spec.ServiceAccountName, spec.NodeName = "", nodeName
	var volumes []v1.Volume
	for _, v := range spec.Volumes {
		if v.Projected == nil && v.ConfigMap == nil {
			volumes = append(volumes, v)
		}
	}
	spec.Volumes = volumes
	c.VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == "config" })
	o := &v1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "check", Namespace: namespace}, Spec: *spec}
	must(t, n.create(podCollection, o))
	p := &pod{t: t, n: n, Name: o.Name, UID: string(o.UID)}
	defer p.remove()
	p.await("end of check", func(s *v1.Pod) bool { return s.Status.Phase == v1.PodFailed || s.Status.Phase == v1.PodSucceeded })
	said, err := n.kubelet.call(http.MethodGet, "/containerLogs/"+namespace+"/check/"+c.Name, nil)
	must(t, err)
	var report preflight.Report
	if start := strings.Index(string(said), "{\n"); start < 0 || json.NewDecoder(strings.NewReader(string(said[start:]))).Decode(&report) != nil {
		t.Fatalf("check said\n%s", said)
	}
	var missing []string
	for _, c := range report.Capabilities {
		if !c.Held {
			missing = append(missing, c.Name)
		}
	}
	slices.Sort(missing)
	return missing
}

// ungiven is the capability of the list that root may lack in a container that runs the tests,
// and so can't give.
func ungiven() (missing []string) {
	if held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); err == nil && held == 0 {
		return []string{"CAP_SYS_RESOURCE"}
	}
	return nil
}

// release is the chart's DaemonSet on the node.
type release struct {
	t    *testing.T
	n    *node
	name string
	gone bool
}

// setValues are the chart's for the node: its thresholds are those of other scenes' agents.
var setValues = []string{
	`image={"repository":"localhost/ebpf-evict","tag":"bed","pullPolicy":"Never"}`,
	fmt.Sprintf(`config={"mode":"enforce","kubeletConfig":null,"headroom":null,"roots":[%q],"enforceNodeAllocatable":[],`+
		`"evictionHard":{"allocatableMemory.available":"%d"},"evictionPressureTransitionPeriod":"5s"}`, podsCgroup, agentMemory),
}

func agentOf(spec *v1.PodSpec) *v1.Container {
	return &spec.Containers[slices.IndexFunc(spec.Containers, func(c v1.Container) bool { return c.Name == "agent" })]
}

// onBed changes what the node has not: networks of pods, services, and what its root lacks
// nobody can give.
func onBed(ds *appsv1.DaemonSet) {
	spec := &ds.Spec.Template.Spec
	spec.HostNetwork = true
	for i := range spec.Containers {
		c := &spec.Containers[i]
		c.Env = append(c.Env, v1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: nodeIP}, v1.EnvVar{Name: "KUBERNETES_SERVICE_PORT", Value: "6443"})
		if add := c.SecurityContext.Capabilities; add != nil {
			add.Add = slices.DeleteFunc(add.Add, func(name v1.Capability) bool { return slices.Contains(ungiven(), "CAP_"+string(name)) })
		}
	}
}

// bits of the capabilities in the chart (include/uapi/linux/capability.h).
var bits = map[v1.Capability]int{
	"BPF": unix.CAP_BPF, "PERFMON": unix.CAP_PERFMON, "SYS_ADMIN": unix.CAP_SYS_ADMIN, "KILL": unix.CAP_KILL,
	"SYS_NICE": unix.CAP_SYS_NICE, "IPC_LOCK": unix.CAP_IPC_LOCK, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE,
	"DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "NET_ADMIN": unix.CAP_NET_ADMIN,
	"SYS_PTRACE": unix.CAP_SYS_PTRACE,
}

// hasItsRightsAlone: each process has the capabilities and the user that the chart says.
func (s *release) hasItsRightsAlone() {
	s.t.Helper()
	for _, c := range s.pods().Items[0].Spec.Containers {
		var want uint64
		for _, name := range c.SecurityContext.Capabilities.Add {
			bit, ok := bits[name]
			if !ok {
				s.t.Errorf("%s: no bit of capability %s", c.Name, name)
			}
			want |= 1 << bit
		}
		status := s.status(c.Args[0])
		got, err := strconv.ParseUint(status["CapEff"], 16, 64)
		must(s.t, err)
		if user := strconv.FormatInt(*c.SecurityContext.RunAsUser, 10); got != want || strings.Fields(status["Uid"])[1] != user {
			s.t.Errorf("%s has the capabilities %#x as user %s, want %#x as %s", c.Name, got, status["Uid"], want, user)
		}
	}
}

// status is /proc/PID/status of the program with a command.
func (s *release) status(command string) map[string]string {
	s.t.Helper()
	found := map[string]string{}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(s.t, err)
	for _, file := range files {
		if args, _ := os.ReadFile(file); !strings.HasPrefix(string(args), "/ebpf-evict\x00"+command+"\x00") {
			continue
		}
		text, err := os.ReadFile(filepath.Dir(file) + "/status")
		must(s.t, err)
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			found[key] = strings.TrimSpace(value)
		}
		return found
	}
	s.t.Fatalf("no process runs %s", command)
	return nil
}

// Set installs the chart, and waits until all containers are ready.
func (n *node) Set(t *testing.T, name string) *release {
	t.Helper()
	n.evictImage(t)
	s := &release{t: t, n: n, name: name}
	n.Install(t, chart(t, name, setValues...), onBed)
	t.Cleanup(func() {
		if t.Failed() {
			s.tell()
		}
		s.uninstall()
	})
	s.awaitReady()
	must(t, n.await("agent that watches", func() bool { return len(s.lines(record.KindStart)) > 0 }))
	return s
}

// awaitReady has more patience than for one container: there are five, whose probes take turns.
func (s *release) awaitReady() {
	s.t.Helper()
	var err error
	for range 3 {
		if err = s.n.await("DaemonSet that is ready", func() bool {
			var ds appsv1.DaemonSet
			return s.n.get(collections["DaemonSet"]+"/"+s.name, &ds) == nil && ds.Status.NumberReady == 1
		}); err == nil {
			return
		}
	}
	s.t.Fatal(err)
}

func (n *node) evictImage(t *testing.T) {
	t.Helper()
	file, err := built("kube/image.tar")
	must(t, err)
	if out, err := exec.Command("ctr", "-n", "k8s.io", "images", "import", file).CombinedOutput(); err != nil {
		t.Fatalf("import %s: %v\n%s", evictImage, err, out)
	}
	must(t, n.await("image "+evictImage, func() bool { return n.knowsImage(t, evictImage) }))
}

// pods are those of the DaemonSet.
func (s *release) pods() (list v1.PodList) {
	s.t.Helper()
	must(s.t, s.n.get(podCollection+"?labelSelector=app.kubernetes.io/instance="+s.name, &list))
	return list
}

// tell logs what the containers said.
func (s *release) tell() {
	for _, p := range s.pods().Items {
		s.t.Logf("pod %s: %+v", p.Name, p.Status)
		for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
			said, err := s.n.kubelet.call(http.MethodGet, "/containerLogs/"+namespace+"/"+p.Name+"/"+c.Name+"?tailLines=20", nil)
			s.t.Logf("%s: %v\n%s", c.Name, err, said)
		}
	}
}

func (s *release) lines(kind record.Kind) (found []record.Line) {
	lines, _, _ := record.ReadJournal(filepath.Join(agentDir, "journal.jsonl"))
	for _, l := range lines {
		if l.Kind == kind {
			found = append(found, l)
		}
	}
	return found
}

func (s *release) kill() record.Line {
	s.t.Helper()
	kills := s.lines(record.KindKill)
	if len(kills) == 0 {
		s.t.Fatal("no kill in the journal")
	}
	return kills[0]
}

// closed waits until an eviction is.
func (s *release) closed(id record.ID) (line record.Line) {
	s.t.Helper()
	must(s.t, s.n.await("closing line", func() bool {
		for _, l := range s.lines(record.KindEviction) {
			if l.ID == id {
				line = l
			}
		}
		return line.ID == id
	}))
	return line
}

// metrics are what a container serves on the node's own network.
func (s *release) metrics(port int) string {
	s.t.Helper()
	answer, err := http.Get(fmt.Sprintf("http://%s:%d/metrics", nodeIP, port))
	must(s.t, err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	must(s.t, err)
	return string(text)
}

// uninstall removes the DaemonSet and waits for the end of its pods.
func (s *release) uninstall() {
	if s.gone {
		return
	}
	s.gone = true
	must(s.t, s.n.remove(collections["DaemonSet"]+"/"+s.name, 0))
	must(s.t, s.n.await("end of the DaemonSet's pods", func() bool { return len(s.pods().Items) == 0 }))
	must(s.t, os.RemoveAll("/run/ebpf-evict")) // as docs/install.md has it
}

// leavesNothing looks for all that the pod made on the node and in the cluster.
func (s *release) leavesNothing() {
	s.t.Helper()
	var node v1.Node
	must(s.t, s.n.get(nodeCollection+"/"+nodeName, &node))
	for _, c := range node.Status.Conditions {
		if strings.HasPrefix(string(c.Type), "EbpfEvict") {
			s.t.Errorf("condition %+v", c)
		}
	}
	if len(node.Spec.Taints) > 0 {
		s.t.Errorf("taints %+v", node.Spec.Taints)
	}
	if exists(pinDir) {
		s.t.Errorf("%s is left", pinDir)
	}
	for _, mount := range ward.CgroupMounts() {
		if exists(mount + drill.Parent) {
			s.t.Errorf("%s is left", mount+drill.Parent)
		}
	}
}

// The patch of docs/install.md takes away the conditions that an uninstall under pressure
// leaves, and nothing else.
func TestWhatUninstallLeavesUnderPressureCanBeTakenAway(t *testing.T) {
	n := theNodeIs(t)
	text, err := os.ReadFile("../../docs/install.md")
	must(t, err)
	patch := regexp.MustCompile(`kubectl patch node \$node --type=strategic --subresource=status -p '(.*)'`).FindSubmatch(text)
	if patch == nil {
		t.Fatal("docs/install.md lacks the command")
	}
	n.Make(t, nodeCollection, "left", &v1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "left"},
	})
	path := nodeCollection + "/left/status"
	for _, kind := range []string{"EbpfEvictMemoryPressure", "EbpfEvictPIDPressure", "Stays"} {
		_, err = n.call(http.MethodPatch, path, conditionPatch(partial{"type": kind, "status": "True"}))
		must(t, err)
	}
	_, err = n.call(http.MethodPatch, path, json.RawMessage(patch[1]))
	must(t, err)
	var node v1.Node
	must(t, n.get(nodeCollection+"/left", &node))
	var left []v1.NodeConditionType
	for _, c := range node.Status.Conditions {
		left = append(left, c.Type)
	}
	if !slices.Contains(left, "Stays") || slices.Contains(left, "EbpfEvictMemoryPressure") || slices.Contains(left, "EbpfEvictPIDPressure") {
		t.Errorf("conditions %v are left", left)
	}
}
