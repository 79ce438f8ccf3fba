package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

const (
	// attempts bounds how often a guest that died without a result is booted.
	attempts = 3
	// bootTimeout is 20 times what a boot takes under TCG on an idle machine.
	bootTimeout = 2 * time.Minute
	// powerOffTimeout is how long the emulator may take to end after the exit line.
	powerOffTimeout = 20 * time.Second
	// consoleTail is how many of the console's last lines are shown after a death.
	consoleTail = 40
)

// errDied says that the guest ended, or never came up, without an exit line: the
// emulator's death or a kernel panic, not a failed test.
var errDied = errors.New("the guest ended without a result")

// qemuArgs: TCG kills guests now and then; with one CPU and without cx16 QEMU 7.2
// lost none of 28.
func qemuArgs(kernel, initrd, console string) []string {
	return []string{
		"-accel", "tcg", "-cpu", "max,-cx16", "-smp", "1", "-m", "2G",
		"-nodefaults", "-display", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:" + console, "-serial", "stdio",
		"-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 psi=1 cgroup_no_v1=all mitigations=off nokaslr " +
			"tsc=reliable no_timer_check random.trust_cpu=on",
	}
}

// bootUntilResult boots the guest and returns its exit code. It boots again after a
// death, and says so.
func bootUntilResult(ctx context.Context, kernel, initrd string) (int, error) {
	for attempt := 1; ; attempt++ {
		console := filepath.Join(filepath.Dir(initrd), "console")
		code, err := boot(ctx, kernel, initrd, console)
		if err == nil {
			return code, nil
		}
		fmt.Printf("VM attempt %d of %d: %v; the console ended with:\n%s\n", attempt, attempts, err, tail(console))
		if !errors.Is(err, errDied) || attempt == attempts {
			return 1, err
		}
	}
}

// boot runs the guest once and copies what it reports to standard output.
func boot(ctx context.Context, kernel, initrd, console string) (int, error) {
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", qemuArgs(kernel, initrd, console)...)
	cmd.Stderr = os.Stderr
	// The emulator must not outlive a runner that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	results, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}

	bootTimer := time.AfterFunc(bootTimeout, kill)
	defer bootTimer.Stop()
	code, ended := follow(results, func() { bootTimer.Stop() })

	powerOff := time.AfterFunc(powerOffTimeout, kill)
	defer powerOff.Stop()
	waitErr := cmd.Wait()
	switch {
	case ended: // how the emulator ends after the exit line does not matter
		return code, nil
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return 1, errors.New("the tests did not end in time")
	case waitErr != nil:
		return 1, fmt.Errorf("%w: %w", errDied, waitErr)
	default:
		return 1, errDied
	}
}

// follow copies the guest's lines to standard output up to the exit line. ended is
// false if there was none.
func follow(results io.Reader, started func()) (code int, ended bool) {
	lines := bufio.NewReader(results)
	for {
		line, err := lines.ReadString('\n')
		fmt.Print(line)
		line = strings.TrimSuffix(line, "\n")
		if line == guest.Started {
			started()
		}
		if code, ok := guest.ParseExit(line); ok {
			return code, true
		}
		if err != nil {
			return 1, false
		}
	}
}

// tail returns the last lines of the console, as far as there is one.
func tail(console string) string {
	raw, err := os.ReadFile(console)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(raw), "\r", "")), "\n")
	return strings.Join(lines[max(0, len(lines)-consoleTail):], "\n")
}
