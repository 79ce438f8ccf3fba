package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/preflight"
)

// checked runs a check -o json, by whatever leads to it, and returns its report and exit code.
func checked(t *testing.T, cmd *exec.Cmd, args ...string) (r preflight.Report, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Args = append(append(cmd.Args, "check", "-o", "json", "--log-level", "error"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %q, %q", err, out.String(), errOut.String())
	}
	if r.Protects != (cmd.ProcessState.ExitCode() == 0) || r.Protects != (len(r.Missing) == 0) {
		t.Errorf("protects %t, exit code %d, missing %v", r.Protects, cmd.ProcessState.ExitCode(), r.Missing)
	}
	return r, cmd.ProcessState.ExitCode()
}

// hooksOnly is the flags for a configuration that asks for BPF.
func hooksOnly(t *testing.T) []string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ebpf-evict-e2e-") // which anybody may read
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "config.yaml")
	must(t, errors.Join(os.Chmod(dir, 0o755), os.WriteFile(file, []byte("leastTier: bpf\n"), 0o644)))
	return []string{"--config", file}
}

func missing(r preflight.Report) (names []string) {
	for _, m := range r.Missing {
		names = append(names, m.What)
	}
	return names
}

func tierOf(t *testing.T, r preflight.Report, signal string) preflight.Tier {
	t.Helper()
	i := slices.IndexFunc(r.Tiers, func(t preflight.Tier) bool { return t.Signal == signal })
	if i < 0 {
		t.Fatalf("no tier of %s: %v", signal, r.Tiers)
	}
	return r.Tiers[i]
}

func TestCheckFindsWhatTheAgentUses(t *testing.T) {
	bin := binary(t)
	w := newWorld(t)
	before := traces(t)
	r, code := checked(t, exec.Command(bin))
	w.await("the programs to go", func() bool { return len(ourPrograms(t)) == 0 })
	if d := cmp.Diff(before, traces(t)); d != "" {
		t.Errorf("left behind (-before +after):\n%s", d)
	}
	if code != 0 || !r.Programs.OK || len(r.Hooks) == 0 || len(r.Tiers) != 10 || r.Programs.Cgroups == 0 {
		t.Errorf("exit code %d: %+v", code, r)
	}
	if disk := tierOf(t, r, "imagefs.inodesFree"); disk.Tier != "poll" || disk.ExpectedLatencyNs == 0 {
		t.Errorf("a disk: %+v", disk)
	}
	w.start(hogsOnly)
	drilled, _, errText := w.drill()
	if !drilled.OK {
		t.Fatal(errText)
	}
	for _, l := range drilled.Drills {
		if tier := tierOf(t, r, l.Signal); tier.Tier != l.Tier {
			t.Errorf("%s: check says %s, the agent saw it by %s", l.Signal, tier.Tier, l.Tier)
		}
	}
}

// traces are what a check could leave beside programs: pins, cgroups, mounts.
func traces(t *testing.T) map[string]any {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	pins, err := filepath.Glob("/sys/fs/bpf/*")
	must(t, err)
	tops, err := filepath.Glob("/sys/fs/cgroup/*ebpf-evict*")
	must(t, err)
	deeper, err := filepath.Glob("/sys/fs/cgroup/*/*ebpf-evict*")
	must(t, err)
	return map[string]any{"mounts": string(mounts), "pins": pins, "cgroups": append(tops, deeper...)}
}

func TestCheckNamesTheMissingRight(t *testing.T) {
	bin := binary(t)
	t.Run("another user than root", func(t *testing.T) {
		cmd := exec.Command(forAnybody(t, bin))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		r, code := checked(t, cmd, hooksOnly(t)...)
		for _, name := range []string{"root", "CAP_KILL", "CAP_BPF", "CAP_PERFMON", "drill"} {
			if code != 3 || !slices.Contains(missing(r), name) {
				t.Errorf("exit code %d, missing %v, want %s", code, missing(r), name)
			}
		}
	})
	t.Run("root without CAP_BPF", func(t *testing.T) {
		withoutHooks(t, "CAP_BPF", func() *exec.Cmd { return exec.Command("/proc/self/exe", "without-cap-bpf", bin) })
	})
	t.Run("root of a user namespace", func(t *testing.T) {
		cmd := exec.Command(bin)
		self := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: self, GidMappings: self}
		r, code := checked(t, cmd, hooksOnly(t)...)
		if code != 3 || !slices.Contains(missing(r), "CAP_BPF") || !slices.Contains(missing(r), "CAP_KILL") {
			t.Errorf("exit code %d, missing %v: capabilities of a user namespace count for nothing here", code, missing(r))
		}
	})
}

// withoutHooks checks that nothing but tiers without BPF is left, and that who asks for BPF
// is told what is in its way.
func withoutHooks(t *testing.T, why string, check func() *exec.Cmd) (r preflight.Report) {
	t.Helper()
	r, code := checked(t, check())
	if code != 0 || r.Programs.OK || r.Backstop.Reach != "none" {
		t.Errorf("exit code %d, missing %v, programs %+v, backstop %+v", code, missing(r), r.Programs, r.Backstop)
	}
	for signal, want := range map[string]string{"memory.available": r.Fallback.Memory, "pid.available": r.Fallback.Tasks} {
		if tier := tierOf(t, r, signal); tier.Tier != want || want != "event" && want != "poll" {
			t.Errorf("%s: %+v, want event or poll", signal, tier)
		}
	}
	r, code = checked(t, check(), hooksOnly(t)...)
	if code != 3 || len(r.Missing) == 0 || r.Missing[0].What != why {
		t.Errorf("exit code %d, missing %v, want %s first", code, missing(r), why)
	}
	return r
}

func TestCheckWithoutBTF(t *testing.T) {
	bin := binary(t)
	copied := filepath.Join(t.TempDir(), "btf")
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	must(t, err)
	must(t, os.WriteFile(copied, types, 0o600))
	check := func() *exec.Cmd { return exec.Command("/proc/self/exe", "without-btf", bin) }
	t.Run("hidden", func(t *testing.T) {
		if r := withoutHooks(t, "BTF", check); r.BTF.OK || !strings.Contains(r.BTF.Error, "CONFIG_DEBUG_INFO_BTF") {
			t.Errorf("%+v", r.BTF)
		}
	})
	t.Run("in a file", func(t *testing.T) {
		if r, _ := checked(t, check(), "--btf", copied); !r.Protects || r.BTF.File != copied || !r.Programs.OK {
			t.Errorf("missing %v, %+v, %+v", r.Missing, r.BTF, r.Programs)
		}
	})
	t.Run("in a file, for an agent", func(t *testing.T) {
		w := newWorld(t)
		w.by = []string{"/proc/self/exe", "without-btf"}
		w.extra = "leastTier: bpf\nbtf: " + copied + "\n"
		w.start(hogsOnly)
	})
}

func TestCheckHoldsTheConfigurationAgainstTheNode(t *testing.T) {
	bin := binary(t)
	for name, tc := range map[string]struct {
		config string
		want   []string
	}{
		"a root that is not there":       {"roots: [/no-such-root-of-ours]\ndrill: {atStart: false}\n", []string{"roots"}},
		"a filesystem that is not there": {"roots: [/ROOT]\nnodefs: /no/such/dir\ncontainerfs: /nor/this\n", []string{"nodefs", "containerfs"}},
		"what there is":                  {"roots: [/ROOT]\nevictionHard: {pid.available: \"10\", memory.available: 1Mi}\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(t.TempDir(), "config.yaml")
			must(t, os.WriteFile(file, []byte(strings.ReplaceAll(tc.config, "/ROOT", w.root)), 0o600))
			cmd := exec.Command(bin, "check", "--config", file, "-o", "json")
			out, err := cmd.Output()
			var r preflight.Report
			if jsonErr := json.Unmarshal(out, &r); jsonErr != nil {
				t.Fatalf("%v: %s (%v)", jsonErr, out, err)
			}
			if !slices.Equal(missing(r), tc.want) || (cmd.ProcessState.ExitCode() == 3) != (tc.want != nil) {
				t.Errorf("missing %v, want %v; ended with %v", r.Missing, tc.want, err)
			}
		})
	}
}

func TestCheckWhereNoDrillCanBeHeld(t *testing.T) {
	bin := binary(t)
	if r, code := checked(t, exec.Command("/proc/self/exe", "read-only-cgroups", bin)); code != 3 || !slices.Equal(missing(r), []string{"drill"}) {
		t.Errorf("exit code %d, missing %v", code, missing(r))
	}
}

func needsLockdown(t *testing.T) {
	t.Helper()
	if os.Getenv("EBPF_EVICT_LOCKDOWN") == "" {
		t.Skip("needs a kernel booted with lockdown=confidentiality: `make test-vm` boots one and sets EBPF_EVICT_LOCKDOWN")
	}
}

func TestCheckUnderLockdown(t *testing.T) {
	needsLockdown(t)
	bin := binary(t)
	r := withoutHooks(t, "lockdown", func() *exec.Cmd { return exec.Command(bin) })
	if r.Lockdown.Mode != "confidentiality" {
		t.Errorf("%+v", r.Lockdown)
	}
	if !slices.ContainsFunc(r.Hooks, func(h preflight.Hook) bool { return !h.OK && h.Error != "" }) {
		t.Errorf("hooks %+v: want the verifier's words", r.Hooks)
	}
}
