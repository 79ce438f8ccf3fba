package loader

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

func TestProbeTriesEveryProgramByItselfAndLeavesNone(t *testing.T) {
	open(t, Options{}) // what follows needs root, and a kernel that takes the programs
	before := loadedPrograms(t)
	hooks, err := Probe(Options{})
	if err != nil {
		t.Fatal(err)
	}
	after := loadedPrograms(t)
	for begun := time.Now(); !maps.Equal(before, after) && time.Since(begun) < 10*time.Second; { // RCU frees them
		time.Sleep(10 * time.Millisecond)
		after = loadedPrograms(t)
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("programs before and after (-want +got):\n%s", d)
	}
	object, err := gen.LoadEvict()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range hooks {
		names = append(names, h.Program)
		if h.Section != object.Programs[h.Program].SectionName {
			t.Errorf("%s belongs to %q, want %q", h.Program, h.Section, object.Programs[h.Program].SectionName)
		}
		if h.Err != nil && !h.Unused && !strings.HasPrefix(h.Section, "fentry/") { // which some kernels refuse
			t.Errorf("%s: %v, and Open has loaded it", h.Program, h.Err)
		}
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(object.Programs)), names); d != "" {
		t.Errorf("programs of the object and those tried (-want +got):\n%s", d)
	}
}

// loadedPrograms counts the programs of our names in the kernel.
func loadedPrograms(t *testing.T) map[string]int {
	t.Helper()
	object, err := gen.LoadEvict()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); err != nil {
			return found
		}
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it went meanwhile
		}
		if info, err := p.Info(); err == nil && object.Programs[info.Name] != nil {
			found[info.Name]++
		}
		_ = p.Close()
	}
}

// A constant bounds loops: with another one the verifier may come to another verdict.
func TestAProgramAloneHasItsConstants(t *testing.T) {
	all, err := spec(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := all.Variables[gen.EvictVarNumaIds].Set(int32(7)); err != nil {
		t.Fatal(err)
	}
	for name := range all.Programs {
		one := alone(all, name)
		var ids int32
		if v := one.Variables[gen.EvictVarNumaIds]; one.Maps[".rodata"] == nil {
			if v != nil {
				t.Errorf("%s: a constant and no section for it", name)
			}
		} else if v == nil || v.Get(&ids) != nil || ids != 7 {
			t.Errorf("%s: numa_ids %d, want 7", name, ids)
		}
	}
}

func TestProbeHasTheVerifiersWords(t *testing.T) {
	open(t, Options{})
	types, err := loadTypes("")
	if err != nil {
		t.Fatal(err)
	}
	all, err := spec(Options{})
	if err != nil {
		t.Fatal(err)
	}
	can, err := abilities(Options{}, types)
	if err != nil {
		t.Fatal(err)
	}
	can.stubBackstop(all)
	all.Programs["look"].Instructions = asm.Instructions{
		asm.Mov.Reg(asm.R0, asm.R5), // nobody has written to r5
		asm.Return(),
	}
	refused := 0
	for _, h := range probe(all, types, zerolog.Nop()) {
		var verifier *ebpf.VerifierError
		switch {
		case h.Program == "look" && errors.As(h.Err, &verifier):
			refused++
			if !strings.Contains(h.Err.Error(), "R5 !read_ok") {
				t.Errorf("look: %v, want what is wrong with r5", h.Err)
			}
		case h.Err != nil && !slices.Contains(can.unused(), h.Program) && !strings.HasPrefix(h.Section, "fentry/"):
			t.Errorf("%s: %v, and nothing is wrong with it", h.Program, h.Err)
		}
	}
	if refused != 1 {
		t.Errorf("%d programs refused, want look", refused)
	}
}

func TestABTFFileTakesThePlaceOfTheKernelsOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "btf")
	from, err := os.Open(KernelBTF)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	without, with := open(t, Options{}), open(t, Options{BTF: file})
	if with.Reach() != without.Reach() {
		t.Errorf("reach %d with the file, %d without", with.Reach(), without.Reach())
	}
	if err := with.Arm(); err != nil {
		t.Error(err)
	}
	types, err := loadTypes(file)
	if err != nil {
		t.Fatal(err)
	}
	// Hooks are found by the cache, which cilium/ebpf would fill from /sys.
	if found, err := types.cache.Kernel(); err != nil || found != types.spec {
		t.Errorf("hooks are looked up elsewhere than in the file (%v)", err)
	}
}

func TestABTFFileThatIsNoneIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "btf")
	if err := os.WriteFile(file, []byte("no types"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, file + "-missing"} {
		if _, err := Open(Options{BTF: name}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("open with %s: %v, want an error that names it", name, err)
		}
	}
	for name, want := range map[string]bool{file: true, "/proc/self/exe": true, file + "-missing": false, filepath.Dir(file): false} {
		if _, err := loadTypes(name); errors.Is(err, ErrNotBTF) != want {
			t.Errorf("types of %s: %v, want %t for %q", name, err, want, ErrNotBTF)
		}
	}
}

func TestAFileOfAnotherKernelIsTold(t *testing.T) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		t.Fatal(err)
	}
	total := int64(si.Totalram) * int64(si.Unit)
	read := sample.Node{Tasks: int64(si.Procs), AnonBytes: 1 << 20, FileBytes: 1 << 20, InactiveFileBytes: 1 << 19}
	for name, tt := range map[string]struct {
		change func(n *sample.Node)
		ok     bool
	}{
		"as the kernel says":              {func(*sample.Node) {}, true},
		"no task":                         {func(n *sample.Node) { n.Tasks = 0 }, false},
		"a pointer for a number of tasks": {func(n *sample.Node) { n.Tasks = 1 << 46 }, false},
		"more memory than there is":       {func(n *sample.Node) { n.AnonBytes = 2 * total }, false},
		"memory below zero":               {func(n *sample.Node) { n.AnonBytes = -1 }, false},
		"no file page":                    {func(n *sample.Node) { n.FileBytes, n.InactiveFileBytes = 0, 0 }, false},
		"more inactive than there is":     {func(n *sample.Node) { n.InactiveFileBytes = n.FileBytes + 1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := read
			tt.change(&n)
			if err := fits(n); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrForeignBTF) {
				t.Errorf("fits: %v, want ok %t", err, tt.ok)
			}
		})
	}
}
