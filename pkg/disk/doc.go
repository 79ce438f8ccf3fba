// Package disk turns directories, quotas and the container runtime's statistics into each
// workload's disk figures with their age. It walks what it must within a share of a CPU,
// looks first where most is written, and is off every hot path: a process of its own runs it.
package disk
