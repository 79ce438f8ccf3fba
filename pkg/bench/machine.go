package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// Machine says where and when figures were measured.
type Machine struct {
	Kernel string      `json:"kernel"`
	CPUs   int         `json:"cpus"`
	Date   record.Time `json:"date"`
	// CPU is the model as /proc/cpuinfo has it, MemoryBytes what the kernel manages.
	CPU         string `json:"cpu"`
	MemoryBytes int64  `json:"memoryBytes"`
	// Cgroup is v1 or v2, of the memory controller.
	Cgroup string `json:"cgroup"`
	// Version is this program's.
	Version string `json:"version"`
}

// ThisMachine is the one we run on.
func ThisMachine(version, cgroup string) (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU(), Date: record.Time{Time: time.Now()}, Cgroup: cgroup, Version: version}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("uname: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, fmt.Errorf("sysinfo: %w", err)
	}
	m.MemoryBytes = int64(info.Totalram) * int64(info.Unit)
	m.CPU = cpuModel()
	return m, nil
}

// cpuModel is empty where the architecture does not tell it.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
