package workload_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func TestOneHoldsALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "lock")
	for range 2 {
		held, err := workload.Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := workload.Lock(path); !errors.Is(err, workload.ErrLocked) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())+" holds "+path) {
			t.Errorf("the second got %v, want who holds it", err)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
