package kube

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is one process of the node.
type daemon struct {
	name string
	args []string
	log  string
	uid  uint32
	cmd  *exec.Cmd     // nil while nobody wants it to run
	gone chan struct{} // closed when it is reaped
}

// start starts it, or starts it again; its log goes on.
func (d *daemon) start() error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true} // Ctrl-C is the warden's
	if d.uid != 0 {
		d.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: d.uid, Gid: d.uid}
	}
	if err := startForGood(d.cmd); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	cmd, gone := d.cmd, make(chan struct{})
	d.gone = gone
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	return nil
}

// stop ends it by SIGTERM, or after a while by SIGKILL. It is not missed then.
func (d *daemon) stop() {
	if !d.alive() {
		return
	}
	_ = d.cmd.Process.Signal(unix.SIGCONT)
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.gone:
		d.cmd = nil
	case <-time.After(10 * time.Second):
		d.kill()
	}
}

// kill ends it by SIGKILL. It is not missed then.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.gone
	d.cmd = nil
}

func (d *daemon) alive() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.gone:
		return false
	default:
		return true
	}
}

// lastLines are the log's.
func (d *daemon) lastLines(n int) string {
	data, _ := os.ReadFile(d.log)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// forks are run by a thread that is never let go: PDEATHSIG follows the thread that forked,
// and Go ends threads.
var forks = make(chan func())

func startForGood(cmd *exec.Cmd) error {
	started := make(chan error)
	forks <- func() { started <- cmd.Start() }
	return <-started
}

func forkForGood() {
	runtime.LockOSThread()
	for fork := range forks {
		fork()
	}
}

// built is a program of bin/.
func built(name string) (string, error) {
	path, err := filepath.Abs(filepath.Join("../../bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: `make test-kube` builds it", err)
	}
	return path, nil
}
