package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// mostLoadBytes is what reading a file may take, garbage included, and mostKeptBytes what stays of
// it: the chart gives the agent 192 MiB, and while a table is read the last good one is there.
const (
	mostLoadBytes = 40 << 20
	mostKeptBytes = 16 << 20
)

// cost is how many bytes are allocated by load, and how many of them stay.
func cost(load func() any) (allocated, kept uint64) {
	var before, after, collected runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	result := load()
	runtime.ReadMemStats(&after)
	runtime.GC()
	runtime.ReadMemStats(&collected)
	runtime.KeepAlive(result)
	return after.TotalAlloc - before.TotalAlloc, collected.HeapAlloc - min(before.HeapAlloc, collected.HeapAlloc)
}

// filled is a table of elements as many as size has room for.
func filled(head string, size int, element func(i int) string, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := 0; ; i++ {
		next := element(i)
		if b.Len()+len(next)+len(tail)+1 > size {
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(next)
	}
	return b.String() + tail
}

func always(text string) func(int) string { return func(int) string { return text } }

func uids(i int) string { return fmt.Sprintf(`{"uid":"%d"}`, i) }

func names(i int) string { return fmt.Sprintf(`{"name":"%d"}`, i) }

const (
	tableHead = `{"schema":"ebpf-evict/workloads/v1","workloads":[`
	diskHead  = `{"schema":"ebpf-evict/disk/v1","writtenNs":90,"workloads":[`
)

func TestWhateverIsInAFileItsReaderStaysSmall(t *testing.T) {
	owner := uint32(os.Getuid())
	loadTable := func(path string) (any, error) { return LoadTable(path, owner) }
	loadDisk := func(path string) (any, error) { return LoadDisk(path, owner) }
	loadReclaim := func(path string) (any, error) { return LoadReclaim(path, owner) }
	for name, tt := range map[string]struct {
		load func(string) (any, error)
		text string
		is   error
	}{
		"900 KB of empty workloads":      {loadTable, filled(tableHead, 900_000, always(`{}`), `]}`), ErrTable},
		"4 MiB of empty workloads":       {loadTable, filled(tableHead, maxTableBytes, always(`{}`), `]}`), ErrTable},
		"16 MiB of empty workloads":      {loadTable, filled(tableHead, 16<<20, always(`{}`), `]}`), ErrTable},
		"workloads that are null":        {loadTable, filled(tableHead, maxTableBytes, always(`null`), `]}`), ErrTable},
		"workloads with a blank":         {loadTable, filled(tableHead, maxTableBytes, always(` { } `), `]}`), ErrTable},
		"too many workloads with a uid":  {loadTable, filled(tableHead, maxTableBytes, uids, `]}`), ErrTable},
		"a workload of empty volumes":    {loadTable, filled(tableHead+`{"uid":"u","volumes":[`, maxTableBytes, always(`{}`), `]}]}`), ErrTable},
		"a workload of containers":       {loadTable, filled(tableHead+`{"uid":"u","containers":[`, maxTableBytes, names, `]}]}`), ErrTable},
		"workloads again and again":      {loadTable, filled(`{"schema":"ebpf-evict/workloads/v1",`, maxTableBytes, always(`"workloads":[{},{},{}]`), `}`), ErrTable},
		"a name that is the file":        {loadTable, tableHead + `{"uid":"u","name":"` + strings.Repeat("n", maxTableBytes-100) + `"}]}`, ErrTable},
		"a uid that is the file":         {loadTable, tableHead + `{"uid":"` + strings.Repeat("\\u0001", 600_000) + `"}]}`, ErrTable},
		"a cgroup of slashes":            {loadTable, tableHead + `{"uid":"u","cgroup":"` + strings.Repeat("/", maxTableBytes-100) + `"}]}`, ErrTable},
		"a number that is the file":      {loadTable, tableHead + `{"uid":"u","priority":` + strings.Repeat("1", maxTableBytes-100) + `}]}`, ErrTable},
		"a key that is the file":         {loadTable, tableHead + `{"` + strings.Repeat("k", maxTableBytes-100) + `":1}]}`, ErrTable},
		"a schema that is the file":      {loadTable, `{"schema":"` + strings.Repeat("s", maxTableBytes-100) + `"}`, ErrTable},
		"bytes that are no UTF-8":        {loadTable, tableHead + `{"uid":"u","name":"` + strings.Repeat("\xff", maxTableBytes-100) + `"}]}`, ErrTable},
		"brackets and no end":            {loadTable, strings.Repeat(`[`, maxTableBytes), ErrTable},
		"objects in objects":             {loadTable, strings.Repeat(`{"a":`, maxTableBytes/5), ErrTable},
		"quotes and backslashes":         {loadTable, strings.Repeat(`"\`, maxTableBytes/2), ErrTable},
		"as many workloads as are taken": {loadTable, filled(tableHead, len(`{"uid":"00000"},`)*maxElements-200_000, uids, `]}`), nil},
		"as large a table as is taken":   {loadTable, largestTable(), nil},
		"figures of empty units":         {loadDisk, filled(diskHead, maxDiskBytes, always(`{}`), `]}`), ErrDisk},
		"figures of units with a uid":    {loadDisk, filled(diskHead, maxDiskBytes, uids, `]}`), ErrDisk},
		"figures of empty containers":    {loadDisk, filled(diskHead+`{"uid":"u","containers":[`, maxDiskBytes, always(`{}`), `]}]}`), ErrDisk},
		"a unit's name that is the file": {loadDisk, diskHead + `{"uid":"` + strings.Repeat("u", maxDiskBytes-100) + `"}]}`, ErrDisk},
		"as large figures as are taken":  {loadDisk, largestDisk(), nil},
		"a request that is too large":    {loadReclaim, `{"schema":"` + ReclaimSchema + `","id":"` + strings.Repeat("i", maxReclaimBytes) + `"}`, ErrReclaim},
		"an id that is the request":      {loadReclaim, `{"schema":"` + ReclaimSchema + `","signal":"s","deadlineNs":1,"id":"` + strings.Repeat("i", 60_000) + `"}`, ErrReclaim},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tt.text)
			var err error
			allocated, kept := cost(func() (result any) { result, err = tt.load(path); return result })
			t.Logf("a file of %d bytes: %d allocated (%.1f times), %d kept", len(tt.text), allocated, float64(allocated)/float64(len(tt.text)), kept)
			if !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes, for the log and the journal", len(err.Error()))
			}
			if allocated > mostLoadBytes || kept > mostKeptBytes {
				t.Errorf("took %d bytes and kept %d, want at most %d and %d", allocated, kept, mostLoadBytes, mostKeptBytes)
			}
		})
	}
}

// largestTable has as many elements as are taken, and is as large a file.
func largestTable() string {
	full := func(i int) string {
		return fmt.Sprintf(`{"uid":"%0*d","name":"n","volumes":[{"name":"v"}],"containers":[{"name":"a"},{"name":"b"}]}`, 600, i)
	}
	text := filled(tableHead, maxTableBytes*95/100, full, ``)
	small := (maxElements - strings.Count(text, `"name"`)) / 2
	for i := range small {
		if len(text) > maxTableBytes-100 {
			break
		}
		text += "," + uids(i)
	}
	return text + `]}`
}

func largestDisk() string {
	figures := `"ephemeralStorage":{"readNs":9,"rootfsBytes":1,"logsBytes":2,"localVolumesBytes":3,"usedBytes":7},"inodes":{"readNs":9,"rootfs":1,"logs":2,"localVolumes":3}`
	one := func(i int) string {
		return fmt.Sprintf(`{"uid":"%0*d",%s,"volumes":[{"readNs":9,"name":"v","usedBytes":3}]}`, 400, i, figures)
	}
	return filled(diskHead, maxDiskBytes, one, `]}`)
}

// denseNode is a node of 500 pods with long names, each with 5 containers and 5 emptyDirs.
func denseNode() (table Table, disk DiskTable) {
	table, disk = Table{Schema: TableSchema, Node: "n"}, DiskTable{Schema: DiskSchema, Node: "n", WrittenNs: 90 * uint64(time.Second)}
	at, bytes, grace := Reading{ReadNs: 80 * uint64(time.Second)}, int64(123_456_789_012), int64(30)
	for i := range 500 {
		uid := fmt.Sprintf("0f0e2b6a-6a3b-4c59-9a0e-%012d", i)
		e := Entry{
			UID: uid, Namespace: strings.Repeat("n", 30), Name: strings.Repeat("p", 63), QOSClass: "Burstable", TerminationGracePeriodSeconds: &grace,
			Memory: EntryMemory{RequestBytes: &bytes}, EphemeralStorage: EntryEphemeralStorage{RequestBytes: bytes, LimitBytes: &bytes}, Evict: "allow",
		}
		d := DiskEntry{
			UID: uid, WroteBytes: &bytes, MadeInodes: &bytes,
			EphemeralStorage: &EphemeralStorage{Reading: at, RootfsBytes: &bytes, LogsBytes: &bytes, LocalVolumesBytes: &bytes, UsedBytes: &bytes},
			Inodes:           &Inodes{Reading: at, Rootfs: &bytes, Logs: &bytes, LocalVolumes: &bytes},
		}
		for j := range 5 {
			name := fmt.Sprintf("%030d", j)
			e.Volumes = append(e.Volumes, EntryVolume{Name: name, SizeLimitBytes: bytes})
			e.Containers = append(e.Containers, EntryContainer{
				Name: name, ID: strings.Repeat("0", 64), MemoryRequestBytes: bytes, EphemeralStorageRequestBytes: bytes, EphemeralStorageLimitBytes: bytes,
			})
			d.Volumes = append(d.Volumes, VolumeDisk{Reading: at, Name: name, UsedBytes: &bytes})
			d.Containers = append(d.Containers, ContainerDisk{Reading: at, Name: name, RootfsBytes: &bytes, LogsBytes: &bytes})
		}
		table.Workloads, disk.Workloads = append(table.Workloads, e), append(disk.Workloads, d)
	}
	return table, disk
}

func TestADenseNodeIsFarBelowTheBounds(t *testing.T) {
	table, disk := denseNode()
	for name, tt := range map[string]struct {
		of    any
		most  int
		parse func([]byte) error
	}{
		"its names":   {&table, maxTableBytes / 2, func(b []byte) error { _, err := ParseTable(b); return err }},
		"its figures": {&disk, maxDiskBytes / 4, func(b []byte) error { _, err := ParseDisk(b); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := json.Marshal(tt.of)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes", len(data))
			if len(data) > tt.most {
				t.Errorf("%d bytes, want at most %d", len(data), tt.most)
			}
			if err := tt.parse(data); err != nil {
				t.Error(err)
			}
			elements := strings.Count(string(data), "{")
			if elements > maxElements/2 {
				t.Errorf("%d objects, and %d elements are the bound", elements, maxElements)
			}
		})
	}
}

func TestARefusedFileIsParsedOnce(t *testing.T) {
	owner := uint32(os.Getuid())
	scan := func(path string) (func(), func() uint64) {
		s := NewScanner(Options{TablePath: path, TableUID: owner})
		return s.LoadTable, func() uint64 { return s.TableStatus().Refused }
	}
	figures := func(path string) (func(), func() uint64) {
		r := NewDiskReader(path, owner, time.Minute)
		return func() { _, _ = r.Read(90) }, r.Refused
	}
	for name, tt := range map[string]struct {
		reader    func(string) (func(), func() uint64)
		bad, good string
	}{
		"the workload table": {scan, goodTable[:60] + strings.Repeat(" ", 1<<20), goodTable},
		"the disk figures":   {figures, diskHead + strings.Repeat(" ", 1<<20), diskHead + `]}`},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tt.bad)
			load, refused := tt.reader(path)
			load()
			if allocated, _ := cost(func() any { load(); return nil }); allocated > 16<<10 || refused() != 1 {
				t.Errorf("another look took %d bytes, %d refused in all; want it not read again", allocated, refused())
			}
			if err := ReplaceFile(path, []byte(tt.bad)); err != nil {
				t.Fatal(err)
			}
			if load(); refused() != 2 {
				t.Errorf("%d refused after another file of the same size, want 2", refused())
			}
			if err := ReplaceFile(path, []byte(tt.good)); err != nil {
				t.Fatal(err)
			}
			if load(); refused() != 2 {
				t.Errorf("%d refused after a good one, want 2", refused())
			}
		})
	}
}
