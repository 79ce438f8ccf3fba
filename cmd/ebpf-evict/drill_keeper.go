package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/drill"
)

// keeperCommand is the hidden name under which `run` starts this program to hold its drills:
// the agent itself starts no child. The keeper is an ordinary process in a session of its
// own, and a client of the agent like the drill command.
const keeperCommand = "drill-keeper"

// keeperOrder is its one argument.
type keeperOrder struct {
	Mailbox string
	AtStart bool
	Every   time.Duration
}

// drillKeeper is the keeper as `run` sees it. One that holds no drills has no process.
type drillKeeper struct {
	results  chan drill.Result
	order    keeperOrder
	lifeline *os.File // the keeper begins at the first byte, and ends when this is closed
	gone     chan struct{}
}

func startKeeper(c *config.Config) *drillKeeper {
	k := &drillKeeper{
		results: make(chan drill.Result, 1),
		order:   keeperOrder{drill.MailboxOf(c.State), c.Drill.AtStart, c.Drill.Every},
	}
	if !k.order.AtStart && k.order.Every == 0 {
		return k
	}
	if err := k.start(); err != nil {
		k.results <- drill.Result{AtStart: k.order.AtStart, Stage: drill.StageCanary, Reason: fmt.Sprintf("start the keeper: %v", err)}
	}
	return k
}

func (k *drillKeeper) start() error {
	arg, err := json.Marshal(k.order)
	if err != nil {
		return err
	}
	begin, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	results, out, err := os.Pipe()
	if err != nil {
		return errors.Join(err, begin.Close(), lifeline.Close())
	}
	cmd := exec.Command("/proc/self/exe", keeperCommand, string(arg))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = begin, out, os.Stderr
	// SIGTERM, so that it cleans up after itself; Setsid: Ctrl-C is the agent's to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	gone, err := startOnOwnThread(cmd)
	err = errors.Join(err, begin.Close(), out.Close())
	if err != nil {
		return errors.Join(err, lifeline.Close(), results.Close())
	}
	k.lifeline, k.gone = lifeline, gone
	go k.read(results)
	return nil
}

// startOnOwnThread keeps the thread for as long as the process lives: its parent-death signal
// is tied to it.
func startOnOwnThread(cmd *exec.Cmd) (gone chan struct{}, err error) {
	started := make(chan error)
	gone = make(chan struct{})
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed or not, its results have said what there is to say
			close(gone)
		}
	}()
	return gone, <-started
}

// read hands on what the keeper says, and says so when it ends before its time.
func (k *drillKeeper) read(from io.ReadCloser) {
	defer func() { _ = from.Close() }()
	d := json.NewDecoder(from)
	atStart, through := k.order.AtStart, false
	for {
		var r drill.Result
		if d.Decode(&r) != nil {
			break
		}
		atStart, through = false, k.order.Every == 0 && !r.Skipped
		k.results <- r
	}
	if !through {
		k.results <- drill.Result{AtStart: atStart, Stage: drill.StageCanary, Reason: "the keeper ended; no more drills are held"}
	}
}

// begin tells the keeper that the agent watches.
func (k *drillKeeper) begin() {
	if k.lifeline != nil {
		_, _ = k.lifeline.Write([]byte{1}) // an error means that it has ended, and read says so
	}
}

// cleanUpWithin is how long a keeper may take to end a drill and to clean up.
const cleanUpWithin = 5 * time.Second

func (k *drillKeeper) stop() {
	if k.lifeline == nil {
		return
	}
	_ = k.lifeline.Close()
	select {
	case <-k.gone:
	case <-time.After(cleanUpWithin):
	}
}

// keepDrills is the keeper.
func keepDrills(args []string) int {
	var o keeperOrder
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &o) != nil {
		fmt.Fprintln(os.Stderr, "started by run alone")
		return exitUsage
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0) // the agent's may be lower, and would be inherited
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	defer end()
	begin := make([]byte, 1)
	if _, err := os.Stdin.Read(begin); err != nil {
		return exitDone // the agent did not get as far as to watch
	}
	go func() {
		_, _ = os.Stdin.Read(begin)
		end()
	}()
	if err := o.keep(ctx, json.NewEncoder(os.Stdout)); err != nil {
		return exitFailed
	}
	return exitDone
}

// soon is when a drill that was skipped or that failed is held again, and twice as long after
// each further one.
const soon = 10 * time.Second

// keep holds drills until ctx is done, or none is due any more.
func (o keeperOrder) keep(ctx context.Context, results *json.Encoder) error {
	pause, backoff, first := o.Every, soon, o.AtStart
	if first {
		pause = 0
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		r := holdDrill(ctx, o.Mailbox)
		if ctx.Err() != nil {
			return nil // cut short by the agent's end
		}
		r.AtStart, first = first, false
		if err := results.Encode(r); err != nil {
			return err
		}
		if o.Every == 0 && !r.Skipped {
			return nil
		}
		pause, backoff = o.next(r.OK, backoff)
	}
}

// next is the pause after a drill, and the one after that should it not be well either.
func (o keeperOrder) next(ok bool, backoff time.Duration) (pause, further time.Duration) {
	if ok {
		return o.Every, soon
	}
	if o.Every > 0 {
		backoff = min(backoff, o.Every)
	}
	return backoff, min(2*backoff, time.Hour)
}
