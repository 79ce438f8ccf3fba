// Command insns keeps the table of what the programs cost in instructions, docs/insns.json and
// the page made from it: counted in the VM of test/vm under -icount, where the clock of an
// emulated CPU counts instructions and no other load of the machine comes in.
//
//	go run ./test/insns 6.1 6.12      count, print the difference, write the table
//	go run ./test/insns -check 6.1    count and compare; exit code 1 when it costs more
//
// To be run in the module's root.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
)

func main() {
	check := flag.Bool("check", false, "write nothing; exit code 1 when a kernel costs more than the table says")
	flag.Parse()
	if err := run(flag.Args(), *check); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(kernels []string, check bool) error {
	if len(kernels) == 0 {
		return errors.New("name the kernels, as in -kernel of test/vm")
	}
	t, err := loadTable(tablePath)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ebpf-evict-insns-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover only costs disk space
	bin := filepath.Join(dir, "guest")
	if err := buildGuest(bin); err != nil {
		return err
	}
	var complaints []string
	for _, name := range kernels {
		k, err := measure(name, bin)
		if err != nil {
			return fmt.Errorf("kernel %s: %w", name, err)
		}
		c := compare(t[name], k)
		fmt.Printf("\n%s: %s\n%s\n", name, k.Release, c)
		for _, complaint := range c.complaints {
			complaints = append(complaints, name+": "+complaint)
		}
		t[name] = k
	}
	if !check {
		return t.save()
	}
	if len(complaints) > 0 {
		return fmt.Errorf("this costs more than %s says:\n%s\nIf it is worth it, make insns writes the new table",
			tablePath, strings.Join(complaints, "\n"))
	}
	return nil
}

// buildGuest compiles the program that counts for a kernel that has nothing else.
func buildGuest(bin string) error {
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, "./test/insns/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the guest's program: %w", err)
	}
	return nil
}

// measure boots the kernel and returns what the guest counts.
func measure(kernel, bin string) (count.Kernel, error) {
	cmd := exec.Command("go", "run", "./test/vm", "-kernel", kernel, "-icount", "-timeout", "15m", "-bin", bin, "-exec", count.Command)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return count.Kernel{}, err
	}
	if err := cmd.Start(); err != nil {
		return count.Kernel{}, err
	}
	k, found, err := readGuest(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return k, err
	}
	if !found {
		return k, errors.New("the guest has counted nothing")
	}
	return k, nil
}

// readGuest takes the last counts, should a guest have died behind the first, and shows the
// other lines.
func readGuest(out io.Reader) (k count.Kernel, found bool, err error) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		one, ok, parseErr := count.Parse(lines.Text())
		if !ok {
			fmt.Println(lines.Text())
			continue
		}
		k, found, err = one, true, parseErr
	}
	return k, found, errors.Join(err, lines.Err())
}
