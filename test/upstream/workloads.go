package main

import (
	"fmt"
	"slices"
)

// spec is a workload without usage, and what a snapshot doesn't tell.
type spec struct {
	Workload
	// init marks the containers that are init containers.
	init []bool
	// twin is the index of the workload whose usage it has too, or -1.
	twin int
}

func (g *generator) specs() []spec {
	var specs []spec
	allCritical := g.chance(g.allCritical)
	for i := range g.between(g.workloads) {
		s := g.spec(i)
		if i > 0 && g.chance(g.twins) {
			s = g.twin(s, specs[i-1], i-1)
		}
		if allCritical && !s.Static && !s.Mirror {
			s.Priority = ptr(pick(g, int32(2000000000), 2000001000))
		}
		specs = append(specs, s)
	}
	return specs
}

// twin ties with another workload in everything but its identity.
func (g *generator) twin(s, of spec, index int) spec {
	same := of
	same.UID, same.Name, same.Namespace, same.Cgroup = s.UID, s.Name, s.Namespace, s.Cgroup
	same.twin = index
	return same
}

func (g *generator) spec(i int) spec {
	s := spec{twin: -1}
	s.UID = fmt.Sprintf("%08x-%04x", g.Uint32(), i)
	s.Namespace = pick(g, "default", "shop", "batch", "kube-system")
	s.Name = fmt.Sprintf("%s-%d", pick(g, "web", "db", "cache", "job", "agent"), i)
	s.Volumes, s.Containers = []Volume{}, []Container{}
	if g.chance(0.75) {
		s.Priority = ptr(pick(g, int32(0), 0, 10, 10, -5, 1000, 1000000, 1000000000, 1999999999))
	}
	if g.chance(g.critical) {
		switch g.IntN(4) {
		case 0:
			s.Static = true
		case 1:
			s.Mirror = true
		default:
			s.Priority = ptr(pick(g, int32(2000000000), 2000001000))
		}
	}
	if g.chance(0.8) {
		s.TerminationGracePeriodSeconds = ptr(pick(g, int64(30), 30, 0, 1, 10, 120, 3600))
	}
	g.containers(&s)
	g.volumes(&s)
	g.total(&s)
	s.QOSClass = "BestEffort"
	if *s.Memory.RequestBytes > 0 {
		s.QOSClass = "Burstable"
	}
	s.Cgroup = fmt.Sprintf("/kubepods/%s/pod%s", map[string]string{"BestEffort": "besteffort", "Burstable": "burstable"}[s.QOSClass], s.UID)
	return s
}

func (g *generator) containers(s *spec) {
	names := []string{"app", "sidecar", "log-shipper"}
	for _, name := range names[:pick(g, 1, 1, 1, 2, 2, 3)] {
		c := Container{Name: name}
		if g.chance(0.6) {
			c.MemoryRequestBytes = ptr(pick(g, int64(64<<20), 100<<20, 128<<20, 200_000_000, 1<<30, 1536<<20, 0))
		}
		if g.chance(0.4) {
			c.EphemeralStorageRequestBytes = ptr(pick(g, int64(50<<20), 1<<30, 500_000_000, 10<<20, 0))
		}
		isInit := len(s.init) > 0 && g.chance(0.2)
		if !isInit && g.chance(g.limits) {
			c.EphemeralStorageLimitBytes = ptr(pick(g, int64(100<<20), 1<<30, 2_000_000_000, 64<<20, 0))
		}
		s.Containers = append(s.Containers, c)
		s.init = append(s.init, isInit)
	}
}

func (g *generator) volumes(s *spec) {
	for _, name := range []string{"scratch", "shm"} {
		if !g.chance(0.2 + 0.3*g.limits) {
			continue
		}
		v := Volume{Name: name}
		if name == "shm" {
			v.Medium = "Memory"
		}
		if g.chance(g.limits) {
			v.SizeLimitBytes = ptr(pick(g, int64(10<<20), 100<<20, 1<<30, 1_000_000, 0))
		}
		s.Volumes = append(s.Volumes, v)
	}
}

// total adds the containers up as the kubelet does: Σ app, or the largest init container.
func (g *generator) total(s *spec) {
	var memory, storage, limit, initMemory, initStorage int64
	limited := false
	for i, c := range s.Containers {
		if s.init[i] {
			initMemory, initStorage = max(initMemory, val(c.MemoryRequestBytes)), max(initStorage, val(c.EphemeralStorageRequestBytes))
			continue
		}
		memory += val(c.MemoryRequestBytes)
		storage += val(c.EphemeralStorageRequestBytes)
		limit += val(c.EphemeralStorageLimitBytes)
		limited = limited || c.EphemeralStorageLimitBytes != nil
	}
	memory, storage = max(memory, initMemory), max(storage, initStorage)
	if g.chance(0.1) { // an init container that is not in the snapshot
		memory += pick(g, int64(32<<20), 512<<20)
	}
	s.Memory = &Memory{RequestBytes: &memory}
	s.EphemeralStorage = &EphemeralStorage{RequestBytes: &storage}
	if limited {
		if g.chance(0.5) { // an init container that is not in the snapshot
			limit += pick(g, int64(1<<30), 8<<30)
		}
		s.EphemeralStorage.LimitBytes = &limit
	}
	if g.chance(g.podLevel) {
		request := pick(g, memory, memory+64<<20, 256<<20, 2<<30)
		s.Memory = &Memory{RequestBytes: ptr(request), PodLevelRequestBytes: ptr(request)}
	}
}

// use gives the workloads usage figures.
func (g *generator) use(specs []spec) []Workload {
	out := make([]Workload, len(specs))
	for i, s := range specs {
		if s.twin >= 0 && s.twin < i && specs[s.twin].Name != s.Name {
			out[i] = sameUsage(s.Workload, out[s.twin])
			continue
		}
		out[i] = g.usage(s)
	}
	return out
}

// sameUsage is a twin, if what it is a twin of is still there.
func sameUsage(w, of Workload) Workload {
	if len(w.Containers) != len(of.Containers) || len(w.Volumes) != len(of.Volumes) {
		return w
	}
	of.UID, of.Name, of.Namespace, of.Cgroup = w.UID, w.Name, w.Namespace, w.Cgroup
	return of
}

func (g *generator) usage(s spec) Workload {
	w := s.Workload
	w.Memory, w.EphemeralStorage = ptr(*s.Memory), ptr(*s.EphemeralStorage)
	w.Containers, w.Volumes = slices.Clone(s.Containers), slices.Clone(s.Volumes)
	if g.chance(g.noStats) {
		if g.chance(0.5) {
			w.Containers, w.Volumes = []Container{}, []Volume{}
		}
		return w
	}
	g.memoryUsage(&w)
	g.storageUsage(&w)
	w.Processes = ptr(g.logUniform(1, 500))
	if g.chance(0.15) {
		w.Processes = ptr(int64(4))
	}
	w.Tasks = ptr(*w.Processes * int64(1+g.IntN(8)))
	if g.chance(g.noFigure) {
		g.forget(&w)
	}
	return w
}

// memoryUsage lies around the requests: below, at, just above, far above.
func (g *generator) memoryUsage(w *Workload) {
	var sum int64
	for i := range w.Containers {
		c := &w.Containers[i]
		c.MemoryWorkingSetBytes = ptr(g.around(val(c.MemoryRequestBytes)))
		sum += *c.MemoryWorkingSetBytes
	}
	if g.chance(0.6) { // the sandbox, and what is charged to the pod alone
		sum += g.logUniform(1<<12, 1<<24) &^ 4095
	}
	if g.chance(0.15) {
		sum = g.around(*w.Memory.RequestBytes)
	}
	w.Memory.WorkingSetBytes = &sum
}

func (g *generator) around(request int64) int64 {
	switch g.IntN(6) {
	case 0:
		return request
	case 1:
		return request + 1
	case 2:
		return request + g.logUniform(1<<12, 1<<31)&^4095
	case 3:
		return request / 2
	}
	return g.logUniform(1<<16, 1<<31) &^ 4095
}

func (g *generator) storageUsage(w *Workload) {
	var rootfs, logs, volumes int64
	for i := range w.Containers {
		c := &w.Containers[i]
		c.LogsBytes = ptr(g.logUniform(1<<12, 1<<28) &^ 4095)
		c.RootfsBytes = ptr(g.logUniform(1<<12, 1<<30) &^ 4095)
		if limit := val(c.EphemeralStorageLimitBytes); limit > 0 {
			c.LogsBytes = ptr(limit / pick(g, int64(1), 2, 4, 10))
			c.RootfsBytes = ptr(max(0, limit-*c.LogsBytes+pick(g, int64(0), 0, 1, -1, -limit/2, limit/3)))
		}
		if request := val(c.EphemeralStorageRequestBytes); request > 0 && g.chance(0.2) {
			c.LogsBytes = ptr(request / 2)
			c.RootfsBytes = ptr(request - request/2 + pick(g, int64(0), 1))
		}
		logs += *c.LogsBytes
		rootfs += *c.RootfsBytes
	}
	for i := range w.Volumes {
		v := &w.Volumes[i]
		v.UsedBytes = ptr(g.logUniform(1<<12, 1<<29) &^ 4095)
		if limit := val(v.SizeLimitBytes); limit > 0 {
			v.UsedBytes = ptr(max(0, limit+pick(g, int64(0), 0, -1, 1, -limit/2, -limit/3, limit)))
		}
		if v.Medium == "" {
			volumes += *v.UsedBytes
		}
	}
	if g.chance(0.3) { // a configMap
		volumes += 4096
	}
	e := w.EphemeralStorage
	e.RootfsBytes, e.LogsBytes, e.LocalVolumesBytes = &rootfs, &logs, &volumes
	if g.chance(0.4) { // the log directory and etc-hosts
		e.UsedBytes = ptr(rootfs + logs + volumes + 4096*int64(g.IntN(3)))
		if e.LimitBytes != nil && g.chance(0.5) {
			e.UsedBytes = ptr(*e.LimitBytes + pick(g, int64(0), 1))
		}
	}
	w.Inodes = &Inodes{
		Rootfs: ptr(pick(g, g.logUniform(1, 1e6), 0)), Logs: ptr(int64(g.IntN(20))), LocalVolumes: ptr(pick(g, g.logUniform(1, 1e5), 0)),
	}
	if g.chance(0.15) {
		w.Inodes = &Inodes{Rootfs: ptr(int64(0)), Logs: ptr(int64(0)), LocalVolumes: ptr(int64(0))}
	}
}

// forget takes one figure away.
func (g *generator) forget(w *Workload) {
	c := &w.Containers[g.IntN(len(w.Containers))]
	switch g.IntN(9) {
	case 0:
		w.Memory.WorkingSetBytes = nil
	case 1:
		w.Processes, w.Tasks = nil, nil
	case 2:
		w.Inodes = nil
	case 3:
		w.Inodes.Rootfs = nil
	case 4:
		w.EphemeralStorage.RootfsBytes = nil
		for i := range w.Containers {
			w.Containers[i].RootfsBytes = nil
		}
	case 5:
		w.EphemeralStorage.LogsBytes = nil
		for i := range w.Containers {
			w.Containers[i].LogsBytes = nil
		}
	case 6: // one container alone: the pod's figure is that of the others
		if c.RootfsBytes != nil {
			w.EphemeralStorage.RootfsBytes = ptr(*w.EphemeralStorage.RootfsBytes - *c.RootfsBytes)
			c.RootfsBytes = nil
		}
	case 7:
		c.MemoryWorkingSetBytes = nil
	case 8:
		w.Containers = []Container{}
	}
}
