package load

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Descriptors of the keeper; the load has all but the last.
const (
	readyFD    = 3 + iota // socket: the load's word that it is ready, or why not
	beginFD               // pipe: a byte from Go
	countersFD            // memfd: counters
	lifelineFD            // pipe: nothing is ever written; it closes when the starter is gone
)

// First bytes of what comes through readyFD.
const (
	wordReady = '+'
	wordError = '-'
)

// maxWord is more than any path in an error takes.
const maxWord = 8192

// channels connect the starter with keeper and load.
type channels struct {
	ready, readyChild       *os.File
	begin, beginChild       *os.File
	counters                *os.File
	lifeline, lifelineChild *os.File
}

func newChannels(marks int) (*channels, error) {
	var ch channels
	err := errors.Join(ch.openReady(), ch.openPipes(), ch.openCounters(marks))
	if err != nil {
		ch.close()
		return nil, err
	}
	return &ch, nil
}

// openReady makes a socket that tells the sender's pid in the receiver's PID namespace.
func (ch *channels) openReady() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	ch.ready, ch.readyChild = os.NewFile(uintptr(fds[0]), "ready"), os.NewFile(uintptr(fds[1]), "ready")
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return fmt.Errorf("set SO_PASSCRED: %w", err)
	}
	return nil
}

func (ch *channels) openPipes() (err error) {
	if ch.beginChild, ch.begin, err = os.Pipe(); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	if ch.lifelineChild, ch.lifeline, err = os.Pipe(); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	return nil
}

func (ch *channels) openCounters(marks int) error {
	fd, err := unix.MemfdCreate("load", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	ch.counters = os.NewFile(uintptr(fd), "counters")
	return ch.counters.Truncate(countersSize(marks))
}

// inherited is in the order of the descriptors above.
func (ch *channels) inherited() []*os.File {
	return []*os.File{ch.readyChild, ch.beginChild, ch.counters, ch.lifelineChild}
}

func (ch *channels) closeInherited() {
	for _, f := range []*os.File{ch.readyChild, ch.beginChild, ch.lifelineChild} {
		f.Close()
	}
}

// keep spares what a Load goes on using from close.
func (ch *channels) keep() { ch.begin, ch.lifeline = nil, nil }

func (ch *channels) close() {
	for _, f := range []*os.File{ch.ready, ch.readyChild, ch.begin, ch.beginChild, ch.counters, ch.lifeline, ch.lifelineChild} {
		f.Close() // nil and closed ones return an error of no interest
	}
}

// await returns the load's pid once it says that it is ready.
func (ch *channels) await(timeout time.Duration) (int, error) {
	fd := int(ch.ready.Fd())
	tv := unix.NsecToTimeval(int64(timeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, fmt.Errorf("set SO_RCVTIMEO: %w", err)
	}
	word, oob := make([]byte, maxWord), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, err := receive(fd, word, oob)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, fmt.Errorf("not ready after %v: %w", timeout, os.ErrDeadlineExceeded)
	case err != nil:
		return 0, fmt.Errorf("receive: %w", err)
	case n == 0:
		return 0, fmt.Errorf("died before it was ready: %w", io.ErrUnexpectedEOF)
	case word[0] != wordReady:
		return 0, errors.New(string(word[1:n]))
	}
	return senderPID(oob[:oobn])
}

func receive(fd int, word, oob []byte) (n, oobn int, err error) {
	for {
		n, oobn, _, _, err = unix.Recvmsg(fd, word, oob, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, oobn, err
		}
	}
}

func senderPID(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, fmt.Errorf("parse the control message: %w", err)
	}
	for _, m := range msgs {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil && cred.Pid > 0 {
			return int(cred.Pid), nil
		}
	}
	return 0, errors.New("no sender in the control message")
}

// say sends the load's or the keeper's one word.
func say(kind byte, text string) error {
	text = text[:min(len(text), maxWord-1)]
	if err := unix.Send(readyFD, append([]byte{kind}, text...), unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("send to the starter: %w", err)
	}
	return nil
}

// counters are shared by the starter, the keeper and all processes of the load.
type counters struct {
	done  int64 // bytes touched or forks done
	alive int64 // a bomb's processes that are not reaped
}

// shared is counters with a hog's marks behind them: when it had filled each MarkBytes.
type shared struct {
	*counters
	marks []int64
	all   []byte
}

func countersSize(marks int) int64 {
	return int64(unsafe.Sizeof(counters{})) + int64(marks)*int64(unsafe.Sizeof(int64(0)))
}

// marksOf is how many marks a load sets at most.
func marksOf(s *Spec) int {
	if s.Kind != Hog {
		return 0
	}
	return int(s.Bytes / MarkBytes)
}

func mapCounters(fd, marks int) (shared, error) {
	all, err := unix.Mmap(fd, 0, int(countersSize(marks)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return shared{}, fmt.Errorf("map the counters: %w", err)
	}
	s := shared{counters: (*counters)(unsafe.Pointer(&all[0])), all: all}
	if marks > 0 {
		s.marks = unsafe.Slice((*int64)(unsafe.Pointer(&all[unsafe.Sizeof(counters{})])), marks)
	}
	return s, nil
}

func (s shared) unmap() { _ = unix.Munmap(s.all) }
