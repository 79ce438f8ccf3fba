package main

import (
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
)

// kernel is one of whose works the programs add the same in each state.
func kernel(release string, off, added, apart float64) count.Kernel {
	k := count.Kernel{Release: release, Counts: count.Counts{}, Apart: map[string]float64{}}
	for _, work := range count.Works {
		k.Apart[work] = apart
		for _, state := range count.States() {
			k.Counts.Add(work, state, off+added)
		}
		k.Counts.Add(work, count.Off, off)
	}
	return k
}

func without(k count.Kernel, work, state string) count.Kernel {
	k.Counts = maps.Clone(k.Counts)
	k.Counts[work] = maps.Clone(k.Counts[work])
	delete(k.Counts[work], state)
	return k
}

func TestCompare(t *testing.T) {
	table := kernel("5.10.1", 8000, 200, 0.0001)
	ceiled := kernel("6.1.0", 8000, 50, 0.0001)
	near := count.Tiers[0].State(count.Near)
	tests := map[string]struct {
		table, now count.Kernel
		want       string // in the first complaint; "" for none
	}{
		"the same":                                 {table: table, now: table},
		"cheaper":                                  {table: table, now: kernel("5.10.1", 8000, 100, 0.0001)},
		"the programs add 4 % more":                {table: table, now: kernel("5.10.1", 8000, 208, 0.0001)},
		"the programs add 6 % more":                {table: table, now: kernel("5.10.1", 8000, 212, 0.0001), want: "fault bpf-charge far: the programs add +212.0 instructions, +200.0 in the table"},
		"more, by less than counts differ":         {table: ceiled, now: kernel("6.1.0", 8000, 57, 0.0001)},
		"more, by more than that":                  {table: ceiled, now: kernel("6.1.0", 8000, 59, 0.0001), want: "the programs add +59.0 instructions, +50.0 in the table"},
		"more than is allowed, as in the table":    {table: kernel("6.1.0", 8000, 61, 0.0001), now: kernel("6.1.0", 8000, 61, 0.0001), want: "+61.0 instructions, at most 60 are allowed"},
		"the work takes 6 % more":                  {table: table, now: kernel("5.10.1", 8480, 200, 0.0001), want: "8680 instructions, 8200 in the table"},
		"another build of the kernel that does":    {table: table, now: kernel("5.10.2", 8480, 200, 0.0001)},
		"another build, and the programs add more": {table: table, now: kernel("5.10.2", 8480, 220, 0.0001), want: "the programs add +220.0"},
		"a guest that was not quiet":               {table: table, now: kernel("5.10.1", 8000, 200, 0.03), want: "two passes differ by 3.0 %"},
		"a state that the table does not have":     {table: without(table, count.Fault, near), now: table, want: "fault bpf-charge near: counted true, in the table false"},
		"a state that was not counted":             {table: table, now: without(table, count.Fork, near), want: "fork bpf-charge near: counted false, in the table true"},
		"a kernel that the table does not have":    {now: table, want: "in the table false"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := compare(tt.table, tt.now)
			switch {
			case tt.want == "" && len(c.complaints) > 0:
				t.Errorf("complaints: %q, want none", c.complaints)
			case tt.want != "" && (len(c.complaints) == 0 || !strings.Contains(c.complaints[0], tt.want)):
				t.Errorf("complaints: %q, want %q", c.complaints, tt.want)
			}
		})
	}
}

func TestThePageIsThatOfTheTable(t *testing.T) {
	table, err := loadTable("../../" + tablePath)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../" + pagePath)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != table.page() {
		t.Errorf("%s is not made from %s: make insns makes both", pagePath, tablePath)
	}
	for _, name := range []string{"6.1", "6.18"} { // CI counts on these
		if _, ok := table[name]; !ok {
			t.Errorf("%s has no kernel %s", tablePath, name)
		}
	}
}

func TestReadGuest(t *testing.T) {
	first, err := kernel("6.1.0", 1, 1, 0).Line()
	if err != nil {
		t.Fatal(err)
	}
	second, err := kernel("6.1.0", 2, 1, 0).Line()
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		out     string
		wantOff float64
		found   bool
		wantErr bool
	}{
		"among other lines":                {out: "VM boots\n" + first + "\nVM exit=0\n", wantOff: 1, found: true},
		"twice, after a death":             {out: first + "\n" + second + "\n", wantOff: 2, found: true},
		"cut off, and whole the next time": {out: first[:40] + "\n" + second + "\n", wantOff: 2, found: true},
		"cut off":                          {out: first[:40] + "\n", found: true, wantErr: true},
		"a guest that did not come so far": {out: "VM boots\nerror: no BTF\n"},
		"the counts within another line":   {out: "x" + first + "\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k, found, err := readGuest(strings.NewReader(tt.out))
			if found != tt.found || (err != nil) != tt.wantErr || (err == nil && k.Counts[count.Fault][count.Off] != tt.wantOff) {
				t.Errorf("readGuest = %+v, %t, %v", k, found, err)
			}
		})
	}
}
