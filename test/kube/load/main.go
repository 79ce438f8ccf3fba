// Command load is the only program in the images of test/kube. It waits, fills memory or forks,
// and then waits until SIGTERM, which it may ignore.
//
//	load wait [-ignore-term]
//	load hog [-ignore-term] [-call NAME] [-after DURATION] [-rate BYTES_PER_SECOND] [-total BYTES]
//	load bomb [-ignore-term] [-call NAME] [-after DURATION] [-total PROCESSES]
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: load end|wait|hog|bomb")
		return 2
	}
	f := flag.NewFlagSet(args[0], flag.ExitOnError)
	ignore := f.Bool("ignore-term", false, "live on after SIGTERM")
	call := f.String("call", "", "wait until somebody calls the abstract Unix socket of this name")
	after := f.Duration("after", 0, "wait so long first")
	rate := f.Int64("rate", 0, "bytes a second; 0 is as fast as it goes")
	total := f.Int64("total", 1<<62, "how much")
	_ = f.Parse(args[1:])
	go func() {
		err := begin(*call, *after)
		if err == nil {
			err = load(args[0], *rate, *total)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}()
	for range ended {
		if !*ignore {
			break
		}
	}
	return 128 + int(syscall.SIGTERM)
}

// begin returns when it is time.
func begin(call string, after time.Duration) error {
	time.Sleep(after)
	if call == "" {
		return nil
	}
	l, err := net.Listen("unix", "@"+call)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	c, err := l.Accept()
	if err != nil {
		return err
	}
	return c.Close()
}

func load(kind string, rate, total int64) error {
	switch kind {
	case "end":
		os.Exit(0)
	case "wait":
		return nil
	case "hog":
		return hog(rate, total)
	case "bomb":
		return bomb(total)
	}
	return fmt.Errorf("unknown command %s", kind)
}

const chunkBytes = 1 << 20

// hog touches every page of what it maps.
func hog(rate, total int64) error {
	start := time.Now()
	for done := int64(0); done < total; done += chunkBytes {
		if rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(float64(done) / float64(rate) * float64(time.Second)))))
		}
		chunk, err := syscall.Mmap(-1, 0, chunkBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		if err != nil {
			return fmt.Errorf("map %d bytes after %d: %w", chunkBytes, done, err)
		}
		for at := 0; at < len(chunk); at += os.Getpagesize() {
			chunk[at] = 1
		}
	}
	return nil
}

// bomb starts processes that wait, and goes on when it may start no more.
func bomb(total int64) error {
	for done := int64(0); done < total; {
		if err := exec.Command("/proc/self/exe", "wait", "-ignore-term").Start(); err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		done++
	}
	return nil
}
