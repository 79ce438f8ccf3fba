// Package sigtrace notes each SIGTERM and SIGKILL on the machine with the kernel's time,
// whoever sends it.
package sigtrace

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Trace is a trace instance of its own with the event signal:signal_generate and the clock
// "mono". It belongs to one goroutine.
type Trace struct{ mount, instance string }

// Open begins to note, and mounts a tracefs in the directory. It takes root.
func Open(dir string) (*Trace, error) {
	t := &Trace{mount: filepath.Join(dir, "tracefs")}
	if err := os.Mkdir(t.mount, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("none", t.mount, "tracefs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount tracefs: %w", err)
	}
	t.instance = filepath.Join(t.mount, "instances", fmt.Sprintf("ebpf-evict-bench-%d", os.Getpid()))
	if err := t.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("trace signal:signal_generate: %w", err), t.Close())
	}
	return t, nil
}

func (t *Trace) begin() error {
	if err := os.Mkdir(t.instance, 0o700); err != nil {
		return err
	}
	for _, w := range []struct{ file, text string }{
		{"trace_clock", "mono"}, {"buffer_size_kb", "256"},
		{"events/signal/signal_generate/filter", fmt.Sprintf("sig == %d || sig == %d", unix.SIGTERM, unix.SIGKILL)},
		{"events/signal/signal_generate/enable", "1"},
	} {
		if err := os.WriteFile(filepath.Join(t.instance, w.file), []byte(w.text), 0); err != nil {
			return err
		}
	}
	return nil
}

// Clear forgets what was noted.
func (t *Trace) Clear() error { return os.WriteFile(filepath.Join(t.instance, "trace"), nil, 0) }

// "  earlyoom-4711    [001] d....  5321.123456: signal_generate: sig=9 errno=0 code=0 comm=load-hog pid=4712 grp=1 res=0"
var signalLine = regexp.MustCompile(`\s(\d+)\.(\d{6}): signal_generate: .* pid=(\d+) `)

// TasksOf are a process's tasks: a signal to a process is generated for any one of them.
func TasksOf(pid int) ([]int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, fmt.Errorf("list the threads of %d: %w", pid, err)
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// First is when the first of these signals to one of the tasks was generated, in nanoseconds
// of CLOCK_MONOTONIC to the microsecond.
func (t *Trace) First(tids []int) (ns int64, ok bool, err error) {
	f, err := os.Open(filepath.Join(t.instance, "trace"))
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		at, to, isSignal := parseSignal(lines.Text())
		if isSignal && slices.Contains(tids, to) && (!ok || at < ns) {
			ns, ok = at, true
		}
	}
	return ns, ok, lines.Err()
}

func parseSignal(line string) (ns int64, pid int, ok bool) {
	m := signalLine.FindStringSubmatch(line)
	if m == nil {
		return 0, 0, false
	}
	seconds, err1 := strconv.ParseInt(m[1], 10, 64)
	micros, err2 := strconv.ParseInt(m[2], 10, 64)
	pid, err3 := strconv.Atoi(m[3])
	return seconds*1e9 + micros*1e3, pid, errors.Join(err1, err2, err3) == nil
}

// Close ends the trace, and unmounts.
func (t *Trace) Close() error {
	_ = os.WriteFile(filepath.Join(t.instance, "events/signal/signal_generate/enable"), []byte("0"), 0)
	err := os.Remove(t.instance)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, unix.Unmount(t.mount, 0), os.Remove(t.mount))
}
