package decide

import (
	"cmp"
	"slices"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// SortBounds puts bounds in the order in which they are tried: hard before soft, signals
// as signal.Names has them (memory before pids, the node before a root, bytes before
// inodes), the larger value first (shares of the capacity before amounts). With compat
// memory comes first even where it is soft, as in the kubelet. The order is total, where
// upstream's is random.
func SortBounds(bounds []Bound, compat bool) {
	names := signal.Names()
	number := func(s signal.Signal) int {
		if i := slices.Index(names, s); i >= 0 {
			return i
		}
		return len(names)
	}
	slices.SortFunc(bounds, func(x, y Bound) int {
		return cmp.Or(
			trueFirst(compat && x.Signal.Memory(), compat && y.Signal.Memory()),
			trueFirst(x.Hard(), y.Hard()),
			cmp.Compare(number(x.Signal), number(y.Signal)),
			cmp.Compare(x.Signal, y.Signal),
			compareQuantity(y.Value, x.Value),
			cmp.Compare(x.Root, y.Root),
			cmp.Compare(x.GracePeriod, y.GracePeriod),
			compareQuantity(y.MinReclaim, x.MinReclaim),
		)
	})
}

func trueFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

func compareQuantity(x, y signal.Quantity) int {
	return cmp.Or(
		cmp.Compare(x.Percent, y.Percent),
		cmp.Compare(x.Value, y.Value),
		cmp.Compare(x.Text, y.Text),
	)
}

// WithContainerFs returns the bounds with those of containerfs: it gets the thresholds of the
// filesystem that the writable layers lie on (UpdateContainerFsThresholds in
// pkg/kubelet/eviction), of nodefs where there is one filesystem, or where the images alone
// have their own, else of imagefs. What was asked for containerfs is overwritten. Of
// several hard, or several soft ones of a signal the last counts; the order is config's.
//
// The kubelet's first pass has taken its list before. It does not see what is added to it,
// and what is overwritten only as long as the list has not grown out of its place.
func WithContainerFs(s *Settings, l signal.Layout) []Bound {
	if l.SplitImageFs && !l.DedicatedImageFs {
		return slices.Clone(s.Bounds) // no such layout
	}
	bytes, inodes := signal.NodeFsAvailable, signal.NodeFsInodesFree
	if l.DedicatedImageFs && !l.SplitImageFs {
		bytes, inodes = signal.ImageFsAvailable, signal.ImageFsInodesFree
	}
	out, room := slices.Clone(s.Bounds), s.Room
	for _, c := range [...]struct {
		child, parent signal.Signal
		hard          bool
	}{
		{signal.ContainerFsAvailable, bytes, true}, {signal.ContainerFsAvailable, bytes, false},
		{signal.ContainerFsInodesFree, inodes, true}, {signal.ContainerFsInodesFree, inodes, false},
	} {
		copied := copyOf(s.Bounds, c.parent, c.hard, c.child)
		given := lastOf(s.Bounds, c.child, c.hard)
		switch {
		case given < 0:
			room--
		case room >= 0 || !s.Compat:
			out[given] = copied
			continue
		default:
			out[given].Passes = FirstPass
		}
		copied.Passes = LaterPasses
		out = append(out, copied)
	}
	return slices.DeleteFunc(out, func(b Bound) bool { return b.Signal == "" })
}

// copyOf is the bound of a parent for its child. Where there is none the kubelet's has no
// operator, and is never met; ours is empty.
func copyOf(bounds []Bound, parent signal.Signal, hard bool, child signal.Signal) Bound {
	from := lastOf(bounds, parent, hard)
	if from < 0 {
		return Bound{}
	}
	b := bounds[from]
	b.Signal = child
	return b
}

// lastOf returns the index of the last bound of a signal that is hard, or that is soft.
func lastOf(bounds []Bound, s signal.Signal, hard bool) int {
	last := -1
	for i := range bounds {
		if bounds[i].Signal == s && bounds[i].Hard() == hard {
			last = i
		}
	}
	return last
}
