package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/ebpf-evict/ebpf-evict/gen"
)

// able is what this kernel can do beyond what all programs need (ring buffers, 5.8), found
// out by trying.
type able struct {
	// timers: bpf_timer (5.15), and programs of type syscall (5.14), which start one. The far
	// timer is one, and the backstop has two; what else that needs, atomic exchanges, is older
	// (5.12).
	timers bool
	// reach is whom the backstop can kill.
	reach Reach
}

// abilities tries the kernel. What fails for another reason than that it lacks something is an
// error: ErrPrivilege where it refuses BPF to this process.
func abilities(o Options, types *kernelTypes) (able, error) {
	if o.able != nil {
		return *o.able, nil
	}
	err := features.HaveProgramHelper(ebpf.Syscall, asm.FnTimerInit)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return able{reach: ReachNone}, nil
	}
	if errors.Is(err, os.ErrPermission) {
		return able{}, ErrPrivilege // of any program, not of this one
	}
	if err != nil {
		return able{}, fmt.Errorf("try bpf_timer: %w", err)
	}
	reach, err := reach(types)
	return able{timers: true, reach: reach}, err
}

// trim takes out of the object what this kernel can't load, and what only stands in for it.
func (a able) trim(spec *ebpf.CollectionSpec) error {
	a.stubBackstop(spec)
	return takeOut(spec, a.unused()...)
}

// unused are the programs that are of no use on this kernel.
func (a able) unused() []string {
	if a.timers {
		return []string{gen.EvictProgTick}
	}
	return []string{gen.EvictProgStartFarTimer, gen.EvictProgInitBackstop, gen.EvictProgStartLookout}
}

// stubBackstop takes the backstop out of the hooks where it can't run.
func (a able) stubBackstop(spec *ebpf.CollectionSpec) {
	if a.timers {
		return
	}
	for _, p := range spec.Programs {
		p.Instructions = withStubs(p.Instructions, "backstop_alert", "backstop_ambush")
	}
}

// takeOut replaces programs that are not used by ones that do nothing, so that the
// generated objects are complete.
func takeOut(spec *ebpf.CollectionSpec, names ...string) error {
	for _, name := range names {
		if spec.Programs[name] == nil {
			return fmt.Errorf("the BPF object has no program %s", name)
		}
		spec.Programs[name] = &ebpf.ProgramSpec{
			Name: name, Type: ebpf.RawTracepoint, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		}
	}
	return nil
}

// withStubs makes functions of a program return 0 at once, and leaves out which ones nobody
// calls then: the verifier reads those too.
func withStubs(program asm.Instructions, names ...string) asm.Instructions {
	functions := functionsOf(program)
	kept, queue := asm.Instructions{}, []string{program[0].Symbol()}
	for i := 0; i < len(queue); i++ {
		f := functions[queue[i]]
		if slices.Contains(names, queue[i]) {
			f = stub(f[0])
		}
		kept = append(kept, f...)
		for _, callee := range f.FunctionReferences() {
			if !slices.Contains(queue, callee) {
				queue = append(queue, callee)
			}
		}
	}
	return kept
}

// stub is a function that returns 0 under the name and type of the one that begins so.
func stub(first asm.Instruction) asm.Instructions {
	entry := btf.WithFuncMetadata(asm.Mov.Imm(asm.R0, 0), btf.FuncMetadata(&first))
	return asm.Instructions{entry.WithSymbol(first.Symbol()).WithSource(first.Source()), asm.Return()}
}

// functionsOf tells the functions of a linked program apart, each by its name.
func functionsOf(program asm.Instructions) map[string]asm.Instructions {
	functions := map[string]asm.Instructions{}
	var name string
	for i, ins := range program {
		if s := ins.Symbol(); s != "" {
			name = s
		}
		functions[name] = append(functions[name], program[i])
	}
	return functions
}
