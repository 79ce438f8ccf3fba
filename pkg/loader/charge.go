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

// MemoryTier is what watches memory: TierCharge or TierAlloc.
func (l *Loader) MemoryTier() string {
	if l.charge != nil {
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
func (l *Loader) openCharge(spec *ebpf.CollectionSpec, onto ebpf.CollectionOptions, o Options) error {
	switch o.MemoryTier {
	case TierAlloc:
		return nil
	case "", TierCharge:
	default:
		return fmt.Errorf("memory tier %q: want %s or %s", o.MemoryTier, TierCharge, TierAlloc)
	}
	l.chargeRefused = l.attachCharge(spec, onto)
	if l.chargeRefused != nil && o.MemoryTier == TierCharge {
		return l.chargeRefused
	}
	return nil
}

func (l *Loader) attachCharge(spec *ebpf.CollectionSpec, onto ebpf.CollectionOptions) error {
	coll, err := ebpf.NewCollectionWithOptions(spec, onto)
	if err != nil {
		return fmt.Errorf("load fentry of page_counter_try_charge: %w", plain(err))
	}
	defer coll.Close() // the link holds the program
	hook, err := link.AttachTracing(link.TracingOptions{Program: coll.Programs[gen.EvictProgPageCharge]})
	if err != nil {
		return fmt.Errorf("attach fentry of page_counter_try_charge: %w", plain(err))
	}
	l.charge = hook
	// From here on the timer looks for what nobody is charged for alone.
	if err := l.objs.ChargeHook.Set(uint32(1)); err != nil {
		return fmt.Errorf("tell the far timer of the charge hook: %w", err)
	}
	return nil
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
