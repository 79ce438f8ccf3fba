//go:build amd64

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// kubepods is the cgroup that has an allocatable wire.
const kubepods = "/sys/fs/cgroup/kubepods"

// container is as deep as the container of a pod that is not Guaranteed: the hooks climb it.
const container = kubepods + "/besteffort/pod1/container1"

// pod is where the works are done.
type pod struct {
	dir *os.File
}

func newPod() (*pod, error) {
	if err := os.MkdirAll(container, 0o755); err != nil {
		return nil, err
	}
	for _, parent := range []string{kubepods, filepath.Dir(filepath.Dir(container)), filepath.Dir(container)} {
		control := filepath.Join(parent, "cgroup.subtree_control")
		if err := os.WriteFile(control, []byte("+memory +pids"), 0); err != nil {
			return nil, err
		}
	}
	dir, err := os.Open(container)
	if err != nil {
		return nil, err
	}
	return &pod{dir: dir}, nil
}

// work has a process of the container work and returns the figures.
func (p *pod) work() (map[string]float64, error) {
	cmd := exec.Command("/proc/self/exe", workArg)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(p.dir.Fd())}
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("work: %w", err), errors.New(string(out)))
	}
	var figures map[string]float64
	if err := json.Unmarshal(out, &figures); err != nil {
		return nil, fmt.Errorf("parse what the work took: %w", err)
	}
	return figures, nil
}
