package kube

import (
	"encoding/json"
	"slices"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// size is what something takes of the workload table.
type size struct{ elements, bytes int }

// tableMost leaves room for schema, node and generation: a name has at most 512 bytes, of which JSON
// writes each as six.
var tableMost = size{workload.MaxTableElements, workload.MaxTableBytes - 4<<10}

// fit leaves out of a table what is too much: of the pod that has the most volumes, and if it is still
// the one with the most its containers, and so on with the next. A pod with few has all of its own,
// however many others have. A list goes as a whole: of half a pod's containers the one that is left
// would pass for its only one. The rows stay, which alone may be too much.
func fit(entries []workload.Entry, most size) []workload.Entry {
	fitted := slices.Clone(entries)
	lists := make([]size, len(fitted))
	var total size
	for i := range fitted {
		lists[i] = sizeOfLists(&fitted[i])
		total.elements += 1 + lists[i].elements
		total.bytes += bytesOfEntry(fitted[i]) + len(",")
	}
	for {
		of := func(s size) int { return s.elements }
		switch {
		case total.elements > most.elements:
		case total.bytes > most.bytes:
			of = func(s size) int { return s.bytes }
		default:
			return fitted
		}
		at := 0
		for i := range lists {
			if of(lists[i]) > of(lists[at]) {
				at = i
			}
		}
		if len(lists) == 0 || of(lists[at]) == 0 {
			return fitted
		}
		was, e := lists[at], &fitted[at]
		if len(e.Volumes) > 0 {
			e.Volumes = nil
		} else {
			e.Containers = nil
		}
		lists[at] = sizeOfLists(e)
		total.elements -= was.elements - lists[at].elements
		total.bytes -= was.bytes - lists[at].bytes
	}
}

func sizeOfLists(e *workload.Entry) size {
	row := *e
	row.Volumes, row.Containers = nil, nil
	return size{len(e.Volumes) + len(e.Containers), bytesOfEntry(*e) - bytesOfEntry(row)}
}

func bytesOfEntry(e workload.Entry) int {
	data, _ := json.Marshal(e) // of numbers and strings alone
	return len(data)
}
