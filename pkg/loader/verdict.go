package loader

import (
	"errors"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// verdict is a refusal in the verifier's words, where cilium/ebpf takes others for them.
type verdict struct {
	error
	text string
}

func (v *verdict) Error() string { return v.text }
func (v *verdict) Unwrap() error { return v.error }

// explained is how the verifier begins to explain what it said in the line above (seen on 7.3);
// the last line of that, which cilium/ebpf shows, is empty.
const explained = "Verification failed: "

// withVerdict leaves an error as it is that needs no other words.
func withVerdict(err error) error {
	var verifier *ebpf.VerifierError
	if !errors.As(err, &verifier) {
		return err
	}
	i := slices.IndexFunc(verifier.Log, func(line string) bool { return strings.HasPrefix(line, explained) })
	before, after, ok := strings.Cut(err.Error(), ":  (")
	if i < 0 || !ok {
		return err
	}
	said := slices.DeleteFunc(slices.Clone(verifier.Log[max(0, i-2):i+1]), func(line string) bool { return line == "" })
	return &verdict{err, before + ": " + strings.Join(said, "; ") + " (" + after}
}
