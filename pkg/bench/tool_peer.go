package bench

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench/sigtrace"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
)

// Peers from Debian's packages of the same names.
const (
	ToolEarlyoom Tool = "earlyoom"
	ToolNohang   Tool = "nohang"
)

// peerTool plays rounds with a daemon that watches the machine's MemAvailable and kills
// whatever ranks first. It runs in a cage, in which there is nothing but the hog and
// sleepers.
type peerTool struct {
	*stand
	name    Tool
	program string
	remark  string
}

// ErrNoPeer means that a peer's program is not installed.
var ErrNoPeer = errors.New("program not found")

func newEarlyoom(s *stand) (tool, error) {
	program, err := findPeer("earlyoom")
	return &peerTool{stand: s, name: ToolEarlyoom, program: program}, err
}

func newNohang(s *stand) (tool, error) {
	program, err := findPeer("nohang")
	if err != nil {
		return nil, err
	}
	// nohang refuses thresholds above half of the memory. Where more than that is
	// available the wire lies higher, so a copy is used whose check allows it.
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	const check = "mem_min_kb > mem_total * 0.5"
	if !strings.Contains(string(text), check) {
		return nil, fmt.Errorf("%s: its check of thresholds is not where version 0.2.0 has it", program)
	}
	t := &peerTool{
		stand: s, name: ToolNohang, program: filepath.Join(s.peers.Dir, "nohang"),
		remark: "a copy that accepts a threshold above half of the memory; nothing else is changed",
	}
	return t, os.WriteFile(t.program, []byte(strings.Replace(string(text), check, "mem_min_kb > mem_total", 1)), 0o700)
}

// findPeer looks into PATH and the sbin directories.
func findPeer(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: Debian's package %s has it; unpack it without starting its service", ErrNoPeer, name)
}

func (t *peerTool) note() string {
	const what = "watches MemAvailable, SIGTERM at the wire; in a PID namespace with the hog and sleepers alone"
	if t.remark == "" {
		return what
	}
	return what + "; " + t.remark
}
func (t *peerTool) close() error { return nil }

// CageCommand is the hidden name under which this binary runs as a cage.
const CageCommand = "bench-cage"

// cageOrder is the one argument of Cage.
type cageOrder struct {
	Tool          Tool
	Program, Dir  string
	Victim        load.Spec
	Sleepers      []load.Spec
	DistanceBytes int64
}

// cageReport is what a cage says in the end.
type cageReport struct {
	Marks         []int64
	Bytes, DiedNs int64
	Died          bool
	// DistanceBytes is how far the wire was right before the hog began, and MovedBytes how
	// much more was available after it was gone than what it had held by then.
	DistanceBytes, MovedBytes int64
	SleepersAlive             bool
}

func (t *peerTool) play(ctx context.Context) (r Round, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*roundDeadline)
	defer cancel()
	t.peers.victims++
	unit := fmt.Sprintf("caged-%d", t.peers.victims)
	order, err := t.order(unit)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, t.clear(unit)) }()
	c, err := startCage(ctx, t.peers.Self, order)
	if err != nil {
		return r, err
	}
	var tids []int
	pid, err := t.peers.onlyProcess(unit)
	if err == nil {
		tids, err = sigtrace.TasksOf(pid)
	}
	if err == nil {
		err = t.trace.Clear()
	}
	report, endErr := c.goAndEnd(err == nil)
	if err = errors.Join(err, endErr); err != nil {
		return r, err
	}
	b := burnt{died: report.Died, diedNs: report.DiedNs, curve: fillCurve{marks: report.Marks, bytes: report.Bytes, most: t.options.Scenario.amounts().hog}}
	if b.signalNs, _, err = t.trace.First(tids); err != nil {
		return r, err
	}
	filled := filledAt(report.DistanceBytes, true)
	crossed, _ := b.curve.crossed(filled)
	r.Outside, r.Full = b.figures(crossed, filled), b.curve.full()
	r.WrongVictim = !report.SleepersAlive
	r.Missed = r.Outside == nil && !r.WrongVictim
	if r.Outside != nil {
		r.Figures = *r.Outside
	}
	short := t.options.distance() - report.DistanceBytes
	r.Disturbed = max(report.MovedBytes, -report.MovedBytes, short, -short) > t.options.distance()/4
	return r, nil
}

func (t *peerTool) order(unit string) (cageOrder, error) {
	o := cageOrder{Tool: t.name, Program: t.program, Dir: t.peers.Dir, Victim: t.options.victim(t.rate), DistanceBytes: t.options.distance()}
	if err := t.peers.FS.Create(t.peers.Unit(unit)); err != nil {
		return o, err
	}
	o.Victim.ProcsFiles = t.peers.FS.ProcsFiles(t.peers.Unit(unit))
	for i, hold := range bystanderBytes {
		name := fmt.Sprintf("%s-sleeper-%d", unit, i)
		if err := t.peers.FS.Create(t.peers.Unit(name)); err != nil {
			return o, err
		}
		o.Sleepers = append(o.Sleepers, load.Spec{Kind: load.Sleeper, Hold: hold, Deadline: victimDeadline, ProcsFiles: t.peers.FS.ProcsFiles(t.peers.Unit(name))})
	}
	return o, nil
}

func (t *peerTool) clear(unit string) error {
	errs := []error{t.peers.Remove(unit)}
	for i := range bystanderBytes {
		errs = append(errs, t.peers.Remove(fmt.Sprintf("%s-sleeper-%d", unit, i)))
	}
	return errors.Join(errs...)
}

// onlyProcess is the one process of a unit, by its pid here.
func (f *field) onlyProcess(unit string) (int, error) {
	c, err := f.FS.Open(f.Unit(unit))
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	pids, err := c.Procs(nil)
	if err == nil && len(pids) != 1 {
		err = fmt.Errorf("%d processes in %s, want the hog", len(pids), unit)
	}
	if err != nil {
		return 0, err
	}
	return pids[0], nil
}

// cage is PID 1 of a PID namespace and has a /proc of its own. Nothing outside can be seen
// or signalled from in there, and with the cage all of it ends.
type cage struct {
	cmd   *exec.Cmd
	begin io.WriteCloser
	words *bufio.Reader
}

func startCage(ctx context.Context, self string, o cageOrder) (*cage, error) {
	arg, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	c := &cage{cmd: exec.CommandContext(ctx, self, CageCommand, string(arg))}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if c.begin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.words = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the cage: %w", err)
	}
	if word, err := c.words.ReadString('\n'); err != nil || word != cageReady {
		return nil, errors.Join(fmt.Errorf("the cage is not ready: %q: %w", word, err), c.end())
	}
	return c, nil
}

const cageReady = "ready\n"

// goAndEnd lets the hog go, or not, and returns what the cage reports.
func (c *cage) goAndEnd(begin bool) (r cageReport, err error) {
	if begin {
		_, err = io.WriteString(c.begin, "go\n")
		if err == nil {
			err = json.NewDecoder(c.words).Decode(&r)
		}
		if err != nil {
			err = fmt.Errorf("the cage's report: %w", err)
		}
	}
	return r, errors.Join(err, c.end())
}

func (c *cage) end() error {
	_ = c.begin.Close()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait() // killed is how it is meant to end
	return nil
}

// Cage is what this binary runs as a cage, with the argument that follows CageCommand; it
// returns the exit code.
func Cage(args []string) int {
	var o cageOrder
	err := errors.New("started by the program itself, with one argument")
	if len(args) == 1 {
		err = json.Unmarshal([]byte(args[0]), &o)
	}
	if err == nil {
		err = o.run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cage of %s: %v\n", o.Tool, err)
		return 1
	}
	return 0
}

func (o *cageOrder) run() error {
	if err := ownProc(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var sleepers []*load.Load
	for _, s := range o.Sleepers {
		l, err := load.Start(self, []string{load.Command}, s)
		if err != nil {
			return err
		}
		sleepers = append(sleepers, l)
	}
	hog, err := load.Start(self, []string{load.Command}, o.Victim)
	if err != nil {
		return err
	}
	now, err := memAvailable()
	if err != nil {
		return err
	}
	wire := now - o.DistanceBytes
	if err := o.startPeer(wire); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	fmt.Print(cageReady)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return nil // not to begin
	}
	return o.burn(hog, sleepers, wire)
}

func (o *cageOrder) burn(hog *load.Load, sleepers []*load.Load, wire int64) error {
	before, err := memAvailable()
	if err != nil {
		return err
	}
	if err := hog.Go(); err != nil {
		return err
	}
	r := cageReport{Died: hog.Wait(roundDeadline), DiedNs: monotonicNs(), DistanceBytes: before - wire}
	r.Marks = hog.Marks()
	r.Bytes, _ = hog.Progress()
	time.Sleep(settling)
	after, err := memAvailable()
	if err != nil {
		return err
	}
	r.MovedBytes, r.SleepersAlive = after-before-o.Victim.Hold, true
	for _, l := range sleepers {
		r.SleepersAlive = r.SleepersAlive && l.Alive()
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// settling is how long freed pages take to be counted.
const settling = 100 * time.Millisecond

// ownProc mounts a /proc that shows this PID namespace alone, and refuses to go on unless
// it does: what a peer can see it may kill.
func ownProc() error {
	if os.Getpid() != 1 {
		return errors.New("not PID 1 of a namespace")
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err == nil && len(pids) != 1 {
		err = fmt.Errorf("/proc shows %d processes, want this one", len(pids))
	}
	return err
}

// "MemAvailable:   19345678 kB"
var availableLine = regexp.MustCompile(`(?m)^MemAvailable:\s+(\d+) kB$`)

// memAvailable is what the peers watch.
func memAvailable() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	m := availableLine.FindSubmatch(text)
	if m == nil {
		return 0, errors.New("no MemAvailable in /proc/meminfo")
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kib << 10, err
}

// startPeer returns when the peer watches, by its own words.
func (o *cageOrder) startPeer(wire int64) error {
	var cmd *exec.Cmd
	ready := "sending SIGTERM when mem"
	switch o.Tool {
	case ToolEarlyoom:
		// Swap is no obstacle: both must be below, and all of it is.
		cmd = exec.Command(o.Program, "-M", fmt.Sprintf("%d,%d", wire>>10, wire>>11), "-s", "100", "-r", "0")
	case ToolNohang:
		file := filepath.Join(o.Dir, "nohang.conf")
		if err := o.configureNohang(file, wire); err != nil {
			return err
		}
		cmd = exec.Command(o.Program, "--monitor", "--config", file)
		cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
		ready = "Monitoring has started"
	default:
		return fmt.Errorf("no peer %q", o.Tool)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return err
	}
	w.Close()
	return awaitWord(r, ready)
}

// awaitWord reads until a line has word, and goes on reading so that nobody blocks.
func awaitWord(r io.Reader, word string) error {
	lines := bufio.NewScanner(r)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), word) {
			go func() { _, _ = io.Copy(io.Discard, r) }()
			return nil
		}
	}
	return fmt.Errorf("it ended: %s", strings.Join(said, "; "))
}

// configureNohang takes the package's configuration and sets the wire.
func (o *cageOrder) configureNohang(file string, wire int64) error {
	text, err := os.ReadFile(cmp.Or(os.Getenv("NOHANG_CONF"), "/etc/nohang/nohang.conf"))
	if err != nil {
		return err
	}
	for key, value := range map[string]string{
		"soft_threshold_min_mem":  fmt.Sprintf("%d M", wire>>20),
		"hard_threshold_min_mem":  fmt.Sprintf("%d M", wire>>21),
		"soft_threshold_min_swap": "100 %", "hard_threshold_min_swap": "50 %",
		"warning_threshold_min_mem": fmt.Sprintf("%d M", wire>>20),
	} {
		line := regexp.MustCompile(`(?m)^` + key + `\s*=.*$`)
		if !line.Match(text) {
			return fmt.Errorf("nohang.conf has no %s", key)
		}
		text = line.ReplaceAll(text, []byte(key+" = "+value))
	}
	return os.WriteFile(file, text, 0o600)
}
