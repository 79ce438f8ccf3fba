package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/rs/zerolog"
)

// Hook is one program of the object, and what this kernel says to it.
type Hook struct {
	Program string
	// Section is where it belongs, as bpf/ has it: "tp_btf/mm_page_alloc"; "raw_tp" and
	// "syscall" are run by user space alone.
	Section string
	// Unused: on this kernel Open does without, whatever it says to it.
	Unused bool
	// Err is nil when it loads and, if it has a hook, could be attached. A
	// *ebpf.VerifierError has the verifier's log.
	Err error
}

// Probe loads every program by itself, those too that Open does without on this kernel, and
// attaches for a moment those that have a hook. The maps are empty: no wire is there to be
// crossed, and nobody to be killed. Nothing is left. An error is that nothing could be tried.
func Probe(o Options) ([]Hook, error) {
	types, err := loadTypes(o.BTF)
	if err != nil {
		return nil, err
	}
	raiseMemlock(o.Log)
	all, err := spec(o)
	if err != nil {
		return nil, err
	}
	can, err := abilities(o, types)
	if err == nil { // else nothing loads, and each program says why
		can.stubBackstop(all)
	}
	hooks := probe(all, types, o.Log)
	for i := range hooks {
		hooks[i].Unused = err == nil && slices.Contains(can.unused(), hooks[i].Program)
	}
	return hooks, nil
}

func probe(all *ebpf.CollectionSpec, types *kernelTypes, log zerolog.Logger) (hooks []Hook) {
	for _, name := range slices.Sorted(maps.Keys(all.Programs)) {
		h := Hook{Program: name, Section: all.Programs[name].SectionName}
		h.Err = withVerdict(try(alone(all, name), name, types))
		var verifier *ebpf.VerifierError
		if errors.As(h.Err, &verifier) {
			log.Debug().Str("program", name).Strs("log", verifier.Log).Msg("refused by the verifier")
		}
		hooks = append(hooks, h)
	}
	return hooks
}

// alone is the object with one program, and the maps that it uses.
func alone(all *ebpf.CollectionSpec, name string) *ebpf.CollectionSpec {
	one := all.Copy()
	p := one.Programs[name]
	one.Programs = map[string]*ebpf.ProgramSpec{name: p}
	used := map[string]*ebpf.MapSpec{}
	for i := range p.Instructions {
		if ref := p.Instructions[i].Reference(); one.Maps[ref] != nil {
			used[ref] = one.Maps[ref]
		}
	}
	one.Maps = used
	// The others, constants the verifier counts on among them, are in sections of it.
	maps.DeleteFunc(one.Variables, func(_ string, v *ebpf.VariableSpec) bool { return used[v.SectionName] == nil })
	return one
}

func try(one *ebpf.CollectionSpec, name string, types *kernelTypes) error {
	coll, err := ebpf.NewCollectionWithOptions(one, types.options())
	if err != nil {
		return err
	}
	defer coll.Close()
	if p := one.Programs[name]; p.Type != ebpf.Tracing || p.AttachTo == "" {
		return nil
	}
	hook, err := link.AttachTracing(link.TracingOptions{Program: coll.Programs[name]})
	if err != nil {
		return fmt.Errorf("attach %s: %w", one.Programs[name].SectionName, err)
	}
	return hook.Close()
}
