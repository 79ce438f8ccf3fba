package bench

import (
	"os"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
)

// TestMain also is the loads that tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == load.Command {
		os.Exit(load.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func TestDeadBystandersAreReplaced(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: makes cgroups; `make test` has it")
	}
	f, err := newField("bench-test", fieldMemory)
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		err = f.refresh()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.bystanders[1].Stop(); err != nil {
		t.Fatal(err)
	}
	if f.bystandersAlive() {
		t.Error("one is dead, and all are said to be alive")
	}
	if err := f.refresh(); err != nil {
		t.Fatal(err)
	}
	if !f.bystandersAlive() || len(f.bystanders) != len(bystanderBytes) {
		t.Errorf("%d bystanders, alive %v", len(f.bystanders), f.bystandersAlive())
	}
}
