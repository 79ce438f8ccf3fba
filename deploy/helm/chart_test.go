// Package helm_test renders the chart as helm does and reads it as the API server would:
// strictly. It needs helm, whose path is in EBPF_EVICT_HELM (make check-deploy).
package helm_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
)

// render returns the documents by their kinds. The output of helm goes into the error.
func render(t *testing.T, set ...string) (map[string][]byte, error) {
	t.Helper()
	helm := os.Getenv("EBPF_EVICT_HELM")
	if helm == "" {
		t.Fatal("EBPF_EVICT_HELM is not set: run make check-deploy")
	}
	args := []string{"template", "release", "ebpf-evict", "--namespace", "kube-system", "--kube-version", "1.34.0"}
	for _, s := range set {
		args = append(args, "--set-json", s)
	}
	cmd := exec.Command(helm, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, errors.New(errOut.String())
	}
	documents := map[string][]byte{}
	for r := yaml.NewYAMLReader(bufio.NewReader(&out)); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		var of metav1.TypeMeta
		if err := sigsyaml.Unmarshal(doc, &of); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if of.Kind == "" || documents[of.Kind] != nil {
			t.Fatalf("no kind, or one twice\n%s", doc)
		}
		documents[of.Kind] = doc
	}
}

func decode(t *testing.T, doc []byte, into any) {
	t.Helper()
	if err := sigsyaml.UnmarshalStrict(doc, into); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
}

// podSpec is that of the DaemonSet, in which every mount has its volume and every volume a use.
func podSpec(t *testing.T, set ...string) *corev1.PodSpec {
	t.Helper()
	docs, err := render(t, set...)
	if err != nil {
		t.Fatal(err)
	}
	var ds appsv1.DaemonSet
	decode(t, docs["DaemonSet"], &ds)
	spec := &ds.Spec.Template.Spec
	for key, value := range ds.Spec.Selector.MatchLabels {
		if ds.Spec.Template.Labels[key] != value {
			t.Errorf("the selector's %s does not select the pods", key)
		}
	}
	var volumes, mounts []string
	for _, v := range spec.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, c := range spec.Containers {
		for _, m := range c.VolumeMounts {
			mounts = append(mounts, m.Name)
		}
	}
	slices.Sort(volumes)
	slices.Sort(mounts)
	if d := cmp.Diff(volumes, slices.Compact(mounts)); d != "" {
		t.Errorf("volumes and mounts differ (-volumes +mounts)\n%s", d)
	}
	return spec
}

func container(t *testing.T, spec *corev1.PodSpec, name string) *corev1.Container {
	t.Helper()
	for i := range spec.Containers {
		if spec.Containers[i].Name == name {
			return &spec.Containers[i]
		}
	}
	t.Fatalf("no container %s", name)
	return nil
}

// Containers start in their order: an eviction of the agent's first second is reported before the
// kubelet has started the pod's containers again.
func TestTheCompanionStartsFirst(t *testing.T) {
	if spec := podSpec(t); spec.Containers[0].Name != "kube" || spec.Containers[1].Name != "agent" {
		t.Errorf("%s and %s", spec.Containers[0].Name, spec.Containers[1].Name)
	}
}

func TestThePodIsTheLastToGo(t *testing.T) {
	spec := podSpec(t)
	if !spec.HostPID || spec.HostNetwork || spec.PriorityClassName != "system-node-critical" || *spec.AutomountServiceAccountToken {
		t.Errorf("%+v", spec)
	}
	if len(spec.Containers) != 4 {
		t.Errorf("%d containers, want agent, disk, kube and export", len(spec.Containers))
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) { // the kubelet's GetPodQOS
		if d := cmp.Diff(c.Resources.Requests, c.Resources.Limits); d != "" || c.Resources.Limits.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s is not Guaranteed: %s", c.Name, d)
		}
		if !*c.SecurityContext.ReadOnlyRootFilesystem || c.LivenessProbe == nil && c.Name != "table" {
			t.Errorf("%s has no probe, or a root that it may write", c.Name)
		}
	}
}

// Whatever else is said of tolerations, it comes back where there is pressure.
func TestItsOwnTaintsAreTolerated(t *testing.T) {
	for _, set := range [][]string{nil, {"tolerations=[]"}} {
		tolerated := podSpec(t, set...).Tolerations
		for _, key := range taintKeys(t) {
			if !slices.ContainsFunc(tolerated, func(o corev1.Toleration) bool {
				return o.Key == key && o.Operator == corev1.TolerationOpExists && o.Effect == ""
			}) {
				t.Errorf("%v: %s is not among %v", set, key, tolerated)
			}
		}
	}
}

// taintKeys are the companion's.
func taintKeys(t *testing.T) []string { return named(t, `"(ebpf-evict/[a-z]+-pressure)"`) }

// named are the texts in pkg/kube/pressure.go that the pattern's group matches.
func named(t *testing.T, pattern string) (found []string) {
	t.Helper()
	text, err := os.ReadFile("../../pkg/kube/pressure.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		found = append(found, string(m[1]))
	}
	if len(found) != 3 {
		t.Fatalf("pkg/kube has %v, want three", found)
	}
	return found
}

// listed are the capabilities of pkg/preflight, which check lists.
func listed(t *testing.T) []corev1.Capability {
	t.Helper()
	text, err := os.ReadFile("../../pkg/preflight/capability.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []corev1.Capability
	for _, m := range regexp.MustCompile(`\{unix\.CAP_(\w+),`).FindAllSubmatch(text, -1) {
		names = append(names, corev1.Capability(m[1]))
	}
	return names
}

func TestEachContainerHasWhatItNeeds(t *testing.T) {
	spec := podSpec(t)
	agent := container(t, spec, "agent").SecurityContext
	if d := cmp.Diff(append(listed(t), "SYS_PTRACE"), agent.Capabilities.Add); d != "" || agent.Privileged != nil {
		t.Errorf("agent (-check, and to join the host's cgroup namespace +chart)\n%s", d)
	}
	for _, name := range []string{"kube", "export"} {
		c := container(t, spec, name).SecurityContext
		if len(c.Capabilities.Add) > 0 || !slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) || !*c.RunAsNonRoot ||
			*c.RunAsUser == 0 || *c.AllowPrivilegeEscalation || c.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for name, want := range map[string][]string{"disk": {"/run/ebpf-evict/disk"}, "kube": {"/run/ebpf-evict/table"}, "export": nil} {
		var written []string
		for _, m := range container(t, spec, name).VolumeMounts {
			if !m.ReadOnly {
				written = append(written, m.MountPath)
			}
		}
		if d := cmp.Diff(want, written); d != "" {
			t.Errorf("what %s may write (-want +got)\n%s", name, d)
		}
	}
}

// The account's token is in the companion, and nowhere else.
func TestTheTokenIsTheCompanions(t *testing.T) {
	spec := podSpec(t)
	var tokens []string
	for _, v := range spec.Volumes {
		if v.Projected != nil {
			tokens = append(tokens, v.Name)
		}
	}
	if len(tokens) != 1 {
		t.Fatalf("volumes with a token: %v", tokens)
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		has := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == tokens[0] })
		if has != (c.Name == "kube") {
			t.Errorf("%s has the token: %t", c.Name, has)
		}
	}
}

// The agent believes a table of the companion's uid alone.
func TestTheTableIsTheCompanions(t *testing.T) {
	docs, err := render(t, `config={"mode":"shadow","kubeletConfig":null,"headroom":null,"evictionPressureTransitionPeriod":"30s"}`)
	if err != nil {
		t.Fatal(err)
	}
	var m corev1.ConfigMap
	decode(t, docs["ConfigMap"], &m)
	user := *container(t, podSpec(t), "kube").SecurityContext.RunAsUser
	for _, file := range []string{"config.yaml", "kube.yaml"} {
		c, err := config.Parse([]byte(m.Data[file]))
		if err != nil {
			t.Fatal(err)
		}
		if int64(c.TableOwner) != user || c.EvictionPressureTransitionPeriod != 30*time.Second {
			t.Errorf("%s: owner %d, period %s; the companion runs as %d", file, c.TableOwner, c.EvictionPressureTransitionPeriod, user)
		}
	}
}

func TestTheAccountMayDoWhatTheCompanionDoes(t *testing.T) {
	for _, tc := range []struct {
		set  string
		want []string
	}{
		{`kube.report={"Job":"status"}`, nil},
		{`kube.report={"ReplicaSet":"delete"}`, []string{"delete pods"}},
	} {
		docs, err := render(t, tc.set)
		if err != nil {
			t.Fatal(err)
		}
		var role rbacv1.ClusterRole
		decode(t, docs["ClusterRole"], &role)
		var got []string
		for _, r := range role.Rules {
			for _, verb := range r.Verbs {
				got = append(got, verb+" "+strings.Join(r.Resources, ","))
			}
			if !slices.Equal(r.APIGroups, []string{""}) || len(r.Resources) != 1 {
				t.Errorf("%+v", r)
			}
		}
		want := append(tc.want, "list pods", "watch pods", "patch pods/status", "get nodes", "patch nodes", "patch nodes/status", "create events")
		slices.Sort(got)
		slices.Sort(want)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got)\n%s", tc.set, d)
		}
		if deletes := strings.Contains(string(docs["ValidatingAdmissionPolicy"]), "'DELETE pods',"); deletes != (tc.want != nil) {
			t.Errorf("%s: the policy lets pods be deleted: %t", tc.set, deletes)
		}
	}
}

// What the policy does to requests is test/kube's to say.
func TestThePolicyIsAboutTheCompanion(t *testing.T) {
	docs, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	var policy admissionv1.ValidatingAdmissionPolicy
	decode(t, docs["ValidatingAdmissionPolicy"], &policy)
	var binding admissionv1.ValidatingAdmissionPolicyBinding
	decode(t, docs["ValidatingAdmissionPolicyBinding"], &binding)
	var account corev1.ServiceAccount
	decode(t, docs["ServiceAccount"], &account)
	if want := "'system:serviceaccount:" + account.Namespace + ":" + account.Name + "'"; !strings.HasSuffix(policy.Spec.MatchConditions[0].Expression, want) {
		t.Errorf("%+v, want about %s", policy.Spec.MatchConditions, want)
	}
	if binding.Spec.PolicyName != policy.Name || !slices.Equal(binding.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
		t.Errorf("%+v", binding.Spec)
	}
	text := strings.ReplaceAll(string(docs["ValidatingAdmissionPolicy"]), " ", "")
	for _, names := range [][]string{taintKeys(t), named(t, `"(EbpfEvict[A-Za-z]+Pressure)", "ebpf-evict/`)} {
		if want := "['" + strings.Join(names, "','") + "']"; !strings.Contains(text, want) {
			t.Errorf("the policy lacks %s", want)
		}
	}
}

func TestNoMountOfAPodIsHeld(t *testing.T) {
	spec := podSpec(t)
	ofHost := map[string]bool{}
	for _, v := range spec.Volumes {
		ofHost[v.Name] = v.HostPath != nil
	}
	for _, c := range spec.Containers {
		for _, m := range c.VolumeMounts {
			isOfHost := ofHost[m.Name] && !strings.HasPrefix(m.MountPath, "/run/ebpf-evict") && m.MountPath != "/sys/fs/bpf"
			if isOfHost && (m.MountPropagation == nil || *m.MountPropagation != corev1.MountPropagationHostToContainer) {
				t.Errorf("%s keeps what is mounted below %s at its start", c.Name, m.MountPath)
			}
		}
	}
}

func TestTheAgentTakesTheConfiguration(t *testing.T) {
	docs, err := render(t, `config={"mode":"enforce","evictionHard":{"memory.available":"500Mi"},"protect":["kube-system/*"]}`)
	if err != nil {
		t.Fatal(err)
	}
	var m corev1.ConfigMap
	decode(t, docs["ConfigMap"], &m)
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nevictionHard: {memory.available: 100Mi}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse([]byte(strings.ReplaceAll(m.Data["config.yaml"], "/var/lib/kubelet/config.yaml", file)))
	if err != nil {
		t.Fatal(err)
	}
	if c.Mode != config.ModeEnforce || c.EvictionHard["memory.available"] != "500Mi" || c.KubeletConfig != file {
		t.Errorf("%+v", c)
	}
}

func TestParts(t *testing.T) {
	if spec := podSpec(t, "disk.enabled=false", "export.enabled=false", "kube.enabled=false"); len(spec.Containers) != 1 || len(spec.InitContainers) != 0 {
		t.Errorf("%d containers, want the agent alone", len(spec.Containers))
	}
	alone, err := render(t, "kube.enabled=false", "config.tableOwner=1000") // somebody else writes the table
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} {
		if alone[kind] != nil {
			t.Errorf("a %s without the companion", kind)
		}
	}
	if c := container(t, podSpec(t, "agent.privileged=true"), "agent").SecurityContext; !*c.Privileged || c.Capabilities != nil {
		t.Errorf("privileged: %+v", c)
	}
	podSpec(t, `imagePullSecrets=[{"name":"x"}]`, `podLabels={"a":"b"}`, `podAnnotations={"a":"b"}`, `agent.extraArgs=["--mode=shadow"]`)
	if d := cmp.Diff([]string{"metrics", "kube"}, monitored(t)); d != "" {
		t.Errorf("ports that are scraped (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]string{"kube"}, monitored(t, "export.enabled=false")); d != "" {
		t.Errorf("ports that are scraped without the exporter (-want +got)\n%s", d)
	}
	docs, err := render(t, "podMonitor.enabled=true", "podMonitor.nativeHistograms=true", "prometheusRule.enabled=true", `prometheusRule.labels={"a":"b"}`)
	if err != nil {
		t.Fatal(err)
	}
	var account corev1.ServiceAccount
	decode(t, docs["ServiceAccount"], &account)
	if *account.AutomountServiceAccountToken || docs["PodMonitor"] == nil || !strings.Contains(string(docs["PrometheusRule"]), "{{ $labels.instance }}") {
		t.Errorf("%+v\n%s\n%s", account, docs["PodMonitor"], docs["PrometheusRule"])
	}
}

// monitored are the ports that the Prometheus operator is told of, each a container's.
func monitored(t *testing.T, set ...string) (ports []string) {
	t.Helper()
	docs, err := render(t, append(set, "podMonitor.enabled=true")...)
	if err != nil {
		t.Fatal(err)
	}
	var monitor struct {
		Spec struct{ PodMetricsEndpoints []struct{ Port string } }
	}
	if err := sigsyaml.Unmarshal(docs["PodMonitor"], &monitor); err != nil {
		t.Fatal(err)
	}
	for _, e := range monitor.Spec.PodMetricsEndpoints {
		if !slices.ContainsFunc(podSpec(t, set...).Containers, func(c corev1.Container) bool {
			return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == e.Port })
		}) {
			t.Errorf("no container has the port %s", e.Port)
		}
		ports = append(ports, e.Port)
	}
	return ports
}

// What `make image` makes by default is what the chart runs by default.
func TestTheImageIsTheOneThatIsMade(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	made := regexp.MustCompile(`(?m)^IMAGE +\?= (\S+)$`).FindSubmatch(makefile)
	if image := container(t, podSpec(t), "agent").Image; made == nil || image != string(made[1]) {
		t.Errorf("the chart runs %s, make image makes %s", image, made)
	}
}

func TestTheVersionIsALabel(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for name, c := range map[string]struct {
		set            []string
		image, version string
	}{
		"a tag":                {[]string{`image.tag="v1.2"`}, "localhost/ebpf-evict:v1.2", "v1.2"},
		"a digest":             {[]string{`image.digest="` + digest + `"`}, "localhost/ebpf-evict@" + digest, "latest"},
		"a digest, and a tag":  {[]string{`image.digest="` + digest + `"`, `image.tag="v1.2"`}, "localhost/ebpf-evict@" + digest, "v1.2"},
		"a tag of 70 bytes":    {[]string{`image.tag="` + strings.Repeat("1234567.", 8) + `123456"`}, "localhost/ebpf-evict:" + strings.Repeat("1234567.", 8) + "123456", strings.Repeat("1234567.", 7) + "1234567"},
		"a tag that ends in _": {[]string{`image.tag="_v1_"`}, "localhost/ebpf-evict:_v1_", "v1"},
	} {
		docs, err := render(t, c.set...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var ds appsv1.DaemonSet
		decode(t, docs["DaemonSet"], &ds)
		if image := ds.Spec.Template.Spec.Containers[0].Image; image != c.image {
			t.Errorf("%s: image %s, want %s", name, image, c.image)
		}
		for _, labels := range []map[string]string{ds.Labels, ds.Spec.Template.Labels} {
			if version := labels["app.kubernetes.io/version"]; version != c.version {
				t.Errorf("%s: version %q, want %q", name, version, c.version)
			}
			for key, value := range labels {
				if wrong := validation.IsValidLabelValue(value); len(wrong) > 0 {
					t.Errorf("%s: label %s: %v", name, key, wrong)
				}
			}
		}
	}
}

func TestAKeyOfTheChartsOwnIsRefused(t *testing.T) {
	for set, on := range map[string][]string{
		`podLabels={"app.kubernetes.io/name":"mine"}`:                               nil,
		`podLabels={"helm.sh/chart":"mine"}`:                                        nil,
		`podAnnotations={"checksum/config":"0"}`:                                    nil,
		`podMonitor.labels={"app.kubernetes.io/instance":"mine"}`:                   {"podMonitor.enabled=true"},
		`prometheusRule.labels={"app.kubernetes.io/version":"1", "release":"mine"}`: {"prometheusRule.enabled=true"},
	} {
		key, _, _ := strings.Cut(set, "=")
		if _, err := render(t, append(on, set)...); err == nil || !strings.Contains(err.Error(), "values: "+key+": ") || !strings.Contains(err.Error(), "is the chart's own") {
			t.Errorf("%s: %v", set, err)
		}
	}
	docs, err := render(t, `podLabels={"team":"node"}`, `podAnnotations={"note":"1"}`)
	if err != nil {
		t.Fatal(err)
	}
	var ds appsv1.DaemonSet
	decode(t, docs["DaemonSet"], &ds)
	if got := ds.Spec.Template.ObjectMeta; got.Labels["team"] != "node" || got.Annotations["note"] != "1" || got.Annotations["checksum/config"] == "" {
		t.Errorf("%+v", got)
	}
}

func TestTheKubeletsFileIsMounted(t *testing.T) {
	for file, want := range map[string]string{
		`"/etc/kubernetes/kubelet/config.json"`: "/etc/kubernetes/kubelet",
		`"/var/lib/kubelet-x/config.yaml"`:      "/var/lib/kubelet-x",
		`"/var/lib/kubelet/config.yaml"`:        "",
		`"/var/lib/containerd/a/config.yaml"`:   "",
		`null`:                                  "",
	} {
		spec := podSpec(t, "config.kubeletConfig="+file)
		for _, c := range spec.Containers {
			var more []string
			for _, m := range c.VolumeMounts {
				if m.MountPath == want && m.ReadOnly {
					more = append(more, m.MountPath)
				}
			}
			reads := c.Name == "agent" || c.Name == "disk"
			if got := len(more) == 1; got != (reads && want != "") {
				t.Errorf("%s: %s has its directory: %t", file, c.Name, got)
			}
		}
		if want == "" && len(spec.Volumes) != len(podSpec(t).Volumes) {
			t.Errorf("%s: %d volumes", file, len(spec.Volumes))
		}
	}
}

// What the agent asks for the space of is a directory of the host, and not the container's root.
func TestNodefsIsTheKubelets(t *testing.T) {
	for set, want := range map[string]string{
		`host.kubeletDir="/var/lib/kubelet"`:    "/var/lib/kubelet",
		`host.kubeletDir="/data/kubelet/"`:      "/data/kubelet",
		`config.nodefs=null`:                    "/var/lib/kubelet",
		`config.nodefs="/var/lib/kubelet/pods"`: "/var/lib/kubelet/pods",
	} {
		c := configOf(t, set)
		if !c.NodefsGiven || c.Nodefs != want {
			t.Errorf("%s: nodefs %q (given: %t), want %q", set, c.Nodefs, c.NodefsGiven, want)
		}
		spec := podSpec(t, set)
		for _, name := range []string{"agent", "disk"} {
			if !slices.ContainsFunc(container(t, spec, name).VolumeMounts, func(m corev1.VolumeMount) bool {
				return strings.HasPrefix(c.Nodefs+"/", filepath.Clean(m.MountPath)+"/")
			}) {
				t.Errorf("%s: %s has no %s of the host", set, name, c.Nodefs)
			}
		}
	}
}

// Logs that are not measured have no figures, and their pods' usage is not known.
func TestPodLogsAreThoseThatAreMounted(t *testing.T) {
	for set, want := range map[string]string{
		`host.podLogsDir="/var/log/pods"`:        "/var/log/pods",
		`host.podLogsDir="/data/pods"`:           "/data/pods",
		`config.podLogsDir="/var/log/pods/pods"`: "/var/log/pods/pods",
	} {
		if c := configOf(t, set); c.PodLogsDir != want {
			t.Errorf("%s: podLogsDir %q, want %q", set, c.PodLogsDir, want)
		}
	}
}

// A kubelet whose file says where its logs lie is believed: where that is not mounted there are no data,
// and what lies in its place is not taken for them.
func TestPodLogsOfTheKubeletsFileAreInherited(t *testing.T) {
	docs, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	var m corev1.ConfigMap
	decode(t, docs["ConfigMap"], &m)
	if strings.Contains(m.Data["config.yaml"], "podLogsDir") {
		t.Errorf("podLogsDir is set beside kubeletConfig:\n%s", m.Data["config.yaml"])
	}
}

// configOf is the agent's, as it takes it where there is no kubelet's file to inherit from.
func configOf(t *testing.T, set ...string) *config.Config {
	t.Helper()
	docs, err := render(t, append(set, "config.kubeletConfig=null", "config.headroom=null")...)
	if err != nil {
		t.Fatal(err)
	}
	var m corev1.ConfigMap
	decode(t, docs["ConfigMap"], &m)
	c, err := config.Parse([]byte(m.Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cri-dockerd's socket lies in /run itself.
func TestTheSocketOfCRIDockerdIsMounted(t *testing.T) {
	spec := podSpec(t, `host.runtimeSocketDir="/run"`)
	if !slices.ContainsFunc(container(t, spec, "disk").VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/run" }) {
		t.Error("disk has no /run")
	}
}

// The API server's own words name neither value nor reason.
func TestDirectoriesThatCantBeMountedAreRefused(t *testing.T) {
	for set, want := range map[string]string{
		`host.runtimeDirs=["/var/lib/kubelet"]`:            "/var/lib/kubelet of the host is named twice",
		`host.runtimeDirs=["/a","/a/"]`:                    "/a of the host is named twice",
		`host.runtimeDirs=["/a_b","/a-b"]`:                 "/a-b of the host is named twice, or the name of its volume, a-b, is taken",
		`host.runtimeDirs=["/run/containerd"]`:             "/run/containerd of the host is named twice",
		`host.runtimeDirs=["/var/log/pods"]`:               "/var/log/pods of the host is named twice",
		`host.runtimeDirs=["/"]`:                           "/ of the host",
		`host.runtimeDirs=["/run"]`:                        "/run/ebpf-evict is the container's own",
		`host.kubeletDir="/run/ebpf-evict/kubelet"`:        "/run/ebpf-evict is the container's own",
		`config.kubeletConfig="/etc/kubelet.yaml"`:         "/etc/ebpf-evict is the container's own",
		`config.kubeletConfig="/var/log/pods/config.yaml"`: "/var/log/pods of the host is named twice",
		`host.runtimeSocketDir="/"`:                        "host.runtimeSocketDir",
		`host.runtimeSocketDir="/proc"`:                    "/proc is the container's own",
		`host.runtimeSocketDir="/run/ebpf-evict/"`:         "/run/ebpf-evict is the container's own",
		`host.runtimeSocketDir="/sys/fs/cgroup"`:           "/sys is the container's own",
		`config.nodefs="/"`:                                "config.nodefs: / of the host is not mounted",
		`config.imagefs="/var/lib/containers"`:             "config.imagefs: /var/lib/containers of the host is not mounted",
		`config.containerfs="/data/layers"`:                "config.containerfs: /data/layers of the host is not mounted",
		`config.podLogsDir="/data/pods"`:                   "config.podLogsDir: /data/pods of the host is not mounted",
	} {
		if _, err := render(t, set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", set, err)
		}
	}
}

func TestBadValuesAreRefused(t *testing.T) {
	for name, set := range map[string]string{
		"a typing error":              "agent.privilegd=true",
		"no mode":                     `config.mode="kill"`,
		"a file that is not mounted":  `config.journal="/tmp/journal"`,
		"a capability with its CAP_":  `agent.capabilities=["CAP_BPF"]`,
		"no limit for the memory":     "agent.resources.memory=null",
		"a directory that is none":    `host.kubeletDir="var/lib/kubelet"`,
		"a port that is none":         "export.port=0",
		"an unknown key beside these": "kubernetes.enabled=true",
		"an owner of the table":       "config.tableOwner=0",
		"a report that is none":       `kube.report={"ReplicaSet":"evict"}`,
		"no kind of controller":       `kube.report={"Replicaset":"delete"}`,
		"a file below nothing":        `config.kubeletConfig="var/lib/kubelet/config.yaml"`,
		"a threshold misspelled":      `config.evictionHrad={"memory.available":"1Gi"}`,
		"no CPU":                      "agent.resources.cpu=0",
		"no CPU, as a quantity":       `disk.resources.cpu="0m"`,
		"a CPU that is none":          `agent.resources.cpu="banana"`,
		"a CPU below zero":            `kube.resources.cpu="-100m"`,
		"a CPU in bytes":              `kube.resources.cpu="200M"`,
		"no memory":                   `export.resources.memory="0Mi"`,
		"a digest for a tag":          `image.tag="sha256:0a0a"`,
		"a digest that is none":       `image.digest="0a0a"`,
		"thousandths of a byte":       `agent.resources.memory="192m"`,
	} {
		if _, err := render(t, set); err == nil || !strings.Contains(err.Error(), "values don't meet the specifications") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuantitiesAreTaken(t *testing.T) {
	for set, want := range map[string]string{
		`agent.resources={"cpu":1,"memory":"1Gi"}`:           "1",
		`agent.resources={"cpu":0.5,"memory":"200M"}`:        "500m",
		`agent.resources={"cpu":"1.5","memory":"268435456"}`: "1500m",
		`agent.resources={"cpu":"100m","memory":"200000Ki"}`: "100m",
	} {
		if cpu := container(t, podSpec(t, set), "agent").Resources.Limits.Cpu().String(); cpu != want {
			t.Errorf("%s: cpu %s", set, cpu)
		}
	}
}

// Two containers of a pod can't listen on one port, nor, in the host's network, can the pod be made.
func TestAPortIsForOne(t *testing.T) {
	const want = "kube.port and export.port are both 9808"
	if _, err := render(t, "export.port=9808"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	podSpec(t, "export.port=9808", "kube.enabled=false")
	podSpec(t, "kube.port=9436", "export.enabled=false")
}

// --reuse-values has the values of the chart before, without those that are new: a null takes one away.
func TestAValueThatIsMissingIsRefused(t *testing.T) {
	text, err := os.ReadFile("ebpf-evict/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := sigsyaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	for key, value := range values {
		missing := []string{key}
		if below, _ := value.(map[string]any); key != "config" && key != "nodeSelector" && key != "updateStrategy" {
			for name := range below {
				missing = append(missing, key+"."+name)
			}
		}
		for _, m := range missing {
			name := m[strings.LastIndex(m, ".")+1:]
			if _, err := render(t, m+"=null"); err == nil || !strings.Contains(err.Error(), "missing property '"+name+"'") {
				t.Errorf("without %s: %v", m, err)
			}
		}
	}
}

// The schema has the agent's keys, so that a typing error is found before an agent ends with exit code 2.
func TestTheSchemaHasTheAgentsKeys(t *testing.T) {
	text, err := os.ReadFile("ebpf-evict/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Config struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	var unknown *config.Error
	if _, err := config.Parse([]byte("noSuchKey: 1")); !errors.As(err, &unknown) {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimPrefix(unknown.Want, "one of "), ", ")
	slices.Sort(want)
	if d := cmp.Diff(want, slices.Sorted(maps.Keys(schema.Properties.Config.Properties))); d != "" {
		t.Errorf("keys of config (-agent +schema)\n%s", d)
	}
}
