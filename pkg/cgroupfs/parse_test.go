package cgroupfs

import (
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want int64
		bad  bool
	}{
		"a figure":                     {in: "67108864\n", want: 67108864},
		"zero is a limit":              {in: "0\n", want: 0},
		"v2's word for no limit":       {in: "max\n", want: Unlimited},
		"v1's figure for no limit":     {in: "9223372036854771712\n", want: Unlimited},
		"the largest limit":            {in: "4611686018427387904\n", want: 1 << 62},
		"above the largest limit":      {in: "4611686018427387905\n", want: Unlimited},
		"negative is no figure":        {in: "-1\n", bad: true},
		"empty is no figure":           {in: "", bad: true},
		"two figures are no figure":    {in: "1 2\n", bad: true},
		"larger than the kernel tells": {in: "18446744073709551615\n", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseLimit([]byte(tc.in))
			if (err != nil) != tc.bad {
				t.Fatalf("error %v, want one: %v", err, tc.bad)
			}
			if err == nil && got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestParseKeyTakesTheWholeName(t *testing.T) {
	data := []byte("inactive_file_x 1\ntotal_inactive_file 2\ninactive_file 3\nunknown words here\n")
	got, err := parseKey(data, "inactive_file")
	if err != nil || got != 3 {
		t.Errorf("got %d, %v, want 3", got, err)
	}
	if _, err := parseKey(data, "inactive"); !errors.Is(err, ErrNoKey) {
		t.Errorf("absent key: got %v, want ErrNoKey", err)
	}
	if _, err := parseKey([]byte("inactive_file\n"), "inactive_file"); err == nil || errors.Is(err, ErrNoKey) {
		t.Errorf("key without a figure: got %v, want another error than ErrNoKey", err)
	}
}

func TestParsePIDs(t *testing.T) {
	got, err := parsePIDs([]int{7}, []byte("4242\n0\n4243\n"))
	if diff := cmp.Diff([]int{7, 4242, 4243}, got); diff != "" || err != nil {
		t.Errorf("error %v, (-want +got)\n%s", err, diff)
	}
	for _, bad := range []string{"x\n", "-4\n", "4294967297\n", "\n"} {
		if _, err := parsePIDs(nil, []byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzParseLimit(f *testing.F) {
	for _, s := range []string{"max\n", "0\n", "67108864\n", "9223372036854771712\n", "-1\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseLimit(data)
		if err != nil {
			return
		}
		if v < 0 || v > unlimitedAbove && v != Unlimited {
			t.Errorf("%q is %d", data, v)
		}
		again, err := parseLimit([]byte(formatLimit(v, "max")))
		if err != nil || again != v {
			t.Errorf("%d written and read is %d, %v", v, again, err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte("anon 1\ninactive_file 2\n"), "inactive_file")
	f.Add([]byte("populated 1\nfrozen 0\n"), "populated")
	f.Fuzz(func(t *testing.T, data []byte, key string) {
		if v, err := parseKey(data, key); err == nil && v < 0 {
			t.Errorf("%q in %q is %d", key, data, v)
		}
	})
}

func FuzzParsePIDs(f *testing.F) {
	f.Add([]byte("1\n0\n4242\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pids, err := parsePIDs(nil, data)
		if err != nil {
			return
		}
		var text []byte
		for _, pid := range pids {
			if pid <= 0 {
				t.Fatalf("%q holds %d", data, pid)
			}
			text = append(strconv.AppendInt(text, int64(pid), 10), '\n')
		}
		again, err := parsePIDs(nil, text)
		if diff := cmp.Diff(pids, again); diff != "" || err != nil {
			t.Errorf("error %v, (-want +got)\n%s", err, diff)
		}
	})
}

func FuzzParseControllers(f *testing.F) {
	f.Add([]byte("cpuset cpu io memory pids\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range parseControllers(data) {
			if c == "" {
				t.Errorf("%q holds an empty name", data)
			}
		}
	})
}

func TestInPath(t *testing.T) {
	const v1 = "9:memory:/a/unit/child\n4:cpu,cpuacct:/a/other\n3:pids:/b\n0::/a/unified\n"
	for name, tc := range map[string]struct {
		data    string
		version Version
		path    string
		want    bool
	}{
		"below, in memory":              {v1, V1, "/a/unit", true},
		"the cgroup itself, in pids":    {v1, V1, "/b", true},
		"a longer name is another":      {v1, V1, "/a/uni", false},
		"a hierarchy that is not asked": {v1, V1, "/a/other", false},
		"the unified one of a v1 host":  {v1, V1, "/a/unified", false},
		"v2":                            {"0::/a/unit/c\n", V2, "/a/unit", true},
		"v2, removed":                   {"0::/a/unit (deleted)\n", V2, "/a/unit", false},
		"a path with colons":            {"0::/a:b:c\n", V2, "/a:b:c", true},
		"nonsense":                      {"x\n:\n\n", V2, "/", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := inPath([]byte(tc.data), tc.version, tc.path); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
