// Package disk plays scenes on real filesystems of their own with a real containerd of its
// own: loop-mounted ext4 and xfs, pods made by CRI, no kubelet. `make test-disk` runs them.
package disk

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/ward"
)

var warded = ward.Ward{
	Variable: "EBPF_EVICT_DISK_WARDEN",
	Enter:    hideShims,
	Leave:    func(warden int) { ward.RemoveCgroups(cgroupOf(warden)) },
}

func TestMain(m *testing.M) { os.Exit(warded.Run(m.Run)) }

// hideShims: they have their sockets in /run, wherever containerd has its own.
func hideShims() error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount over /run: %w", err)
	}
	return nil
}

// ownCgroup is the root below which all pods of this run are.
func ownCgroup() string { return cgroupOf(warded.Warden()) }

func cgroupOf(warden int) string { return "/ebpf-evict-disk-" + strconv.Itoa(warden) }
