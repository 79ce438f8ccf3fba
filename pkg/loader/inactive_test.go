package loader

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/test/uncached"
)

const cacheBytes = 32 << 20

// readFile is a process that is told the name of a file, reads it, says so and waits.
func readFile() {
	name := make([]byte, 4096)
	n, _ := os.Stdin.Read(name)
	f, err := os.Open(string(name[:n]))
	if err == nil {
		_, err = io.CopyN(io.Discard, f, cacheBytes)
	}
	if err != nil {
		println("read:", err.Error())
		os.Exit(1)
	}
	_, _ = os.Stdout.WriteString("x")
	_, _ = os.Stdin.Read(name) // until the other end is closed
}

// inactiveFile is what memory.stat says of a cgroup and all below it, in bytes; reading it
// makes the kernel add up what its CPUs hold back.
func inactiveFile(t *testing.T, d cgroupDirs, dir string) int64 {
	t.Helper()
	key := "inactive_file "
	if d.memory != d.pids {
		key = "total_inactive_file "
	}
	data, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(append([]byte("\n"), data...), []byte("\n"+key))
	text, _, _ := strings.Cut(string(rest), "\n")
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s in %s: %v", key, data, err)
	}
	return v
}

// The kernel's own sum, of a cgroup and all below it, is what memory.stat tells: also when
// the child whose page cache it is was removed, and whichever LRU the kernel has.
func TestInactiveFileIsThatOfMemoryStat(t *testing.T) {
	eachLRU(t, func(t *testing.T) {
		l := open(t, Options{})
		parent := newCgroup(t)
		if parent.memory == parent.pids {
			if err := os.WriteFile(filepath.Join(parent.memory, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
				t.Fatal(err)
			}
		}
		child := filepath.Join(parent.memory, "child")
		if err := os.Mkdir(child, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(child) })
		end := readIn(t, child, uncached.File(t, cacheBytes))

		held := agrees(t, l, parent, child)
		whole := agrees(t, l, parent, parent.memory)
		if held < cacheBytes*9/10 || whole < held {
			t.Errorf("%d of the child, %d of its parent, want the %d that were read once in both", held, whole, cacheBytes)
		}
		end()
		removed(t, child)
		if left := agrees(t, l, parent, parent.memory); left < held*9/10 {
			t.Errorf("%d of the parent after the child is gone, want the child's %d", left, held)
		}
	})
}

// agrees compares row and memory.stat within the error of what CPUs hold back: pages that a
// CPU has counted and not handed on are at most 64 (MEMCG_CHARGE_BATCH) a CPU.
func agrees(t *testing.T, l *Loader, parent cgroupDirs, dir string) int64 {
	t.Helper()
	want := inactiveFile(t, parent, dir)
	if err := l.WalkNow(); err != nil {
		t.Fatal(err)
	}
	id := inode(t, dir)
	row, ok := l.Row(Memory, l.Find(Memory, id), id)
	if !ok {
		t.Fatalf("no row of %s", dir)
	}
	most := int64(64 * os.Getpagesize() * runtime.NumCPU())
	if diff := row.InactiveFileBytes - want; diff > most || -diff > most {
		t.Errorf("%s: inactive file %d, memory.stat says %d", dir, row.InactiveFileBytes, want)
	}
	return row.InactiveFileBytes
}

// readIn has a process in a memory cgroup read a file; end ends it.
func readIn(t *testing.T, dir, file string) (end func()) {
	t.Helper()
	in, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	heard, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"read"}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{in, out, os.Stderr}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err := errors.Join(err, in.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_, _, _ = tell.Close(), p.Kill(), heard.Close()
		_, _ = p.Wait()
	})
	t.Cleanup(end)
	err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.Pid)), 0)
	if err == nil {
		_, err = tell.WriteString(file)
	}
	if err == nil {
		_, err = heard.Read(make([]byte, 1))
	}
	if err != nil {
		t.Fatalf("have %s read in %s: %v", file, dir, err)
	}
	return end
}

// removed removes a cgroup whose last process is ending.
func removed(t *testing.T, dir string) {
	t.Helper()
	for range 2000 {
		err := unix.Rmdir(dir)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EBUSY) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s stays busy", dir)
}

// eachLRU runs a test with the classic lists of pages and, since 6.1 where the kernel is built
// with it, with generations (Documentation/admin-guide/mm/multigen_lru.rst).
func eachLRU(t *testing.T, test func(*testing.T)) {
	const file = "/sys/kernel/mm/lru_gen/enabled"
	was, err := os.ReadFile(file)
	if err != nil {
		t.Run("classic", test)
		t.Run("generations", func(t *testing.T) { t.Skipf("needs CONFIG_LRU_GEN, 6.1: %v", err) })
		return
	}
	set := func(v string) {
		if err := os.WriteFile(file, []byte(v), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { set(strings.TrimSpace(string(was))) })
	for name, v := range map[string]string{"classic": "n", "generations": "y"} {
		t.Run(name, func(t *testing.T) {
			set(v)
			test(t)
		})
	}
}
