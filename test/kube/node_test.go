package kube

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/test/ociimage"
)

const (
	nodeName  = "bed"
	namespace = "default"
	apiServer = "https://" + nodeIP + ":6443"
	kubelet   = "https://" + nodeIP + ":10250"
	etcd      = "http://127.0.0.1:2379"
	criSocket = "/run/containerd/containerd.sock"

	// podsMemory and podsTasks are the limits of all pods together. What the machine has
	// beyond them is the system's by the kubelet's configuration, so that pods alone can
	// cross a threshold of what is allocatable, and can't take the machine.
	podsMemory = 2 << 30
	podsTasks  = 2000
	// kubeletThreshold is its backstop, far below the agent's.
	kubeletThreshold = "128Mi"

	patience = time.Minute
)

// node is a cluster of one node.
type node struct {
	*api
	kubelet *api
	dir     string
	logs    string
	pki     *pki
	daemons []*daemon // in the order of their start
	account *api      // the companion's, once it was asked for
}

// theNode is one for all scenes: it takes seconds to start.
var theNode *node

// theNodeIs is the scene's node, ready; it is started by the first that asks.
func theNodeIs(t testing.TB) *node {
	t.Helper()
	if warded.Warden() == 0 {
		t.Fatal("needs root: runs a Kubernetes node; `make test-kube` has it")
	}
	if theNode == nil {
		start := time.Now()
		n, err := newNode()
		theNode = n
		if err == nil {
			err = n.start()
		}
		if err != nil {
			n.tell(t)
			t.Fatal(err)
		}
		n.image(t, infraImage, "pause") // the agent knows a sandbox by that name
		n.image(t, loadImage, "load")
		t.Logf("node ready after %s", time.Since(start).Round(10*time.Millisecond))
	}
	_, err := theNode.call(http.MethodDelete, "/api/v1/namespaces/"+namespace+"/events", nil) // those of former scenes
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			theNode.tell(t)
		}
	})
	return theNode
}

func newNode() (*node, error) {
	n := &node{dir: filepath.Join(os.TempDir(), "node"), logs: os.Getenv("EBPF_EVICT_KUBE_LOGS")}
	if n.logs == "" {
		n.logs = n.file("logs")
	}
	for _, dir := range []string{n.dir, n.logs, n.file("static"), n.file("cni")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return n, err
		}
	}
	var err error
	if n.pki, err = newPKI(n.file); err != nil {
		return n, err
	}
	if n.api, err = newAPI(apiServer, n.pki.CA, n.pki.Tokens["admin"]); err != nil {
		return n, err
	}
	if n.kubelet, err = newAPI(kubelet, n.pki.CA, n.pki.Tokens["admin"]); err != nil {
		return n, err
	}
	if err := n.configure(); err != nil {
		return n, err
	}
	return n, n.define()
}

func (n *node) file(name string) string { return filepath.Join(n.dir, name) }

// define names the daemons with their arguments.
func (n *node) define() error {
	for _, d := range []struct {
		program string
		args    []string
	}{
		{"etcd", []string{
			"--data-dir", n.file("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
			"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", "http://127.0.0.1:2380",
		}},
		{"containerd", []string{"--config", n.file("containerd.toml")}},
		{"kube-apiserver", []string{
			"--etcd-servers", etcd, "--advertise-address", nodeIP,
			"--tls-cert-file", n.file(servingCert), "--tls-private-key-file", n.file(servingKey),
			"--token-auth-file", n.file(tokensFile), "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
			"--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", "10.96.0.0/16",
			"--service-account-key-file", n.file(accountKey), "--service-account-signing-key-file", n.file(accountKey),
			"--cert-dir", n.file("apiserver"), "--allow-privileged",
		}},
		{"kube-controller-manager", []string{
			"--kubeconfig", n.file("kube-controller-manager.kubeconfig"), "--secure-port", "0", "--leader-elect=false",
			"--use-service-account-credentials", "--service-account-private-key-file", n.file(accountKey), "--root-ca-file", n.file(caFile),
		}},
		{"kube-scheduler", []string{
			"--kubeconfig", n.file("kube-scheduler.kubeconfig"), "--secure-port", "0", "--leader-elect=false",
		}},
		{"kubelet", []string{
			"--config", n.file("kubelet.json"), "--kubeconfig", n.file("kubelet.kubeconfig"),
			"--hostname-override", nodeName, "--node-ip", nodeIP, "-v=2",
		}},
	} {
		program := d.program
		if d.program != "containerd" { // Debian's
			var err error
			if program, err = built("kube/" + d.program); err != nil {
				return err
			}
		}
		n.daemons = append(n.daemons, &daemon{
			name: d.program, args: append([]string{program}, d.args...), log: filepath.Join(n.logs, d.program+".log"),
		})
	}
	return nil
}

// Daemon is one of the node's by its program's name.
func (n *node) Daemon(name string) *daemon {
	return n.daemons[slices.IndexFunc(n.daemons, func(d *daemon) bool { return d.name == name })]
}

func (n *node) start() error {
	for _, d := range n.daemons {
		if err := d.start(); err != nil {
			return err
		}
		if d.name == "kube-apiserver" {
			if err := n.await("ready API server", func() bool {
				_, err := n.call(http.MethodGet, "/readyz", nil)
				return err == nil
			}); err != nil {
				return err
			}
		}
	}
	return n.await("ready node that takes pods", func() bool {
		return n.isReady() && exists(criSocket) && n.has("/api/v1/namespaces/"+namespace+"/serviceaccounts/default")
	})
}

func (n *node) isReady() bool { return n.takesPods(nodeName) }

// takesPods of all kinds.
func (n *node) takesPods(name string) bool {
	var found v1.Node
	if n.get("/api/v1/nodes/"+name, &found) != nil {
		return false
	}
	return len(found.Spec.Taints) == 0 && slices.ContainsFunc(found.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

// await fails as soon as a daemon has ended.
func (n *node) await(what string, done func() bool) error {
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		for _, d := range n.daemons {
			if d.cmd != nil && !d.alive() {
				return fmt.Errorf("no %s: %s has ended", what, d.name)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no %s within %s", what, patience)
		}
	}
	return nil
}

// Stop ends what start started, and says whether all of it was still there. What is left of
// the containers is the warden's.
func (n *node) Stop() bool {
	all := true
	for _, d := range slices.Backward(n.daemons) {
		all = all && d.alive()
		d.stop()
	}
	return all
}

// tell logs the last words of all daemons.
func (n *node) tell(t testing.TB) {
	for _, d := range n.daemons {
		t.Logf("%s's last lines:\n%s", d.name, d.lastLines(15))
	}
}

// The images: infraImage is the sandboxes' by containerd's configuration.
const (
	infraImage = "ebpf-evict.test/infra:1"
	loadImage  = "ebpf-evict.test/load:1"
)

// image has the runtime know the load program under a name of its own.
func (n *node) image(t testing.TB, image, program string) {
	t.Helper()
	path, err := built("kube/load")
	must(t, err)
	data, err := os.ReadFile(path)
	must(t, err)
	file := n.file("image.tar")
	i := ociimage.New(t, []string{"wait"}, ociimage.File{Name: program, Data: data, Mode: 0o755})
	must(t, os.WriteFile(file, i.Archive(t, image), 0o600))
	defer func() { _ = os.Remove(file) }()
	if out, err := exec.Command("ctr", "-n", "k8s.io", "images", "import", file).CombinedOutput(); err != nil {
		t.Fatalf("import %s: %v\n%s", image, err, out)
	}
	must(t, n.await("image "+image, func() bool { return n.knowsImage(t, image) }))
}

// knowsImage: the kubelet asks once and then waits for ten seconds.
func (n *node) knowsImage(t testing.TB, name string) bool {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+criSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { _ = conn.Close() }()
	answer, err := cri.NewImageServiceClient(conn).ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	must(t, err)
	return answer.GetImage() != nil
}

// configure writes the files that the daemons are told of.
func (n *node) configure() error {
	if err := n.configureKubelet(kubeletThreshold); err != nil {
		return err
	}
	for name, data := range map[string]string{
		"containerd.toml":   n.containerdConfig(),
		"cni/none.conflist": `{"cniVersion":"1.0.0","name":"none","plugins":[{"type":"none"}]}`, // never run: all pods are on the host's network
	} {
		if err := os.WriteFile(n.file(name), []byte(data), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// KubeletAlone restarts the kubelet with a threshold of memory.available and with further
// flags, and at the test's end once more as it was.
func (n *node) KubeletAlone(t testing.TB, threshold string, flags ...string) {
	t.Helper()
	k := n.Daemon("kubelet")
	usual := k.args
	restart := func(threshold string, args []string) {
		k.stop()
		k.args = args
		must(t, n.configureKubelet(threshold))
		must(t, k.start())
		must(t, n.await("ready kubelet", func() bool { return n.kubelet.has("/healthz") && n.isReady() }))
	}
	t.Cleanup(func() { restart(kubeletThreshold, usual) })
	restart(threshold, append(usual[:len(usual):len(usual)], flags...))
}

func (n *node) configureKubelet(threshold string) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	tasks, err := maxTasks()
	if err != nil {
		return err
	}
	return os.WriteFile(n.file("kubelet.json"), fmt.Appendf(nil, `{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
"cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "makeIPTablesUtilChains": false,
"containerRuntimeEndpoint": "unix://%s", "staticPodPath": %q, "volumePluginDir": %q, "resolvConf": "",
"authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}}, "authorization": {"mode": "Webhook"},
"tlsCertFile": %q, "tlsPrivateKeyFile": %q,
"systemReserved": {"memory": "%d", "pid": "%d"}, "oomScoreAdj": 0, "imageGCHighThresholdPercent": 100,
"evictionHard": {"memory.available": %q, "nodefs.available": "1%%", "nodefs.inodesFree": "1%%", "imagefs.available": "1%%"},
"evictionPressureTransitionPeriod": "10s"}
`, criSocket, n.file("static"), n.file("volume-plugins"), n.file(servingCert), n.file(servingKey), int64(info.Totalram)*int64(info.Unit)-podsMemory, tasks-podsTasks, threshold), 0o600)
}

// maxTasks is what the kubelet takes for the node's capacity (pkg/kubelet/stats/pidlimit).
func maxTasks() (int64, error) {
	least := int64(1<<63 - 1)
	for _, name := range []string{"pid_max", "threads-max"} {
		data, err := os.ReadFile("/proc/sys/kernel/" + name)
		if err != nil {
			return 0, err
		}
		value, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return 0, err
		}
		least = min(least, value)
	}
	return least, nil
}

// containerdConfig asks for nothing that takes CAP_SYS_RESOURCE, which a container's root
// may lack.
func (n *node) containerdConfig() string {
	return fmt.Sprintf(`version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = %q
    bin_dir = %q
`, infraImage, n.file("cni"), n.file("cni"))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}
