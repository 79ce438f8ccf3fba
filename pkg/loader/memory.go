package loader

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// mapping is an array map seen as memory: element i at i strides. Reading a row is a load,
// not a system call.
type mapping[T any] struct {
	base   unsafe.Pointer
	stride uintptr
	n      int
}

func (m mapping[T]) at(i int) *T {
	return (*T)(unsafe.Add(m.base, uintptr(i)*m.stride))
}

// overlay lays rows of T over a map's memory. The kernel rounds an element up to 8 bytes.
func overlay[T any](mem []byte) mapping[T] {
	if len(mem) == 0 {
		return mapping[T]{}
	}
	var t T
	stride := (unsafe.Sizeof(t) + 7) &^ 7
	return mapping[T]{base: unsafe.Pointer(&mem[0]), stride: stride, n: len(mem) / int(stride)}
}

// mapMemory maps an array made with BPF_F_MMAPABLE (5.5).
func mapMemory(m *ebpf.Map) ([]byte, func() error, error) {
	element := (int(m.ValueSize()) + 7) &^ 7
	size := element * int(m.MaxEntries())
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return mem, func() error { return unix.Munmap(mem) }, nil
}

// overlaySlice lays n values of T over a map's memory.
func overlaySlice[T any](mem []byte, n int) []T {
	var t T
	if len(mem) < n*int(unsafe.Sizeof(t)) {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), n)
}
