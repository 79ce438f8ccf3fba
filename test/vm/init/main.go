// Command init is PID 1 of the test VM: it mounts what a Linux system mounts, runs
// the jobs of the manifest, reports on the second serial port and powers off. On the
// console, the first port, it shows its clock.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

// resultsPort is the second serial port; the first is the kernel's console.
const resultsPort = "/dev/ttyS1"

func main() {
	if err := run(); err != nil {
		fmt.Println("init:", err) // on the console: the results port may be what is missing
	}
	// PID 1 must not return, the kernel would panic; if this fails the host's deadline ends the VM.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// run reports on the results port. An error means that the jobs could not be
// started or reported; the host then sees no exit line.
func run() error {
	go showClock()
	if err := mountAll(); err != nil {
		return err
	}
	results, err := openResults()
	if err != nil {
		return err
	}
	code, err := runJobs(results)
	if err != nil {
		fmt.Fprintln(results, "init:", err)
		code = 1
	}
	fmt.Fprintln(results, guest.ExitLine(code))
	return drain(results)
}

// showClock tells the host that user space runs, whatever the job does.
func showClock() {
	for {
		var uptime unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &uptime); err != nil {
			fmt.Println("init: read clock:", err)
			return
		}
		fmt.Println(guest.ClockLine(time.Duration(uptime.Nano())))
		time.Sleep(guest.ClockInterval)
	}
}

func runJobs(results *os.File) (int, error) {
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	if err := delegateControllers(); err != nil {
		return 0, err
	}
	raw, err := os.ReadFile(guest.ManifestPath)
	if err != nil {
		return 0, err
	}
	var manifest guest.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return 0, fmt.Errorf("parse %s: %w", guest.ManifestPath, err)
	}
	if err := loadModules(manifest.Modules); err != nil {
		return 0, err
	}
	skip, err := strconv.Atoi(cmp.Or(os.Getenv(guest.SkipVariable), "0"))
	if err != nil || skip < 0 || skip > len(manifest.Jobs) {
		return 0, fmt.Errorf("%s=%q: want the number of finished jobs", guest.SkipVariable, os.Getenv(guest.SkipVariable))
	}

	code := 0
	for _, job := range manifest.Jobs[skip:] {
		passed, err := runJob(job, manifest.Env, results)
		if err != nil {
			return 0, err
		}
		if !passed {
			code = 1
		}
	}
	return code, nil
}

// runJob runs one job and ends with its closing line.
func runJob(job guest.Job, env []string, results *os.File) (bool, error) {
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return false, err
	}
	defer stdin.Close()

	complaints := results
	if job.Quiet {
		complaints = os.Stderr
	}
	start := time.Now()
	process, err := os.StartProcess(job.Path, append([]string{job.Path}, job.Args...), &os.ProcAttr{
		Dir:   job.Dir,
		Env:   env,
		Files: []*os.File{stdin, results, complaints},
	})
	if err != nil {
		return false, err
	}
	status, err := reapUntil(process.Pid)
	if err != nil {
		return false, fmt.Errorf("wait for %s: %w", job.Name, err)
	}
	if status.Signaled() {
		fmt.Fprintln(results, "signal:", status.Signal())
	}
	passed := status.ExitStatus() == 0
	fmt.Fprintln(results, guest.DoneLine(job.Name, passed, time.Since(start)))
	return passed, nil
}

// reapUntil reaps every child, orphans of the tests included, until pid is reaped.
// Nothing else here may wait for a child, or the two would steal from each other.
func reapUntil(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		reaped, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case reaped == pid:
			return status, nil
		}
	}
}

// openResults opens the results port as a plain byte stream: no carriage returns
// added, nothing echoed.
func openResults() (*os.File, error) {
	port, err := os.OpenFile(resultsPort, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	termios, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("get mode of %s: %w", resultsPort, err)
	}
	termios.Oflag &^= unix.OPOST
	termios.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, termios); err != nil {
		return nil, fmt.Errorf("set mode of %s: %w", resultsPort, err)
	}
	return port, nil
}

// drain waits until the port has sent everything (tcdrain): a power-off would cut it.
func drain(port *os.File) error {
	return unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1)
}
