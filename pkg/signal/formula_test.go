package signal_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

const mib = 1 << 20

func TestMemoryAvailableOf(t *testing.T) {
	good := sample.Node{Ns: 7, MemTotalBytes: 1000 * mib, AnonBytes: 300 * mib, FileBytes: 200 * mib, InactiveFileBytes: 50 * mib}
	tests := map[string]struct {
		change func(*sample.Node)
		want   int64  // available; capacity is that and the working set
		names  string // what the error names; empty when there is none
	}{
		"inactive file counts as available": {func(*sample.Node) {}, 550 * mib, ""},
		"huge pages are not available":      {func(n *sample.Node) { n.HugepagesBytes = 500 * mib }, 50 * mib, ""},
		"huge pages take all that is left":  {func(n *sample.Node) { n.HugepagesBytes = 550 * mib }, 0, ""},
		"more huge pages than are left":     {func(n *sample.Node) { n.HugepagesBytes = 600 * mib }, 0, ""},
		"negative huge pages":               {func(n *sample.Node) { n.HugepagesBytes = -1 }, 0, "huge pages"},
		"huge pages above MemTotal":         {func(n *sample.Node) { n.HugepagesBytes = 1000*mib + 1 }, 0, "huge pages"},
		"nothing used":                      {func(n *sample.Node) { n.AnonBytes, n.FileBytes, n.InactiveFileBytes = 0, 0, 0 }, 1000 * mib, ""},
		"all file pages inactive":           {func(n *sample.Node) { n.InactiveFileBytes = 200 * mib }, 700 * mib, ""},
		"everything used":                   {func(n *sample.Node) { n.AnonBytes = 850 * mib }, 0, ""},
		"working set above MemTotal":        {func(n *sample.Node) { n.AnonBytes = 851 * mib }, 0, "working set"},
		"no memory":                         {func(n *sample.Node) { n.MemTotalBytes = 0 }, 0, "MemTotal"},
		"negative MemTotal":                 {func(n *sample.Node) { n.MemTotalBytes = -1 }, 0, "MemTotal"},
		"negative anonymous pages":          {func(n *sample.Node) { n.AnonBytes = -1 }, 0, "anonymous"},
		"anonymous pages above MemTotal":    {func(n *sample.Node) { n.AnonBytes = math.MaxInt64 }, 0, "anonymous"},
		"negative file pages":               {func(n *sample.Node) { n.FileBytes = -1 }, 0, "implausible file pages"},
		"file pages above MemTotal":         {func(n *sample.Node) { n.FileBytes = math.MaxInt64 }, 0, "file pages"},
		"negative inactive file":            {func(n *sample.Node) { n.InactiveFileBytes = -1 }, 0, "inactive"},
		"more inactive file than file":      {func(n *sample.Node) { n.InactiveFileBytes = n.FileBytes + 1 }, 0, "inactive"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := good
			tc.change(&n)
			got, err := signal.MemoryAvailableOf(n)
			capacity := tc.want + n.AnonBytes + n.FileBytes - n.InactiveFileBytes
			check(t, got, err, signal.Observation{Signal: signal.MemoryAvailable, Available: tc.want, Capacity: capacity, Ns: 7}, tc.names)
		})
	}
}

// The kernel side knows one total and no huge pages. Told MemoryCapacityOf it must come to
// the same observation.
func TestTheKernelsTotalMakesTheSameObservation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := sample.Node{MemTotalBytes: 1000, AnonBytes: rapid.Int64Range(0, 400).Draw(t, "anon"), FileBytes: rapid.Int64Range(0, 300).Draw(t, "file")}
		n.InactiveFileBytes = rapid.Int64Range(0, n.FileBytes).Draw(t, "inactive")
		n.HugepagesBytes = rapid.Int64Range(0, 300).Draw(t, "hugepages")
		want, err := signal.MemoryAvailableOf(n)
		if err != nil {
			t.Fatal(err)
		}
		if want.Capacity != signal.MemoryCapacityOf(n) {
			t.Fatalf("capacity %d, want %d", want.Capacity, signal.MemoryCapacityOf(n))
		}
		n.MemTotalBytes, n.HugepagesBytes = signal.MemoryCapacityOf(n), 0
		got, err := signal.MemoryAvailableOf(n)
		if err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	})
}

func TestPIDAvailableOf(t *testing.T) {
	tests := map[string]struct {
		max, tasks, want int64
		names            string
	}{
		"room left":                     {32768, 274, 32494, ""},
		"limit lowered below the tasks": {100, 274, -174, ""},
		"no limit known":                {0, 274, 0, "largest"},
		"negative limit":                {-1, 274, 0, "largest"},
		"no task, not even the reader":  {32768, 0, 0, "tasks"},
		"negative tasks":                {32768, -1, 0, "tasks"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := signal.PIDAvailableOf(sample.Node{Ns: 7, TasksMax: tc.max, Tasks: tc.tasks})
			check(t, got, err, signal.Observation{Signal: signal.PIDAvailable, Available: tc.want, Capacity: tc.max, Ns: 7}, tc.names)
		})
	}
}

func TestAllocatableMemoryOf(t *testing.T) {
	tests := map[string]struct {
		limit, usage, inactive, want int64
		names                        string
	}{
		"inactive file does not count":     {1000, 700, 100, 400, ""},
		"more inactive file than usage":    {1000, 100, 700, 1000, ""},
		"usage above the limit":            {1000, 1500, 100, -400, ""},
		"the largest limit there is":       {1 << 62, 1, 0, 1<<62 - 1, ""},
		"no limit on v2":                   {math.MaxInt64, 1, 0, 0, "no limit"},
		"no limit on v1":                   {9223372036854771712, 1, 0, 0, "no limit"},
		"just above the largest limit":     {1<<62 + 1, 1, 0, 0, "no limit"},
		"limit 0":                          {0, 1, 0, 0, "limit"},
		"negative limit":                   {-1, 1, 0, 0, "limit"},
		"negative usage":                   {1000, -1, 0, 0, "usage"},
		"negative inactive file":           {1000, 1, -1, 0, "inactive"},
		"largest usage wraps around never": {1, math.MaxInt64, 0, 1 - math.MaxInt64, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := signal.AllocatableMemoryOf("/kubepods", tc.limit, tc.usage, tc.inactive, 7)
			check(t, got, err, signal.Observation{Signal: signal.AllocatableMemoryAvailable, Root: "/kubepods", Available: tc.want, Capacity: tc.limit, Ns: 7}, tc.names)
		})
	}
}

func TestAllocatablePIDOf(t *testing.T) {
	tests := map[string]struct {
		limit, tasks, want int64
		names              string
	}{
		"room left":       {100, 30, 70, ""},
		"empty cgroup":    {100, 0, 100, ""},
		"above the limit": {100, 130, -30, ""},
		"no limit":        {math.MaxInt64, 30, 0, "no limit"},
		"limit 0":         {0, 30, 0, "limit"},
		"negative tasks":  {100, -1, 0, "tasks"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := signal.AllocatablePIDOf("/kubepods", tc.limit, tc.tasks, 7)
			check(t, got, err, signal.Observation{Signal: signal.AllocatablePIDAvailable, Root: "/kubepods", Available: tc.want, Capacity: tc.limit, Ns: 7}, tc.names)
		})
	}
}

// check wants either the observation or no observation and an ErrNoData that names what.
func check(t *testing.T, got signal.Observation, err error, want signal.Observation, names string) {
	t.Helper()
	if names != "" {
		want = signal.Observation{}
		if !errors.Is(err, signal.ErrNoData) || !strings.Contains(err.Error(), names) {
			t.Errorf("error %v, want ErrNoData that names %q", err, names)
		}
	} else if err != nil {
		t.Errorf("error %v, want none", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("observation (-want +got):\n%s", diff)
	}
}

func TestNodeMemoryIsAShareOfItsCapacity(t *testing.T) {
	figure := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-2, 1000))
	rapid.Check(t, func(t *rapid.T) {
		n := sample.Node{
			MemTotalBytes: figure.Draw(t, "total"), AnonBytes: figure.Draw(t, "anon"),
			FileBytes: figure.Draw(t, "file"), InactiveFileBytes: figure.Draw(t, "inactive"),
			HugepagesBytes: figure.Draw(t, "hugepages"),
		}
		o, err := signal.MemoryAvailableOf(n)
		if err == nil && (o.Available < 0 || o.Available > o.Capacity) {
			t.Fatalf("%+v gives %+v", n, o)
		}
	})
}
