package loader

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// The kernel's own types but one: from 5.13 to 6.0 (Ubuntu's 5.15, RHEL's 5.14) a mem_cgroup
// holds its memcg_vmstats, and no pointer to it.
func TestProgramsLoadWhereVmstatsAreInsideTheCgroup(t *testing.T) {
	types, err := loadTypes("")
	if err != nil {
		t.Fatal(err)
	}
	old := &kernelTypes{types.spec.Copy(), types.cache}
	var memcg *btf.Struct
	if err := old.spec.TypeByName("mem_cgroup", &memcg); err != nil {
		t.Fatal(err)
	}
	found := false
	for i := range memcg.Members {
		m := &memcg.Members[i]
		if to, ok := btf.As[*btf.Pointer](m.Type); ok && m.Name == "vmstats" {
			m.Type, found = to.Target, true
		}
	}
	if !found {
		t.Skip("needs 6.1, where it is a pointer: this kernel's layout is tested as it is")
	}
	spec, err := spec(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takeCharge(spec); err != nil {
		t.Fatal(err)
	}
	can, err := abilities(Options{}, types)
	if err != nil {
		t.Fatal(err)
	}
	if err := can.trim(spec); err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, old.options())
	if err != nil {
		t.Fatalf("%+v", err)
	}
	coll.Close()
}
