package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The node's counters are sums over all NUMA nodes that have memory, wherever the agent
// runs: pages of each one count.
func TestPagesOfEveryNUMANodeAreCounted(t *testing.T) {
	const fill = 128 << 20
	const slack = fill / 4 // others move too, and counters are folded late
	nodes := nodesWithMemory(t)
	t.Logf("NUMA nodes with memory: %v", nodes)
	if want := os.Getenv("EBPF_EVICT_NUMA_NODES"); want != "" && want != strconv.Itoa(len(nodes)) {
		t.Fatalf("want %s of them", want)
	}
	l := open(t, Options{})
	for _, nid := range nodes {
		before, err := l.Look()
		if err != nil {
			t.Fatal(err)
		}
		beforeProc, beforeNode := meminfo(t)["AnonPages"], nodeAnon(t, nid)
		release := touchOn(t, nid, fill)
		after, err := l.Look()
		if err != nil {
			t.Fatal(err)
		}
		grown, proc, node := after.AnonBytes-before.AnonBytes, meminfo(t)["AnonPages"]-beforeProc, nodeAnon(t, nid)-beforeNode
		release()
		if node < fill-slack {
			t.Fatalf("node %d: %d bytes lie on it, want %d: this test sees nothing", nid, node, fill)
		}
		if off := grown - proc; off < -slack || off > slack {
			t.Errorf("node %d: %d bytes more by BPF, %d by /proc/meminfo", nid, grown, proc)
		}
		if off := after.AnonBytes - meminfo(t)["AnonPages"] - fill; off < -slack || off > slack {
			t.Errorf("node %d: BPF reads %d anonymous bytes too many in all", nid, off)
		}
	}
}

// nodesWithMemory are the ids, of which some may be missing.
func nodesWithMemory(t *testing.T) (ids []int) {
	t.Helper()
	dirs, err := filepath.Glob("/sys/devices/system/node/node*/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range dirs {
		nid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "node"))
		if err != nil {
			t.Fatal(err)
		}
		if nodeMeminfo(t, nid, "MemTotal") > 0 {
			ids = append(ids, nid)
		}
	}
	if len(ids) == 0 {
		t.Skip("needs CONFIG_NUMA")
	}
	return ids
}

func nodeAnon(t *testing.T, nid int) int64 { return nodeMeminfo(t, nid, "AnonPages") }

// nodeMeminfo returns a figure in bytes.
//
//	Node 1 AnonPages:       13476 kB
func nodeMeminfo(t *testing.T, nid int, key string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/sys/devices/system/node/node%d/meminfo", nid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 4 && f[2] == key+":" {
			kb, err := strconv.ParseInt(f[3], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("node %d tells no %s", nid, key)
	return 0
}

// touchOn is touch with the memory on one NUMA node.
func touchOn(t *testing.T, nid, bytes int) (release func()) {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	mask := uint64(1) << nid
	_, _, errno := unix.Syscall6(unix.SYS_MBIND, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)),
		unix.MPOL_BIND, uintptr(unsafe.Pointer(&mask)), 64, 0)
	if errno != 0 {
		t.Fatalf("bind memory to node %d: %v", nid, errno)
	}
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 1
	}
	return func() { _ = unix.Munmap(mem) }
}
