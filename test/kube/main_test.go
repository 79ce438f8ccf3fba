// Package kube plays scenes on a real Kubernetes node: etcd, API server, controller manager,
// scheduler and kubelet (test/kube/bins has their versions), containerd and runc. `make
// test-kube` runs them as root.
//
// All of it lives in namespaces of its own. In the mount namespace the node's directories
// (/var/lib/kubelet, /run/containerd, …) are empty at first and private, in the network
// namespace there is loopback alone: nothing of the machine's is seen, and nothing is
// listening on it. What the kubelet makes outside is the cgroup /kubepods: a machine that has
// one has a kubelet, and there the scenes are refused.
package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/ward"
)

var warded = ward.Ward{
	Variable:   "EBPF_EVICT_KUBE_WARDEN",
	Namespaces: unix.CLONE_NEWNET,
	Enter:      enter,
	Leave:      func(int) { ward.RemoveCgroups(podsCgroup) },
}

func TestMain(m *testing.M) {
	if warded.Warden() == 0 {
		if found := podsCgroups(); len(found) > 0 {
			fmt.Fprintln(os.Stderr, "this machine has pods, or they were left:", found)
			os.Exit(1)
		}
	}
	os.Exit(warded.Run(func() int {
		go forkForGood()
		status := m.Run()
		if theNode != nil && !theNode.Stop() {
			status = max(status, 1)
		}
		return status
	}))
}

// podsCgroup is the kubelet's, and holds all pods.
const podsCgroup = "/kubepods"

func podsCgroups() (found []string) {
	for _, mount := range ward.CgroupMounts() {
		if dir := filepath.Join(mount, podsCgroup); exists(dir) {
			found = append(found, dir)
		}
	}
	return found
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nodeIP is one that the kubelet and the API server accept, which a loopback address is not.
const nodeIP = "10.255.0.1"

func enter() error {
	for _, step := range []func() error{shareMounts, hideDirectories, fakeSysctls, raiseLoopback} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// shareMounts lets volumes be mounted from pods into pods, as systemd has it on a host.
func shareMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts: %w", err)
	}
	return nil
}

// hideDirectories has the node's directories under their usual names with nothing of the
// machine's beside them, and in memory: to start a container takes several fsyncs, which on a
// busy disk took ten seconds.
func hideDirectories() error {
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size=1g"); err != nil {
			return fmt.Errorf("mount over %s: %w", dir, err)
		}
	}
	return nil
}

// fakeSysctls are those that the kubelet insists on (setupKernelTunables, 1.34), as files of
// their own: it finds them right, and does not change the machine's.
func fakeSysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		file := filepath.Join(os.TempDir(), filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o444); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over sysctl %s: %w", name, err)
		}
	}
	return nil
}

func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	addr, err := netlink.ParseAddr(nodeIP + "/32")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, addr); err != nil {
		return fmt.Errorf("give loopback the node's address: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("raise loopback: %w", err)
	}
	return nil
}
