package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// refused runs the program, which must end with this exit code, nothing on standard output
// and one line that says want.
func refused(t *testing.T, cmd *exec.Cmd, code int, want string) {
	t.Helper()
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("ended with %v, want exit code %d", err, code)
	}
	if out.Len() != 0 || !strings.Contains(errOut.String(), want) || strings.Count(errOut.String(), "\n") != 1 {
		t.Errorf("printed %q and %q, want one line that names %q", out.String(), errOut.String(), want)
	}
}

func TestBadConfigurationIsRefusedInOneSentence(t *testing.T) {
	bin := binary(t)
	for _, tc := range []struct {
		name, config string
		want         string
	}{
		{"unknown key", "evictionHrad: {}\n", "evictionHrad"},
		{"bad quantity", "evictionHard: {memory.available: 12cows}\n", "memory.available"},
		{"unquoted number", "evictionHard: {memory.available: 100}\n", "memory.available"},
		{"unknown signal", "evictionHard: {memory.free: 1Gi}\n", "memory.free"},
		{"missing root", "roots: [/no-such-root-of-ours]\n", "/no-such-root-of-ours"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			must(t, os.WriteFile(file, []byte(tc.config), 0o600))
			refused(t, exec.Command(bin, "run", "--config", file, "--log-level", "error"), 2, tc.want)
		})
	}
}

func TestUnknownTierIsRefusedInOneSentence(t *testing.T) {
	refused(t, exec.Command(binary(t), "run", "--tier", "bpf", "--log-level", "error"), 2, "--tier")
}

// Whatever keeps it away, such as a file that holds no types.
func TestATierThatCannotBeHadIsRefusedInOneSentence(t *testing.T) {
	w := newWorld(t)
	for _, tier := range []string{record.TierCharge, record.TierAlloc, record.TierTask} {
		file := w.config(map[string]string{"memory.available": "1Mi"})
		refused(t, exec.Command(binary(t), "run", "--config", file, "--tier", tier, "--btf", "/proc/self/exe", "--log-level", "error"), 3, tier)
	}
}

const nobody = 65534

func TestMissingPrivilegesAreRefusedInOneSentence(t *testing.T) {
	bin := binary(t)
	t.Run("another user than root", func(t *testing.T) {
		cmd := exec.Command(forAnybody(t, bin), "run", "--log-level", "error")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		refused(t, cmd, 3, "CAP_BPF")
	})
	t.Run("root of a user namespace", func(t *testing.T) {
		w := newWorld(t)
		cmd := exec.Command(bin, "run", "--config", w.config(map[string]string{"memory.available": "1Mi"}), "--log-level", "error")
		self := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: self, GidMappings: self}
		refused(t, cmd, 3, "CAP_BPF")
	})
}

// forAnybody copies the program to where everybody may run it.
func forAnybody(t *testing.T, bin string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ebpf-evict-e2e-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	from, err := os.Open(bin)
	must(t, err)
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "ebpf-evict"), os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(to, from)
	must(t, errors.Join(err, to.Chmod(0o755), to.Close()))
	return to.Name()
}

// withoutBTF executes a program in a mount namespace that hides the kernel's BTF.
func withoutBTF(args []string) int {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("none", "/sys/kernel/btf", "tmpfs", 0, "")
	}
	if err == nil {
		err = unix.Exec(args[0], args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "without-btf:", err)
	return 1
}
