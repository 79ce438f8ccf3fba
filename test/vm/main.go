// Command vm runs the root tests of packages in a virtual machine: a Debian kernel,
// pure cgroup v2, PID 1 of our own.
//
//	go run ./test/vm -kernel 6.1 -bin bin/ebpf-evict -- ./pkg/loader ./test/e2e
//	go run ./test/vm -kernel 6.1 -bin bin/ebpf-evict -exec 'check -o json' -out check.json
//
// amd64 only. Needs qemu, apt-get, dpkg-deb, the mkfs of ext4, xfs and btrfs, and no root.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

// guestBin is where the program under test lies in the guest.
const guestBin = "/bin/ebpf-evict"

type options struct {
	kernel, bin, run, skip string
	count                  int
	timeout                time.Duration
	env                    []string
	packages               []string
	numa, append           string
	exec, out              string
	icount                 bool
}

func main() {
	// Pdeathsig follows the thread that started the emulator: keep this one.
	runtime.LockOSThread()
	os.Exit(runMain())
}

func runMain() int {
	opts := options{}
	flag.StringVar(&opts.kernel, "kernel", "6.1", "Debian kernel: "+kernelNames())
	flag.StringVar(&opts.bin, "bin", "", "the program under test, built for this machine; in the guest "+guestBin)
	flag.StringVar(&opts.run, "run", "", "run only tests that match, as in go test -run")
	flag.StringVar(&opts.skip, "skip", "", "leave out tests that match, as in go test -skip")
	flag.IntVar(&opts.count, "count", 1, "how often each test runs, as in go test -count")
	flag.Func("env", "KEY=value for the tests, may be given again; outranks what the runner sets", func(s string) error {
		if !strings.Contains(s, "=") {
			return errors.New("want KEY=value")
		}
		opts.env = append(opts.env, s)
		return nil
	})
	flag.StringVar(&opts.numa, "numa", "", "MiB of memory of each NUMA node, as 1024,0,1024; without, 2 GiB and one node")
	flag.StringVar(&opts.append, "append", "", "more of the kernel's command line, as lockdown=confidentiality")
	flag.StringVar(&opts.exec, "exec", "", "run the program under test with these arguments, and no tests; blanks part them")
	flag.StringVar(&opts.out, "out", "", "with -exec: the file for its standard output, whatever its exit code; standard error goes to the console")
	flag.BoolVar(&opts.icount, "icount", false, "emulate, and let the guest's clock count instructions: one is one nanosecond")
	flag.DurationVar(&opts.timeout, "timeout", 60*time.Minute, "for all tests, boots after a death included")
	flag.Parse()
	opts.packages = flag.Args()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := testInVM(ctx, opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return code
}

func testInVM(ctx context.Context, opts options) (int, error) {
	packages := withTests(opts.packages)
	if opts.exec != "" && (opts.bin == "" || len(packages) > 0) {
		return 1, errors.New("-exec: want -bin and no packages")
	}
	if len(packages) == 0 && opts.exec == "" {
		return 1, fmt.Errorf("none of these packages has tests: %s", strings.Join(opts.packages, " "))
	}
	memory, err := memoryArgs(opts.numa)
	if err != nil {
		return 1, err
	}
	src, err := findSource(opts.kernel)
	if err != nil {
		return 1, err
	}
	kernel, err := fetchKernel(ctx, src, len(packages) > 0)
	if err != nil {
		return 1, fmt.Errorf("get kernel %s: %w", opts.kernel, err)
	}
	dir, err := os.MkdirTemp("", "ebpf-evict-vm-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover only costs disk space
	jobs, err := build(ctx, dir, kernel, opts, packages)
	if err != nil {
		return 1, err
	}

	ctx, cancel := context.WithTimeout(ctx, opts.timeout)
	defer cancel()
	vm := machine{kernel: kernel, dir: dir, kvm: !opts.icount && hasKVM(), icount: opts.icount, cx16: src.cx16, memory: memory, append: opts.append}
	r := &report{jobs: jobs}
	code, err := runAll(ctx, vm, r)
	if opts.out != "" && r.done == len(jobs) {
		err = errors.Join(err, os.WriteFile(opts.out, []byte(r.said.String()), 0o644))
	}
	return code, err
}

// withTests keeps the packages, given as directories, that have test files, and says
// which ones it leaves out.
func withTests(packages []string) []string {
	var kept []string
	for _, pkg := range packages {
		if files, _ := filepath.Glob(filepath.Join(pkg, "*_test.go")); len(files) == 0 {
			fmt.Printf("%s has no tests yet\n", pkg)
			continue
		}
		kept = append(kept, pkg)
	}
	return kept
}

// build compiles PID 1 and the tests and packs them, with their testdata, into an
// initramfs in dir. It returns the names of the jobs, in order.
func build(ctx context.Context, dir, kernel string, opts options, packages []string) ([]string, error) {
	f, err := os.Create(filepath.Join(dir, initrdName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	archive := newInitramfs(f)
	archive.console()

	init := filepath.Join(dir, "init")
	if err := goTool(ctx, "build", "-o", init, "./test/vm/init"); err != nil {
		return nil, err
	}
	archive.file("/init", init)

	// An emulated round takes ten times as long; natively there are more of them.
	// Of two values of a key a Go program takes the first (syscall.copyenv).
	manifest := guest.Manifest{Env: append(opts.env[:len(opts.env):len(opts.env)],
		"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp", "EBPF_EVICT_ROUNDS=3", "EBPF_EVICT_DISK="+guestDisk)}
	if opts.bin != "" {
		archive.file(guestBin, opts.bin)
		manifest.Env = append(manifest.Env, "EBPF_EVICT_BIN="+guestBin)
	}
	if len(packages) > 0 {
		if err := addFilesystems(ctx, archive, &manifest, kernel); err != nil {
			return nil, err
		}
	}
	var names []string
	if opts.exec != "" {
		job := guest.Job{Name: "ebpf-evict " + opts.exec, Path: guestBin, Dir: "/", Args: strings.Fields(opts.exec), Quiet: true}
		manifest.Jobs, names = append(manifest.Jobs, job), append(names, job.Name)
	}
	for _, pkg := range packages {
		job := testJob(pkg, opts)
		binary := filepath.Join(dir, strings.ReplaceAll(filepath.Clean(pkg), "/", "-")+".test")
		if err := goTool(ctx, "test", "-c", "-o", binary, pkg); err != nil {
			return nil, err
		}
		archive.file(job.Path, binary)
		archive.dir(job.Dir)
		archive.tree(job.Dir+"/testdata", filepath.Join(pkg, "testdata"))
		manifest.Jobs = append(manifest.Jobs, job)
		names = append(names, job.Name)
	}

	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	archive.bytes(guest.ManifestPath, string(raw))
	return names, archive.close()
}

// testJob is how the guest runs the package's tests: verbosely, and with a deadline
// that shows the goroutines before the VM's own ends everything.
func testJob(pkg string, opts options) guest.Job {
	name := filepath.ToSlash(filepath.Clean(pkg))
	job := guest.Job{
		Name: name,
		Path: path.Join("/src", name, path.Base(name)+".test"),
		Dir:  path.Join("/src", name),
		Args: []string{"-test.v", "-test.timeout=" + (opts.timeout * 9 / 10).String(), "-test.count=" + strconv.Itoa(opts.count)},
	}
	if opts.run != "" {
		job.Args = append(job.Args, "-test.run="+opts.run)
	}
	if opts.skip != "" {
		job.Args = append(job.Args, "-test.skip="+opts.skip)
	}
	return job
}

// goTool runs the go command for a static guest program without debug information.
func goTool(ctx context.Context, verb string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{verb, "-buildvcs=false", "-ldflags=-s -w"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
