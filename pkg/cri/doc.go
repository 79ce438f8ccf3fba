// Package cri asks the container runtime, over the Container Runtime Interface v1, where
// images and writable layers lie and how large those layers are, and has it remove dead
// containers and unused images: the kubelet's node-level reclaim before any pod. It is for
// the disk process alone; nothing that guards memory or pids waits for a runtime.
package cri
