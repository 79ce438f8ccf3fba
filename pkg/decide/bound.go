package decide

import (
	"cmp"
	"slices"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// SortBounds puts bounds in the order in which they are tried: hard before soft, signals
// as signal.Names has them (memory before pids, the node before a root), the larger value
// first (shares of the capacity before amounts). The order is total, where upstream's is
// random.
func SortBounds(bounds []Bound) {
	names := signal.Names()
	place := func(s signal.Signal) int {
		if i := slices.Index(names, s); i >= 0 {
			return i
		}
		return len(names)
	}
	slices.SortFunc(bounds, func(x, y Bound) int {
		return cmp.Or(
			trueFirst(x.Hard(), y.Hard()),
			cmp.Compare(place(x.Signal), place(y.Signal)),
			cmp.Compare(x.Signal, y.Signal),
			compareQuantity(y.Value, x.Value),
			cmp.Compare(x.Root, y.Root),
			cmp.Compare(x.GracePeriod, y.GracePeriod),
			compareQuantity(y.MinReclaim, x.MinReclaim),
		)
	})
}

func compareQuantity(x, y signal.Quantity) int {
	return cmp.Or(
		cmp.Compare(x.Percent, y.Percent),
		cmp.Compare(x.Value, y.Value),
		cmp.Compare(x.Text, y.Text),
	)
}
