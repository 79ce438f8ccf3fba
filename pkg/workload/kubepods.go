package workload

import (
	"path"
	"strings"
)

// The kubelet's cgroup names (pkg/kubelet/cm), by cgroup driver:
//
//	cgroupfs  /kubepods/burstable/pod0a1b2c3d-…
//	systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_….slice
//
// Guaranteed pods are directly below kubepods. With a cgroupRoot of its own (kind's is
// /kubelet) the systemd driver puts its name before each:
//
//	/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0a1b2c3d_….slice

// Below a pod are its sandbox and containers, named by the runtime after the ids of 64 digits:
//
//	containerd  0a1b…, cri-containerd-0a1b….scope
//	CRI-O       crio-0a1b…, crio-0a1b….scope
//
// and beside each of CRI-O's its monitor, crio-conmon-0a1b…, unless conmon_cgroup puts those into
// another slice (systemd driver alone).

// isMonitor reports whether a pod's child holds a conmon. Without it CRI-O never learns how its
// container ended.
func isMonitor(name string) bool { return strings.HasPrefix(name, "crio-conmon-") }

// podUID returns the uid of a pod from the name of its cgroup, "" for any other name.
func podUID(name string) string {
	if rest, ok := afterKubepods(name); ok {
		i := strings.LastIndex(rest, "-pod")
		if i < 0 {
			return ""
		}
		return uidOf(strings.ReplaceAll(rest[i+len("-pod"):], "_", "-"))
	}
	if uid, ok := strings.CutPrefix(name, "pod"); ok {
		return uidOf(uid)
	}
	return ""
}

// uidOf accepts a uuid, or the 32 hexadecimal digits of a static pod's config hash.
func uidOf(s string) string {
	digits := strings.ReplaceAll(s, "-", "")
	if len(digits) != 32 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return ""
	}
	return s
}

// IsStaticUID reports whether a pod's uid is a config hash: the API server gives uuids alone, and a static
// pod has none unless its manifest names one (pkg/kubelet/config, applyDefaults).
func IsStaticUID(uid string) bool { return len(uid) == 32 && uidOf(uid) != "" }

// HoldsAllPods reports whether a cgroup is the kubelet's of all its pods. Without cgroupsPerQOS
// there is none, and with it the kubelet makes it before any pod.
func HoldsAllPods(cgroup string) bool {
	name := path.Base(cgroup)
	rest, ok := afterKubepods(name)
	return name == "kubepods" || ok && rest == ""
}

// isKubeletLevel reports whether a name is one of the kubelet's levels above its pods.
func isKubeletLevel(name string) bool {
	switch name {
	case "kubepods", "besteffort", "burstable":
		return true
	}
	rest, ok := afterKubepods(name)
	return ok && (rest == "" || rest == "-besteffort" || rest == "-burstable")
}

// afterKubepods is what follows kubepods in the name of one of the systemd driver's slices.
func afterKubepods(name string) (rest string, ok bool) {
	unit, ok := strings.CutSuffix(name, ".slice")
	if !ok {
		return "", false
	}
	if rest, ok := strings.CutPrefix(unit, "kubepods"); ok {
		return rest, true
	}
	_, rest, ok = strings.Cut(unit, "-kubepods")
	return rest, ok
}

func inKubepods(dir string) bool {
	return strings.Contains(dir, "/kubepods/") || strings.Contains(dir, "/kubepods.slice/") || strings.Contains(dir, "-kubepods.slice/")
}

// qosOf reads a pod's QoS class off its path.
func qosOf(dir string) QOSClass {
	switch {
	case strings.Contains(dir, "/besteffort/"), strings.Contains(dir, "kubepods-besteffort.slice/"):
		return QOSBestEffort
	case strings.Contains(dir, "/burstable/"), strings.Contains(dir, "kubepods-burstable.slice/"):
		return QOSBurstable
	}
	return QOSGuaranteed
}
