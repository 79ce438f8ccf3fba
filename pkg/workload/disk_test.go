package workload

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const goodDisk = `{"schema":"ebpf-evict/disk/v1","node":"n","writtenNs":90000000000,
 "layout":{"dedicatedImageFs":true,"splitImageFs":false,"imageDir":"/var/lib/containerd"},
 "workloads":[{"uid":"u1",
   "ephemeralStorage":{"readNs":80000000000,"rootfsBytes":1,"logsBytes":0,"usedBytes":7},
   "inodes":{"readNs":80000000000,"rootfs":1,"logs":null},
   "volumes":[{"readNs":70000000000,"name":"v","medium":"Memory","usedBytes":3},{"readNs":70000000000,"name":"w"}],
   "containers":[{"readNs":80000000000,"name":"c","rootfsBytes":1,"logsBytes":2}]},
  {"uid":"u2"}],
 "reclaim":{"id":"r1","signal":"imagefs.available","doneNs":60000000000,"freedBytes":5,"images":2}}`

const second = uint64(time.Second)

func TestParseDisk(t *testing.T) {
	table, err := ParseDisk([]byte(goodDisk))
	if err != nil {
		t.Fatal(err)
	}
	if table.Layout == nil || !table.Layout.DedicatedImageFs || table.Layout.SplitImageFs ||
		table.Layout.ImageDir != "/var/lib/containerd" || table.Layout.ContainerDir != "" {
		t.Errorf("layout %+v", table.Layout)
	}
	e := table.Entry("u1")
	s := e.EphemeralStorage
	if *s.RootfsBytes != 1 || *s.LogsBytes != 0 || s.LocalVolumesBytes != nil || *s.UsedBytes != 7 {
		t.Errorf("ephemeralStorage %+v: a zero is a figure, an absent one is none", s)
	}
	if *e.Inodes.Rootfs != 1 || e.Inodes.Logs != nil || e.Inodes.LocalVolumes != nil {
		t.Errorf("inodes %+v: null is no data", e.Inodes)
	}
	if v := e.Volumes; len(v) != 2 || v[0].Medium != "Memory" || *v[0].UsedBytes != 3 || v[1].UsedBytes != nil {
		t.Errorf("volumes %+v", v)
	}
	if c := e.Containers; len(c) != 1 || *c[0].RootfsBytes != 1 || *c[0].LogsBytes != 2 {
		t.Errorf("containers %+v", c)
	}
	if got := e.Volumes[0].Age(91 * second); got != 21*time.Second {
		t.Errorf("age %s, want 21s", got)
	}
	if e := table.Entry("u2"); e == nil || e.EphemeralStorage != nil || e.Inodes != nil {
		t.Errorf("a unit without figures is %+v", e)
	}
	if table.Entry("u3") != nil {
		t.Error("figures of an unknown unit")
	}
	if r := table.Reclaim; r.ID != "r1" || *r.FreedBytes != 5 || r.FreedInodes != nil || r.Images != 2 {
		t.Errorf("reclaim %+v", r)
	}
}

func TestAUnitIsMeasuredByFiguresThatAreNotTooOld(t *testing.T) {
	table, err := ParseDisk([]byte(goodDisk))
	if err != nil {
		t.Fatal(err)
	}
	limits := Workload{
		Containers: []Container{{Name: "c", RootfsBytes: NoData, LogsBytes: NoData}, {Name: "other", RootfsBytes: NoData, LogsBytes: NoData}},
		Volumes:    []Volume{{Name: "v", UsedBytes: NoData, SizeLimitBytes: 9}, {Name: "w", UsedBytes: NoData}},
	}
	const nowNs = 90 * uint64(time.Second)
	for _, tc := range []struct {
		name               string
		maxAge             time.Duration
		rootfs, logs, used int64
	}{
		{"all are young enough", 20 * time.Second, 1, 2, 3},
		{"the volumes' are too old", 10 * time.Second, 1, 2, NoData},
		{"all are too old", 9 * time.Second, NoData, NoData, NoData},
	} {
		w := limits
		table.Entry("u1").Measure(&w, nowNs, tc.maxAge)
		if c := w.Containers; c[0].RootfsBytes != tc.rootfs || c[0].LogsBytes != tc.logs || c[1].RootfsBytes != NoData {
			t.Errorf("%s: containers %+v", tc.name, c)
		}
		if v := w.Volumes; v[0].UsedBytes != tc.used || v[0].SizeLimitBytes != 9 || v[1].UsedBytes != NoData {
			t.Errorf("%s: volumes %+v", tc.name, v)
		}
		if (w.Usage.Disk == nil) != (tc.rootfs == NoData) {
			t.Errorf("%s: %+v", tc.name, w.Usage.Disk)
		}
	}
	if limits.Containers[0].RootfsBytes != NoData || limits.Volumes[0].UsedBytes != NoData {
		t.Error("what other units share was changed")
	}
	if age, ok := table.Entry("u1").OldestAge(nowNs); age != 10*time.Second || !ok {
		t.Errorf("oldest age %s, %v", age, ok)
	}
	if _, ok := table.Entry("u2").OldestAge(nowNs); ok {
		t.Error("a unit without figures has an age")
	}
}

// What nobody counted may be anything.
func TestWhatAUnitMayHoldWithoutFigures(t *testing.T) {
	table, err := ParseDisk([]byte(strings.Replace(goodDisk, `"uid":"u2"`, `"uid":"u2","wroteBytes":0`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := table.Entry("u2").Unmeasured(), (FsUsage{0, math.MaxInt64}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := table.Entry("u1").Unmeasured(), (FsUsage{math.MaxInt64, math.MaxInt64}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAgeIsNeverNegative(t *testing.T) {
	for _, tc := range []struct {
		read, now uint64
		want      time.Duration
	}{
		{5, 5, 0}, {5, 4, 0}, {4, 5, 1}, {math.MaxUint64, 0, 0}, {0, math.MaxUint64, math.MaxInt64},
	} {
		if got := (Reading{tc.read}).Age(tc.now); got != tc.want {
			t.Errorf("read at %d, now %d: age %d, want %d", tc.read, tc.now, got, tc.want)
		}
	}
}

func TestHostileDiskFiguresAreRefused(t *testing.T) {
	owner := uint32(os.Getuid())
	replace := func(old, with string) string {
		t.Helper()
		if !strings.Contains(goodDisk, old) {
			t.Fatalf("%q is not in the table", old)
		}
		return write(t, strings.Replace(goodDisk, old, with, 1))
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(write(t, goodDisk), link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	big := write(t, goodDisk)
	if err := os.Truncate(big, 1<<30); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"symbolic link":                link,
		"fifo":                         fifo,
		"1 GiB":                        big,
		"torn":                         write(t, goodDisk[:300]),
		"empty":                        write(t, ""),
		"unknown schema":               replace("disk/v1", "disk/v2"),
		"another file's schema":        replace("disk/v1", "workloads/v1"),
		"no time":                      replace(`"writtenNs":90000000000`, `"writtenNs":0`),
		"negative bytes":               replace(`"usedBytes":7`, `"usedBytes":-7`),
		"negative logs":                replace(`"logsBytes":0`, `"logsBytes":-1`),
		"negative inodes":              replace(`"rootfs":1`, `"rootfs":-1`),
		"negative volume":              replace(`"usedBytes":3`, `"usedBytes":-3`),
		"negative logs elsewhere":      replace(`"logsBytes":0`, `"logsBytes":0,"logsElsewhereBytes":-1`),
		"negative inodes elsewhere":    replace(`"logs":null`, `"logs":null,"logsElsewhere":-1`),
		"negative container":           replace(`"logsBytes":2`, `"logsBytes":-2`),
		"negative reclaim":             replace(`"freedBytes":5`, `"freedBytes":-5`),
		"negative images":              replace(`"images":2`, `"images":-2`),
		"more than any disk":           replace(`"usedBytes":7`, `"usedBytes":1152921504606846977`),
		"beyond 64 bits":               replace(`"usedBytes":7`, `"usedBytes":99999999999999999999`),
		"a fraction":                   replace(`"usedBytes":7`, `"usedBytes":7.5`),
		"negative writes":              replace(`"uid":"u1"`, `"uid":"u1","wroteBytes":-1`),
		"negative new inodes":          replace(`"uid":"u1"`, `"uid":"u1","madeInodes":-1`),
		"negative unlinked":            replace(`"uid":"u1"`, `"uid":"u1","unlinked":{"readNs":1,"usedBytes":-1,"inodes":1}`),
		"unlinked without a time":      replace(`"uid":"u1"`, `"uid":"u1","unlinked":{"usedBytes":1,"inodes":1}`),
		"no end of an error":           replace(`"r1"`, `"r1","error":"`+strings.Repeat("x", 5000)+`"`),
		"no uid":                       replace(`"u1"`, `""`),
		"null for a unit":              replace(`{"uid":"u2"}`, `null`),
		"one uid twice":                replace(`"u2"`, `"u1"`),
		"one volume twice":             replace(`"w"`, `"v"`),
		"one container twice":          replace(`"containers":[`, `"containers":[{"readNs":1,"name":"c"},`),
		"figures without a time":       replace(`"inodes":{"readNs":80000000000,`, `"inodes":{`),
		"read after it was written":    replace(`"readNs":80000000000`, `"readNs":90000000001`),
		"reclaim after it was written": replace(`"doneNs":60000000000`, `"doneNs":90000000001`),
		"reclaim without id":           replace(`"r1"`, `""`),
		"split and not dedicated":      replace(`{"dedicatedImageFs":true,"splitImageFs":false,`, `{"dedicatedImageFs":false,"splitImageFs":true,`),
		"a relative directory":         replace(`"/var/lib/containerd"`, `"var/lib/containerd"`),
		"a directory that leads up":    replace(`"/var/lib/containerd"`, `"/var/lib/../containerd"`),
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() { _, err := LoadDisk(path, owner); done <- err }()
			select {
			case err := <-done:
				if !errors.Is(err, ErrDisk) {
					t.Errorf("got %v, want ErrDisk", err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("blocked")
			}
		})
	}
	if _, err := LoadDisk(write(t, goodDisk), owner+1); !errors.Is(err, ErrDisk) {
		t.Errorf("another owner's figures: got %v, want ErrDisk", err)
	}
	if _, err := LoadDisk(write(t, goodDisk), owner); err != nil {
		t.Errorf("the good figures: %v", err)
	}
}

func TestDiskReaderKeepsTheLastGoodTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.json")
	r := NewDiskReader(path, uint32(os.Getuid()), 30*time.Second)
	put := func(writtenNs uint64) {
		t.Helper()
		text := fmt.Sprintf(`{"schema":"ebpf-evict/disk/v1","writtenNs":%d}`, writtenNs)
		if err := ReplaceFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	// read wants the table of that time, 0 for none, and these errors and no other.
	read := func(step string, now, written uint64, errs ...error) {
		t.Helper()
		table, err := r.Read(now)
		var got uint64
		if table != nil {
			got = table.WrittenNs
		}
		if got != written {
			t.Errorf("%s: table of %d, want %d", step, got, written)
		}
		for _, known := range []error{os.ErrNotExist, ErrDisk, ErrDiskStale} {
			want := false
			for _, e := range errs {
				want = want || e == known
			}
			if errors.Is(err, known) != want {
				t.Errorf("%s: error %v, want %v", step, err, errs)
			}
		}
	}

	read("no file yet", 100*second, 0, os.ErrNotExist)
	put(100 * second)
	read("the first table", 101*second, 100*second)
	read("the same again", 130*second, 100*second)
	read("nothing new for too long", 130*second+1, 0, ErrDiskStale)
	put(131 * second)
	read("a new one", 131*second, 131*second)
	put(130 * second)
	read("an older one", 132*second, 131*second, ErrDisk)
	put(140 * second)
	read("dated ahead", 138*second, 131*second, ErrDisk)
	read("a little ahead", 139*second, 140*second)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	read("torn", 150*second, 140*second, ErrDisk)
	read("torn for too long", 171*second, 0, ErrDisk, ErrDiskStale)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	read("removed", 160*second, 140*second, os.ErrNotExist)
	if r.Refused() != 3 {
		t.Errorf("%d refused, want 3", r.Refused())
	}
}

func FuzzParseDisk(f *testing.F) {
	f.Add([]byte(goodDisk))
	f.Add([]byte(`{"schema":"ebpf-evict/disk/v1","writtenNs":1,"workloads":[{"uid":"a"},{"uid":"a"}]}`))
	f.Add([]byte(`{"schema":"ebpf-evict/disk/v1","writtenNs":2,"workloads":[{"uid":"a","inodes":{"readNs":3,"rootfs":-1}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := ParseDisk(data)
		if err != nil {
			if !errors.Is(err, ErrDisk) {
				t.Errorf("error %v is no ErrDisk", err)
			}
			return
		}
		for i := range table.Workloads {
			e := &table.Workloads[i]
			if e.UID == "" || table.Entry(e.UID) != e {
				t.Errorf("accepted %+v, found %+v", e, table.Entry(e.UID))
			}
			var sum int64
			if s := e.EphemeralStorage; s != nil {
				for _, v := range []*int64{s.RootfsBytes, s.LogsBytes, s.LocalVolumesBytes, s.UsedBytes} {
					if v != nil {
						sum += *v
					}
					if v != nil && *v < 0 || sum < 0 || s.ReadNs > table.WrittenNs {
						t.Errorf("accepted %+v", s)
					}
				}
			}
		}
	})
}

func TestUsageLeavesOutWhatIsOldOrAbsent(t *testing.T) {
	one, two := int64(1), int64(2)
	e := DiskEntry{
		EphemeralStorage: &EphemeralStorage{Reading: Reading{100 * second}, RootfsBytes: &one},
		Inodes:           &Inodes{Reading: Reading{50 * second}, Logs: &two},
	}
	for name, tc := range map[string]struct {
		now  uint64
		want func(*DiskUsage)
	}{
		"both fresh":                {100 * second, func(u *DiskUsage) { u.Rootfs.Bytes, u.Logs.Inodes = 1, 2 }},
		"inodes too old":            {121 * second, func(u *DiskUsage) { u.Rootfs.Bytes = 1 }},
		"at the age limit or below": {110 * second, func(u *DiskUsage) { u.Rootfs.Bytes, u.Logs.Inodes = 1, 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			want := NoDiskUsage
			tc.want(&want)
			if got := e.Usage(tc.now, 70*time.Second); got == nil || *got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	if got := e.Usage(500*second, 70*time.Second); got != nil {
		t.Errorf("all too old: %+v, want none", got)
	}
}
