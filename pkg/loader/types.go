package loader

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
)

// KernelBTF is where the kernel shows its types.
const KernelBTF = "/sys/kernel/btf/vmlinux"

// ErrNoBTF means that the kernel was built without CONFIG_DEBUG_INFO_BTF (5.2), without
// which no hook of ours can be attached, or that its types are hidden here.
var ErrNoBTF = errors.New("the kernel has no BTF (" + KernelBTF + "): it needs CONFIG_DEBUG_INFO_BTF=y, or, where that is only hidden here, --btf with a copy")

// ErrNotBTF means that Options.BTF names a file that holds no types.
var ErrNotBTF = errors.New("no BTF is in the file: it is to be a copy of " + KernelBTF + ", or an ELF file of this kernel with a section .BTF")

// ErrForeignBTF means that Options.BTF names a file of another kernel.
var ErrForeignBTF = errors.New("the BTF file is not this kernel's")

// kernelTypes are what the programs are fitted to, and their hooks are found in.
type kernelTypes struct {
	spec  *btf.Spec
	cache *btf.Cache
}

// loadTypes reads the kernel's types from file, or where the kernel shows them.
func loadTypes(file string) (*kernelTypes, error) {
	t := &kernelTypes{cache: btf.NewCache()}
	if file == "" {
		if _, err := os.Stat(KernelBTF); errors.Is(err, os.ErrNotExist) {
			return nil, ErrNoBTF
		}
		var err error
		if t.spec, err = t.cache.Kernel(); err != nil {
			return nil, fmt.Errorf("read the kernel's BTF: %w", err)
		}
		return t, nil
	}
	var err error
	if t.spec, err = btf.LoadSpec(file); err != nil {
		if path := new(os.PathError); !errors.As(err, &path) { // it could be read
			err = fmt.Errorf("%w (%w)", ErrNotBTF, err)
		}
		return nil, fmt.Errorf("read the BTF file %s: %w", file, err)
	}
	return t, t.fillCache()
}

// fillCache has hooks and kfuncs found in the file too: cilium/ebpf 0.22 takes it for CO-RE
// alone (ProgramOptions.KernelTypes), and looks for the rest in /sys/kernel/btf; for a kfunc that
// the kernel lacks in each loaded module's types, which are not there either. Ours are in no
// module.
func (t *kernelTypes) fillCache() error {
	modules := map[string]*btf.Spec{}
	all := new(btf.HandleIterator)
	defer func() { _ = all.Handle.Close() }()
	for all.Next() {
		if info, err := all.Handle.Info(); err == nil && info.IsModule() {
			modules[info.Name] = t.spec
		}
	}
	return errors.Join(t.setCached("kernelTypes", t.spec), t.setCached("moduleTypes", modules))
}

func (t *kernelTypes) setCached(name string, value any) error {
	field := reflect.ValueOf(t.cache).Elem().FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeOf(value) {
		return errors.New("a BTF file can't be used with this version of cilium/ebpf")
	}
	reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Set(reflect.ValueOf(value))
	return nil
}

func (t *kernelTypes) options() ebpf.CollectionOptions {
	return ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: t.spec}, Cache: t.cache}
}

// has reports whether the kernel has a function of that name.
func (t *kernelTypes) has(function string) (bool, error) {
	var f *btf.Func
	err := t.spec.TypeByName(function, &f)
	if errors.Is(err, btf.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look for %s: %w", function, err)
	}
	return true, nil
}

// fits holds what was read by the types of a file against what the kernel says of itself: by
// those of another kernel we would read nonsense, and kill on it.
func fits(n sample.Node) error {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	tasks := int64(si.Procs) // sysinfo(2): threads, not processes
	total, free := int64(si.Totalram)*int64(si.Unit), int64(si.Freeram)*int64(si.Unit)
	used := n.AnonBytes + n.FileBytes
	const slack = 16 // a share: other work goes on meanwhile
	if n.Tasks <= 0 || n.Tasks < tasks-tasks/slack-64 || n.Tasks > tasks+tasks/slack+64 ||
		n.AnonBytes < 0 || n.FileBytes <= 0 || n.InactiveFileBytes < 0 || n.InactiveFileBytes > n.FileBytes ||
		used > total-free+total/slack {
		return fmt.Errorf("%w: by it there are %d tasks and %d bytes of memory used; the kernel says %d, and at most %d",
			ErrForeignBTF, n.Tasks, used, tasks, total-free)
	}
	return nil
}
