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
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

const (
	// attempts bounds how often a guest that died without a result is booted.
	attempts = 3
	// stallTimeout is how long the guest's clock may stand still, or not appear at all:
	// 30 times what a boot takes under TCG on an idle machine.
	stallTimeout = 3 * time.Minute
	// powerOffTimeout is how long the emulator may take to end after the exit line.
	powerOffTimeout = 20 * time.Second
	// consoleTail is how many of the console's last lines are shown after a death.
	consoleTail = 40

	initrdName = "initrd"

	// diskBytes is of a sparse file; guestDisk is what the guest calls it.
	diskBytes = 256 << 20
	guestDisk = "/dev/nvme0n1"
)

// errDied says that the guest ended, never came up or stood still, without an exit line:
// the emulator's death or a kernel panic, not a failed test.
var errDied = errors.New("the guest died")

// machine is a guest that can be booted.
type machine struct {
	kernel string
	dir    string   // holds the initramfs and the console's output
	kvm    bool     // else emulated by TCG
	icount bool     // the guest's clock counts instructions, one a nanosecond
	cx16   bool     // the emulated CPU has cmpxchg16b
	memory []string // QEMU's arguments
	append string   // more of the kernel's command line
}

func (m machine) console() string { return filepath.Join(m.dir, "console") }

// disk makes the guest's one disk, of zeros: its files are all in memory, and without a disk
// it has no page cache that can be reclaimed. Debian's cloud kernels have NVMe built in.
func (m machine) disk() ([]string, error) {
	name := filepath.Join(m.dir, "disk")
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return []string{"-drive", "if=none,id=disk,format=raw,file=" + name, "-device", "nvme,serial=1,drive=disk"},
		errors.Join(f.Truncate(diskBytes), f.Close())
}

func (m machine) String() string {
	accelerator := "emulated"
	if m.icount {
		accelerator += ", counting instructions"
	}
	if m.kvm {
		accelerator = "KVM"
	}
	return fmt.Sprintf("%s (%s)", strings.TrimPrefix(filepath.Base(m.kernel), "vmlinuz-"), accelerator)
}

// hasKVM: may be used. Whether it works shows at the first boot.
func hasKVM() bool {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return kvm.Close() == nil
}

// repeatable makes a boot the same as the last one: an idle CPU skips to its next timer, and
// neither the host's clock nor its random numbers come in.
var repeatable = []string{"-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", "1"}

// qemuArgs: TCG kills guests now and then, less often with one CPU and without cx16: QEMU
// 7.2 lost none of 28.
func (m machine) qemuArgs(skip int) []string {
	cpu := []string{"-accel", "tcg", "-cpu", "max", "-smp", "1"}
	if !m.cx16 {
		cpu[3] += ",-cx16"
	}
	if m.kvm {
		cpu = []string{"-accel", "kvm", "-cpu", "host", "-smp", "2"}
	}
	cmdline := "console=ttyS0 quiet panic=-1 psi=1 cgroup_no_v1=all mitigations=off nokaslr " +
		"tsc=reliable no_timer_check random.trust_cpu=on "
	if m.icount {
		cpu = append(cpu, repeatable...)
		cmdline += "norandmaps "
	}
	return append(append(cpu, m.memory...),
		"-nodefaults", "-display", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:"+m.console(), "-serial", "stdio",
		"-kernel", m.kernel, "-initrd", filepath.Join(m.dir, initrdName),
		"-append", cmdline+guest.SkipVariable+"="+strconv.Itoa(skip)+" "+m.append)
}

// memoryArgs give the guest its memory. Its first CPU belongs to the first NUMA node; a node
// of 0 MiB is there and has no memory.
func memoryArgs(numa string) ([]string, error) {
	if numa == "" {
		return []string{"-m", "2G"}, nil
	}
	var args []string
	total := 0
	for i, text := range strings.Split(numa, ",") {
		mib, err := strconv.Atoi(text)
		if err != nil || mib < 0 {
			return nil, fmt.Errorf("-numa: %q is no number of MiB", text)
		}
		node := fmt.Sprintf("node,nodeid=%d", i)
		if i == 0 {
			node += ",cpus=0"
		}
		if mib > 0 {
			args = append(args, "-object", fmt.Sprintf("memory-backend-ram,id=m%d,size=%dM", i, mib))
			node += fmt.Sprintf(",memdev=m%d", i)
		}
		args = append(args, "-numa", node)
		total += mib
	}
	return append([]string{"-m", fmt.Sprintf("%dM", total)}, args...), nil
}

// report is what the guest has said, over all its boots.
type report struct {
	jobs   []string
	done   int  // jobs that have a verdict
	failed bool // one of them, or what started them
	ended  bool // the exit line came
	// said is what the job without a verdict has said in this boot, or the last one.
	said strings.Builder
}

func (r *report) code() int {
	if r.failed {
		return 1
	}
	return 0
}

// read takes a line of the guest.
func (r *report) read(line string) {
	if r.done < len(r.jobs) {
		if pass, ok := guest.ParseDone(line, r.jobs[r.done]); ok {
			r.done++
			r.failed = r.failed || !pass
		} else {
			r.said.WriteString(line + "\n")
		}
	}
	if code, ok := guest.ParseExit(line); ok {
		r.ended = true
		r.failed = r.failed || code != 0
	}
}

// runAll boots the guest until all jobs have a verdict and returns the exit code. After a
// death it says so and boots again, for the jobs that are left.
func runAll(ctx context.Context, vm machine, r *report) (int, error) {
	jobs := r.jobs
	for attempt := 1; ; attempt++ {
		fmt.Printf("VM boots %s, attempt %d of %d, %d of %d packages to run\n", vm, attempt, attempts, len(jobs)-r.done, len(jobs))
		err := vm.boot(ctx, r)
		switch {
		case err == nil:
			if attempt > 1 {
				fmt.Printf("VM ended at attempt %d: the guest died %d times before\n", attempt, attempt-1)
			}
			return r.code(), nil
		case !errors.Is(err, errDied):
			return 1, err
		case vm.kvm && bootedFor(vm.console()) == 0:
			fmt.Printf("VM: KVM does not work here: %v\n", err)
			vm.kvm = false
			attempt--
			continue
		}
		fmt.Printf("VM attempt %d of %d: %v; the console ended with:\n%s\n", attempt, attempts, err, tail(vm.console()))
		if attempt == attempts {
			return 1, fmt.Errorf("no verdict on %s: %w", strings.Join(jobs[r.done:], " "), err)
		}
	}
}

// boot runs the guest once and copies what it reports to standard output.
func (m machine) boot(ctx context.Context, r *report) error {
	// The console of an earlier boot has nothing to say about this one.
	if err := os.Remove(m.console()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	args := m.qemuArgs(r.done)
	if !m.icount { // what is counted is nothing of a disk
		disk, err := m.disk()
		if err != nil {
			return err
		}
		args = append(args, disk...)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.Stderr = os.Stderr
	// The emulator must not outlive a runner that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	results, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}

	r.said.Reset()
	go watchClock(ctx, m.console(), kill)
	follow(results, r)
	powerOff := time.AfterFunc(powerOffTimeout, func() { kill(errors.New("it did not power off")) })
	defer powerOff.Stop()
	waitErr := cmd.Wait()
	switch {
	case r.ended: // how the emulator ends after the exit line does not matter
		return nil
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return errors.New("the tests did not end in time")
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	}
	return fmt.Errorf("%w: %s", errDied, causeOfDeath(m.console(), context.Cause(ctx), waitErr))
}

// follow copies the guest's lines to standard output up to the exit line, if there is one.
func follow(results io.Reader, r *report) {
	lines := bufio.NewReader(results)
	for !r.ended {
		line, err := lines.ReadString('\n')
		fmt.Print(line)
		r.read(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return
		}
	}
}

// watchClock ends a guest whose clock stands still on the console.
func watchClock(ctx context.Context, console string, kill context.CancelCauseFunc) {
	ticker := time.NewTicker(guest.ClockInterval)
	defer ticker.Stop()
	var last time.Duration
	moved := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := bootedFor(console); now > last {
			last, moved = now, time.Now()
		}
		switch stood := time.Since(moved).Round(time.Second); {
		case stood < stallTimeout:
		case last == 0:
			kill(fmt.Errorf("no first line of PID 1 in %s", stood))
			return
		default:
			kill(fmt.Errorf("its clock has stood at %s for %s", last, stood))
			return
		}
	}
}

// bootedFor returns the guest's last clock on the console, zero if there was none.
func bootedFor(console string) time.Duration {
	lines, _ := readConsole(console) // none yet
	var last time.Duration
	for _, line := range lines {
		if uptime, ok := guest.ParseClock(line); ok {
			last = max(last, uptime)
		}
	}
	return last
}

// panics are how a kernel says that it cannot go on.
var panics = regexp.MustCompile(`Kernel panic - not syncing|BUG: |Oops: |general protection fault`)

// causeOfDeath prefers the guest kernel's own words, then why it was killed here, then
// how the emulator ended.
func causeOfDeath(console string, killed, ended error) string {
	lines, _ := readConsole(console)
	for _, line := range lines {
		if panics.MatchString(line) {
			return strings.TrimSpace(line)
		}
	}
	switch {
	case killed != nil:
		return killed.Error()
	case ended != nil:
		return "the emulator ended: " + ended.Error()
	}
	return "the emulator ended without a result"
}

// tail returns the last lines of the console but for the clock.
func tail(console string) string {
	lines, err := readConsole(console)
	if err != nil {
		return err.Error()
	}
	var kept []string
	for _, line := range lines {
		if _, ok := guest.ParseClock(line); !ok {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-consoleTail):], "\n")
}

func readConsole(console string) ([]string, error) {
	raw, err := os.ReadFile(console)
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(string(raw), "\r", "")), "\n"), nil
}
