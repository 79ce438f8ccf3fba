package workload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const goodTable = `{"schema":"ebpf-evict/workloads/v1","node":"n","generation":7,"workloads":[
 {"uid":"u1","namespace":"ns","name":"web","priority":5,"memory":{"requestBytes":100},"evict":"never",
  "ephemeralStorage":{"requestBytes":10,"limitBytes":20},"volumes":[{"name":"cache","medium":"","sizeLimitBytes":30}],
  "containers":[{"name":"app","ephemeralStorageRequestBytes":10,"ephemeralStorageLimitBytes":20}]}]}`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "workloads.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostileTablesAreRefused(t *testing.T) {
	owner := uint32(os.Getuid())
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(write(t, goodTable), link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	big := write(t, goodTable)
	if err := os.Truncate(big, 1<<30); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"symbolic link":    link,
		"fifo":             fifo,
		"directory":        t.TempDir(),
		"1 GiB":            big,
		"torn":             write(t, goodTable[:60]),
		"empty":            write(t, ""),
		"more after it":    write(t, goodTable+goodTable[:60]),
		"unknown schema":   write(t, strings.Replace(goodTable, "/v1", "/v9", 1)),
		"leads upwards":    write(t, strings.Replace(goodTable, `"uid":"u1"`, `"uid":"u1","cgroup":"/kubepods/../system"`, 1)),
		"negative request": write(t, strings.Replace(goodTable, "100", "-1", 1)),
		"negative limit":   write(t, strings.Replace(goodTable, `"sizeLimitBytes":30`, `"sizeLimitBytes":-30`, 1)),
		"volume twice":     write(t, strings.Replace(goodTable, `"volumes":[`, `"volumes":[{"name":"cache"},`, 1)),
		"container twice":  write(t, strings.Replace(goodTable, `"containers":[`, `"containers":[{"name":"app"},`, 1)),
		"unknown mark":     write(t, strings.Replace(goodTable, "never", "always", 1)),
		"no uid":           write(t, strings.Replace(goodTable, `"u1"`, `""`, 1)),
		"one uid twice":    write(t, strings.Replace(goodTable, "}]}]}", `}]},{"uid":"u1"}]}`, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() { _, err := LoadTable(path, owner); done <- err }()
			select {
			case err := <-done:
				if !errors.Is(err, ErrTable) {
					t.Errorf("got %v, want ErrTable", err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("blocked")
			}
		})
	}
	if _, err := LoadTable(write(t, goodTable), owner+1); !errors.Is(err, ErrTable) {
		t.Errorf("another owner's table: got %v, want ErrTable", err)
	}
	if _, err := LoadTable(write(t, goodTable), owner); err != nil {
		t.Errorf("the good table: %v", err)
	}
}

func TestLastGoodTableStays(t *testing.T) {
	path := write(t, goodTable)
	s := NewScanner(Options{TablePath: path, TableUID: uint32(os.Getuid())})
	s.LoadTable()
	for _, bad := range []string{"{", strings.Replace(goodTable, `:7`, `:6`, 1)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		s.LoadTable()
	}
	st := s.TableStatus()
	if st.Generation != 7 || st.Refused != 2 || st.LastError == nil {
		t.Errorf("status %+v, want generation 7 and two refusals", st)
	}
	u := Unit{Workload: Workload{UID: "u1", QOSClass: QOSBurstable}}
	s.Judge(&u)
	if u.Name != "web" || u.Priority != 5 || u.MemoryRequestBytes != 100 || u.Protected != "table: never" || u.QOSClass != QOSBurstable {
		t.Errorf("unit %+v: not what the last good table says", u.Workload)
	}
}

func TestATableOfAnotherNodeIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		node, table string
		refused     bool
	}{
		"this node's":               {"n", goodTable, false},
		"another's":                 {"n", strings.Replace(goodTable, `"node":"n"`, `"node":"m"`, 1), true},
		"nobody's":                  {"n", strings.Replace(goodTable, `"node":"n"`, `"node":""`, 1), false},
		"our own name is not known": {"", goodTable, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewScanner(Options{TablePath: write(t, tc.table), TableUID: uint32(os.Getuid()), NodeName: tc.node})
			s.LoadTable()
			st := s.TableStatus()
			if st.Taken == tc.refused || errors.Is(st.LastError, ErrTable) != tc.refused {
				t.Fatalf("status %+v", st)
			}
			if tc.refused && !strings.Contains(st.LastError.Error(), `of node "m", this is "n"`) {
				t.Errorf("reason %v", st.LastError)
			}
			if s.LoadTable(); s.TableStatus().Refused != st.Refused {
				t.Error("read again, though the file did not change")
			}
		})
	}
}

func TestTheTableKnowsRequestsAndLimits(t *testing.T) {
	path := write(t, goodTable)
	s := NewScanner(Options{TablePath: path, TableUID: uint32(os.Getuid())})
	s.LoadTable()
	u := Unit{Workload: Workload{UID: "u1"}}
	s.Judge(&u)
	if u.EphemeralStorageRequestBytes != 10 || u.EphemeralStorageLimitBytes == nil || *u.EphemeralStorageLimitBytes != 20 || u.PodLevelRequest {
		t.Errorf("unit %+v", u.Workload)
	}
	wantVolume := Volume{Name: "cache", UsedBytes: NoData, SizeLimitBytes: 30}
	if len(u.Volumes) != 1 || u.Volumes[0] != wantVolume {
		t.Errorf("volumes %+v, want %+v", u.Volumes, wantVolume)
	}
	wantContainer := Container{Name: "app", WorkingSetBytes: NoData, RootfsBytes: NoData, LogsBytes: NoData, EphemeralStorageRequestBytes: 10, EphemeralStorageLimitBytes: 20}
	if len(u.Containers) != 1 || u.Containers[0] != wantContainer {
		t.Errorf("containers %+v, want %+v", u.Containers, wantContainer)
	}
	was := u
	for name, edit := range map[string][2]string{
		"the limit of a volume":    {`"sizeLimitBytes":30`, `"sizeLimitBytes":31`},
		"the limit of the pod":     {`"limitBytes":20}`, `"limitBytes":21}`},
		"the limit of a container": {`"ephemeralStorageLimitBytes":20`, `"ephemeralStorageLimitBytes":0`},
		"the request":              {`"requestBytes":10`, `"requestBytes":11`},
		"a request of the pod":     {`"requestBytes":100`, `"podLevelRequestBytes":100`},
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(goodTable, edit[0], edit[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.LoadTable()
		if s.Judge(&u); u.JudgedLike(&was.Workload) {
			t.Errorf("%s changed, and the unit did not", name)
		}
	}
	s.take(&Table{})
	if s.Judge(&u); u.EphemeralStorageLimitBytes != nil || u.Containers != nil || u.Volumes != nil || u.EphemeralStorageRequestBytes != 0 {
		t.Errorf("%+v of a table that is gone", u.Workload)
	}
}

func TestATableIsReadAsItWasWritten(t *testing.T) {
	want, err := ParseTable([]byte(goodTable))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "workloads.json")
	if err := WriteTable(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := LoadTable(path, uint32(os.Getuid()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Entry{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	twice := Table{Workloads: []Entry{{UID: "u"}, {UID: "u"}}}
	if err := WriteTable(path, &twice); !errors.Is(err, ErrTable) {
		t.Errorf("a table that no reader takes: got %v, want ErrTable", err)
	}
	if again, err := LoadTable(path, uint32(os.Getuid())); err != nil || again.Generation != want.Generation {
		t.Errorf("after it: %v, %v; want the good one", again, err)
	}
}

func TestMarkFirstCountsOnlyWhereAllowed(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		s := NewScanner(Options{AllowFirst: allowed})
		s.take(&Table{Workloads: []Entry{{UID: "u", Evict: "first"}}})
		u := Unit{Workload: Workload{UID: "u"}}
		s.Judge(&u)
		if (u.Evict == "first") != allowed {
			t.Errorf("allowed %v: mark %q", allowed, u.Evict)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add([]byte(goodTable))
	f.Add([]byte(`{"schema":"ebpf-evict/workloads/v1","workloads":[{"uid":"a"},{"uid":"a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := ParseTable(data)
		if err != nil {
			if !errors.Is(err, ErrTable) {
				t.Errorf("error %v is no ErrTable", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, e := range table.Workloads {
			if e.UID == "" || seen[e.UID] || strings.Contains("/"+e.Cgroup+"/", "/../") {
				t.Errorf("accepted %+v", e)
			}
			seen[e.UID] = true
		}
	})
}
