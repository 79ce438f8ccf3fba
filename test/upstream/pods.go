package main

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	kubelettypes "k8s.io/kubernetes/pkg/kubelet/types"
)

// A snapshot tells what the kubelet works out (a pod's request, its usage), the kubelet wants
// what it works that out from (containers, volumes). What the snapshot's containers and
// volumes don't account for goes to these, whose names no message ever holds.
const (
	restContainer = "oracle-rest"    // in the stats, not in the spec
	restInit      = "oracle-init"    // in the spec, not in the stats
	restVolume    = "oracle-volumes" // a configMap
)

// podsOf builds the pods of a snapshot and the stats of those that have any.
func podsOf(workloads []Workload) ([]*v1.Pod, []statsapi.PodStats, error) {
	var pods []*v1.Pod
	var stats []statsapi.PodStats
	for i := range workloads {
		w := &workloads[i]
		pod, err := podOf(w)
		if err != nil {
			return nil, nil, fmt.Errorf("workload %s: %w", w.UID, err)
		}
		pods = append(pods, pod)
		s, known, err := statsOf(w)
		if err != nil {
			return nil, nil, fmt.Errorf("workload %s: %w", w.UID, err)
		}
		if known {
			stats = append(stats, s)
		}
	}
	return pods, stats, nil
}

func podOf(w *Workload) (*v1.Pod, error) {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			UID: types.UID(w.UID), Namespace: w.Namespace, Name: w.Name, Annotations: map[string]string{},
		},
		Spec: v1.PodSpec{
			Priority:                      w.Priority,
			TerminationGracePeriodSeconds: w.TerminationGracePeriodSeconds,
		},
	}
	pod.Annotations[kubelettypes.ConfigSourceAnnotationKey] = kubelettypes.ApiserverSource
	if w.Static {
		pod.Annotations[kubelettypes.ConfigSourceAnnotationKey] = kubelettypes.FileSource
	}
	if w.Mirror {
		pod.Annotations[kubelettypes.ConfigMirrorAnnotationKey] = "hash"
	}
	if w.Memory != nil && w.Memory.PodLevelRequestBytes != nil {
		pod.Spec.Resources = &v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceMemory: *binary(*w.Memory.PodLevelRequestBytes)},
		}
	}
	for _, v := range w.Volumes {
		dir := &v1.EmptyDirVolumeSource{Medium: v1.StorageMedium(v.Medium)}
		if v.SizeLimitBytes != nil {
			dir.SizeLimit = binary(*v.SizeLimitBytes)
		}
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: v.Name, VolumeSource: v1.VolumeSource{EmptyDir: dir}})
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: restVolume,
		VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}})
	return pod, addContainers(&pod.Spec, w)
}

// totals are what a pod's containers have to add up to.
type totals struct {
	memory, storage int64
	// limit is nil when no container has a limit.
	limit *int64
	// anyMemory: the pod-level request replaces the sum.
	anyMemory bool
}

// addContainers splits the snapshot's containers into app and init containers, so that the
// pod's totals come out: Σ app or the largest init container, whichever is more. The split
// with the fewest init containers that works is taken; an init container of our own fills
// up what is missing.
func addContainers(spec *v1.PodSpec, w *Workload) error {
	var want totals
	if w.Memory != nil {
		want.memory, want.anyMemory = val(w.Memory.RequestBytes), w.Memory.PodLevelRequestBytes != nil
	}
	if w.EphemeralStorage != nil {
		want.storage, want.limit = val(w.EphemeralStorage.RequestBytes), w.EphemeralStorage.LimitBytes
	}
	for split := range 1 << len(w.Containers) {
		if !want.reachable(w.Containers, split) {
			continue
		}
		for i, c := range w.Containers {
			container := v1.Container{Name: c.Name, Resources: resourcesOf(c)}
			if split&(1<<i) == 0 {
				spec.Containers = append(spec.Containers, container)
			} else {
				spec.InitContainers = append(spec.InitContainers, container)
			}
		}
		spec.InitContainers = append(spec.InitContainers, want.filler())
		return nil
	}
	return fmt.Errorf("no split into app and init containers makes its requests and limit: %+v", want)
}

// reachable reports whether the containers, those in split as init containers, stay within
// the totals.
func (t totals) reachable(containers []Container, split int) bool {
	var sum, largest [3]int64
	for i, c := range containers {
		limit := val(c.EphemeralStorageLimitBytes)
		each := [3]int64{val(c.MemoryRequestBytes), val(c.EphemeralStorageRequestBytes), limit}
		if split&(1<<i) == 0 {
			for j := range each {
				sum[j] += each[j]
			}
			continue
		}
		if limit != 0 {
			return false // the kubelet enforces no limit of an init container
		}
		for j := range each {
			largest[j] = max(largest[j], each[j])
		}
	}
	total := [3]int64{max(sum[0], largest[0]), max(sum[1], largest[1]), max(sum[2], largest[2])}
	return (total[0] <= t.memory || t.anyMemory) && total[1] <= t.storage && total[2] <= val(t.limit)
}

func (t totals) filler() v1.Container {
	c := v1.Container{Name: restInit, Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
		v1.ResourceMemory:           *binary(t.memory),
		v1.ResourceEphemeralStorage: *binary(t.storage),
	}}}
	if t.limit != nil {
		c.Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: *binary(*t.limit)}
	}
	return c
}

func resourcesOf(c Container) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	if c.MemoryRequestBytes != nil {
		r.Requests[v1.ResourceMemory] = *binary(*c.MemoryRequestBytes)
	}
	if c.EphemeralStorageRequestBytes != nil {
		r.Requests[v1.ResourceEphemeralStorage] = *binary(*c.EphemeralStorageRequestBytes)
	}
	if val(c.EphemeralStorageLimitBytes) != 0 {
		r.Limits[v1.ResourceEphemeralStorage] = *binary(*c.EphemeralStorageLimitBytes)
	}
	return r
}

// statsOf returns false for a workload without any usage figure, which the summary then
// does not name.
func statsOf(w *Workload) (statsapi.PodStats, bool, error) {
	s := statsapi.PodStats{PodRef: statsapi.PodReference{UID: w.UID, Namespace: w.Namespace, Name: w.Name}}
	known := w.Processes != nil || w.Tasks != nil
	if w.Processes != nil {
		s.ProcessStats = &statsapi.ProcessStats{ProcessCount: unsigned(w.Processes)}
	}
	if w.Memory != nil && w.Memory.WorkingSetBytes != nil {
		known = true
		s.Memory = &statsapi.MemoryStats{WorkingSetBytes: unsigned(w.Memory.WorkingSetBytes)}
	}

	// What is left of the pod's figures after its containers and volumes had theirs.
	var storage EphemeralStorage
	if w.EphemeralStorage != nil {
		storage = *w.EphemeralStorage
	}
	used := storage.UsedBytes
	if used == nil && (storage.RootfsBytes != nil || storage.LogsBytes != nil || storage.LocalVolumesBytes != nil) {
		sum := val(storage.RootfsBytes) + val(storage.LogsBytes) + val(storage.LocalVolumesBytes)
		used = &sum
	}
	if used != nil {
		known = true
		s.EphemeralStorage = &statsapi.FsStats{UsedBytes: unsigned(used)}
	}
	rootfs, logs, volumes := val(storage.RootfsBytes), val(storage.LogsBytes), val(storage.LocalVolumesBytes)
	for _, c := range w.Containers {
		cs := containerStats(c)
		known = known || cs.Memory != nil || cs.Rootfs != nil || cs.Logs != nil
		rootfs -= val(c.RootfsBytes)
		logs -= val(c.LogsBytes)
		s.Containers = append(s.Containers, cs)
	}
	for _, v := range w.Volumes {
		if v.UsedBytes == nil {
			continue // the kubelet has no entry without this figure
		}
		known = true
		if v.Medium == "" {
			volumes -= *v.UsedBytes
		}
		s.VolumeStats = append(s.VolumeStats, statsapi.VolumeStats{Name: v.Name,
			FsStats: statsapi.FsStats{UsedBytes: unsigned(v.UsedBytes)}})
	}
	if rootfs < 0 || logs < 0 || volumes < 0 {
		return s, known, fmt.Errorf("containers or volumes use more than the pod: rootfs %d, logs %d, volumes %d", rootfs, logs, volumes)
	}

	var inodes Inodes
	if w.Inodes != nil {
		inodes = *w.Inodes
	}
	known = known || inodes != Inodes{}
	s.Containers = append(s.Containers, statsapi.ContainerStats{
		Name:   restContainer,
		Rootfs: &statsapi.FsStats{UsedBytes: unsigned(&rootfs), InodesUsed: unsigned(inodes.Rootfs)},
		Logs:   &statsapi.FsStats{UsedBytes: unsigned(&logs), InodesUsed: unsigned(inodes.Logs)},
	})
	s.VolumeStats = append(s.VolumeStats, statsapi.VolumeStats{Name: restVolume,
		FsStats: statsapi.FsStats{UsedBytes: unsigned(&volumes), InodesUsed: unsigned(inodes.LocalVolumes)}})
	return s, known, nil
}

func containerStats(c Container) statsapi.ContainerStats {
	s := statsapi.ContainerStats{Name: c.Name}
	if c.MemoryWorkingSetBytes != nil {
		s.Memory = &statsapi.MemoryStats{WorkingSetBytes: unsigned(c.MemoryWorkingSetBytes)}
	}
	if c.RootfsBytes != nil {
		s.Rootfs = &statsapi.FsStats{UsedBytes: unsigned(c.RootfsBytes)}
	}
	if c.LogsBytes != nil {
		s.Logs = &statsapi.FsStats{UsedBytes: unsigned(c.LogsBytes)}
	}
	return s
}

func binary(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }
