package workload

import "strings"

// The kubelet's cgroup names (pkg/kubelet/cm), by cgroup driver:
//
//	cgroupfs  /kubepods/burstable/pod0a1b2c3d-…
//	systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_….slice
//
// Guaranteed pods are directly below kubepods.

// podUID returns the uid of a pod from the name of its cgroup, "" for any other name.
func podUID(name string) string {
	if unit, ok := strings.CutSuffix(name, ".slice"); ok {
		i := strings.LastIndex(unit, "-pod")
		if i < 0 || !strings.HasPrefix(unit, "kubepods") {
			return ""
		}
		return uidOf(strings.ReplaceAll(unit[i+len("-pod"):], "_", "-"))
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

// isKubeletLevel reports whether a name is one of the kubelet's levels above its pods.
func isKubeletLevel(name string) bool {
	switch name {
	case "kubepods", "kubepods.slice",
		"besteffort", "burstable",
		"kubepods-besteffort.slice", "kubepods-burstable.slice":
		return true
	}
	return false
}

func inKubepods(dir string) bool {
	return strings.Contains(dir, "/kubepods/") || strings.Contains(dir, "/kubepods.slice/")
}

// qosOf reads a pod's QoS class off its path.
func qosOf(dir string) QOSClass {
	switch {
	case strings.Contains(dir, "/besteffort/"), strings.Contains(dir, "/kubepods-besteffort.slice/"):
		return QOSBestEffort
	case strings.Contains(dir, "/burstable/"), strings.Contains(dir, "/kubepods-burstable.slice/"):
		return QOSBurstable
	}
	return QOSGuaranteed
}
