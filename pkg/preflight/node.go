package preflight

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func kernelBTF(file string) BTF {
	b := BTF{OK: true, File: file}
	if file == "" {
		b.File = loader.KernelBTF
	}
	if _, err := os.Stat(b.File); err != nil {
		b.OK, b.Error = false, err.Error()
		if file == "" && errors.Is(err, os.ErrNotExist) {
			b.Error = loader.ErrNoBTF.Error()
		}
	}
	return b
}

// lockdownEffect is what of ours each mode forbids (security/lockdown/lockdown.c; the two
// that are about BPF are LOCKDOWN_BPF_READ_KERNEL and LOCKDOWN_BPF_WRITE_USER).
var lockdownEffect = map[string]string{
	"integrity":            "forbids nothing of ours",
	loader.Confidentiality: "no BPF program may read kernel memory (bpf_probe_read_kernel), so none of ours loads; boot without lockdown=confidentiality",
}

func lockdown(root string) Lockdown {
	mode, err := loader.Lockdown(filepath.Join(root, loader.LockdownFile))
	if err != nil {
		return Lockdown{Mode: "unknown", Effect: err.Error()}
	}
	return Lockdown{Mode: mode, Effect: lockdownEffect[mode]}
}

func cgroups(fs *cgroupfs.FS, err error) Cgroup {
	if err != nil {
		return Cgroup{Controllers: []string{}, Error: err.Error()}
	}
	c := Cgroup{Version: "v2", Controllers: fs.Controllers(), Memory: true, Pids: slices.Contains(fs.Controllers(), "pids")}
	c.Namespace, c.Delegated, c.Effect = view(fs)
	if fs.Version() == cgroupfs.V1 {
		c.Version = "v1"
		return c
	}
	c.Kill = hasCgroupKill(fs)
	return c
}

// view is how much of the host's cgroups this process sees, and by their names.
func view(fs *cgroupfs.FS) (namespace string, delegated bool, effect string) {
	var effects []string
	namespace, delegated = "host", !fs.Whole()
	if delegated {
		effects = append(effects, "units outside of the cgroup that is mounted are not seen, and not evicted; mount the host's /sys/fs/cgroup")
	}
	if host, err := cgroupfs.InHostNamespace(); err == nil && !host {
		namespace = "own"
		if err := joinable(); err != nil {
			effects = append(effects, fmt.Sprintf("that of PID 1 can't be joined (%v): drills may fail, memory.min is not set; use the host's cgroup "+
				"namespace, or the host's PIDs with CAP_SYS_ADMIN and CAP_SYS_PTRACE", err))
		} else {
			effects = append(effects, "run and drill join that of PID 1")
		}
	}
	return namespace, delegated, strings.Join(effects, "; ")
}

// joinable tries in a thread that ends with it.
func joinable() error {
	joined := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		joined <- cgroupfs.JoinHostNamespace()
	}()
	return <-joined
}

// hasCgroupKill looks at a child, as the root has no such file; where there is none, at one
// that it makes and removes.
func hasCgroupKill(fs *cgroupfs.FS) bool {
	top := fs.MemoryDir("/")
	files, err := filepath.Glob(filepath.Join(top, "*", "cgroup.procs"))
	if err != nil {
		return false
	}
	if len(files) == 0 {
		child, err := os.MkdirTemp(top, "ebpf-evict-check-")
		if err != nil {
			return false
		}
		defer os.Remove(child) //nolint:errcheck // empty, and just made
		files = []string{filepath.Join(child, "cgroup.procs")}
	}
	_, err = os.Stat(filepath.Join(filepath.Dir(files[0]), "cgroup.kill"))
	return err == nil
}

// scheduling tries the classes in a thread that ends with it.
func scheduling() Scheduling {
	found := make(chan Scheduling)
	go func() {
		runtime.LockOSThread() // never unlocked
		class, err := agent.Raise(1)
		s := Scheduling{OK: class == agent.ClassFIFO, Class: string(class)}
		if err != nil {
			s.Error = words(err)
		}
		found <- s
	}()
	return <-found
}

// memoryLocking locks as the agent does, and lets go again.
func memoryLocking() MemoryLocking {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return MemoryLocking{Error: err.Error()}
	}
	if err := unix.Munlockall(); err != nil {
		return MemoryLocking{OK: true, Error: err.Error()}
	}
	return MemoryLocking{OK: true}
}

// drillable looks where canaries would get their cgroups, and makes none.
func drillable(fs *cgroupfs.FS, err error) Drill {
	if err != nil {
		return Drill{Error: err.Error()}
	}
	for _, procs := range fs.ProcsFiles("/") {
		if err := unix.Faccessat(unix.AT_FDCWD, filepath.Dir(procs), unix.W_OK, unix.AT_EACCESS); err != nil {
			return Drill{Error: fmt.Sprintf("no cgroup %s can be made in %s: %v", drill.Parent, filepath.Dir(procs), err)}
		}
	}
	return Drill{Possible: true}
}
