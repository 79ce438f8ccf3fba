package signal

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// ErrMoved means that a path shows another filesystem than when the layout was detected:
// its mount is gone and the path shows what lies below, or something was mounted over it.
// It wraps ErrNoData, and lasts until the first filesystem is back or Redetect is called.
var ErrMoved = fmt.Errorf("another filesystem is mounted: %w", ErrNoData)

// DiskPaths name the filesystems of the disk signals by a directory on each.
type DiskPaths struct {
	// NodeFs is the kubelet's root directory.
	NodeFs string
	// ImageFs is where the container runtime keeps images; empty means on NodeFs.
	ImageFs string
	// ContainerFs is where it keeps the writable layers; empty means with the images.
	ContainerFs string
}

// DiskOptions say what is read and how often.
type DiskOptions struct {
	Paths DiskPaths
	// Thresholds are those of disk signals, derived ones included; others are ignored. The
	// nearer one is, the sooner its filesystem is read again.
	Thresholds []Threshold
	Pace       Pace
	// Wake is called after each reading at which a threshold is met, or was at the reading
	// before. It is called from several goroutines and must not block. May be nil.
	Wake func()
}

// Disks observes the disk signals. Each path is read by a goroutine of its own, so that a
// filesystem that does not answer, is gone or fails costs its own signals alone.
// Goroutines may share it.
type Disks struct {
	thresholds []Threshold
	pace       Pace
	wake       func()
	pollers    []*poller // one for each path
	roles      [3]*poller
	// detection counts the times that the devices were, or are to be, taken down.
	detection atomic.Uint64

	// What tests replace.
	stat func(path string) (fsStat, error)
	now  func() uint64
}

// The roles of a filesystem.
const (
	nodeFs = iota
	imageFs
	containerFs
)

// answerWithin is how long after its time a reading may come before the last one is stale.
// It bounds what a filesystem that hangs can make us believe.
const answerWithin = 2 * time.Second

// NewDisks prepares; nothing is read before Start.
func NewDisks(o DiskOptions) *Disks {
	d := &Disks{pace: o.Pace.withDefaults(), wake: o.Wake, stat: statfs, now: sample.Now}
	for _, t := range o.Thresholds {
		if t.Signal.Disk() {
			d.thresholds = append(d.thresholds, t)
		}
	}
	d.roles[nodeFs] = d.poller(o.Paths.NodeFs)
	d.roles[imageFs], d.roles[containerFs] = d.roles[nodeFs], d.roles[nodeFs]
	if o.Paths.ImageFs != "" {
		d.roles[imageFs] = d.poller(o.Paths.ImageFs)
		d.roles[containerFs] = d.roles[imageFs]
	}
	if o.Paths.ContainerFs != "" {
		d.roles[containerFs] = d.poller(o.Paths.ContainerFs)
	}
	d.detection.Store(1)
	return d
}

func (d *Disks) poller(path string) *poller {
	for _, p := range d.pollers {
		if p.path == path {
			return p
		}
	}
	p := &poller{disks: d, path: path, kicks: make(chan struct{}, 1)}
	d.pollers = append(d.pollers, p)
	return p
}

// Start reads until ctx is done. A goroutine whose filesystem hangs ends when that answers,
// or never.
func (d *Disks) Start(ctx context.Context) {
	for _, p := range d.pollers {
		go p.run(ctx)
	}
}

// Observe returns the last reading of a disk signal. The error wraps ErrNoData: not read
// yet, no answer in time, unreadable, implausible, no such figure (inodes on btrfs), or
// ErrMoved. It neither waits nor, without an error, allocates.
func (d *Disks) Observe(s Signal, nowNs uint64) (Observation, error) {
	role, ok := roleOf(s)
	if !ok {
		return Observation{}, fmt.Errorf("%s: no disk signal: %w", s, ErrNoData)
	}
	own := d.roles[role]
	newest, err := own.observe(s, nowNs)
	if err != nil {
		return Observation{}, err
	}
	// One filesystem makes one observation, by whatever path it is asked for.
	for _, p := range d.pollers {
		if p == own || !p.sameFs(own) {
			continue
		}
		if o, err := p.observe(s, nowNs); err == nil && o.Ns > newest.Ns {
			newest = o
		}
	}
	return newest, nil
}

// Layout returns how the filesystems lay when each had first answered. It never changes
// after that, as the kubelet's, unless Redetect is called. The error wraps ErrNoData and
// names a path that has not answered yet.
func (d *Disks) Layout() (Layout, error) {
	var device [3]uint64
	for role, p := range d.roles {
		r := p.last.Load()
		if r == nil || r.detection != d.detection.Load() {
			return Layout{}, fmt.Errorf("layout: %s has not been read yet: %w", p.path, ErrNoData)
		}
		if r.home == 0 {
			return Layout{}, fmt.Errorf("layout: %w", r.err)
		}
		device[role] = r.home
	}
	return layoutOf(device[nodeFs], device[imageFs], device[containerFs]), nil
}

// Redetect takes the filesystems that the paths show now for the right ones. Layout has no
// answer until they have been read.
func (d *Disks) Redetect() {
	d.detection.Add(1)
	for _, p := range d.pollers {
		select {
		case p.kicks <- struct{}{}:
		default: // kicked already
		}
	}
}

func roleOf(s Signal) (role int, ok bool) {
	switch s {
	case NodeFsAvailable, NodeFsInodesFree:
		return nodeFs, true
	case ImageFsAvailable, ImageFsInodesFree:
		return imageFs, true
	case ContainerFsAvailable, ContainerFsInodesFree:
		return containerFs, true
	}
	return 0, false
}

// poller reads one path.
type poller struct {
	disks *Disks
	path  string
	kicks chan struct{}
	// last is what run publishes.
	last atomic.Pointer[fsReading]

	// Of run alone.
	bytes, inodes fill
	met           bool
}

// fsReading is one reading of a path; nobody changes it once it is published.
type fsReading struct {
	// bytes and inodes have no signal: that depends on who asks.
	bytes, inodes       Observation
	bytesErr, inodesErr error
	// err is why there is neither.
	err error
	// home is the device that the path showed at the given detection; 0 until it is known.
	home, detection uint64
	// next is when the next reading was due, counted from this one.
	next time.Duration
}

func (p *poller) run(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(p.poll())
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-p.kicks:
		}
		timer.Stop()
	}
}

// poll reads and publishes, and returns when to read again.
func (p *poller) poll() time.Duration {
	r := p.read()
	var met bool
	r.next, met = p.plan(r)
	p.last.Store(r)
	if (met || p.met) && p.disks.wake != nil {
		p.disks.wake()
	}
	p.met = met
	return r.next
}

func (p *poller) read() *fsReading {
	// Before the call, so that what Redetect asks for is not answered by an earlier one.
	r := &fsReading{detection: p.disks.detection.Load()}
	if last := p.last.Load(); last != nil && last.detection == r.detection {
		r.home = last.home
	}
	ns := p.disks.now()
	stat, err := p.disks.stat(p.path)
	if err != nil {
		r.err = fmt.Errorf("%s: %w: %w", p.path, err, ErrNoData)
		return r
	}
	if r.home == 0 {
		r.home = stat.device
	}
	if stat.device != r.home {
		r.err = fmt.Errorf("%s: %w", p.path, ErrMoved)
		return r
	}
	r.bytes.Ns, r.inodes.Ns = ns, ns
	if r.bytes.Available, r.bytes.Capacity, err = stat.bytes(); err != nil {
		r.bytesErr = fmt.Errorf("%s: %w", p.path, err)
	}
	if r.inodes.Available, r.inodes.Capacity, err = stat.inodeCounts(); err != nil {
		r.inodesErr = fmt.Errorf("%s: %w", p.path, err)
	}
	return r
}

// figures returns the half of the reading that the signal is about.
func (r *fsReading) figures(s Signal) (Observation, error) {
	o, err := r.bytes, r.bytesErr
	if !s.Bytes() {
		o, err = r.inodes, r.inodesErr
	}
	o.Signal = s
	return o, errors.Join(r.err, err)
}

// retryAfter is when a path that could not be read is tried again.
const retryAfter = time.Second

// plan returns when to read again, and whether a threshold is met now.
func (p *poller) plan(r *fsReading) (next time.Duration, met bool) {
	pace := p.disks.pace
	if r.err != nil {
		return min(max(retryAfter, pace.Min), pace.Max), false
	}
	next = pace.Max
	bytesRate, inodesRate := p.bytes.add(r.bytes.Available, r.bytes.Ns), p.inodes.add(r.inodes.Available, r.inodes.Ns)
	for i := range p.disks.thresholds {
		t := &p.disks.thresholds[i]
		role, _ := roleOf(t.Signal)
		o, err := r.figures(t.Signal)
		if p.disks.roles[role] != p || err != nil {
			continue
		}
		distance := o.Available - t.Value.Of(o.Capacity)
		met = met || distance < 0
		if t.Signal.Bytes() {
			next = min(next, pace.Bytes(distance, bytesRate))
		} else {
			next = min(next, pace.Inodes(distance, inodesRate))
		}
	}
	return next, met
}

// sameFs reports whether two paths showed one filesystem when they were detected.
func (p *poller) sameFs(q *poller) bool {
	a, b := p.last.Load(), q.last.Load()
	return a != nil && b != nil && a.home != 0 && a.home == b.home && a.detection == b.detection
}

func (p *poller) observe(s Signal, nowNs uint64) (Observation, error) {
	r := p.last.Load()
	if r == nil {
		return Observation{}, fmt.Errorf("%s: %s has not been read yet: %w", s, p.path, ErrNoData)
	}
	o, err := r.figures(s)
	if err == nil {
		err = Fresh(o, nowNs, r.next+answerWithin)
	} else {
		err = fmt.Errorf("%s: %w", s, err)
	}
	if err != nil {
		return Observation{}, err
	}
	return o, nil
}
