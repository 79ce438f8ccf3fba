//go:build amd64

package main

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
)

// tasksMax is the node's limit of tasks.
const tasksMax = 32768

// nearBytes is within the loader's margin, and so far that a CPU gets the whole credit and
// what the works do changes nothing.
const nearBytes = loader.DefaultMarginBytes / 2

// agent has the wires of one with the default thresholds: the node's and kubepods', of memory
// and of tasks.
type agent struct {
	kernel *loader.Loader
	wires  []wire
}

// wire is one without its limit, and its number.
type wire struct {
	loader.Wire
	index int
}

func openAgent(tier string) (*agent, error) {
	kernel, err := loader.Open(loader.Options{MemoryTier: tier, Log: zerolog.New(os.Stdout).Level(zerolog.WarnLevel)})
	if err != nil {
		return nil, err
	}
	a := &agent{kernel: kernel}
	if err := a.addWires(); err != nil {
		return nil, errors.Join(err, kernel.Close())
	}
	return a, nil
}

func (a *agent) close() error { return a.kernel.Close() }

func (a *agent) addWires() error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	memTotal := int64(info.Totalram) * int64(info.Unit)
	if err := a.kernel.SetLimits(memTotal, tasksMax); err != nil {
		return err
	}
	if _, err := a.kernel.Walk(); err != nil { // finds the rows
		return err
	}
	var root unix.Stat_t
	if err := unix.Stat(kubepods, &root); err != nil {
		return err
	}
	for _, w := range []loader.Wire{
		{Scope: sample.ScopeNodeMemory},
		{Scope: sample.ScopeCgroupMemory, Capacity: memTotal, CgroupID: root.Ino, CSSID: a.kernel.Find(loader.Memory, root.Ino)},
		{Scope: sample.ScopeNodeTasks},
		{Scope: sample.ScopeCgroupTasks, Capacity: tasksMax, CgroupID: root.Ino, CSSID: a.kernel.Find(loader.Pids, root.Ino)},
	} {
		i, err := a.kernel.AddWire(w.Scope)
		if err != nil {
			return err
		}
		a.wires = append(a.wires, wire{w, i})
	}
	return nil
}

// place moves the node's wires, and has the allocation hook attached where its tier does so
// near the wire.
func (a *agent) place(p count.Place) error {
	node, err := a.kernel.Look()
	if err != nil {
		return err
	}
	var memory, tasks int64 // far
	switch p {
	case count.Near:
		memory = node.MemTotalBytes - node.AnonBytes - node.FileBytes + node.InactiveFileBytes - nearBytes
	case count.Crossed:
		memory, tasks = math.MaxInt64/2, tasksMax
	}
	for _, w := range a.wires {
		switch w.Scope {
		case sample.ScopeNodeMemory:
			w.Limit = memory
		case sample.ScopeNodeTasks:
			w.Limit = tasks
		}
		a.kernel.SetWire(w.index, w.Wire)
		a.kernel.ArmWire(w.index)
	}
	if p == count.Far || a.kernel.MemoryTier() == loader.TierCharge {
		err = a.kernel.Disarm()
	} else {
		err = a.kernel.Arm()
	}
	return errors.Join(err, a.kernel.Tick(), a.drain())
}

// drain takes what the works left in the ring buffers.
func (a *agent) drain() error {
	for _, next := range []func(*sample.Sample) (bool, error){a.kernel.Next, a.kernel.NextDelta} {
		var s sample.Sample
		for {
			more, err := next(&s)
			if err != nil {
				return fmt.Errorf("drain: %w", err)
			}
			if !more {
				break
			}
		}
	}
	return nil
}
