package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

// writerEnv names a directory that the test binary fills when it is told to.
const writerEnv = "DISK_TEST_WRITER"

func init() {
	for env, do := range map[string]func(dir string){writerEnv: writeOnRequest, holderEnv: holdOnRequest, impostorEnv: impose} {
		if dir := os.Getenv(env); dir != "" {
			time.AfterFunc(10*time.Minute, func() { os.Exit(1) })
			if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			do(dir)
			os.Exit(0)
		}
	}
}

const writtenMiB = 24

// writeOnRequest writes at the first line, makes many empty files at the second, and ends
// at the end of the input, as when the test dies. Until the first it is put into its cgroup. It
// goes first where memory is short.
func writeOnRequest(dir string) {
	lines := bufio.NewReader(os.Stdin)
	for step := range 2 {
		if _, err := lines.ReadString('\n'); err != nil {
			return
		}
		var err error
		if step == 0 {
			err = os.WriteFile(filepath.Join(dir, "big"), make([]byte, writtenMiB<<20), 0o600)
		}
		for i := 0; step == 1 && i < 4000 && err == nil; i++ {
			err = os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600)
		}
		fmt.Println(err)
	}
	_, _ = lines.ReadString('\n')
}

// A real writer in a real cgroup, through the page cache and not synced.
func TestCountersShowAWriter(t *testing.T) { mountns.Run(t, testCountersShowAWriter) }

func testCountersShowAWriter(t *testing.T) {
	base := mountImage(t, "ext4", "", []string{"mkfs.ext4", "-q", "-F"})
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	group := "/disk-test-" + strconv.Itoa(os.Getpid())
	step := startWriter(t, fs, group, writerEnv+"="+base)
	g := newGauges(fs, "/proc")
	defer g.keep(nil)
	read := func() writes {
		t.Helper()
		w, err := g.read(group, monotonicNs())
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	before := read()
	step()
	after := read()
	// v2's memory.stat may be two seconds old (mm/memcontrol.c, FLUSH_TIME).
	for end := time.Now().Add(soon); after.bytes-before.bytes < writtenMiB<<20*9/10 && time.Now().Before(end); after = read() {
		time.Sleep(50 * time.Millisecond)
	}
	if more := after.bytes - before.bytes; more < writtenMiB<<20*9/10 || more > writtenMiB<<20*3/2 {
		t.Errorf("%d bytes written, want %d", more, writtenMiB<<20)
	}
	step()
	for end := time.Now().Add(soon); read().inodeMemory-after.inodeMemory < 4000*500; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes more for 4000 inodes", read().inodeMemory-after.inodeMemory)
		}
	}
}

// startWriter starts this program with such an environment in a new cgroup; both end with the test.
// step has it do the next thing.
func startWriter(t *testing.T, fs *cgroupfs.FS, group, env string) (step func()) {
	t.Helper()
	for _, procs := range fs.ProcsFiles(group) {
		if err := os.Mkdir(filepath.Dir(procs), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for end := time.Now().Add(soon); os.Remove(filepath.Dir(procs)) != nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("%s stays", procs)
					return
				}
			}
		})
	}
	c, err := fs.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.SetMemoryMax(256<<20), c.SetPidsMax(100)); err != nil {
		t.Fatal(err)
	}
	pid, write := startSelf(t, env, 0)
	for _, procs := range fs.ProcsFiles(group) {
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return write
}

// startSelf starts this program with a word in its environment that makes it another (TestMain), and
// in namespaces of its own. ask has it do its work once. It ends with the test.
func startSelf(t *testing.T, env string, namespaces uintptr) (pid int, ask func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), env)
	if namespaces != 0 {
		all := []syscall.SysProcIDMap{{Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, UidMappings: all, GidMappings: all}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	answers := bufio.NewReader(out)
	return cmd.Process.Pid, func() {
		t.Helper()
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
		if answer, err := answers.ReadString('\n'); answer != "<nil>\n" {
			t.Fatalf("%s: %q, %v", env, answer, err)
		}
	}
}
