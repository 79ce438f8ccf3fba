package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Work is what a worker does. Each takes some tenths of a second of CPU.
type Work string

const (
	WorkFault   Work = "fault"   // anonymous page faults
	WorkFork    Work = "fork"    // fork, exec and wait for /bin/true
	WorkThread  Work = "thread"  // make threads that end
	WorkCompile Work = "compile" // a C compiler's -O1 of a generated file
)

// Works are all of them.
var Works = []Work{WorkFault, WorkFork, WorkThread, WorkCompile}

// WorkCommand is the hidden name under which this binary runs as a worker.
const WorkCommand = "bench-work"

// Worker does the work named by the argument that follows WorkCommand and prints the CPU
// time of itself and its children in nanoseconds; it returns the exit code.
func Worker(args []string) int {
	before := cpuTime()
	err := fmt.Errorf("want one of %v", Works)
	if len(args) == 1 {
		switch Work(args[0]) {
		case WorkFault:
			err = faults()
		case WorkFork:
			err = forks()
		case WorkThread:
			err = threads()
		case WorkCompile:
			err = compile()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(int64(cpuTime() - before))
	return 0
}

// cpuTime is user and system time of this process and of its children that were waited for.
func cpuTime() (t time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		_ = unix.Getrusage(who, &u) // can't fail for these
		t += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return t
}

func faults() error {
	const bytes, times = 32 << 20, 16
	mem, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // EINVAL without huge pages
	for range times {
		for off := 0; off < bytes; off += os.Getpagesize() {
			mem[off] = 1
		}
		if err := unix.Madvise(mem, unix.MADV_DONTNEED); err != nil {
			return err
		}
	}
	return nil
}

func forks() error {
	for range 200 {
		if err := exec.Command("/bin/true").Run(); err != nil {
			return err
		}
	}
	return nil
}

// threads has each goroutine keep its thread, so that the thread ends with it.
func threads() error {
	for range 4000 {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(done)
		}()
		<-done
	}
	return nil
}

// compilers are looked for in this order.
var compilers = []string{"cc", "gcc", "clang", "clang-19"}

func compiler() (string, error) {
	for _, name := range compilers {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no C compiler in PATH, want one of %v", compilers)
}

// note names the compiler by the first line of its --version.
func (w Work) note() string {
	cc, err := compiler()
	if w != WorkCompile || err != nil {
		return ""
	}
	text, _ := exec.Command(cc, "--version").Output()
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

func compile() error {
	path, err := compiler()
	if err != nil {
		return err
	}
	var source strings.Builder
	for i := range 150 {
		fmt.Fprintf(&source, "int f%d(int a, int b) { int s = 0; for (int i = a; i < b; i++) s += i * %d ^ (s >> 3); return s; }\n", i, i)
	}
	cc := exec.Command(path, "-O1", "-x", "c", "-c", "-o", "/dev/null", "-")
	cc.Stdin = strings.NewReader(source.String())
	return cc.Run()
}
