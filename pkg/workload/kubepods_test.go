package workload

import "testing"

func TestPodsByTheKubeletsNames(t *testing.T) {
	const uid = "0a1b2c3d-0000-4000-8000-00000000000f"
	for _, tc := range []struct {
		name, dir, base, uid string
		qos                  QOSClass
	}{
		{"cgroupfs, BestEffort", "/kubepods/besteffort/pod" + uid, "pod" + uid, uid, QOSBestEffort},
		{"cgroupfs, Guaranteed", "/kubepods/pod" + uid, "pod" + uid, uid, QOSGuaranteed},
		{
			"systemd, Burstable",
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_0000_4000_8000_00000000000f.slice",
			"kubepods-burstable-pod0a1b2c3d_0000_4000_8000_00000000000f.slice", uid, QOSBurstable,
		},
		{
			"systemd, Guaranteed", "/kubepods.slice/kubepods-pod0a1b2c3d_0000_4000_8000_00000000000f.slice",
			"kubepods-pod0a1b2c3d_0000_4000_8000_00000000000f.slice", uid, QOSGuaranteed,
		},
		{
			"static pod's config hash", "/kubepods/burstable/pod0123456789abcdef0123456789abcdef",
			"pod0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef", QOSBurstable,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := podUID(tc.base); got != tc.uid {
				t.Errorf("uid %q, want %q", got, tc.uid)
			}
			if got := qosOf(tc.dir); got != tc.qos {
				t.Errorf("QoS %q, want %q", got, tc.qos)
			}
		})
	}
	for _, name := range []string{"podman", "pod", "podium-1", "kubepods.slice", "besteffort", "system-pod1.slice", "pod../x"} {
		if got := podUID(name); got != "" {
			t.Errorf("%q was taken for pod %q", name, got)
		}
	}
}

func TestTheCgroupOfAllPods(t *testing.T) {
	for cgroup, want := range map[string]bool{
		"/kubepods":                                true,
		"/kubepods.slice":                          true,
		"/kubelet.slice/kubelet-kubepods.slice":    true,
		"/kubepods/besteffort":                     false,
		"/kubepods.slice/kubepods-burstable.slice": false,
		"/system.slice/kubepods.service":           false,
		"/machine.slice":                           false,
		"/":                                        false,
	} {
		if got := HoldsAllPods(cgroup); got != want {
			t.Errorf("%s: %v", cgroup, got)
		}
	}
}
