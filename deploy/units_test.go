package deploy_test

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// What the units must not say, and why. `make test-systemd` runs them as they are.
var breaks = map[string]map[string]string{
	"ebpf-evict": {
		"RestrictSUIDSGID":      "openat2 is answered with ENOSYS (systemd has no look at its mode), and roots are opened by it",
		"ProtectControlGroups":  "cgroup.kill and memory.min are written",
		"ProtectKernelTunables": "/sys/fs/bpf is read-only then",
		"ProtectProc":           "it ranks the processes of others",
		"RestrictRealtime":      "the hot thread is SCHED_FIFO",
		"RestrictNamespaces":    "the drill's canary has a PID namespace of its own",
		"PrivateNetwork":        "the proc connector is that of the first network namespace",
		"PrivateUsers":          "capabilities count in the first user namespace",
	},
	"ebpf-evict-disk": {
		"RestrictSUIDSGID": "directories are opened by openat2",
		"ProtectClock":     "the devices that quotas are asked of are closed",
		"PrivateDevices":   "the same",
		"ProtectProc":      "it reads mounts of others",
		"PrivateUsers":     "capabilities count in the first user namespace",
	},
	"ebpf-evict-export": {
		"PrivateNetwork": "it is scraped",
	},
}

func directives(t *testing.T, unit string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("systemd/" + unit + ".service")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(string(text), -1) {
		said[m[1]] = append(said[m[1]], m[2])
	}
	return said
}

func TestUnitsForbidNothingThatIsNeeded(t *testing.T) {
	for unit, reasons := range breaks {
		said := directives(t, unit)
		for directive, reason := range reasons {
			if v := said[directive]; slices.ContainsFunc(v, func(s string) bool { return s != "no" && s != "" }) {
				t.Errorf("%s: %s=%v: %s", unit, directive, v, reason)
			}
		}
	}
}
