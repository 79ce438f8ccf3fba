// Package workload finds who could be evicted: units below the configured roots, named by
// the cgroup tree, with what the workload table adds. It reads directories and text, so it
// runs off the hot path.
package workload
