package loader

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"github.com/ebpf-evict/ebpf-evict/gen"
)

// mostVerified is twice what the verifier follows of the largest program on 6.1, which prunes
// least of the kernels since 5.16: 22,600 instructions, a tenth of a second where a CPU is
// emulated. A start is without protection for as long as that takes.
const mostVerified = 45_000

func TestVerifierIsSoonDoneWithEachProgram(t *testing.T) {
	l := open(t, Options{})
	if err := features.HaveProgramHelper(ebpf.RawTracepoint, asm.FnLoop); errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip("needs 5.17: bpf_loop, and the count of verified instructions (5.16)")
	}
	programs := map[string]*ebpf.Program{
		gen.EvictProgInitBackstop:  l.objs.InitBackstop,
		gen.EvictProgLearn:         l.objs.Learn,
		gen.EvictProgNewtask:       l.objs.Newtask,
		gen.EvictProgPageAlloc:     l.objs.PageAlloc,
		gen.EvictProgRefresh:       l.objs.Refresh,
		gen.EvictProgStartFarTimer: l.objs.StartFarTimer,
		gen.EvictProgStartLookout:  l.objs.StartLookout,
		gen.EvictProgTick:          l.objs.Tick,
		gen.EvictProgWalk:          l.objs.Walk,
	}
	if l.chargeProgram != nil {
		programs[gen.EvictProgPageCharge] = l.chargeProgram
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		info, err := programs[name].Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Errorf("%s: the kernel does not say how much it verified", name)
		}
		if n > mostVerified {
			t.Errorf("%s: %d instructions verified, want at most %d", name, n, mostVerified)
		}
		t.Logf("%-16s %6d instructions verified", name, n)
	}
}
