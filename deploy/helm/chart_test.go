// Package helm_test renders the chart as helm does and reads it as the API server would:
// strictly. It needs helm, whose path is in EBPF_EVICT_HELM (make check-deploy).
package helm_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

func TestThePodIsTheLastToGo(t *testing.T) {
	spec := podSpec(t)
	if !spec.HostPID || spec.HostNetwork || spec.PriorityClassName != "system-node-critical" || *spec.AutomountServiceAccountToken {
		t.Errorf("%+v", spec)
	}
	if len(spec.Containers) != 3 {
		t.Errorf("%d containers, want agent, disk and export", len(spec.Containers))
	}
	for _, c := range spec.Containers { // the kubelet's GetPodQOS
		if d := cmp.Diff(c.Resources.Requests, c.Resources.Limits); d != "" || c.Resources.Limits.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s is not Guaranteed: %s", c.Name, d)
		}
		if c.LivenessProbe == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s has no probe, or a root that it may write", c.Name)
		}
	}
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
	export := container(t, spec, "export")
	if c := export.SecurityContext; len(c.Capabilities.Add) > 0 || !*c.RunAsNonRoot || *c.AllowPrivilegeEscalation {
		t.Errorf("export: %+v", c)
	}
	for _, m := range export.VolumeMounts {
		if !m.ReadOnly {
			t.Errorf("export may write to %s", m.MountPath)
		}
	}
	var written []string
	for _, m := range container(t, spec, "disk").VolumeMounts {
		if !m.ReadOnly {
			written = append(written, m.MountPath)
		}
	}
	if d := cmp.Diff([]string{"/run/ebpf-evict/disk"}, written); d != "" {
		t.Errorf("what the disk process may write (-want +got)\n%s", d)
	}
}

func TestNoMountOfAPodIsHeld(t *testing.T) {
	for _, c := range podSpec(t).Containers {
		for _, m := range c.VolumeMounts {
			isOfHost := !strings.HasPrefix(m.MountPath, "/run/ebpf-evict") && m.MountPath != "/etc/ebpf-evict" && m.MountPath != "/sys/fs/bpf"
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
	if spec := podSpec(t, "disk.enabled=false", "export.enabled=false"); len(spec.Containers) != 1 {
		t.Errorf("%d containers, want the agent alone", len(spec.Containers))
	}
	if c := container(t, podSpec(t, "agent.privileged=true"), "agent").SecurityContext; !*c.Privileged || c.Capabilities != nil {
		t.Errorf("privileged: %+v", c)
	}
	podSpec(t, `imagePullSecrets=[{"name":"x"}]`, `podLabels={"a":"b"}`, `podAnnotations={"a":"b"}`, `agent.extraArgs=["--mode=shadow"]`)
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

func TestBadValuesAreRefused(t *testing.T) {
	for name, set := range map[string]string{
		"a typing error":              "agent.privilegd=true",
		"no mode":                     `config.mode="kill"`,
		"a file that is not mounted":  `config.journal="/tmp/journal"`,
		"a capability with its CAP_":  `agent.capabilities=["CAP_BPF"]`,
		"no limit for the memory":     "agent.resources.memory=null",
		"a directory that is none":    `host.kubeletDir="var/lib/kubelet"`,
		"a port that is none":         "export.port=0",
		"an unknown key beside these": "kube.enabled=true",
	} {
		if _, err := render(t, set); err == nil || !strings.Contains(err.Error(), "values don't meet the specifications") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
