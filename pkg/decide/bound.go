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

// WithContainerFs gives the containerfs signals the thresholds of the filesystem that the
// writable layers lie on (UpdateContainerFsThresholds in pkg/kubelet/eviction): those of
// nodefs where there is one filesystem, or where the images alone have their own; else
// those of imagefs. What was asked for containerfs is overwritten. Of several hard, or
// several soft ones of a signal the last counts; the order is config's.
func WithContainerFs(bounds []Bound, l signal.Layout) []Bound {
	if l.SplitImageFs && !l.DedicatedImageFs {
		return bounds // no such layout
	}
	bytes, inodes := signal.NodeFsAvailable, signal.NodeFsInodesFree
	if l.DedicatedImageFs && !l.SplitImageFs {
		bytes, inodes = signal.ImageFsAvailable, signal.ImageFsInodesFree
	}
	out := slices.Clone(bounds)
	for _, hard := range []bool{true, false} {
		out = inherit(out, bounds, signal.ContainerFsAvailable, bytes, hard)
		out = inherit(out, bounds, signal.ContainerFsInodesFree, inodes, hard)
	}
	return out
}

func inherit(out, bounds []Bound, child, parent signal.Signal, hard bool) []Bound {
	from, given := lastOf(bounds, parent, hard), lastOf(out, child, hard)
	switch {
	case from < 0 && given < 0:
		return out
	case from < 0: // the kubelet's copy has no operator, and is never met
		return slices.Delete(out, given, given+1)
	case given < 0:
		b := bounds[from]
		b.Signal, b.Derived = child, true
		return append(out, b)
	}
	b := bounds[from]
	b.Signal = child
	out[given] = b
	return out
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
