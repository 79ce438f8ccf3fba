// Command writer is the only program in the images of test/disk: it waits, or fills a disk at
// a given rate and then waits.
//
//	writer wait
//	writer fill -path FILE|- [-rate BYTES_PER_SECOND] [-total BYTES] [-after FILE] [-exit] [-unlink] [-reserve]
//	writer litter -path DIR [-rate FILES_PER_SECOND] [-total FILES] [-after FILE] [-exit]
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

// deadline is far longer than any scene, and ends a writer that its bed has lost.
const deadline = 30 * time.Minute

func run(args []string) int {
	time.AfterFunc(deadline, func() { os.Exit(1) })
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: writer wait|fill|litter")
		return 2
	}
	if args[0] == "wait" {
		<-ended
		return 0
	}
	f := flag.NewFlagSet(args[0], flag.ExitOnError)
	path := f.String("path", "", "file, directory, or - for standard output")
	rate := f.Int64("rate", 0, "a second; 0 is as fast as it goes")
	total := f.Int64("total", 1<<62, "how much")
	after := f.String("after", "", "begin when this file is there")
	unlink := f.Bool("unlink", false, "remove the file before it is written to")
	reserve := f.Bool("reserve", false, "have the file's space reserved at once, and write nothing")
	exit := f.Bool("exit", false, "end afterwards")
	_ = f.Parse(args[1:])
	await(*after)
	opened, err := write(args[0], *path, pace{start: time.Now(), rate: *rate}, *total, *unlink, *reserve)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer opened.Close() // an unlinked file takes its room until then
	if !*exit {
		<-ended
	}
	return 0
}

func write(what, path string, p pace, total int64, unlink, reserve bool) (opened *os.File, err error) {
	switch {
	case what == "fill" && reserve:
		return allocate(path, total)
	case what == "fill":
		return fill(path, p, total, unlink)
	case what == "litter":
		return nil, litter(path, p, total)
	}
	return nil, fmt.Errorf("unknown command %s", what)
}

// await returns when a file is there; at once for none.
func await(file string) {
	for file != "" {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// pace keeps to a rate.
type pace struct {
	start time.Time
	rate  int64
}

// wait returns when so much is due.
func (p pace) wait(done int64) {
	if p.rate > 0 {
		time.Sleep(time.Until(p.start.Add(time.Duration(float64(done) / float64(p.rate) * float64(time.Second)))))
	}
}

// fill writes lines of 4 KiB, so that a log of them is a log.
func fill(path string, p pace, total int64, unlink bool) (f *os.File, err error) {
	f = os.Stdout
	if path != "-" {
		if f, err = os.Create(path); err != nil {
			return nil, err
		}
	}
	if unlink {
		if err := os.Remove(path); err != nil {
			return f, err
		}
	}
	line := append(bytes.Repeat([]byte{'x'}, 4095), '\n')
	chunk := bytes.Repeat(line, 64)
	for done := int64(0); done < total; {
		n, err := f.Write(chunk[:min(int64(len(chunk)), total-done)])
		if err != nil {
			return f, err
		}
		done += int64(n)
		p.wait(done)
	}
	if unlink || path == "-" {
		return f, nil
	}
	return nil, f.Close() // XFS gives back then what it has reserved behind the end
}

// allocate reserves space, as databases do for their logs.
func allocate(path string, total int64) (*os.File, error) {
	f, err := os.Create(path)
	if err == nil {
		err = syscall.Fallocate(int(f.Fd()), 0, 0, total)
	}
	return f, err
}

// litter makes empty files.
func litter(dir string, p pace, total int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for done := range total {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(done)), nil, 0o600); err != nil {
			return err
		}
		p.wait(done)
	}
	return nil
}
