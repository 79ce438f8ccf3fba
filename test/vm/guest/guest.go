// Package guest is what the VM runner and the guest's PID 1 agree on: the jobs in
// the initramfs, the lines that come back on the second serial port, and the clock on
// the console.
package guest

import (
	"fmt"
	"math"
	"strings"
	"time"
)

const (
	// ManifestPath is where the initramfs holds the Manifest, as JSON.
	ManifestPath = "/manifest.json"
	// SkipVariable, given on the kernel's command line, reaches PID 1 as an environment
	// variable: how many jobs an earlier boot has finished.
	SkipVariable = "VM_SKIP"
	// CompressedModule ends the name of a module that the kernel decompresses itself.
	CompressedModule = ".xz"
	// ClockInterval is how often PID 1 shows on the console that user space runs.
	ClockInterval = 5 * time.Second

	clockFormat = "VM clock=%ds"
	exitFormat  = "VM exit=%d"
	passed      = "ok  "
	failed      = "FAIL"
)

// Manifest lists what PID 1 runs, in order.
type Manifest struct {
	// Env is the environment of every job, KEY=value.
	Env []string
	// Modules are files of the kernel's modules to load before; one that needs another comes behind it.
	Modules []string
	Jobs    []Job
}

// Job is one program.
type Job struct {
	// Name is the package that the closing line names.
	Name string
	Path string
	Args []string
	// Dir is the working directory; it holds the package's testdata.
	Dir string
	// Quiet leaves standard error to the console.
	Quiet bool
}

// ExitLine is the last line of a guest that ran all its jobs; 0 says all passed.
func ExitLine(code int) string {
	return fmt.Sprintf(exitFormat, code)
}

// ParseExit returns the code of an ExitLine; ok is false for every other line.
func ParseExit(line string) (code int, ok bool) {
	_, err := fmt.Sscanf(line, exitFormat, &code)
	return code, err == nil && line == ExitLine(code)
}

// DoneLine closes a job as `go test` closes a package.
func DoneLine(name string, pass bool, took time.Duration) string {
	verdict := failed
	if pass {
		verdict = passed
	}
	return fmt.Sprintf("%s\t%s\t%.3fs", verdict, name, took.Seconds())
}

// ParseDone returns the verdict of a DoneLine of this job; ok is false for every other line.
func ParseDone(line, name string) (pass, ok bool) {
	fields := strings.Split(line, "\t")
	if len(fields) != 3 || fields[1] != name {
		return false, false
	}
	return fields[0] == passed, fields[0] == passed || fields[0] == failed
}

// ClockLine says how long the guest has run, rounded up: never zero.
func ClockLine(uptime time.Duration) string {
	return fmt.Sprintf(clockFormat, int(math.Ceil(uptime.Seconds())))
}

// ParseClock returns the time of a ClockLine; ok is false for every other line.
func ParseClock(line string) (uptime time.Duration, ok bool) {
	var seconds int
	_, err := fmt.Sscanf(line, clockFormat, &seconds)
	uptime = time.Duration(seconds) * time.Second
	return uptime, err == nil && line == ClockLine(uptime)
}
