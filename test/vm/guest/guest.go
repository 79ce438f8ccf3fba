// Package guest is what the VM runner and the guest's PID 1 agree on: the jobs in
// the initramfs and the lines that come back on the second serial port.
package guest

import "fmt"

const (
	// ManifestPath is where the initramfs holds the Manifest, as JSON.
	ManifestPath = "/manifest.json"
	// Started is the first line of PID 1. Without it the guest did not boot.
	Started = "VM started"

	exitFormat = "VM exit=%d"
)

// Manifest lists what PID 1 runs, in order.
type Manifest struct {
	// Env is the environment of every job, KEY=value.
	Env  []string
	Jobs []Job
}

// Job is one program.
type Job struct {
	// Name is the package that the closing line names.
	Name string
	Path string
	Args []string
	// Dir is the working directory; it holds the package's testdata.
	Dir string
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
