package fallback

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// connector counts forks, of processes and of threads, as the netlink proc connector tells
// them (drivers/connector/cn_proc.c). Only near a wire does it listen: each listener costs
// every fork, exec and exit of the machine a message. netlink.ProcEventMonitor would read
// these for us, one by one, with a few allocations each and on threads of its own; here
// forks alone pass the socket's filter, and are counted without being parsed.
//
// A storm does not get more than a bounded share of a CPU: after a wake-up the socket is
// left alone for as long as the forks of the fastest machine need to use up the credit, half
// the distance to the nearest wire, and at least holdMin.
//
// What finds no room in the socket's buffer is lost. The kernel says so (ENOBUFS): every wire
// of tasks is read at once, as nothing is decided on the count. Then the connector rests, and
// the wires are polled.
type connector struct {
	fd        int
	listening bool
	// armed: the next message wakes us. holding: the socket is left alone until holdNs.
	armed, holding bool
	holdNs         uint64
	total          uint64 // forks since it was opened
	doubt          bool   // some were lost, or there may be more than were read
	// lost counts how often the buffer ran over, toldLost those that it rests for already.
	lost, toldLost uint64
	// It rests until restNs, for pause, at least for leastRest.
	restNs           uint64
	pause, leastRest time.Duration
	buf              [64]byte // the head of a message; the rest is cut off
}

const (
	holdMin = 100 * time.Microsecond
	holdMax = time.Millisecond
	// listenWithin is how near a wire must be, in time at the fastest forking: 2,000 tasks
	// on two CPUs. Listening ends at twice that.
	listenWithin = 50 * time.Millisecond
	// connectorBuffer holds the forks of two CPUs for some 30 ms (768 bytes each).
	connectorBuffer = 1 << 20
	// leastRest and mostRest bound how long the connector is left alone after it lost forks, or
	// failed: twice as long each time that this comes soon again.
	leastRest = time.Second
	mostRest  = 5 * time.Minute
	// mostMessages bounds one draining, should somebody send as fast as we read.
	mostMessages = 4096
	// ackTimeout is how long the kernel may take to say that it sends: it does so at once,
	// or never.
	ackTimeout = 200

	procMulticastIgnore = 2  // PROC_CN_MCAST_IGNORE, include/uapi/linux/cn_proc.h
	whatOffset          = 36 // of proc_event.what: behind nlmsghdr (16) and cn_msg (20)
)

// errOverflow: forks come faster than they can be counted.
var errOverflow = errors.New("the proc connector's buffer ran over")

// errSilent: nothing comes back where the process is not in the initial pid and user
// namespaces, or the kernel was built without CONFIG_PROC_EVENTS.
var errSilent = errors.New("the proc connector is silent: it needs CONFIG_PROC_EVENTS and the initial pid namespace")

// openConnector subscribes, waits for the kernel's word that it sends, and stops it again.
// Needs CAP_NET_ADMIN.
func openConnector() (*connector, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("open the proc connector: %w", err)
	}
	c := &connector{fd: fd, leastRest: leastRest}
	if err := c.subscribe(); err != nil {
		c.close()
		return nil, fmt.Errorf("subscribe to the proc connector: %w", err)
	}
	return c, nil
}

func (c *connector) subscribe() error {
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, connectorBuffer); err != nil {
		return err
	}
	if err := unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, forksOnly()); err != nil {
		return err
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: netlink.CN_IDX_PROC}); err != nil {
		return err
	}
	if err := c.listen(true); err != nil {
		return err
	}
	ready := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ready, ackTimeout); n == 0 && err == nil {
		return errSilent
	}
	return c.listen(false)
}

// forksOnly lets through forks and the kernel's answer to a subscription. A filter loads the
// word in network order.
func forksOnly() *unix.SockFprog {
	fork := make([]byte, 4)
	binary.NativeEndian.PutUint32(fork, netlink.PROC_EVENT_FORK)
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: whatOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(fork), Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: netlink.PROC_EVENT_NONE, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
}

// listen has the kernel send, or not. Before 6.6 it goes on sending, to nobody, when a
// socket is closed without that.
func (c *connector) listen(on bool) error {
	op := uint32(netlink.PROC_CN_MCAST_LISTEN)
	if !on {
		op = procMulticastIgnore
	}
	request := nl.NetlinkRequest{NlMsghdr: unix.NlMsghdr{
		Len: unix.SizeofNlMsghdr, Type: unix.NLMSG_DONE, Pid: uint32(os.Getpid()),
	}}
	request.AddData(nl.NewCnMsg(netlink.CN_IDX_PROC, netlink.CN_VAL_PROC, op))
	if err := unix.Sendto(c.fd, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to the proc connector: %w", err)
	}
	c.listening = on
	return nil
}

func (c *connector) close() {
	if c.listening {
		_ = c.listen(false)
	}
	unix.Close(c.fd)
}

// spent reports whether a counter that was read when forks were counted, distance from its
// wire, is to be read again. Whoever forked may be anywhere: of a cgroup's own wire that is
// too soon, never too late.
func (c *connector) spent(forks uint64, distance int64) bool {
	return c.doubt || c.total-forks > credit(distance)
}

// credit is how many forks may pass unread: half, so that what is between count and counter
// (a fork is told after it is counted) is found by the next reading.
func credit(distance int64) uint64 { return uint64(max(0, distance)) / 2 }

// take counts what came since the last look, if it is time to.
func (c *connector) take(woken bool, ns uint64) {
	switch {
	case woken:
		c.armed, c.holding = false, true
		c.drain()
	case c.holding && ns >= c.holdNs:
		c.holding = c.drain() > 0 || c.doubt
	}
}

// rest leaves the connector alone for a while.
func (c *connector) rest(ns uint64) {
	if c.restNs == 0 || ns-c.restNs > uint64(mostRest) {
		c.pause = c.leastRest
	} else {
		c.pause = min(2*c.pause, mostRest)
	}
	c.restNs = ns + uint64(c.pause)
	c.holding, c.doubt, c.toldLost = false, false, c.lost
	if c.listening {
		_ = c.listen(false)
		c.listening = false // whatever it says: nobody reads
	}
}

func (c *connector) rests(ns uint64) bool { return ns < c.restNs }

// attend listens while a wire is near, and returns when it wants to be called again. nearest
// is the distance to the nearest wire of tasks. Error: it is to rest.
func (c *connector) attend(w *Watcher, nearest int64, ns uint64) (uint64, error) {
	if c.rests(ns) {
		return never, nil
	}
	if c.lost != c.toldLost {
		return never, errOverflow
	}
	switch near := w.forks.within(listenWithin); {
	case !c.listening && nearest < near:
		w.wake() // to read all wires once it does
		return never, errors.Join(c.listen(true), c.rearm(w))
	case c.listening && nearest > 2*near:
		c.holding, c.doubt = false, false
		return never, c.listen(false)
	case !c.listening:
		return never, nil
	case !c.holding:
		return never, c.rearm(w)
	}
	hold := time.Duration(float64(credit(nearest)) / float64(w.forks.perSecond) * float64(time.Second))
	c.holdNs = ns + uint64(min(max(hold, holdMin), holdMax))
	return c.holdNs, nil
}

// rearm lets the next message wake us, once.
func (c *connector) rearm(w *Watcher) error {
	if c.armed {
		return nil
	}
	c.armed = true
	return w.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN|unix.EPOLLONESHOT, 0)
}

// drain counts what is there.
func (c *connector) drain() (n int) {
	c.doubt = false
	for n < mostMessages {
		_, err := unix.Read(c.fd, c.buf[:])
		switch err {
		case nil:
			n++
		case unix.EINTR:
		case unix.ENOBUFS:
			c.lost++
			c.doubt = true
		default: // EAGAIN: empty
			c.total += uint64(n)
			return n
		}
	}
	c.total += uint64(n)
	c.doubt = true
	return n
}
