package loader

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestVerdictIsWhatTheVerifierSays(t *testing.T) {
	for name, tc := range map[string]struct {
		log  []string
		want string
	}{
		"the last line": {[]string{"0: R1=ctx() R10=fp0", "R5 !read_ok", "processed 1 insns"}, "0: R1=ctx() R10=fp0: R5 !read_ok (1 line(s) omitted)"},
		"explained below": {
			[]string{"0: R1=ctx() R10=fp0", "R5 !read_ok", "", "Verification failed: Register Type Safety", "", "Suggestion:", "", "processed 1 insns"},
			"R5 !read_ok; Verification failed: Register Type Safety (7 line(s) omitted)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := withVerdict(fmt.Errorf("program look: %w", &ebpf.VerifierError{Cause: unix.EACCES, Log: tc.log}))
			var verifier *ebpf.VerifierError
			if want := "program look: : permission denied: " + tc.want; err.Error() != want || !errors.As(err, &verifier) {
				t.Errorf("%q, want %q", err, want)
			}
		})
	}
}
