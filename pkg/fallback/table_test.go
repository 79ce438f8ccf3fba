package fallback

import (
	"fmt"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// find is the row of the bed's cgroup.
func find(each func(func(sample.Cgroup)), id uint64) (found sample.Cgroup, ok bool) {
	each(func(c sample.Cgroup) {
		if c.CgroupID == id {
			found, ok = c, true
		}
	})
	return found, ok
}

// cgroupsOf are cgroups whose ids are not known.
func cgroupsOf(paths ...string) (cgroups []Cgroup) {
	for _, path := range paths {
		cgroups = append(cgroups, Cgroup{Path: path})
	}
	return cgroups
}

func TestTableFollowsTheFiles(t *testing.T) {
	b := newBed(t, Poll)
	table := NewTable(b.fs)
	defer table.Close()
	must(t, table.Track(cgroupsOf("/", b.path, b.path, b.path+"-that-is-not-there")))
	if _, ok := find(table.EachMemory, b.memory.CgroupID); ok {
		t.Error("a row shows before it was read")
	}
	if n := table.Walk(new(cgroupfs.Scratch)); n != 2 {
		t.Errorf("%d rows, want the root's and the bed's", n)
	}
	row, ok := find(table.EachMemory, b.memory.CgroupID)
	if !ok || row.Usage > 1<<20 || row.CSSID == 0 {
		t.Fatalf("got %+v, %v", row, ok)
	}
	const held = 16 << 20
	l := b.start(load.Spec{Kind: load.Sleeper, Hold: held})
	must(t, l.Go())
	for done := int64(0); done < held; done, _ = l.Progress() {
		if !l.Alive() {
			t.Fatal("the sleeper died")
		}
	}
	table.Walk(new(cgroupfs.Scratch))
	if row, ok := table.Memory(row.CSSID, b.memory.CgroupID); !ok || row.Usage < held || row.Ns == 0 {
		t.Errorf("got %+v, %v, want %d bytes and more", row, ok, held)
	}
	tasks, ok := find(table.EachTasks, b.tasks.CgroupID)
	if !ok || tasks.Usage < 1 {
		t.Errorf("got %+v, %v, want the sleeper's tasks", tasks, ok)
	}
	if _, ok := table.Memory(row.CSSID, b.memory.CgroupID+1); ok {
		t.Error("another cgroup's id finds the row")
	}
	must(t, l.Stop())
	if !table.Refresh(row.CSSID, new(cgroupfs.Scratch)) {
		t.Error("gone, though it is there")
	}
	if tasks, ok := table.Tasks(row.CSSID, b.tasks.CgroupID); !ok || tasks.Usage != 0 {
		t.Errorf("got %+v, %v, want no task", tasks, ok)
	}
}

func TestTableForgetsWhatIsGone(t *testing.T) {
	b := newBed(t, Poll)
	table := NewTable(b.fs)
	defer table.Close()
	var paths []string
	for i := range 5 {
		paths = append(paths, fmt.Sprintf("%s/%d", b.path, i))
		must(t, b.fs.Create(paths[i]))
	}
	must(t, table.Track(cgroupsOf(paths...)))
	table.Walk(new(cgroupfs.Scratch))
	numbers := map[uint32]uint64{}
	table.EachMemory(func(c sample.Cgroup) { numbers[c.CSSID] = c.CgroupID })
	if len(numbers) != 5 {
		t.Fatalf("rows %v, want 5 of their own", numbers)
	}
	var known []Cgroup
	for number, id := range numbers {
		if got := table.Find(id, 0); got != number {
			t.Errorf("cgroup %d is found in row %d, want %d", id, got, number)
		}
	}
	for _, path := range paths {
		c, err := b.fs.Open(path)
		must(t, err)
		known = append(known, Cgroup{path, c.MemoryID(), c.PidsID()})
		must(t, c.Close())
	}
	must(t, table.Track(known)) // the same
	must(t, b.fs.Remove(paths[2]))
	if n := table.Walk(new(cgroupfs.Scratch)); n != 5 {
		t.Errorf("%d rows, want 5 until it is said who is there", n)
	}
	left := 0
	table.EachMemory(func(sample.Cgroup) { left++ })
	if left != 4 {
		t.Errorf("%d rows have a figure, want 4", left)
	}
	must(t, b.fs.Create(paths[2])) // under the same name
	must(t, table.Track(cgroupsOf(paths[1:]...)))
	if n := table.Walk(new(cgroupfs.Scratch)); n != 4 {
		t.Errorf("%d rows, want 4", n)
	}
	same := 0
	table.EachMemory(func(c sample.Cgroup) {
		if numbers[c.CSSID] == c.CgroupID {
			same++
		}
	})
	if same != 3 {
		t.Errorf("%d rows are what they were, want 3", same)
	}
	for number, id := range numbers {
		_, ok := table.Memory(number, id)
		if fresh := table.Refresh(number, new(cgroupfs.Scratch)); ok && !fresh {
			t.Errorf("row %d is there and gone", number)
		}
	}
}
