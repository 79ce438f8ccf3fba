package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// role is what a process of a load is.
type role string

const (
	roleKeep role = "keep"
	roleJoin role = "join"
	roleLoad role = "load"
)

// order is the one argument of Main.
type order struct {
	Role       role
	DeadlineNs int64 // CLOCK_MONOTONIC
	Spec       Spec
}

// left is how long until the deadline.
func (o order) left() time.Duration { return time.Duration(o.DeadlineNs - monotonicNs()) }

// Main is what the program given to Start runs, with the arguments that follow Start's;
// it returns the exit code.
func Main(args []string) int {
	err := obey(args)
	if err == nil {
		return 0
	}
	if say(wordError, err.Error()) != nil { // run by hand, or after it was ready
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

func obey(args []string) error {
	var o order
	if len(args) != 1 {
		return errors.New("started by the program itself, with one argument")
	}
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return fmt.Errorf("decode the argument: %w", err)
	}
	prefix := os.Args[:len(os.Args)-1]
	switch o.Role {
	case roleKeep:
		return keep(o, prefix)
	case roleJoin:
		return join(o, prefix)
	case roleLoad:
		return o.run()
	}
	return fmt.Errorf("unknown role %q", o.Role)
}

// keep is PID 1 of the load's namespace: when it returns or dies, all of it dies.
func keep(o order, prefix []string) error {
	time.AfterFunc(o.left(), func() { os.Exit(0) })
	go exitWithStarter()
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return err // names the file
	}
	c, err := mapCounters(countersFD, 0)
	if err != nil {
		return err
	}
	c.alive = 1
	if err := startJoin(o, prefix); err != nil {
		return err
	}
	unix.Close(readyFD) // the starter sees it if the load dies before its word
	return reap(c.counters, o.Spec.NoReap)
}

// exitWithStarter also covers what PDEATHSIG does not: a starter that died before it was set.
func exitWithStarter() {
	_, _ = os.NewFile(lifelineFD, "lifeline").Read(make([]byte, 1))
	os.Exit(0)
}

// startJoin starts the load's first stage.
func startJoin(o order, prefix []string) error {
	o.Role = roleJoin
	arg, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	runtime.LockOSThread() // for PDEATHSIG; the keeper stays on this thread to its end
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append(prefix[:len(prefix):len(prefix)], string(arg))
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{
		os.NewFile(readyFD, "ready"), os.NewFile(beginFD, "begin"), os.NewFile(countersFD, "counters"),
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd.Start()
}

// reap returns when the namespace holds no other process.
func reap(c *counters, noReap time.Duration) error {
	if noReap > 0 {
		if err := awaitDeath(); err != nil {
			return err
		}
		time.Sleep(noReap)
	}
	for {
		switch _, err := unix.Wait4(-1, nil, 0, nil); {
		case err == nil:
			atomic.AddInt64(&c.alive, -1)
		case errors.Is(err, unix.ECHILD):
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait4: %w", err)
		}
	}
}

// awaitDeath returns at the first zombie and leaves it one.
func awaitDeath() error {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// join moves this process into the load's cgroups and becomes the load. Only exec stands
// between: the load's first instruction and first page are accounted.
func join(o order, prefix []string) error {
	for _, f := range o.Spec.ProcsFiles {
		if err := joinCgroup(f); err != nil {
			return fmt.Errorf("join %s: %w", f, err)
		}
	}
	o.Role = roleLoad
	arg, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	argv := append(prefix[:len(prefix):len(prefix)], string(arg))
	return fmt.Errorf("exec: %w", unix.Exec("/proc/self/exe", argv, os.Environ()))
}

func joinCgroup(procs string) error {
	f, err := os.OpenFile(procs, os.O_WRONLY, 0) // never creates one
	if err != nil {
		return err
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	if fs.Type != unix.CGROUP_SUPER_MAGIC && fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return errors.New("not on a cgroup filesystem")
	}
	_, err = f.WriteString("0") // the writer itself
	return err
}

func monotonicNs() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // can't fail for this clock
	return ts.Nano()
}
