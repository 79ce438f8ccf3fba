package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
)

// Priorities of SCHED_FIFO: in the middle, above everything normal and below the kernel's
// watchdogs; the crew that finishes victims below the thread that strikes. Between them is
// who compares the wires where the kernel's timer can't (before 5.15): microseconds a tick.
const (
	hotPriority    = 50
	tickerPriority = 45
	crewPriority   = 40
	// scoutPriority is the scout's where there is no BPF.
	scoutPriority = 30
)

// memoryCeiling makes the collector run after all should the process grow for a reason
// that we did not think of.
const memoryCeiling = 256 << 20

// refuseHugePages keeps khugepaged (mm/khugepaged.c) off this process. It holds the address
// space's lock while it copies 512 pages, and has nice 19: on a CPU that is busy the hot thread
// waited in a page fault for 10 to 50 s. Before the heap is large: what is huge already is split
// under memory pressure.
func refuseHugePages(log zerolog.Logger) {
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		log.Warn().Err(err).Msg("degraded: khugepaged may hold the agent up on a busy CPU")
	}
}

// settle prepares the process once: enough Ps that the hot thread finds one when it
// returns from the kernel (with two it was seen waiting for 300 to 960 ms), also while each
// CPU's thread helps a victim to die, no collection in a pass, pages locked as they are
// touched, and the last that the kernel's OOM killer would take.
func settle(log zerolog.Logger) {
	runtime.GOMAXPROCS(runtime.NumCPU() + 8)
	debug.FreeOSMemory() // what the start needed; locked memory can't be given back
	forgetProgram()
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryCeiling)
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.Warn().Err(err).Msg("degraded: memory not locked, needs CAP_IPC_LOCK")
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0); err != nil {
		log.Warn().Err(err).Msg("degraded: oom_score_adj not lowered, needs CAP_SYS_RESOURCE")
	}
}

// forgetProgram drops the pages of the program that are mapped, of which most were needed by
// the start of what other commands do. Those that are touched again are mapped from the page
// cache. Where the mappings can't be told they stay.
func forgetProgram() {
	program, err := os.Readlink("/proc/self/exe")
	maps, err2 := os.ReadFile("/proc/self/maps")
	if errors.Join(err, err2) != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); err == nil &&
			access[1] == '-' && strings.HasSuffix(strings.TrimSpace(line), program) {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

// ownMemory is what reclaim leaves of the agent's own cgroup.
const ownMemory = 64 << 20

// keepOwnMemory sets memory.min of the cgroup that this process has to itself, as a service
// or a container has (v2). It guards what mlockall can't: the kernel's memory of ours.
func keepOwnMemory(fs *cgroupfs.FS, log zerolog.Logger) {
	c, err := fs.Own()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	if procs, err := c.Procs(nil); err != nil || c.Path() == "/" || !slices.Contains(procs, os.Getpid()) || slices.ContainsFunc(procs, isForeign) {
		return // shared with others, another one of that path outside our cgroup namespace, or the root, which has no such file
	}
	if err := c.SetMemoryMin(ownMemory); err != nil && !errors.Is(err, cgroupfs.ErrUnsupported) {
		log.Info().Err(err).Msg("memory.min not set")
	}
}

// isForeign: neither this process nor the keeper of its drills.
func isForeign(pid int) bool {
	if pid == os.Getpid() {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid()))
}

// raise gives the calling, locked thread a class of its own, and says so if it is not the
// best one. Without SCHED_FIFO the 99th percentile under load is 24 ms instead of 0.2 ms. It
// reports whether the thread is real-time.
func raise(log zerolog.Logger, priority uint32) bool {
	class, err := Raise(priority)
	switch class {
	case ClassFIFO:
		if err := realTime.add(); err != nil {
			log.Warn().Err(err).Msg("a real-time thread is not guarded")
		}
	case ClassSlice, ClassNice:
		log.Warn().Err(err).Str("class", string(class)).
			Msg("degraded: no SCHED_FIFO, kills may take milliseconds under load; needs CAP_SYS_NICE, and on cgroup v1 a cpu cgroup with cpu.rt_runtime_us")
	default:
		log.Warn().Err(err).
			Msg("degraded: neither SCHED_FIFO nor a higher nice value, kills may take tens of milliseconds under load; needs CAP_SYS_NICE")
	}
	return class == ClassFIFO
}

// poller is the one epoll of the hot thread.
type poller struct {
	epoll, event int
	events       [4]unix.EpollEvent
	word         [8]byte
}

func newPoller(crossingsFD int) (*poller, error) {
	p := &poller{epoll: -1, event: -1}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if p.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return p, errors.Join(p.watch(crossingsFD), p.watch(p.event))
}

// watch adds what becomes readable when there may be a crossing. It goes when it is closed.
func (p *poller) watch(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("add to epoll: %w", err)
	}
	return nil
}

// wait returns when something is there or the time is over. True: there may be a crossing, and
// nothing else is the reason.
func (p *poller) wait(most time.Duration) (onlyCrossings bool) {
	n, err := unix.EpollWait(p.epoll, p.events[:], int(most/time.Millisecond))
	if err != nil {
		return false
	}
	for i := range p.events[:n] {
		if p.events[i].Fd == int32(p.event) {
			_, _ = unix.Read(p.event, p.word[:])
			return false
		}
	}
	return n > 0
}

// wake ends a wait, from any goroutine.
func (p *poller) wake() {
	_, _ = unix.Write(p.event, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (p *poller) close() {
	_ = unix.Close(p.epoll)
	_ = unix.Close(p.event)
}

// initPIDNamespace is its inode number (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const initPIDNamespace = 0xEFFFFFFC

// isApart reports whether this process sees other PIDs than the kernel's records have.
func isApart() bool {
	var st unix.Stat_t
	err := unix.Stat("/proc/self/ns/pid", &st)
	return err != nil || st.Ino != initPIDNamespace
}

const apartReason = "a PID namespace of its own: who crossed is not struck first, nor reached by the backstop, and without cgroup.kill units of other namespaces can't be killed; needs hostPID"

func (a *Agent) announceApart() {
	if a.apart {
		a.log.Warn().Msg("degraded: " + apartReason)
		a.degraded(alarm{reason: apartReason})
	}
}
