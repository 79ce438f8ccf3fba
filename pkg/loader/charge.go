package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/gen"
)

// The tiers that watch memory, best first.
const (
	// TierCharge sees every batch of pages that is charged to a cgroup, always.
	TierCharge = "bpf-charge"
	// TierAlloc sees every page that is allocated, while a wire is near.
	TierAlloc = "bpf-alloc"
)

// MemoryTier is what watches memory now: TierCharge or TierAlloc.
func (l *Loader) MemoryTier() string {
	if l.charged.Load() {
		return TierCharge
	}
	return TierAlloc
}

// ChargeRefused is why TierCharge is not used, in the kernel's words: nil where it is used,
// or was not asked for. An *ebpf.VerifierError is in it where it comes from the verifier.
func (l *Loader) ChargeRefused() error { return l.chargeRefused }

// takeCharge takes the charge hook out of a collection, so that the rest loads where the
// kernel refuses it, and returns a collection of the hook alone.
func takeCharge(spec *ebpf.CollectionSpec) (charge *ebpf.CollectionSpec, err error) {
	charge = spec.Copy()
	for name := range charge.Programs {
		if name != gen.EvictProgPageCharge {
			delete(charge.Programs, name)
		}
	}
	return charge, takeOut(spec, gen.EvictProgPageCharge)
}

// openCharge loads and attaches the charge hook over the maps of the other programs. Where
// the kernel refuses that, it is an error only if nothing else was wanted.
func (l *Loader) openCharge(spec *ebpf.CollectionSpec, types *kernelTypes) error {
	switch l.options.MemoryTier {
	case TierAlloc:
		return nil
	case "", TierCharge:
	default:
		return fmt.Errorf("memory tier %q: want %s or %s", l.options.MemoryTier, TierCharge, TierAlloc)
	}
	l.chargeRefused = l.loadCharge(spec, types)
	if l.chargeRefused == nil {
		l.chargeRefused = l.attachCharge()
	}
	if l.chargeRefused != nil && l.options.MemoryTier == TierCharge {
		return l.chargeRefused
	}
	return nil
}

func (l *Loader) loadCharge(spec *ebpf.CollectionSpec, types *kernelTypes) error {
	onto := types.options()
	onto.MapReplacements = l.chargeMaps
	coll, err := ebpf.NewCollectionWithOptions(spec, onto)
	if err != nil {
		return fmt.Errorf("load fentry of page_counter_try_charge: %w", plain(err))
	}
	defer coll.Close()
	l.chargeProgram = coll.DetachProgram(gen.EvictProgPageCharge)
	return nil
}

// AttachCharge attaches the charge hook where CheckCharge has found it lost. Before 5.13 a
// program of fentry is attached once and never again (bpf_tracing_prog_attach in
// kernel/bpf/syscall.c): there it is loaded anew, which takes as long as a start.
func (l *Loader) AttachCharge() error {
	refused := l.attachCharge()
	if refused == nil {
		return nil
	}
	if err := l.reloadCharge(); err != nil {
		return errors.Join(refused, err)
	}
	return l.attachCharge()
}

func (l *Loader) reloadCharge() error {
	types, err := loadTypes(l.options.BTF)
	if err != nil {
		return err
	}
	_, charge, err := l.specs()
	if err != nil {
		return err
	}
	former := l.chargeProgram
	if err := l.loadCharge(charge, types); err != nil {
		return err
	}
	return former.Close()
}

func (l *Loader) attachCharge() error {
	l.hookMu.Lock()
	defer l.hookMu.Unlock()
	if l.charge != nil {
		return nil
	}
	hook, err := link.AttachTracing(link.TracingOptions{Program: l.chargeProgram})
	if err != nil {
		return fmt.Errorf("attach fentry of page_counter_try_charge: %w", plain(err))
	}
	l.charge = hook
	l.charged.Store(true)
	// From here on the timer looks for what nobody is charged for alone.
	return l.tellOfCharge(1)
}

func (l *Loader) tellOfCharge(hook uint32) error {
	if err := l.objs.ChargeHook.Set(hook); err != nil {
		return fmt.Errorf("tell the far timer of the charge hook: %w", err)
	}
	return nil
}

// CheckCharge says of the charge hook, where it is in use, whether it is lost, and goes on
// with TierAlloc then: AttachCharge attaches it anew. One system call.
func (l *Loader) CheckCharge() error {
	l.hookMu.Lock()
	defer l.hookMu.Unlock()
	if l.charge == nil || isAttached(l.charge) {
		return nil
	}
	_ = l.charge.Close()
	l.charge = nil
	l.charged.Store(false)
	return errors.Join(fmt.Errorf("page_counter_try_charge: %w", ErrDetached), l.tellOfCharge(0), l.Tick())
}

// plain is what the kernel said without cilium's guess at what may have caused it.
func plain(err error) error {
	var (
		verifier *ebpf.VerifierError
		errno    unix.Errno
	)
	if !errors.As(err, &verifier) && errors.As(err, &errno) {
		return errno
	}
	return err
}
