package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// summarize turns signals into the summary they would be observed from. The pods' part
// comes from pods.go.
func summarize(signals Signals, pods []statsapi.PodStats) *statsapi.Summary {
	s := &statsapi.Summary{Pods: pods}
	if o, ok := signals["memory.available"]; ok {
		s.Node.Memory = memoryStats(o)
	}
	if o, ok := signals["allocatableMemory.available"]; ok {
		s.Node.SystemContainers = []statsapi.ContainerStats{{Name: statsapi.SystemContainerPods, Memory: memoryStats(o)}}
	}
	s.Node.Fs = fsStats(signals, "nodefs")
	s.Node.Runtime = &statsapi.RuntimeStats{
		ImageFs:     fsStats(signals, "imagefs"),
		ContainerFs: fsStats(signals, "containerfs"),
	}
	if o, ok := signals["pid.available"]; ok {
		s.Node.Rlimit = rlimitStats(o)
	}
	return s
}

// memoryStats: the kubelet adds capacity up from what is available and the working set. The
// sum wraps, so a negative available comes out as it went in.
func memoryStats(o Observation) *statsapi.MemoryStats {
	m := &statsapi.MemoryStats{Time: stamp(o), AvailableBytes: unsigned(o.AvailableBytes)}
	if o.AvailableBytes != nil && o.CapacityBytes != nil {
		used := *o.CapacityBytes - *o.AvailableBytes
		m.WorkingSetBytes = unsigned(&used)
	}
	return m
}

// fsStats joins bytes and inodes of a filesystem, which have one stamp.
func fsStats(signals Signals, fs string) *statsapi.FsStats {
	bytes, hasBytes := signals[fs+".available"]
	inodes, hasInodes := signals[fs+".inodesFree"]
	if !hasBytes && !hasInodes {
		return nil
	}
	f := &statsapi.FsStats{Time: stamp(bytes)}
	if !hasBytes {
		f.Time = stamp(inodes)
	}
	f.AvailableBytes, f.CapacityBytes = unsigned(bytes.AvailableBytes), unsigned(bytes.CapacityBytes)
	f.InodesFree, f.Inodes = unsigned(inodes.Available), unsigned(inodes.Capacity)
	return f
}

func rlimitStats(o Observation) *statsapi.RlimitStats {
	r := &statsapi.RlimitStats{Time: stamp(o), MaxPID: o.Capacity}
	if o.Available != nil && o.Capacity != nil {
		running := *o.Capacity - *o.Available
		r.NumOfRunningProcesses = &running
	}
	return r
}

func stamp(o Observation) metav1.Time {
	if o.Time == nil {
		return metav1.Time{}
	}
	return metav1.NewTime(*o.Time)
}

func unsigned(p *int64) *uint64 {
	if p == nil {
		return nil
	}
	u := uint64(*p)
	return &u
}
