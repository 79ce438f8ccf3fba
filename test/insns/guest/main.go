//go:build amd64

// Command guest counts, in the VM of `test/vm -icount`, the instructions of a page fault and of
// a fork, without and with the programs of pkg/loader. There one instruction is one nanosecond
// of the guest's only CPU, and nothing else runs.
//
//	off ─► far ─► near ─► crossed ─► crossed ─► near ─► far ─► off
//
// This process stands for the agent; a small one of its own does each work, so that a fork
// copies no agent.
package main

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

func main() {
	err := run(os.Args[1:])
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case slices.Equal(args, []string{workArg}):
		return work()
	case !slices.Equal(args, []string{count.Command}):
		return fmt.Errorf("want the argument %s", count.Command)
	}
	// Natively this would count the machine's noise, and leave cgroups behind.
	if _, err := os.Stat(guest.ManifestPath); err != nil {
		return fmt.Errorf("this is no guest of test/vm: %w", err)
	}
	k, err := measure()
	if err != nil {
		return err
	}
	line, err := k.Line()
	if err != nil {
		return err
	}
	fmt.Println(line)
	return nil
}

func measure() (count.Kernel, error) {
	var k count.Kernel
	var err error
	if k.Release, err = release(); err != nil {
		return k, err
	}
	pod, err := newPod()
	if err != nil {
		return k, err
	}
	first, err := pass(pod)
	if err != nil {
		return k, err
	}
	second, err := pass(pod)
	if err != nil {
		return k, err
	}
	k.Apart = first.Apart(second)
	first.AddAll(second)
	k.Counts = first
	return k, nil
}

func release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}
